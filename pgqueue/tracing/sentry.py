"""Errors of runs reported to Sentry, and its traces of enqueues and runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import sentry_sdk
from sentry_sdk.integrations.logging import ignore_logger
from sentry_sdk.utils import event_from_exception

from pgqueue import arguments
from pgqueue.context import Context
from pgqueue.errors import FailJob, RetryJob
from pgqueue.job import Job, NewJob
from pgqueue.middleware import Middleware, with_headers
from pgqueue.outcome import AttemptError, Failed, Outcome, Retry
from pgqueue.tracing import conventions as of
from pgqueue.tracing.frames import frames_of

if TYPE_CHECKING:
    from sentry_sdk.types import Event, Hint

ORIGIN = "auto.queue.pgqueue"
# The job's header. Both of Sentry's own in one: they belong together, and OpenTelemetry has a `baggage` too.
HEADER = "sentry"
FLUSH_SECONDS = 1.0


class Sentry(Middleware):
    """Reports the jobs that failed for good, and traces enqueues and runs where `sentry_sdk.init` says so.

    `each_attempt=True` reports attempts that are retried too. `arguments=True` adds the job's arguments, and the local
    variables of the traceback, which have them; without it neither leaves the process. Each run has an isolation scope
    of its own, with the tags `pgqueue.task`, `pgqueue.queue`, `pgqueue.job_id` and `pgqueue.attempt`.

        sentry_sdk.init("https://key@sentry.example/1", traces_sample_rate=0.1)
        app.add_middleware(Sentry())
    """

    def __init__(self, *, each_attempt: bool = False, arguments: bool = False) -> None:
        self.each_attempt = each_attempt
        self.arguments = arguments
        # `--log-format json` writes a line for each job that failed: it would be a second report.
        ignore_logger("pgqueue.jobs")

    def enqueue(self, jobs: Sequence[NewJob]) -> Generator[Sequence[NewJob], Sequence[Job]]:
        """A span within whatever transaction there is; the jobs go on with its trace."""
        if of.is_of_a_schedule(jobs):
            yield jobs
            return
        queue = of.queue_of(jobs)
        about = {**of.of_operation("send", queue), **of.of_jobs(jobs)}
        name = "send" if queue is None else f"send {queue}"
        with sentry_sdk.start_span(op="queue.publish", name=name, origin=ORIGIN) as span:
            made = yield with_headers(jobs, {HEADER: _carried()})
            if len(made) == 1:
                about[of.MESSAGE_ID] = str(made[0].id)
            for key, value in about.items():
                span.set_data(key, value)

    async def run(self, context: Context) -> AsyncGenerator[None, Outcome]:
        """A transaction around each run; what failed is reported within its scope."""
        with sentry_sdk.isolation_scope() as scope:
            scope.clear_breadcrumbs()
            _describe(scope, context)
            going_on = sentry_sdk.continue_trace(
                _headers(context), op="queue.process", name=context.task, source="task", origin=ORIGIN
            )
            with sentry_sdk.start_transaction(going_on) as transaction:
                about = {**of.of_operation("process", context.queue), **of.of_run(context)}
                for key, value in {**about, "messaging.message.retry.count": context.attempt - 1}.items():
                    transaction.set_data(key, value)
                context.headers = {**context.headers, HEADER: _carried()}
                context.trace_id = context.trace_id or going_on.trace_id
                try:
                    outcome = yield
                except asyncio.CancelledError:
                    # It stays interrupted, and is no error.
                    transaction.set_status("cancelled")
                    return
                transaction.set_data(of.OUTCOME, of.OUTCOMES[type(outcome)])
                transaction.set_status("ok" if of.error_of(outcome) is None else "internal_error")
                if isinstance(outcome, Failed) or (self.each_attempt and isinstance(outcome, Retry)):
                    self._report(scope, context, outcome)

    def call(self, contexts: Sequence[Context]) -> Generator[None, None]:
        """In a process of its own, and around a chunk: a scope that no other call sees."""
        try:
            with sentry_sdk.isolation_scope() as scope:
                scope.clear_breadcrumbs()
                if len(contexts) == 1:
                    _describe(scope, contexts[0])
                    sentry_sdk.continue_trace(_headers(contexts[0]))
                else:
                    scope.set_tags({"pgqueue.task": contexts[0].task, "pgqueue.queue": contexts[0].queue})
                    sentry_sdk.continue_trace({})
                yield
        finally:
            if contexts[0].claimed is None:
                # This process ends by SIGKILL, and exit handlers do not run.
                sentry_sdk.flush(FLUSH_SECONDS)

    def _report(self, scope: sentry_sdk.Scope, context: Context, outcome: Failed | Retry) -> None:
        told = {**_facts(context), "max_attempts": context.max_attempts, "outcome": of.OUTCOMES[type(outcome)]}
        if isinstance(outcome, Failed):
            told["reason"] = outcome.reason
        if self.arguments and context.claimed is not None:
            told["arguments"] = arguments.loads(context.claimed.args)
        scope.set_context("pgqueue", told)
        mechanism = {"type": "pgqueue", "handled": isinstance(outcome, Retry)}
        error = context.error
        if error is None:
            sentry_sdk.capture_event(_event_of_text(outcome.error, mechanism))
            return
        if isinstance(error, FailJob | RetryJob):
            error = error.__cause__ or error
        event, hint = self._event_of(error, mechanism)
        sentry_sdk.capture_event(event, hint=hint)

    def _event_of(self, error: BaseException, mechanism: dict[str, Any]) -> tuple[Event, Hint]:
        options = sentry_sdk.get_client().options
        shows = self.arguments and options["include_local_variables"]
        return event_from_exception(error, {**options, "include_local_variables": shows}, mechanism)


def _carried() -> dict[str, str]:
    found = {"sentry-trace": sentry_sdk.get_traceparent(), "baggage": sentry_sdk.get_baggage()}
    return {name: value for name, value in found.items() if value}


def _headers(context: Context) -> dict[str, str]:
    found = context.headers.get(HEADER)
    pairs = found.items() if isinstance(found, Mapping) else ()
    return {name: value for name, value in pairs if isinstance(value, str)}


def _facts(context: Context) -> dict[str, Any]:
    return {"task": context.task, "queue": context.queue, "job_id": context.job_id, "attempt": context.attempt}


def _describe(scope: sentry_sdk.Scope, context: Context) -> None:
    scope.set_tags({f"pgqueue.{name}": value for name, value in _facts(context).items()})
    scope.set_context("pgqueue", {**_facts(context), "max_attempts": context.max_attempts})


def _event_of_text(error: AttemptError, mechanism: dict[str, Any]) -> Event:
    module, _, kind = error.type.rpartition(".")
    frames = [
        {"filename": one.file, "abs_path": one.file, "lineno": one.line, "function": one.function} | _code(one.code)
        for one in frames_of(error.traceback)
    ]
    value: dict[str, Any] = {"type": kind, "module": module or None, "value": error.message, "mechanism": mechanism}
    if frames:
        value["stacktrace"] = {"frames": frames}
    return {"level": "error", "exception": {"values": [value]}}


def _code(line: str) -> dict[str, str]:
    return {"context_line": line} if line else {}
