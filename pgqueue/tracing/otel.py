"""Spans and metrics of enqueues and runs, by OpenTelemetry's semantic conventions for messaging."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncGenerator, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from opentelemetry import context as current
from opentelemetry import metrics, propagate, trace
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.trace import Link, Span, SpanKind, StatusCode

from pgqueue import arguments
from pgqueue.context import Context
from pgqueue.job import Job, NewJob
from pgqueue.middleware import Middleware, with_headers
from pgqueue.outcome import Outcome, type_name
from pgqueue.tracing import conventions as of
from pgqueue.version import VERSION

FLUSH_SECONDS = 1.0


class OpenTelemetry(Middleware):
    """Traces each enqueue and each run, and measures them. A run is a child of the enqueue of its job: one trace.

    `linked=True` lets each run begin a trace of its own, linked to the enqueue. Providers and propagator are the
    global ones where none is given. Add it before other middleware, in the module that makes the app: processes of
    tasks import that, and go on with the trace there.

        app.add_middleware(OpenTelemetry())
    """

    def __init__(
        self,
        *,
        linked: bool = False,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
        propagator: TextMapPropagator | None = None,
    ) -> None:
        self.linked = linked
        self._providers = tracer_provider, meter_provider
        self._propagator = propagator
        self._tracer = trace.get_tracer("pgqueue", VERSION, tracer_provider)
        self._measured = _Instruments(metrics.get_meter("pgqueue", VERSION, meter_provider))

    def enqueue(self, jobs: Sequence[NewJob]) -> Generator[Sequence[NewJob], Sequence[Job]]:
        """One span for one job or many, which all have its context."""
        queue = of.queue_of(jobs)
        about = of.of_operation("send", queue)
        carried, links = self._carried_already(jobs)
        began = time.perf_counter()
        failure: dict[str, of.Value] = {}
        with self._tracer.start_as_current_span(
            "send" if queue is None else f"send {queue}",
            current.Context() if of.is_of_a_schedule(jobs) else None,
            SpanKind.PRODUCER,
            {**about, **of.of_jobs(jobs)},
            links,
        ) as span:
            try:
                made = yield self._with_context(jobs, carried)
                if queue is None and (queue := of.queue_of(made)) is not None:
                    # A task that this code does not have may say only in the database which queue is its own.
                    about[of.DESTINATION] = queue
                    span.update_name(f"send {queue}")
                    span.set_attribute(of.DESTINATION, queue)
                if len(made) == 1:
                    span.set_attribute(of.MESSAGE_ID, str(made[0].id))
            except BaseException as error:
                failure = {of.ERROR_TYPE: type_name(type(error))}
                span.set_attributes(failure)
                raise
            finally:
                self._measured.sent(len(jobs), time.perf_counter() - began, {**about, **failure})

    async def run(self, context: Context) -> AsyncGenerator[None, Outcome]:
        """A span around each run; the outcome says how it ended."""
        about = of.of_operation("process", context.queue)
        producer = self._extract(context.headers)
        parent = trace.set_span_in_context(trace.INVALID_SPAN, producer) if self.linked else producer
        span = self._tracer.start_span(
            f"process {context.queue}", parent, SpanKind.CONSUMER, {**about, **of.of_run(context)}, _links(producer)
        )
        began = time.perf_counter()
        within = self._handed_on(context, span, parent)
        outcome: Outcome | None = None
        try:
            with _current(within):
                outcome = yield
        finally:
            failure = _ended(span, outcome)
            self._measured.processed(time.perf_counter() - began, {**about, of.TASK: context.task, **failure})

    def call(self, contexts: Sequence[Context]) -> Generator[None, None]:
        """In a process of its own the run's context goes on; a chunk's call has a span that links to its runs."""
        runs = [self._extract(context.headers) for context in contexts]
        try:
            if len(runs) == 1:
                with _current(runs[0]):
                    yield
            else:
                first = contexts[0]
                about = {of.SYSTEM: "pgqueue", of.DESTINATION: first.queue, of.TASK: first.task}
                with self._tracer.start_as_current_span(
                    f"chunk {first.task}",
                    current.Context(),
                    attributes={**about, of.MESSAGE_COUNT: len(runs)},
                    links=[link for run in runs for link in _links(run)],
                ):
                    yield
        finally:
            if contexts[0].claimed is None:
                self._flush()

    @property
    def _text(self) -> TextMapPropagator:
        return self._propagator or propagate.get_global_textmap()

    def _extract(self, headers: Mapping[str, Any]) -> current.Context:
        # A user's header may have the name of one of the propagator's, and be no text.
        texts = {name: value for name, value in headers.items() if isinstance(value, str)}
        return self._text.extract(texts, current.Context())

    def _handed_on(self, context: Context, span: Span, parent: current.Context) -> current.Context:
        """What is current in the run; its headers have it for the process that makes the call, and log lines its id."""
        if not span.get_span_context().is_valid:
            # There is no SDK: a context that comes by goes on.
            return parent
        within = trace.set_span_in_context(span, parent)
        own: dict[str, str] = {}
        self._text.inject(own, within)
        fields = self._text.fields
        others = {name: value for name, value in context.headers.items() if name not in fields}
        context.headers = {**others, **own}
        context.trace_id = trace.format_trace_id(span.get_span_context().trace_id)
        return within

    def _carried_already(self, jobs: Sequence[NewJob]) -> tuple[set[str], list[Link]]:
        """The headers' texts that bring a context of their own, which stays, and links to those contexts."""
        texts, links = set(), []
        for text in {job.headers for job in jobs}:
            headers = arguments.loads(text) if text else {}
            if text and not self._text.fields.isdisjoint(headers):
                texts.add(text)
                links += _links(self._extract(headers))
        return texts, links

    def _with_context(self, jobs: Sequence[NewJob], carried: set[str]) -> Sequence[NewJob]:
        own: dict[str, str] = {}
        self._text.inject(own)
        if not carried:
            return with_headers(jobs, own)
        marked = iter(with_headers([job for job in jobs if job.headers not in carried], own))
        return [job if job.headers in carried else next(marked) for job in jobs]

    def _flush(self) -> None:
        """Export what this process has told: it ends by SIGKILL, and exit handlers do not run."""

        def flush() -> None:
            tracers, meters = self._providers
            for provider in (tracers or trace.get_tracer_provider(), meters or metrics.get_meter_provider()):
                if (force := getattr(provider, "force_flush", None)) is not None:
                    force()

        # The SDK does not keep to a timeout: where nobody takes the spans, the job must not wait for them.
        flushing = threading.Thread(target=flush, name="pgqueue-flush", daemon=True)
        flushing.start()
        flushing.join(FLUSH_SECONDS)


