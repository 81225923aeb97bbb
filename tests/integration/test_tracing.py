"""Traces and metrics of real jobs: which span is whose child, and what it says."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from pgqueue import (
    ArgumentError,
    Backoff,
    CancelJob,
    FailJob,
    Flow,
    Job,
    KeyHeld,
    PgQueue,
    RetryJob,
    SnoozeJob,
    Unique,
    WaitForChildren,
    current_job,
)
from pgqueue.queries.copying import COPY_FROM
from pgqueue.services.scheduler import Scheduler
from pgqueue.testing import adrain, aenqueued
from pgqueue.tracing import OpenTelemetry
from tests.integration import process_app, traced_app
from tests.integration.conftest import AJoined, Joined
from tests.integration.waiting import Gate, until

OTHERS = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Traced:
    """An app whose spans and metrics are kept here."""

    def __init__(self, app: PgQueue, provider: TracerProvider, exporter: Any, meters: Any, reader: Any) -> None:
        self.app, self.provider, self.meters = app, provider, meters
        self.tracer = provider.get_tracer("web")
        self._exporter, self._reader = exporter, reader

    @property
    def spans(self) -> list[ReadableSpan]:
        found: list[ReadableSpan] = list(self._exporter.get_finished_spans())
        return found

    def span(self, name: str) -> ReadableSpan:
        [found] = [span for span in self.spans if span.name == name]
        return found

    def of_task(self, name: str, task: str) -> ReadableSpan:
        [found] = [span for span in self.spans if span.name == name and about(span)["messaging.pgqueue.task"] == task]
        return found

    def points(self, name: str) -> list[Any]:
        data = self._reader.get_metrics_data()
        return [
            point
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]


def about(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def parent_of(span: ReadableSpan) -> int | None:
    return span.parent.span_id if span.parent else None


def id_of(span: ReadableSpan) -> int:
    assert span.context is not None
    return int(span.context.span_id)


def trace_of(span: ReadableSpan) -> int:
    assert span.context is not None
    return int(span.context.trace_id)


def hexadecimal(span: ReadableSpan) -> str:
    return trace.format_trace_id(trace_of(span))


def linked_to(span: ReadableSpan) -> set[int]:
    return {link.context.span_id for link in span.links}


def assert_path(*spans: ReadableSpan) -> None:
    """Each is the child of the one before, in one trace."""
    assert len({trace_of(span) for span in spans}) == 1
    for parent, child in pairwise(spans):
        assert parent_of(child) == id_of(parent), f"{child.name} is no child of {parent.name}"


@contextmanager
def bag(**values: str) -> Iterator[None]:
    whole = context.get_current()
    for name, value in values.items():
        whole = baggage.set_baggage(name, value, whole)
    token = context.attach(whole)
    yield
    context.detach(token)


@pytest.fixture
def traced(app: PgQueue) -> Callable[..., Traced]:
    def make(**options: Any) -> Traced:
        exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
        provider, meters = TracerProvider(), MeterProvider([reader])
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        app.add_middleware(OpenTelemetry(tracer_provider=provider, meter_provider=meters, **options))
        return Traced(app, provider, exporter, meters, reader)

    return make


@pytest.fixture
async def shop(dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The app that processes import, and the file of what those tell."""
    file = tmp_path / "told"
    monkeypatch.setenv("TRACED", str(file))
    monkeypatch.setenv("PGQUEUE_DSN", dsn)
    traced_app.app.database.point_at(dsn)
    traced_app.exporter.clear()
    yield Traced(traced_app.app, traced_app.provider, traced_app.exporter, traced_app.meters, traced_app.reader), file
    await traced_app.app.aclose()


def told(file: Path) -> list[dict[str, Any]]:
    """The spans of processes."""
    return [json.loads(line) for line in file.read_text().splitlines()]


def parent_told(span: dict[str, Any]) -> int:
    return int(span["parent_id"], 16)


@pytest.mark.parametrize("kind", ["coroutine", "thread", "transactional"])
async def test_request_job_and_child_job_are_one_trace(shop: tuple[Traced, Path], kind: str) -> None:
    traced, _ = shop
    with traced.tracer.start_as_current_span("request"):
        job = await traced.app.aenqueue(kind, {"then": "enqueue"})
    await adrain(traced.app)
    sent, ran = traced.of_task("send default", kind), traced.of_task("process default", kind)
    child_sent, child_ran = traced.of_task("send default", "leaf"), traced.of_task("process default", "leaf")
    within = traced.span("in the task")
    assert_path(traced.span("request"), sent, ran, within, child_sent, child_ran, traced.span("in the leaf"))
    assert (await job.aresult())[0] == hexadecimal(sent)


