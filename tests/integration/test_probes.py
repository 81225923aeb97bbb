"""Probes and metrics of real processes, as Kubernetes and Prometheus ask for them."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families as parsed
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgqueue import PgQueue
from tests.integration.commands import Command, commands, until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals")
TASKS = """
import asyncio, time
from pathlib import Path
from prometheus_client import Counter, Gauge
from pgqueue import PgQueue

app = PgQueue()
letters = Counter("shop_letters", "Letters sent.")
Gauge("shop_open", "Whether it is.").set(1)

@app.task(queue="mail")
async def send(to: str) -> str:
    letters.inc()
    return to

@app.task(max_attempts=1)
async def block(until: str) -> None:
    # The event loop stands still meanwhile.
    while not Path(until).exists():
        time.sleep(0.01)

@app.every(3600, name="hourly", to="all")
@app.task(queue="mail")
async def digest(to: str) -> None: ...
"""
URL = re.compile(r"http://[\d.:]+")


@dataclass
class Served:
    """A process with both ports on one; any that is free."""

    command: Command
    url: str

    def get(self, path: str) -> tuple[int, str]:
        return get(self.url + path)

    def probe(self, path: str) -> tuple[int, list[str]]:
        """The status, and why."""
        status, body = self.get(path)
        answer = json.loads(body)
        assert answer["ok"] is (status == 200)
        return status, answer["why"]

    def is_ready(self) -> bool:
        return self.probe("/readyz") == (200, [])

    def says_why(self, words: str) -> bool:
        status, why = self.probe("/readyz")
        return status == 503 and any(words in one for one in why)

    def scraped(self) -> dict[tuple[str, ...], float]:
        """Samples by name and the values of their labels, in the order of these."""
        status, body = self.get("/metrics")
        assert status == 200
        return {
            (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
            for family in parsed(body)
            for sample in family.samples
        }

    def completed(self, task: str = "metered.tasks.send") -> float:
        return self.scraped().get(("pgqueue_jobs_processed_total", "completed", "mail", task), 0.0)


Serve = Callable[..., Served]


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=20) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port: int = server.getsockname()[1]
        return port


@pytest.fixture
def dsn(fresh_dsn: str) -> str:
    """Of this test alone: others would meet what it does to its database."""
    return fresh_dsn


@pytest.fixture
def app(dsn: str) -> Iterator[PgQueue]:
    made = PgQueue(dsn)
    yield made
    made.close()


@pytest.fixture
def start(dsn: str, tmp_path: Path) -> Iterator[Callable[..., Command]]:
    (tmp_path / "metered").mkdir()
    (tmp_path / "metered" / "__init__.py").touch()
    (tmp_path / "metered" / "tasks.py").write_text(TASKS)
    with commands(dsn, tmp_path) as run:
        yield run


@pytest.fixture
def serve(start: Callable[..., Command]) -> Serve:
    """`pgqueue …` with both ports; answers once it has said where."""

    def run(*args: str) -> Served:
        port = str(free_port())
        command = start(*args, "--metrics-port", port, "--probe-port", port)
        until(lambda: "answering http" in command.said() or command.process.poll() is not None, "no port")
        assert "answering http" in command.said(), command.said()
        return Served(command, f"http://127.0.0.1:{port}")

    return run


def refuse_connections(dsn: str) -> None:
    _allow(dsn, "false")


def allow_connections(dsn: str) -> None:
    _allow(dsn, "true")


def _allow(dsn: str, allowed: str) -> None:
    """As when the server is gone: who is connected is thrown out, and nobody gets in."""
    name = str(conninfo_to_dict(dsn)["dbname"])
    with psycopg.connect(make_conninfo(dsn, dbname="postgres"), autocommit=True) as conn:
        conn.execute(
            sql.SQL("alter database {} with allow_connections {}").format(sql.Identifier(name), sql.SQL(allowed))
        )
        conn.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", [name])


def send(app: PgQueue, count: int) -> None:
    app.enqueue_many([app.new_job("metered.tasks.send", {"to": str(n)}, queue="mail") for n in range(count)])


def test_a_worker_answers_all_probes_and_its_counters_are_what_ran(app: PgQueue, serve: Serve) -> None:
    send(app, 30)
    worker = serve("worker", "--poll-interval", "100ms")
    until(worker.is_ready)
    assert worker.probe("/healthz") == worker.probe("/startedz") == (200, [])
    until(lambda: worker.completed() == 30)
    found = worker.scraped()
    assert found["pgqueue_job_duration_seconds_count", "mail", "metered.tasks.send"] == 30
    assert found["pgqueue_job_total_seconds_count", "mail", "metered.tasks.send"] == 30
    assert found["pgqueue_worker_slots", "idle"] == 20
    # The user's own, where prometheus_client keeps them, are there too; those of the database are the scheduler's.
    assert found["shop_letters_total",] == 30
    assert ("pgqueue_up",) not in found
    assert worker.get("/nothing")[0] == 404
    worker.command.send(signal.SIGTERM)
    assert worker.command.wait() == 0


def test_ready_falls_while_the_database_is_away_and_comes_back(app: PgQueue, dsn: str, serve: Serve) -> None:
    worker = serve("worker", "--poll-interval", "100ms", "--lease", "5s")
    until(worker.is_ready)
    refuse_connections(dsn)
    until(lambda: worker.says_why("cannot connect to"))
    assert worker.probe("/healthz") == worker.probe("/startedz") == (200, [])
    allow_connections(dsn)
    until(worker.is_ready)


def test_a_worker_waits_for_its_database_alive_and_not_started(dsn: str, serve: Serve) -> None:
    refuse_connections(dsn)
    worker = serve("worker")
    assert worker.probe("/healthz") == (200, [])
    assert worker.probe("/startedz") == (503, ["it waits for PostgreSQL"])
    assert worker.says_why("it waits for PostgreSQL")
    allow_connections(dsn)
    until(worker.is_ready)
    assert worker.probe("/startedz") == (200, [])


def test_ready_falls_when_the_tables_are_of_another_version(dsn: str, serve: Serve) -> None:
    worker = serve("worker")
    until(worker.is_ready)
    with psycopg.connect(dsn) as conn:
        conn.execute("update pgqueue.schema_version set version_num = '9999'")
    until(lambda: worker.says_why("are at revision 9999"))


@pytest.mark.slow
def test_a_blocked_event_loop_answers_that_it_is_not_ready(app: PgQueue, serve: Serve, tmp_path: Path) -> None:
    worker = serve("worker", "--poll-interval", "100ms")
    until(worker.is_ready)
    app.enqueue("metered.tasks.block", {"until": str(tmp_path / "go")}, max_attempts=1)
    until(lambda: worker.says_why("its event loop has stood still for"))
    assert worker.probe("/healthz") == (200, [])
    assert worker.get("/metrics")[0] == 200
    (tmp_path / "go").touch()
    until(worker.is_ready)


def test_the_processes_of_one_worker_answer_together(app: PgQueue, serve: Serve) -> None:
    workers = serve("worker", "-p", "2", "--poll-interval", "100ms")
    assert workers.probe("/startedz")[0] == 503
    until(workers.is_ready)
    send(app, 200)
    until(lambda: workers.completed() == 200)
    found = workers.scraped()
    assert found["pgqueue_job_duration_seconds_count", "mail", "metered.tasks.send"] == 200
    assert found["pgqueue_worker_slots", "idle"] == 40
    assert found["pgqueue_build_info", platform.python_version(), "0.1.0"] == 1
    assert found["shop_letters_total",] == 200
    assert found["shop_open", "1"] == found["shop_open", "2"] == 1


def test_one_process_that_stands_still_makes_all_of_them_unready(app: PgQueue, serve: Serve) -> None:
    workers = serve("worker", "-p", "2", "--poll-interval", "100ms")
    until(workers.is_ready)
    send(app, 100)
    until(lambda: workers.completed() == 100)
    stopped = app.workers.list()[0].pid
    os.kill(stopped, signal.SIGSTOP)
    try:
        until(lambda: workers.says_why("answer"))
        assert workers.probe("/healthz") == (200, [])
        # What it had counted does not go away: the sum would seem to start anew.
        assert workers.completed() == 100
        assert workers.scraped()["pgqueue_worker_slots", "idle"] == 20
    finally:
        os.kill(stopped, signal.SIGCONT)
    until(workers.is_ready)
    assert workers.scraped()["pgqueue_worker_slots", "idle"] == 40


def test_counts_outlive_a_process_that_was_killed(app: PgQueue, serve: Serve) -> None:
    workers = serve("worker", "-p", "2", "--poll-interval", "100ms", "--lease", "2s")
    until(workers.is_ready)
    send(app, 100)
    until(lambda: workers.completed() == 100)
    pids = {worker.pid for worker in app.workers.list()}
    os.kill(min(pids), signal.SIGKILL)
    until(lambda: not workers.is_ready())
    until(lambda: workers.is_ready() and len({worker.pid for worker in app.workers.list() if worker.alive} - pids) == 1)
    assert workers.completed() == 100
    send(app, 50)
    until(lambda: workers.completed() == 150)


def test_what_a_worn_process_counted_since_the_last_scrape_is_not_lost(app: PgQueue, serve: Serve) -> None:
    workers = serve("worker", "-p", "2", "--max-jobs", "10", "-c", "1", "--poll-interval", "100ms")
    until(workers.is_ready)
    send(app, 60)
    until(lambda: not any(stats.available + stats.running for stats in app.queues.stats()))
    until(lambda: workers.completed() == 60)
    assert workers.scraped()["shop_letters_total",] == 60


@pytest.mark.slow
def test_the_scheduler_answers_for_itself_and_for_the_database(app: PgQueue, dsn: str, serve: Serve) -> None:
    send(app, 3)
    scheduler = serve("scheduler")
    until(scheduler.is_ready)
    assert scheduler.probe("/startedz") == (200, [])
    found = scheduler.scraped()
    assert found["pgqueue_up",] == 1
    assert found["pgqueue_queue_depth", "mail", "available"] == 3
    refuse_connections(dsn)
    until(lambda: not scheduler.is_ready())
    until(lambda: scheduler.scraped()["pgqueue_up",] == 0)
    assert ("pgqueue_queue_depth", "mail", "available") not in scheduler.scraped()
    allow_connections(dsn)
    until(scheduler.is_ready)


def test_ports_may_be_two_and_any_that_are_free(start: Callable[..., Command]) -> None:
    worker = start("worker", "--metrics-port", "0", "--probe-port", "0")
    until(lambda: worker.said().count("answering http") == 2)
    metrics, probes = dict.fromkeys(URL.findall(worker.said()))
    assert metrics != probes
    assert get(f"{metrics}/metrics")[0] == get(f"{probes}/healthz")[0] == 200
    assert get(f"{probes}/metrics")[0] == get(f"{metrics}/healthz")[0] == 404


def test_a_port_that_is_taken_is_said_with_the_fix(start: Callable[..., Command]) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        worker = start("worker", "--probe-port", str(taken.getsockname()[1]))
        assert worker.wait() == 2
    assert "Give another port, or --host" in worker.said()


def test_many_slow_clients_do_not_keep_a_probe_waiting_for_long(serve: Serve) -> None:
    worker = serve("worker")
    port = int(worker.url.rpartition(":")[2])
    slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(40)]
    try:
        until(lambda: _answers(worker))
    finally:
        for connection in slow:
            connection.close()


def _answers(worker: Served) -> bool:
    try:
        return worker.get("/healthz")[0] == 200
    except (OSError, urllib.error.URLError):
        return False


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool of Debian's prometheus is not installed")
def test_prometheus_own_check_finds_nothing_wrong(app: PgQueue, serve: Serve) -> None:
    send(app, 5)
    workers = serve("worker", "-p", "2", "--with-scheduler")
    until(lambda: workers.completed() == 5)
    _, body = workers.get("/metrics")
    checked: Any = subprocess.run(
        ["promtool", "check", "metrics"], input=body, text=True, capture_output=True, timeout=60
    )
    own = [line for line in (checked.stdout + checked.stderr).splitlines() if "pgqueue_" in line]
    assert own == []