class _Instruments:
    """The metrics of the conventions."""

    def __init__(self, meter: metrics.Meter) -> None:
        self._processing = _seconds(meter, "messaging.process.duration", "How long runs took.")
        self._operations = _seconds(
            meter,
            "messaging.client.operation.duration",
            "How long enqueues took.",
        )
        self._sent = meter.create_counter(
            "messaging.client.sent.messages", "{message}", "Jobs that were to be enqueued."
        )
        self._consumed = meter.create_counter(
            "messaging.client.consumed.messages",
            "{message}",
            "Runs that began.",
        )

    def sent(self, count: int, seconds: float, about: dict[str, of.Value]) -> None:
        self._operations.record(seconds, about)
        self._sent.add(count, {name: value for name, value in about.items() if name != of.OPERATION_TYPE})

    def processed(self, seconds: float, about: dict[str, of.Value]) -> None:
        about = {name: value for name, value in about.items() if name != of.OPERATION_TYPE}
        self._processing.record(seconds, about)
        self._consumed.add(1, about)


def _seconds(meter: metrics.Meter, name: str, description: str) -> metrics.Histogram:
    return meter.create_histogram(name, "s", description, explicit_bucket_boundaries_advisory=of.DURATIONS)


@contextmanager
def _current(context: current.Context) -> Iterator[None]:
    token = current.attach(context)
    try:
        yield
    finally:
        current.detach(token)


def _links(creation: current.Context) -> list[Link]:
    found = trace.get_current_span(creation).get_span_context()
    return [Link(found)] if found.is_valid else []


def _ended(span: Span, outcome: Outcome | None) -> dict[str, of.Value]:
    """End the span of a run with what it came to, None: it was interrupted. Returns how a failure is measured."""
    span.set_attribute(of.OUTCOME, of.INTERRUPTED if outcome is None else of.OUTCOMES[type(outcome)])
    failure: dict[str, of.Value] = {}
    if outcome is not None and (error := of.error_of(outcome)) is not None:
        failure = {of.ERROR_TYPE: error.type}
        span.set_attributes(failure)
        # As the job keeps it: an error of a process of its own is text alone.
        about = {"exception.type": error.type, "exception.message": error.message}
        span.add_event("exception", {**about, "exception.stacktrace": error.traceback})
        span.set_status(StatusCode.ERROR, f"{error.type}: {error.message}" if error.message else error.type)
    span.end()
    return failure