async def test_a_process_goes_on_with_the_trace_and_so_do_the_jobs_that_it_enqueues(shop: tuple[Traced, Path]) -> None:
    traced, file = shop
    with traced.tracer.start_as_current_span("request"), bag(tenant="eu"):
        job = await traced.app.aenqueue("process", {"then": "enqueue"})
    await adrain(traced.app)
    request, sent, ran = (
        traced.span("request"),
        traced.span("send default"),
        traced.of_task("process default", "process"),
    )
    assert_path(request, sent, ran)
    spans = {span["name"]: span for span in told(file)}
    within, child_sent = spans["in the task"], spans["send default"]
    child_ran = traced.of_task("process default", "leaf")
    assert parent_told(within) == id_of(ran)
    assert child_sent["parent_id"] == within["context"]["span_id"]
    assert parent_of(child_ran) == int(child_sent["context"]["span_id"], 16)
    assert {int(span["context"]["trace_id"], 16) for span in spans.values()} == {trace_of(request)}
    assert trace_of(child_ran) == trace_of(request)
    assert within["pid"] != os.getpid()
    assert (await job.aresult())[:2] == [hexadecimal(request), "eu"]


async def test_a_process_that_runs_the_next_job_has_left_the_trace_of_the_one_before(
    shop: tuple[Traced, Path],
) -> None:
    traced, file = shop
    first = await traced.app.aenqueue("process", {"then": "raise"})
    second = await traced.app.aenqueue("process")
    await adrain(traced.app, slots=1)
    of_first, of_second = [span["context"]["trace_id"] for span in told(file)]
    ran = {about(span)["messaging.message.id"]: span for span in traced.spans if span.name == "process default"}
    assert int(of_first, 16) == trace_of(ran[str(first.id)])
    assert int(of_second, 16) == trace_of(ran[str(second.id)])
    assert of_first != of_second
    failed = ran[str(first.id)]
    assert failed.status.status_code is StatusCode.ERROR
    [event] = failed.events
    said = dict(event.attributes or {})
    assert (said["exception.type"], said["exception.message"]) == ("ZeroDivisionError", "no")
    assert "traced_app.py" in str(said["exception.stacktrace"])


async def test_spans_say_what_the_conventions_ask_for(traced: Any, app: PgQueue) -> None:
    kept = traced()

    @app.task(name="send_email", queue="email", max_attempts=3)
    async def send_email() -> None: ...

    job = await send_email.aenqueue()
    await adrain(app)
    sent, ran = kept.spans
    assert (sent.name, sent.kind, sent.parent) == ("send email", SpanKind.PRODUCER, None)
    assert about(sent) == {
        "messaging.system": "pgqueue",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": "email",
        "messaging.message.id": str(job.id),
        "messaging.pgqueue.task": "send_email",
    }
    assert (ran.name, ran.kind) == ("process email", SpanKind.CONSUMER)
    assert about(ran) == {
        "messaging.system": "pgqueue",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "email",
        "messaging.message.id": str(job.id),
        "messaging.pgqueue.task": "send_email",
        "messaging.pgqueue.attempt": 1,
        "messaging.pgqueue.max_attempts": 3,
        "messaging.pgqueue.outcome": "completed",
    }
    assert_path(sent, ran)
    assert linked_to(ran) == {id_of(sent)}
    assert ran.status.status_code is StatusCode.UNSET


@pytest.mark.parametrize("count", [3, COPY_FROM], ids=["unnest", "COPY"])
async def test_a_bulk_is_one_span_and_each_of_its_jobs_has_its_context(traced: Any, app: PgQueue, count: int) -> None:
    kept = traced()
    jobs = [app.new_job("send", {"n": n}, queue="bulk", headers={"n": n}) for n in range(count)]
    await app.aenqueue_many([*jobs, app.new_job("other", queue="elsewhere")])
    [sent] = kept.spans
    assert sent.name == "send"
    assert about(sent) == {
        "messaging.system": "pgqueue",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.batch.message_count": count + 1,
    }
    found = await aenqueued(app)
    carried = {tuple(job.headers["traceparent"].split("-")[1:3]) for job in found}
    assert carried == {(hexadecimal(sent), trace.format_span_id(id_of(sent)))}
    assert sorted(job.headers["n"] for job in found if job.task == "send") == list(range(count))


