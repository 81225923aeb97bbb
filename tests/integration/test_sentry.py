"""What Sentry is told of real jobs: which errors, with which tags, and in whose trace. Its transport is this test's."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sentry_sdk
from sentry_sdk.envelope import Envelope
from sentry_sdk.integrations.logging import LoggingIntegration
from sentry_sdk.transport import Transport

from pgqueue import Backoff, CancelJob, ChunkJob, FailJob, PgQueue, RetryJob, SnoozeJob, Task, current_job
from pgqueue.cli.joblog import JobLog
from pgqueue.testing import adrain, aenqueued
from pgqueue.tracing import OpenTelemetry, Sentry
from tests.integration import process_app, traced_app
from tests.integration.test_chunks import NEVER
from tests.integration.waiting import Gate, until

SECRET = "4111 1111 1111 1111"
Shared = Callable[[PgQueue], PgQueue]


class Memory(Transport):
    def __init__(self, options: Any = None) -> None:
        super().__init__(options)
        self.sent: list[dict[str, Any]] = []

    def capture_envelope(self, envelope: Envelope) -> None:
        for item in envelope.items:
            if item.payload.json is not None:
                self.sent.append({"kind": item.type, **json.loads(json.dumps(item.payload.json, default=str))})

    @property
    def events(self) -> list[dict[str, Any]]:
        return [one for one in self.sent if one["kind"] == "event"]

    @property
    def transactions(self) -> list[dict[str, Any]]:
        return [one for one in self.sent if one["kind"] == "transaction"]


@pytest.fixture
def sentry() -> Iterator[Callable[..., Memory]]:
    def start(**options: Any) -> Memory:
        memory = Memory()
        given = {"default_integrations": False, "transport": memory, **options}
        sentry_sdk.init("https://key@sentry.invalid/1", **given)
        return memory

    yield start
    sentry_sdk.get_client().close()
    sentry_sdk.get_global_scope().set_client(None)


@pytest.fixture
async def shared(dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Shared]:
    """Makes Sentry the innermost middleware of an app that processes import, for one test."""
    monkeypatch.setenv("TRACED", str(tmp_path / "told"))
    monkeypatch.setenv("PGQUEUE_DSN", dsn)
    made: list[tuple[PgQueue, Sentry]] = []

    def add(app: PgQueue) -> PgQueue:
        app.database.point_at(dsn)
        made.append((app, Sentry()))
        app.add_middleware(made[-1][1])
        return app

    yield add
    for app, middleware in made:
        for layers in (app.middleware.runs, app.middleware.enqueues, app.middleware.calls):
            layers.remove(middleware)
        await app.aclose()


def declare(app: PgQueue, kind: str, **options: Any) -> Task[..., Any]:
    """A task that raises what it is told, with a secret among its arguments."""

    async def coroutine(card: str, then: str = "raise") -> None:
        act(card, then)

    def function(card: str, then: str = "raise") -> None:
        act(card, then)

    declared: Any = app.task(name="charge", transactional=kind == "transactional", **options)
    made: Task[..., Any] = declared(coroutine if kind == "coroutine" else function)
    return made


def act(card: str, then: str) -> None:
    if then == "raise":
        raise ZeroDivisionError("it broke")
    if then == "fail":
        raise FailJob("no use") from ZeroDivisionError("it broke")
    if then == "retry":
        raise RetryJob("busy", delay=3600)
    if then == "snooze":
        raise SnoozeJob(3600)
    if then == "cancel":
        raise CancelJob("not needed")


@pytest.mark.parametrize("kind", ["coroutine", "thread", "transactional"])
async def test_a_job_that_failed_for_good_is_reported_once_with_its_tags_and_without_arguments(
    app: PgQueue, sentry: Any, kind: str
) -> None:
    memory = sentry()
    app.add_middleware(Sentry())
    task = declare(app, kind, queue="cards", max_attempts=2, backoff=Backoff.fixed(0))
    job = await task.aenqueue(SECRET)
    await adrain(app)
    [event] = memory.events
    [error] = event["exception"]["values"]
    assert (error["type"], error["value"]) == ("ZeroDivisionError", "it broke")
    assert error["mechanism"] == {"type": "pgqueue", "handled": False}
    assert error["stacktrace"]["frames"][-1]["function"] == "act"
    facts = {"task": "charge", "queue": "cards", "job_id": job.id, "attempt": 2}
    assert event["tags"] == {f"pgqueue.{name}": value for name, value in facts.items()}
    ended = {"max_attempts": 2, "outcome": "failed", "reason": "attempts_used"}
    assert event["contexts"]["pgqueue"] == {**facts, **ended}
    assert event["transaction"] == "charge"
    assert SECRET not in json.dumps(event)


async def test_an_error_in_a_process_is_reported_with_its_frames(shared: Shared, sentry: Any) -> None:
    memory, app = sentry(), shared(traced_app.app)
    job = await app.aenqueue("process", {"then": "raise"})
    await adrain(app)
    [event] = memory.events
    [error] = event["exception"]["values"]
    assert (error["type"], error["value"]) == ("ZeroDivisionError", "no")
    frame = error["stacktrace"]["frames"][-1]
    assert (frame["function"], frame["context_line"]) == ("work", 'raise ZeroDivisionError("no")')
    assert event["tags"]["pgqueue.job_id"] == job.id


async def test_arguments_and_local_variables_are_sent_where_that_is_asked_for(app: PgQueue, sentry: Any) -> None:
    memory = sentry()
    app.add_middleware(Sentry(arguments=True))
    declare(app, "thread", max_attempts=1)
    await app.aenqueue("charge", {"card": SECRET})
    await adrain(app)
    [event] = memory.events
    assert event["contexts"]["pgqueue"]["arguments"] == {"card": SECRET}
    assert SECRET in event["exception"]["values"][0]["stacktrace"]["frames"][-1]["vars"]["card"]


async def test_each_attempt_is_reported_where_that_is_asked_for(app: PgQueue, sentry: Any) -> None:
    memory = sentry()
    app.add_middleware(Sentry(each_attempt=True))
    declare(app, "thread", max_attempts=3, backoff=Backoff.fixed(0))
    await app.aenqueue("charge", {"card": SECRET})
    await adrain(app)
    assert [event["tags"]["pgqueue.attempt"] for event in memory.events] == [1, 2, 3]
    assert [event["contexts"]["pgqueue"]["outcome"] for event in memory.events] == ["retried", "retried", "failed"]
    handled = [event["exception"]["values"][0]["mechanism"]["handled"] for event in memory.events]
    assert handled == [True, True, False]


@pytest.mark.parametrize("then", ["return", "retry", "snooze", "cancel"])
async def test_what_is_no_failure_for_good_is_not_reported(app: PgQueue, sentry: Any, then: str) -> None:
    memory = sentry()
    app.add_middleware(Sentry())
    declare(app, "thread")
    await app.aenqueue("charge", {"card": SECRET, "then": then})
    await adrain(app)
    assert memory.events == []


async def test_a_job_that_fails_itself_is_reported_with_its_cause(app: PgQueue, sentry: Any) -> None:
    memory = sentry()
    app.add_middleware(Sentry())
    declare(app, "thread")
    await app.aenqueue("charge", {"card": SECRET, "then": "fail"})
    await adrain(app)
    [event] = memory.events
    assert [error["type"] for error in event["exception"]["values"]] == ["ZeroDivisionError"]
    assert event["contexts"]["pgqueue"]["reason"] == "fail_job"


async def test_a_process_that_died_is_reported(shared: Shared, sentry: Any) -> None:
    memory, app = sentry(), shared(process_app.app)
    await app.aenqueue("process_crashes")
    await adrain(app)
    [event] = memory.events
    [error] = event["exception"]["values"]
    assert (error["type"], event["transaction"]) == ("ProcessCrashed", "process_crashes")


async def test_each_job_of_a_chunk_that_broke_is_reported_as_its_own(app: PgQueue, sentry: Any) -> None:
    memory = sentry()
    app.add_middleware(Sentry())

    @app.task(name="index", chunk=3, wait=NEVER, max_attempts=1)
    async def index(jobs: list[ChunkJob[dict[str, Any]]]) -> None:
        sentry_sdk.capture_message("said in the chunk")
        raise ZeroDivisionError("it broke")

    jobs = await app.aenqueue_many([app.new_job("index", {"n": n}) for n in range(3)])
    await adrain(app)
    said, *broke = memory.events
    assert said["tags"] == {"pgqueue.task": "index", "pgqueue.queue": "default"}
    assert {event["exception"]["values"][0]["type"] for event in broke} == {"ZeroDivisionError"}
    assert sorted(event["tags"]["pgqueue.job_id"] for event in broke) == [job.id for job in jobs]


@pytest.mark.parametrize("kind", ["coroutine", "thread"])
async def test_each_run_has_a_scope_of_its_own(app: PgQueue, sentry: Any, kind: str) -> None:
    memory = sentry()
    app.add_middleware(Sentry())

    def say(n: int) -> None:
        sentry_sdk.set_tag(f"n{n}", n)
        sentry_sdk.add_breadcrumb(message=f"job {n}")
        sentry_sdk.capture_message("said")

    @app.task(name="coroutine")
    async def coroutine(n: int) -> None:
        say(n)

    @app.task(name="thread")
    def thread(n: int) -> None:
        say(n)

    jobs = await app.aenqueue_many([app.new_job(kind, {"n": n}) for n in range(3)])
    await adrain(app)
    said = {event["tags"]["pgqueue.job_id"]: event for event in memory.events}
    for n, job in enumerate(jobs):
        event = said[job.id]
        assert {name for name in event["tags"] if not name.startswith("pgqueue.")} == {f"n{n}"}
        assert [crumb["message"] for crumb in event["breadcrumbs"]["values"]] == [f"job {n}"]
    sentry_sdk.capture_message("outside")
    assert "pgqueue.task" not in memory.events[-1].get("tags", {})


async def test_a_process_has_a_scope_of_its_own_and_what_it_says_is_sent_before_it_can_be_killed(
    shared: Shared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sentry: Any
) -> None:
    monkeypatch.setenv("SENTRY", "1")
    sentry()
    app = shared(traced_app.app)
    job = await app.aenqueue("process", {"then": "capture"})
    await adrain(app)
    lines = map(json.loads, (tmp_path / "told").read_text().splitlines())
    [event] = [line for line in lines if "message" in line]
    assert event["pid"] != os.getpid()
    assert event["tags"]["pgqueue.job_id"] == job.id
    assert event["contexts"]["trace"]["trace_id"] == job.headers["sentry"]["sentry-trace"].split("-")[0]


async def test_request_job_and_child_job_are_one_trace(app: PgQueue, sentry: Any) -> None:
    memory = sentry(traces_sample_rate=1.0)
    app.add_middleware(Sentry())

    @app.task(name="leaf")
    async def leaf() -> None: ...

    @app.task(name="work")
    async def work() -> str | None:
        await leaf.aenqueue()
        return current_job().trace_id

    with sentry_sdk.start_transaction(op="http.server", name="request"):
        job = await work.aenqueue()
    await adrain(app)
    found = {one["transaction"]: one for one in memory.transactions}
    traces = {name: one["contexts"]["trace"] for name, one in found.items()}
    assert {one["trace_id"] for one in traces.values()} == {await job.aresult()}
    for parent, child in (("request", "work"), ("work", "leaf")):
        [sent] = [span for span in found[parent]["spans"] if span["op"] == "queue.publish"]
        assert traces[child]["parent_span_id"] == sent["span_id"]
    assert (traces["work"]["op"], traces["work"]["status"]) == ("queue.process", "ok")
    assert traces["work"]["data"]["messaging.message.id"] == str(job.id)


async def test_jobs_that_nobody_traced_begin_a_trace_each(app: PgQueue, dsn: str, sentry: Any) -> None:
    sentry()
    app.add_middleware(Sentry())

    @app.task(name="report")
    async def report() -> str | None:
        return current_job().trace_id

    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute("select pgqueue.enqueue('report') from generate_series(1, 2)")
    await adrain(app)
    first, second = [job.value for job in await aenqueued(app)]
    assert first
    assert second
    assert first != second


async def test_a_run_that_is_cancelled_is_no_error(app: PgQueue, sentry: Any) -> None:
    memory = sentry(traces_sample_rate=1.0)
    app.add_middleware(Sentry())
    gate = Gate(app, "wait")
    job = await gate.task.aenqueue()
    async with app.worker():
        await gate.enters()
        await job.acancel()

        async def ended() -> bool:
            return (await job.arefresh()).state == "cancelled"

        await until(ended)
    assert [one["contexts"]["trace"]["status"] for one in memory.transactions] == ["cancelled"]
    assert memory.events == []


async def test_the_workers_own_log_of_a_failed_job_is_no_second_report(
    app: PgQueue, sentry: Any, caplog: pytest.LogCaptureFixture
) -> None:
    memory = sentry(integrations=[LoggingIntegration()])
    app.add_middleware(Sentry())
    declare(app, "thread", max_attempts=1)
    with caplog.at_level(logging.INFO, "pgqueue.jobs"):
        JobLog("json").follow(app)
        await app.aenqueue("charge", {"card": SECRET})
        await adrain(app)
    assert [record.message for record in caplog.records if record.name == "pgqueue.jobs"] == ["failed"]
    assert len(memory.events) == 1


async def test_beside_opentelemetry_each_keeps_its_own_headers(app: PgQueue, sentry: Any) -> None:
    sentry()
    traced = OpenTelemetry(tracer_provider=traced_app.provider, meter_provider=traced_app.meters)
    app.add_middleware(traced)
    app.add_middleware(Sentry())
    job = await app.aenqueue("work")
    assert job.headers.keys() == {"traceparent", "sentry"}


async def test_without_init_nothing_is_sent_and_jobs_run(app: PgQueue) -> None:
    app.add_middleware(Sentry())
    declare(app, "thread", max_attempts=1)
    job = await app.aenqueue("charge", {"card": SECRET})
    await adrain(app)
    assert (await job.arefresh()).state == "failed"
