"""A real Prometheus scrapes a real worker and a real dashboard, and an alert fires and clears."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pgqueue import PgQueue
from pgqueue.web.access import hashed
from tests.integration.commands import ROOT, Command, commands, until
from tests.integration.test_probes import free_port

RULES = ROOT / "deploy/prometheus/rules"
TASKS = """
from pgqueue import PgQueue

app = PgQueue()

@app.task(name="send", queue="mail")
async def send(to: str) -> None: ...
"""
PASSWORD = "correct horse"

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None or sys.platform == "win32", reason="prometheus is not installed: Debian's"
)


@pytest.fixture
def start(fresh_dsn: str, tmp_path: Path) -> Iterator[Callable[..., Command]]:
    """`pgqueue …` in a folder with an app, on a database of its own."""
    (tmp_path / "letters.py").write_text(TASKS)
    with commands(fresh_dsn, tmp_path) as run:
        yield run


class Prometheus:
    """One that scrapes and evaluates several times a second; `for` of each alert is a second."""

    def __init__(self, folder: Path, targets: dict[str, int]) -> None:
        folder.mkdir()
        for file in RULES.glob("*.yml"):
            rules = yaml.safe_load(file.read_text(encoding="utf-8"))
            for group in rules["groups"]:
                for rule in group["rules"]:
                    if "for" in rule:
                        rule["for"] = "1s"
            (folder / file.name).write_text(yaml.safe_dump(rules))
        scrapes = [
            {
                "job_name": name,
                "basic_auth": {"username": "prometheus", "password": PASSWORD},
                "static_configs": [{"targets": [f"127.0.0.1:{port}"]}],
            }
            for name, port in targets.items()
        ]
        config = {
            "global": {"evaluation_interval": "200ms"},
            "rule_files": [str(folder / file.name) for file in RULES.glob("*.yml")],
            "scrape_configs": scrapes,
        }
        for scrape in scrapes:
            scrape["scrape_timeout"] = scrape["scrape_interval"] = "1s"
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        self.log = folder / "log"
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        with self.log.open("w") as out:
            self.process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{port}",
                ],
                stdout=out,
                stderr=out,
            )

    def ask(self, path: str, **query: str) -> Any:
        """The data of an answer of its API; None while it does not answer."""
        try:
            address = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}"
            with urllib.request.urlopen(address, timeout=10) as response:
                return json.load(response)["data"]
        except OSError:
            assert self.process.poll() is None, self.log.read_text()
            return None

    def values(self, query: str) -> list[float]:
        found = self.ask("query", query=query)
        return [float(one["value"][1]) for one in found["result"]] if found else []

    def firing(self) -> set[tuple[str, str]]:
        """Alerts that fire, and their queues."""
        found = self.ask("alerts") or {"alerts": []}
        return {
            (one["labels"]["alertname"], one["labels"].get("queue", ""))
            for one in found["alerts"]
            if one["state"] == "firing"
        }


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Callable[..., Prometheus]]:
    started: list[Prometheus] = []

    def run(**targets: int) -> Prometheus:
        started.append(Prometheus(tmp_path / "prometheus", targets))
        return started[-1]

    yield run
    for one in started:
        one.process.kill()
        one.process.wait()


@pytest.mark.slow
def test_jobs_without_a_worker_raise_an_alert_and_a_worker_clears_it(
    fresh_dsn: str, start: Callable[..., Command], watch: Callable[..., Prometheus], tmp_path: Path
) -> None:
    (tmp_path / "users").write_text(f"prometheus:viewer:{hashed(PASSWORD)}\n")
    web, worker = free_port(), free_port()
    start("web", "--port", str(web), "--users", "users", "--allow-host", "127.0.0.1")
    app = PgQueue(fresh_dsn)
    app.enqueue("send", {"to": "a@b.c"}, queue="mail")
    app.close()
    prometheus = watch(web=web, worker=worker)
    until(lambda: prometheus.values('up{job="web"}') == [1], "the dashboard is scraped")
    assert prometheus.values("pgqueue_up") == [1]
    until(lambda: ("NoWorkers", "mail") in prometheus.firing(), "the alert fires")
    command = start("worker", "letters", "--metrics-port", str(worker))
    until(lambda: prometheus.values('pgqueue_jobs_processed_total{queue="mail",outcome="completed"}') == [1], "it ran")
    assert prometheus.values('up{job="worker"}') == [1]
    until(lambda: ("NoWorkers", "mail") not in prometheus.firing(), "the alert clears")
    command.send(signal.SIGTERM)
    assert command.wait() == 0