def test_an_enqueue_in_the_callers_transaction_is_a_child_of_what_it_does(
    traced: Any, app: PgQueue, joined: Joined
) -> None:
    kept = traced()
    with kept.tracer.start_as_current_span("order"), joined() as connection:
        job = app.enqueue("send", using=connection)
    assert_path(kept.span("order"), kept.span("send default"))
    assert job.headers["traceparent"].split("-")[1] == hexadecimal(kept.span("order"))


async def test_an_async_enqueue_in_the_callers_transaction_is_a_child_of_what_it_does(
    traced: Any, app: PgQueue, ajoined: AJoined
) -> None:
    kept = traced()
    with kept.tracer.start_as_current_span("order"):
        async with ajoined() as connection:
            await app.aenqueue("send", using=connection)
    assert_path(kept.span("order"), kept.span("send default"))


async def test_a_flow_and_what_a_job_waits_for_go_on_with_the_trace(traced: Any, app: PgQueue) -> None:
    kept = traced()

    @app.task(name="part")
    async def part() -> None: ...

    @app.task(name="whole")
    async def whole() -> None:
        if not current_job().children():
            raise WaitForChildren([part.job()])

    flow = Flow()
    flow.add(whole.job())
    with kept.tracer.start_as_current_span("request"):
        await app.flows.aenqueue(flow)
    await adrain(app)
    flow_sent = kept.of_task("send default", "whole")
    waits, goes_on = [span for span in kept.spans if about(span).get("messaging.pgqueue.task") == "whole"][1:]
    part_sent, part_ran = kept.of_task("send default", "part"), kept.of_task("process default", "part")
    assert_path(kept.span("request"), flow_sent, waits, part_sent, part_ran)
    assert_path(flow_sent, goes_on)
    assert about(waits)["messaging.pgqueue.outcome"] == "snoozed"
    assert waits.status.status_code is StatusCode.UNSET


async def test_a_schedules_job_begins_a_trace(traced: Any, app: PgQueue, dsn: str) -> None:
    kept = traced()

    @app.every(timedelta(hours=1), name="hourly")
    @app.task(name="report")
    async def report() -> None: ...

    await Scheduler.of(app).run_once()
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute(
            "update pgqueue.schedules set next_run_at = clock_timestamp() - interval '1 hour', last_run_at = null"
        )
    with kept.tracer.start_as_current_span("the start of the process"):
        await Scheduler.of(app).run_once()
        await adrain(app)
    sent, ran = kept.span("send default"), kept.span("process default")
    assert sent.parent is None
    assert_path(sent, ran)


async def test_sql_passes_a_trace_on_in_the_headers(traced: Any, app: PgQueue, dsn: str) -> None:
    kept = traced()
    app.task(name="report")(process_app.nothing)
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute(
            "select pgqueue.enqueue('report', headers => jsonb_build_object('traceparent', %s::text))", [OTHERS]
        )
    await adrain(app)
    assert hexadecimal(kept.span("process default")) == OTHERS.split("-")[1]


async def test_a_job_that_sql_enqueued_begins_a_trace_whatever_the_worker_was_started_in(
    traced: Any, app: PgQueue, dsn: str
) -> None:
    kept = traced()

    @app.task(name="report")
    async def report() -> str | None:
        return current_job().trace_id

    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute("select pgqueue.enqueue('report')")
    with kept.tracer.start_as_current_span("the start of the process"):
        await adrain(app)
    ran = kept.span("process default")
    assert (ran.parent, ran.links) == (None, ())
    [job] = await aenqueued(app)
    assert job.value == hexadecimal(ran)


async def test_a_linked_run_begins_a_trace_of_its_own(traced: Any, app: PgQueue) -> None:
    kept = traced(linked=True)

    @app.task(name="work")
    async def work() -> list[Any]:
        with kept.tracer.start_as_current_span("in the task"):
            return [current_job().headers["traceparent"].split("-")[1], baggage.get_baggage("tenant")]

    with kept.tracer.start_as_current_span("request"), bag(tenant="eu"):
        job = await work.aenqueue()
    await adrain(app)
    sent, ran = kept.span("send default"), kept.span("process default")
    assert_path(kept.span("request"), sent)
    assert_path(ran, kept.span("in the task"))
    assert ran.parent is None
    assert trace_of(ran) != trace_of(sent)
    assert linked_to(ran) == {id_of(sent)}
    assert await job.aresult() == [hexadecimal(ran), "eu"]


