"""`--log-format json`: each line of a worker is one object, wherever it comes from, and says of which job it is."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from pgqueue import Job, PgQueue
from tests.integration.commands import Command, Start, until
from tests.integration.test_cli_worker import app, has_said, start

__all__ = ["app", "start"]

TASKS = """
import logging, threading, warnings
from opentelemetry.sdk.trace import TracerProvider
from pgqueue import PgQueue
from pgqueue.tracing import OpenTelemetry

app = PgQueue()
app.add_middleware(OpenTelemetry(tracer_provider=TracerProvider()))
logger = logging.getLogger("shop")

def say(n):
    logger.info("said %d", n)
    try:
        raise ValueError("it\\nbroke")
    except ValueError:
        logger.exception("caught")

@app.task(name="coroutine")
async def coroutine(n: int) -> None:
    say(n)

@app.task(name="thread")
def thread(n: int) -> None:
    say(n)

@app.task(name="process", run_in="process")
def process(n: int) -> None:
    say(n)

@app.task(name="fails", max_attempts=1)
def fails() -> None:
    raise ValueError("it\\nbroke")

@app.task(name="warns")
def warns() -> None:
    warnings.warn("this is\\nold")

@app.task(name="leaves_a_thread")
def leaves_a_thread() -> None:
    left = threading.Thread(target=fails)
    left.start()
    left.join()
"""
CUSTOM = """
import logging
logging.basicConfig(format="own %(message)s", level="INFO")
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    file = tmp_path / "logging_shop.py"
    file.write_text(TASKS)
    return file


def lines(command: Command) -> list[dict[str, Any]]:
    """All of what it wrote. Raises JSONDecodeError for a line that is no JSON."""
    return [json.loads(line) for line in command.said().splitlines()]


def drain(start: Start, *options: str) -> Command:
    worker = start("worker", "logging_shop:app", "--drain", "--log-format", "json", *options)
    assert worker.wait() == 0
    return worker


def of(job: Job) -> dict[str, Any]:
    trace_id = job.headers["traceparent"].split("-")[1] if "traceparent" in job.headers else None
    return {"job_id": job.id, "task": job.task, "queue": "default", "attempt": 1, "trace_id": trace_id}


def job_of(line: dict[str, Any]) -> dict[str, Any]:
    return {name: line.get(name) for name in ("job_id", "task", "queue", "attempt", "trace_id")}


@pytest.mark.parametrize("kind", ["coroutine", "thread", "process"])
def test_what_a_task_logs_says_of_which_job_and_trace_it_is(start: Start, app: PgQueue, shop: Path, kind: str) -> None:
    theirs = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    job = app.enqueue(kind, {"n": 7}, headers=theirs)
    found = lines(drain(start))
    [said] = [line for line in found if line["message"] == "said 7"]
    [caught] = [line for line in found if line["message"] == "caught"]
    [completed] = [line for line in found if line["message"] == "completed"]
    assert job_of(said) == job_of(caught) == job_of(completed) == of(job)
    assert (said["logger"], said["level"], caught["level"]) == ("shop", "info", "error")
    assert caught["traceback"].endswith("ValueError: it\nbroke")


def test_a_failed_job_is_one_line_with_its_traceback(start: Start, app: PgQueue, shop: Path) -> None:
    job = app.enqueue("fails", max_attempts=1)
    [failed] = [line for line in lines(drain(start)) if line["message"] == "failed"]
    assert job_of(failed) == {**of(job), "trace_id": failed["trace_id"]}
    assert len(failed["trace_id"]) == 32
    assert failed["error_traceback"].endswith("ValueError: it\nbroke\n")


def test_a_warning_and_a_thread_that_breaks_are_one_line_each(start: Start, app: PgQueue, shop: Path) -> None:
    app.enqueue_many([app.new_job("warns"), app.new_job("leaves_a_thread")])
    found = lines(drain(start))
    [warned] = [line for line in found if line["logger"] == "py.warnings"]
    [broke] = [line for line in found if line["message"].startswith("uncaught in thread")]
    assert (warned["task"], "this is\nold" in warned["message"]) == ("warns", True)
    assert broke["traceback"].endswith("ValueError: it\nbroke")


@pytest.mark.parametrize("processes", ["1", "2"])
def test_greeting_and_stopping_are_lines_too(start: Start, app: PgQueue, shop: Path, processes: str) -> None:
    worker = start("worker", "logging_shop:app", "--log-format", "json", "-p", processes)
    until(lambda: has_said(worker, " serves ", int(processes)))
    worker.send(signal.SIGTERM)
    worker.wait()
    found = lines(worker)
    [greeting] = [line for line in found if line["message"].startswith("pgqueue ")]
    assert (greeting["queues"], "password" in greeting["database"]) == ("default 10", False)
    assert any(line["message"].startswith("Stopping: ") for line in found)


def test_a_scheduler_writes_json_alone(start: Start, app: PgQueue, shop: Path) -> None:
    scheduler = start("scheduler", "logging_shop:app", "--log-format", "json")
    until(lambda: has_said(scheduler, "the scheduler runs", 1))
    scheduler.send(signal.SIGTERM)
    assert scheduler.wait() == 0
    assert lines(scheduler)[0]["schedules"] == "0 in the code"


@pytest.mark.parametrize("kind", ["coroutine", "process"])
def test_logging_that_the_app_sets_up_itself_stays(start: Start, app: PgQueue, shop: Path, kind: str) -> None:
    shop.write_text(CUSTOM + TASKS)
    app.enqueue(kind, {"n": 7})
    assert "own said 7\n" in drain(start).said()


def test_people_read_what_a_process_logs_as_what_others_log(start: Start, app: PgQueue, shop: Path) -> None:
    app.enqueue("process", {"n": 7})
    worker = start("worker", "logging_shop:app", "--drain")
    assert worker.wait() == 0
    assert "  said 7  (shop)\n" in worker.said()
