"""`pgqueue worker` and `pgqueue scheduler` as real processes."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psycopg
import pytest

from pgqueue import PgQueue, PgQueueError
from tests.integration.commands import TIMEOUT, Command, Start, commands, until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals")
TASKS = """
import asyncio, os, sys
from pgqueue import PgQueue

app = PgQueue()

@app.task(queue="mail")
async def send(to: str) -> str:
    return to

@app.task(max_attempts=1)
def broken() -> None:
    raise ValueError("it broke")

@app.task()
async def endless() -> None:
    print("endless begins", file=sys.stderr, flush=True)
    await asyncio.sleep(3600)

@app.task()
async def wait_for(file: str) -> None:
    while not os.path.exists(file):
        await asyncio.sleep(0.02)

@app.task()
def which() -> int:
    return os.getpid()

@app.every(3600, name="hourly", to="all")
@app.task(queue="mail")
async def digest(to: str) -> None: ...
"""


@pytest.fixture
def app(dsn: str) -> PgQueue:
    return PgQueue(dsn)


@pytest.fixture
def start(dsn: str, tmp_path: Path) -> Iterator[Start]:
    (tmp_path / "cli_jobs").mkdir()
    (tmp_path / "cli_jobs" / "__init__.py").touch()
    (tmp_path / "cli_jobs" / "tasks.py").write_text(TASKS)
    with commands(dsn, tmp_path) as run:
        yield run


def is_completed(app: PgQueue, job_id: int) -> bool:
    return app.jobs.get(job_id).state == "completed"


def is_migrated(app: PgQueue) -> bool:
    try:
        app.workers.list()
    except PgQueueError:
        return False
    return True


def has_said(command: Command, text: str, times: int) -> bool:
    return command.said().count(text) >= times


def test_a_drain_runs_everything_and_says_so_a_line_a_job(start: Start, app: PgQueue) -> None:
    sent = app.enqueue("cli_jobs.tasks.send", {"to": "a@b.c"}, queue="mail")
    broken = app.enqueue("cli_jobs.tasks.broken", max_attempts=1)
    worker = start("worker", "--drain", "-c", "3", "--poll-interval", "100ms")
    assert worker.wait() == 0
    assert (app.jobs.get(sent.id).state, app.jobs.get(broken.id).state) == ("completed", "failed")
    said = worker.said()
    assert "queues     default 3, mail 3" in said
    assert f"✓ completed  cli_jobs.tasks.send  #{sent.id}" in said
    assert f"✗ failed     cli_jobs.tasks.broken  #{broken.id}" in said
    assert "ValueError: it broke" in said


def test_a_queue_that_nobody_knows_is_warned_of(start: Start, app: PgQueue) -> None:
    app.enqueue("cli_jobs.tasks.send", {"to": "a@b.c"}, queue="bulk")
    worker = start("worker", "--drain", "-q", "mial:2", "-q", "bulk", "-q", "x*", "-q", "mail")
    assert worker.wait() == 0
    assert "no task of this app and no table names the queue mial; did you mean `mail`?" in worker.said()
    assert worker.said().count("names the queue") == 1


def test_the_log_can_be_json_lines(start: Start, app: PgQueue) -> None:
    job = app.enqueue("cli_jobs.tasks.send", {"to": "x"}, queue="mail")
    worker = start("worker", "cli_jobs.tasks:app", "-q", "mail:2", "--drain", "--log-format", "json")
    assert worker.wait() == 0
    lines = [json.loads(line) for line in worker.said().splitlines() if line.startswith("{")]
    [line] = [line for line in lines if line["message"] == "completed"]
    assert (line["job_id"], line["task"], line["queue"]) == (job.id, "cli_jobs.tasks.send", "mail")


def test_the_first_signal_is_graceful_and_the_second_gives_jobs_back(start: Start, app: PgQueue) -> None:
    job = app.enqueue("cli_jobs.tasks.endless")
    worker = start("worker", "cli_jobs.tasks:app")
    # What is claimed and has not begun is given back at the first signal.
    until(lambda: "endless begins" in worker.said(), worker.said)
    worker.send(signal.SIGTERM)
    until(lambda: "Stopping" in worker.said())

    def insist() -> bool:
        # Within a second of the first it counts as the same wish.
        worker.send(signal.SIGTERM)
        return "released" in worker.said()

    until(insist, worker.said)
    assert worker.wait() == 143
    given_back = app.jobs.get(job.id)
    assert (given_back.state, given_back.attempt) == ("available", 0)


def test_an_idle_worker_ends_with_0_at_the_first_signal(start: Start, app: PgQueue) -> None:
    worker = start("worker")
    until(app.workers.list)
    worker.send(signal.SIGINT)
    assert worker.wait() == 0
    assert app.workers.list() == []


def test_a_worker_waits_for_a_database_that_is_down_and_can_be_stopped(start: Start, tmp_path: Path) -> None:
    worker = start("worker", "--dsn", f"postgresql://u:secret@/shop?host={tmp_path}")
    until(lambda: "trying again" in worker.said())
    worker.send(signal.SIGTERM)
    assert worker.wait() == 0
    assert "secret" not in worker.said()


@pytest.mark.parametrize("processes", ["1", "2"])
def test_tables_that_are_missing_are_exit_code_5(start: Start, empty_dsn: str, processes: str) -> None:
    worker = start("worker", "--dsn", empty_dsn, "-p", processes)
    assert worker.wait() == 5
    assert "pgqueue migrate" in worker.said()
    assert "Traceback" not in worker.said()


def test_several_processes_are_kept_alive_until_they_are_told_to_stop(start: Start, app: PgQueue) -> None:
    supervisor = start("worker", "-p", "2", "--name", "pair")
    first = until(lambda: len(found := app.workers.list()) == 2 and found)
    assert {worker.name for worker in first} == {"pair-1", "pair-2"}
    pids = {worker.pid for worker in first}
    os.kill(first[0].pid, signal.SIGKILL)
    until(lambda: {worker.pid for worker in app.workers.list()} - pids, "a killed process is replaced")
    assert "was killed by SIGKILL" in supervisor.said()
    supervisor.send(signal.SIGTERM)
    assert supervisor.wait() == 0


def say(app: PgQueue, folder: Path, *args: str) -> str:
    """What a command of another process says."""
    env = os.environ | {"PGQUEUE_DSN": app.database.dsn, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    command = [sys.executable, "-m", "pgqueue", *args]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=True).stderr


@pytest.mark.parametrize("listens", [True, False])
def test_a_worker_process_that_is_asked_to_drain_ends_its_job_and_then_itself(
    start: Start, app: PgQueue, tmp_path: Path, listens: bool
) -> None:
    gate = tmp_path / "gate"
    job = app.enqueue("cli_jobs.tasks.wait_for", {"file": str(gate)})
    worker = start("worker", "--name", "one", *([] if listens else ["--no-listen"]))
    until(lambda: app.jobs.get(job.id).state == "running", worker.said())
    said = say(app, tmp_path, "workers", "drain", "one")
    assert said == "one drains: it stops when what runs has ended.\n"
    until(lambda: "one was asked to drain" in worker.said())
    assert [one.state for one in app.workers.list()] == ["draining"]
    later = app.enqueue("cli_jobs.tasks.which")
    assert worker.process.poll() is None
    gate.touch()
    assert worker.wait() == 0
    assert is_completed(app, job.id)
    assert app.jobs.get(later.id).state == "available"
    assert app.workers.list() == []


def test_a_signal_cuts_a_drain_short(start: Start, app: PgQueue, tmp_path: Path) -> None:
    job = app.enqueue("cli_jobs.tasks.endless")
    worker = start("worker", "--name", "one", "--shutdown-timeout", "100ms")
    until(lambda: "endless begins" in worker.said(), worker.said)
    say(app, tmp_path, "workers", "drain", "one")
    until(lambda: "one was asked to drain" in worker.said())
    worker.send(signal.SIGTERM)
    assert worker.wait() == 0
    assert (app.jobs.get(job.id).state, app.jobs.get(job.id).attempt) == ("available", 0)


def test_a_supervisor_starts_no_other_for_a_process_that_was_asked_to_stop_and_ends_with_the_last(
    start: Start, app: PgQueue, tmp_path: Path
) -> None:
    job = app.enqueue("cli_jobs.tasks.endless")
    supervisor = start("worker", "-p", "2", "--name", "pair", "--shutdown-timeout", "100ms")
    until(lambda: len(app.workers.list()) == 2 and app.jobs.get(job.id).state == "running", supervisor.said)
    assert say(app, tmp_path, "workers", "stop", "pair-1") == "pair-1 stops.\n"
    until(lambda: "pair-1 stopped after" in supervisor.said(), supervisor.said)
    until(lambda: [worker.name for worker in app.workers.list()] == ["pair-2"])
    # The other goes on, and takes what the first may have given back.
    assert app.enqueue("cli_jobs.tasks.which").result(TIMEOUT)
    assert say(app, tmp_path, "workers", "drain", "pair-2") == "pair-2 drains: it stops when what runs has ended.\n"
    assert app.jobs.cancel(job.id) == [job.id]
    assert supervisor.wait() == 0
    assert "another starts" not in supervisor.said()
    assert "replaced" not in supervisor.said()


def test_dev_replaces_a_worker_that_crashed_and_ends_with_it_at_a_signal(start: Start, data: Path) -> None:
    dev = start("dev", "cli_jobs.tasks:app", "-c", "3", "--data", str(data))
    line = until(lambda: [line for line in dev.said().splitlines() if "export PGQUEUE_DSN=" in line], "it starts")[0]
    app = PgQueue(shlex.split(line.partition("=")[2])[0])
    [first] = until(lambda: is_migrated(app) and app.workers.list(), "it has a worker")
    assert first.pid != dev.process.pid
    assert dict(first.queues) == {"default": 3, "mail": 3}
    os.kill(first.pid, signal.SIGKILL)
    until(lambda: {worker.pid for worker in app.workers.list()} - {first.pid}, "a killed worker is replaced")
    assert "was killed by SIGKILL: another starts in 0.5 s" in dev.said()
    job = app.enqueue("cli_jobs.tasks.which")
    assert job.result(TIMEOUT) not in (first.pid, dev.process.pid)
    app.close()
    dev.send(signal.SIGTERM)
    assert dev.wait() == 0
    assert "Traceback" not in dev.said()


def test_processes_stop_when_their_supervisor_is_killed(start: Start, app: PgQueue) -> None:
    supervisor = start("worker", "-p", "2")
    until(lambda: len(app.workers.list()) == 2)
    supervisor.process.kill()
    supervisor.wait()
    until(lambda: app.workers.list() == [], supervisor.said())


def test_a_worn_process_is_replaced_and_a_drained_one_is_not(start: Start, app: PgQueue) -> None:
    supervisor = start("worker", "-p", "2", "--max-jobs", "1")
    for times in (1, 2, 3):
        job = app.enqueue("cli_jobs.tasks.which")
        until(partial(is_completed, app, job.id))
        until(partial(has_said, supervisor, "is replaced by a fresh one", times))
    until(lambda: len([worker for worker in app.workers.list() if worker.state == "running"]) == 2)
    supervisor.send(signal.SIGTERM)
    assert supervisor.wait() == 0
    drained = start("worker", "-p", "2", "--drain")
    assert drained.wait() == 0


def test_the_scheduler_registers_what_the_code_declares_and_its_schedules_can_be_operated(
    start: Start, app: PgQueue, dsn: str
) -> None:
    scheduler = start("scheduler", "cli_jobs.tasks")
    until(app.schedules.list)
    [row] = app.schedules.list()
    assert (row.name, dict(row.args), row.enabled) == ("hourly", {"to": "all"}, True)
    scheduler.send(signal.SIGTERM)
    assert scheduler.wait() == 0

    assert start("schedules", "pause", "hourly").wait() == 0
    assert app.schedules.list()[0].enabled is False
    assert start("schedules", "resume", "hourly").wait() == 0
    assert app.schedules.list()[0].enabled is True
    assert start("schedules", "pause", "houry").wait() == 3
    assert start("schedules", "run", "hourly").wait() == 0
    [job] = app.jobs.list()
    assert (job.task, dict(job.args), job.headers["schedule"]) == ("cli_jobs.tasks.digest", {"to": "all"}, "hourly")
    upcoming = start("schedules", "next", "hourly", "-n", "3", "--json")
    assert upcoming.wait() == 0
    assert len(upcoming.said().splitlines()) == 3
    assert start("schedules", "remove", "hourly", "--yes").wait() == 0
    assert app.schedules.list() == []


def test_what_a_worker_registered_can_be_listed(start: Start, app: PgQueue, dsn: str) -> None:
    assert start("worker", "--drain").wait() == 0
    tasks = start("tasks", "list", "--json")
    assert tasks.wait() == 0
    assert "cli_jobs.tasks.send" in {json.loads(line)["name"] for line in tasks.said().splitlines()}
    with psycopg.connect(dsn) as connection:
        assert connection.execute("select count(*) from pgqueue.workers").fetchone() == (0,)