async def test_a_context_that_a_job_brings_stays_and_one_that_is_none_hurts_nothing(traced: Any, app: PgQueue) -> None:
    kept = traced()

    @app.task(name="work")
    async def work() -> None: ...

    jobs = [
        work.using(headers={"traceparent": OTHERS, "tracestate": "vendor=1"}).job(),
        work.using(headers={"traceparent": 5, "baggage": ["no"], "tracestate": None}).job(),
        work.job(),
    ]
    async with app.worker():
        theirs, broken, ours = await app.aenqueue_many(jobs)
        for job in (theirs, broken, ours):
            await job.aresult(timeout=20)
    sent = kept.span("send default")
    ran = {about(span)["messaging.message.id"]: span for span in kept.spans if span.name == "process default"}
    assert theirs.headers == {"traceparent": OTHERS, "tracestate": "vendor=1"}
    assert hexadecimal(ran[str(theirs.id)]) == OTHERS.split("-")[1]
    assert [trace.format_span_id(one) for one in linked_to(sent)] == [OTHERS.split("-")[2]]
    assert ran[str(broken.id)].parent is None
    assert_path(sent, ran[str(ours.id)])


@pytest.mark.parametrize(
    ("raised", "outcome", "error"),
    [
        (ValueError("no"), "retried", "ValueError"),
        (RetryJob("busy", delay=3600), "retried", "pgqueue.errors.RetryJob"),
        (FailJob("never"), "failed", "pgqueue.errors.FailJob"),
        (SnoozeJob(3600), "snoozed", None),
        (CancelJob("not needed"), "cancelled", None),
    ],
    ids=["error", "retry", "fail", "snooze", "cancel"],
)
async def test_the_status_of_a_run_is_an_error_only_where_the_attempt_failed(
    traced: Any, app: PgQueue, raised: BaseException, outcome: str, error: str | None
) -> None:
    kept = traced()

    @app.task(name="work", backoff=Backoff.fixed(3600))
    async def work() -> None:
        raise raised

    await work.aenqueue()
    await adrain(app)
    ran = kept.span("process default")
    assert about(ran)["messaging.pgqueue.outcome"] == outcome
    assert about(ran).get("error.type") == error
    if error is None:
        assert (ran.status.status_code, ran.events) == (StatusCode.UNSET, ())
        return
    assert ran.status.status_code is StatusCode.ERROR
    assert ran.status.description == f"{error}: {raised}"
    [event] = ran.events
    assert event.name == "exception"
    assert dict(event.attributes or {})["exception.type"] == error


async def test_each_attempt_is_a_run_of_the_same_trace(traced: Any, app: PgQueue) -> None:
    kept = traced()

    @app.task(name="work", max_attempts=2, backoff=Backoff.fixed(0))
    async def work() -> None:
        raise ValueError("no")

    await work.aenqueue()
    await adrain(app)
    sent, first, second = kept.spans
    assert_path(sent, first)
    assert_path(sent, second)
    assert [about(run)["messaging.pgqueue.attempt"] for run in (first, second)] == [1, 2]
    assert [about(run)["messaging.pgqueue.outcome"] for run in (first, second)] == ["retried", "failed"]


async def test_a_run_that_is_cancelled_is_interrupted_and_no_error(traced: Any, app: PgQueue) -> None:
    kept = traced()
    gate = Gate(app, "wait")
    job = await gate.task.aenqueue()
    async with app.worker():
        await gate.enters()
        await job.acancel()

        async def ended() -> bool:
            return (await job.arefresh()).state == "cancelled"

        await until(ended)
    ran = kept.span("process default")
    assert about(ran)["messaging.pgqueue.outcome"] == "interrupted"
    assert ran.status.status_code is StatusCode.UNSET


async def test_an_enqueue_that_is_refused_is_an_error(traced: Any, app: PgQueue) -> None:
    kept = traced()
    unique = Unique("once", on_conflict="error")

    @app.task(name="work", unique=unique)
    async def work() -> None: ...

    await work.aenqueue()
    with pytest.raises(KeyHeld):
        await work.aenqueue()
    _, refused = kept.spans
    assert refused.status.status_code is StatusCode.ERROR
    assert about(refused)["error.type"] == "pgqueue.errors.KeyHeld"
    assert [event.name for event in refused.events] == ["exception"]


@pytest.mark.parametrize("kind", ["coroutine", "thread"])
async def test_a_chunk_has_a_run_for_each_job_and_a_span_of_the_call_that_links_to_them(
    shop: tuple[Traced, Path], kind: str
) -> None:
    traced, _ = shop
    jobs = await enqueue_apart(traced, f"chunk_{kind}")
    await adrain(traced.app)
    runs = runs_of(traced, jobs)
    call = traced.span(f"chunk chunk_{kind}")
    assert call.parent is None
    assert linked_to(call) == {id_of(run) for run in runs}
    assert about(call)["messaging.batch.message_count"] == 2
    assert_path(call, traced.span("in the chunk"))


