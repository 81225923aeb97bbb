"""An app that is traced. Its processes import this module: what they tell goes to the file TRACED, line by line."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sentry_sdk
from opentelemetry import baggage
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport

from pgqueue import Backoff, ChunkJob, PgQueue, current_job
from pgqueue.tracing import OpenTelemetry, Sentry

NEVER = 3600


def tell(line: dict[str, Any]) -> None:
    with Path(os.environ["TRACED"]).open("a") as file:
        file.write(f"{json.dumps(line)}\n")


class ToFile(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        for span in spans:
            tell({"pid": os.getpid(), **json.loads(span.to_json())})
        return SpanExportResult.SUCCESS


class TransportToFile(Transport):
    def capture_envelope(self, envelope: Envelope) -> None:
        if (event := envelope.get_event()) is not None:
            tell({"pid": os.getpid(), **event})


exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
provider, meters = TracerProvider(), MeterProvider([reader])
provider.add_span_processor(SimpleSpanProcessor(exporter))
if "TRACED" in os.environ:
    # Nothing but what asks for it has this export.
    provider.add_span_processor(BatchSpanProcessor(ToFile(), schedule_delay_millis=1000 * NEVER))
if "SENTRY" in os.environ:
    sentry_sdk.init("https://key@sentry.invalid/1", transport=TransportToFile, default_integrations=False)

tracer = provider.get_tracer("shop")
# A process has its DSN in PGQUEUE_DSN.
app = PgQueue(backoff=Backoff.fixed(0))
app.add_middleware(OpenTelemetry(tracer_provider=provider, meter_provider=meters))
if "SENTRY" in os.environ:
    app.add_middleware(Sentry())


@app.task(name="leaf")
async def leaf() -> None:
    with tracer.start_as_current_span("in the leaf"):
        pass


def work(then: str) -> Any:
    with tracer.start_as_current_span("in the task"):
        if then == "enqueue":
            app.enqueue("leaf")
        if then == "raise":
            raise ZeroDivisionError("no")
        if then == "capture":
            sentry_sdk.capture_message("said in the task")
    return [current_job().trace_id, baggage.get_baggage("tenant"), os.getpid()]


@app.task(name="coroutine")
async def coroutine(then: str = "return") -> Any:
    with tracer.start_as_current_span("in the task"):
        if then == "enqueue":
            await app.aenqueue("leaf")
    return [current_job().trace_id, baggage.get_baggage("tenant"), os.getpid()]


@app.task(name="thread")
def thread(then: str = "return") -> Any:
    return work(then)


@app.task(name="process", run_in="process", max_attempts=1)
def process(then: str = "return") -> Any:
    return work(then)


@app.task(name="transactional", transactional=True)
def transactional(then: str = "return") -> Any:
    return work(then)


@app.task(name="chunk_coroutine", chunk=2, wait=NEVER)
async def chunk_coroutine(jobs: list[ChunkJob[dict[str, Any]]]) -> None:
    chunk(jobs)


@app.task(name="chunk_thread", chunk=2, wait=NEVER)
def chunk_thread(jobs: list[ChunkJob[dict[str, Any]]]) -> None:
    chunk(jobs)


@app.task(name="chunk_process", chunk=2, wait=NEVER, run_in="process")
def chunk_process(jobs: list[ChunkJob[dict[str, Any]]]) -> None:
    chunk(jobs)


def chunk(jobs: list[ChunkJob[dict[str, Any]]]) -> None:
    with tracer.start_as_current_span("in the chunk"):
        for job in jobs:
            if job.args.get("fail"):
                job.fail("no")