async def test_the_call_of_a_chunk_in_a_process_links_to_the_runs_too(shop: tuple[Traced, Path]) -> None:
    traced, file = shop
    jobs = await enqueue_apart(traced, "chunk_process")
    await adrain(traced.app)
    runs = runs_of(traced, jobs)
    within, call = told(file)
    assert (within["name"], call["name"]) == ("in the chunk", "chunk chunk_process")
    assert within["parent_id"] == call["context"]["span_id"]
    assert {int(link["context"]["span_id"], 16) for link in call["links"]} == {id_of(run) for run in runs}


async def enqueue_apart(traced: Traced, task: str) -> list[Job]:
    return [await traced.app.aenqueue(task, {"fail": fail}) for fail in (False, True)]


def runs_of(traced: Traced, jobs: list[Job]) -> list[ReadableSpan]:
    """The runs of two jobs, each of them in the trace of its own enqueue, and with its own outcome."""
    found = {about(span).get("messaging.message.id"): span for span in traced.spans if span.name == "process default"}
    sent = {about(span).get("messaging.message.id"): span for span in traced.spans if span.name == "send default"}
    runs = [found[str(job.id)] for job in jobs]
    for job in jobs:
        assert_path(sent[str(job.id)], found[str(job.id)])
    assert [about(run)["messaging.pgqueue.outcome"] for run in runs] == ["completed", "failed"]
    return runs


async def test_runs_beside_each_other_do_not_see_each_others_trace(traced: Any, app: PgQueue) -> None:
    kept = traced()
    together = asyncio.Barrier(3)

    @app.task(name="work")
    async def work() -> str:
        await together.wait()
        with kept.tracer.start_as_current_span("in the task") as span:
            return trace.format_trace_id(span.get_span_context().trace_id)

    jobs = [await work.aenqueue() for _ in range(3)]
    await adrain(app)
    traces = [await job.aresult() for job in jobs]
    assert traces == [job.headers["traceparent"].split("-")[1] for job in jobs]
    assert len(set(traces)) == 3


async def test_metrics_tell_durations_counts_and_failures(traced: Any, app: PgQueue) -> None:
    kept = traced()

    @app.task(name="work", queue="email", max_attempts=1)
    async def work(fails: bool) -> None:
        if fails:
            raise ValueError("no")

    await app.aenqueue_many([work.job(fails) for fails in (False, False, True)])
    await adrain(app)
    system = {"messaging.system": "pgqueue", "messaging.destination.name": "email"}
    processing = {**system, "messaging.operation.name": "process", "messaging.pgqueue.task": "work"}
    sending = {**system, "messaging.operation.name": "send"}
    found = {point.attributes.get("error.type"): point for point in kept.points("messaging.process.duration")}
    assert {kind: point.count for kind, point in found.items()} == {None: 2, "ValueError": 1}
    assert dict(found[None].attributes) == processing
    assert dict(found["ValueError"].attributes) == {**processing, "error.type": "ValueError"}
    assert found[None].explicit_bounds[0] == 0.005
    [took] = kept.points("messaging.client.operation.duration")
    assert (took.count, dict(took.attributes)) == (1, {**sending, "messaging.operation.type": "send"})
    [sent] = kept.points("messaging.client.sent.messages")
    assert (sent.value, dict(sent.attributes)) == (3, sending)
    assert sum(point.value for point in kept.points("messaging.client.consumed.messages")) == 3


async def test_without_an_sdk_nothing_is_traced_and_a_context_passes_through(app: PgQueue) -> None:
    app.add_middleware(OpenTelemetry())

    @app.task(name="work")
    async def work() -> dict[str, Any]:
        await app.aenqueue("other", queue="elsewhere")
        return dict(current_job().headers)

    plain, passing = await work.aenqueue(), await work.using(headers={"traceparent": OTHERS}).aenqueue()
    await adrain(app, ["default"], slots=1)
    assert await plain.aresult() == {}
    assert await passing.aresult() == {"traceparent": OTHERS}
    others = [job.headers for job in await aenqueued(app) if job.task == "other"]
    assert others == [{}, {"traceparent": OTHERS}]


def test_arguments_that_are_refused_are_refused_as_ever(traced: Any, app: PgQueue) -> None:
    traced()
    with pytest.raises(ArgumentError):
        app.enqueue("work", {"n": object()})
