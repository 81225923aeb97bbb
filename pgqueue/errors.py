"""The errors of pgqueue, one tree.

PgQueueError
├── ConfigurationError        the app, a task, a queue or a schedule is declared wrongly
├── ArgumentError             a job's arguments or options cannot be enqueued
├── KeyHeld                   a job holds the unique key, and that was to be an error
├── UnknownTask               a name that no task of this app has
├── JobNotFound               no job with that id or key
├── JobNotEditable            the job runs, has ended, or the edit would break what holds for it
├── WorkerNotFound            no live worker has that name or id
├── QueueBusy                 jobs run in the queue that was to be obliterated
├── ConnectionFailed          PostgreSQL cannot be reached
├── SchemaOutOfDate           the tables are missing, older or newer than this pgqueue accepts
├── TaskTimeout               a run took longer than its timeout
├── ProcessCrashed            the process that ran a task died
├── DeliveryFailed            a request was not answered, or not with a success (pgqueue.push)
├── JobMarked                 a job of a chunk has its outcome already
├── JobEnded                  waiting for the result of a job that has none
│   ├── JobFailed             it went to `failed_jobs`
│   └── JobCancelled          it was cancelled
├── ResultTimeout             the job had not ended in time
├── ChildFailed               a job that was waited for has no result, mostly since it did not complete
├── EffectMismatch            a key of `once` was used before, with other arguments
├── EffectHeld                another call under a key of `once` is under way
└── TaskSignal                raised by a task to choose its own outcome
    ├── RetryJob              again later; uses an attempt
    ├── SnoozeJob             again later; uses no attempt
    │   └── LimitHit          what `Limit.hit` raises: nothing of that limit begins before
    ├── WaitForChildren       again when the jobs that it brings have ended (pgqueue.flow)
    ├── CancelJob             ended, without a failure
    └── FailJob               straight to `failed_jobs`
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pgqueue.job import Job


class PgQueueError(Exception):
    """The root of every error that pgqueue raises on purpose."""


class ConfigurationError(PgQueueError):
    """The app, a task, a queue or a schedule is declared wrongly. The message says what to change."""


class ArgumentError(PgQueueError, ValueError):
    """A job's arguments or options cannot be enqueued. The message names the argument and the fix."""


class KeyHeld(PgQueueError):
    """A job holds the unique key, and its task says `on_conflict="error"`."""


class UnknownTask(PgQueueError, LookupError):
    """No task of this app has that name."""


class JobNotFound(PgQueueError, LookupError):
    """No job, live or ended, has that id or key."""


class JobNotEditable(PgQueueError):
    """The job runs, has ended, or the edit would break what holds for it. The message says which, and what to do."""


class WorkerNotFound(PgQueueError, LookupError):
    """No live worker has that name or id."""


class QueueBusy(PgQueueError):
    """Jobs run in the queue that was to be obliterated."""


class ConnectionFailed(PgQueueError):
    """PostgreSQL cannot be reached with the DSN in use."""


class SchemaOutOfDate(PgQueueError):
    """The tables are missing, older or newer than this pgqueue accepts. Run `pgqueue migrate`."""


class TaskTimeout(PgQueueError, TimeoutError):
    """A run took longer than its timeout."""


class ProcessCrashed(PgQueueError):
    """The process that ran a task died: a signal, `os._exit`, or out of memory."""


class DeliveryFailed(PgQueueError):
    """A request was not answered, or with a status that may be another one later; `pgqueue.push` raises it."""


class JobMarked(PgQueueError):
    """A job of a chunk was given a second outcome, or one after its call had ended."""


class JobEnded(PgQueueError):
    """The job has ended without a result. `job` is that job, as it ended."""

    def __init__(self, message: str = "", job: Job | None = None) -> None:
        super().__init__(message)
        self.job = job

    def __reduce__(self) -> tuple[Any, ...]:
        # Into another process it goes without its app.
        return type(self), (*self.args, self.job and replace(self.job, operations=None))


class JobFailed(JobEnded):
    """The job is in `failed_jobs`. `job.errors` has the error of each attempt.

    try:
        charge.enqueue(7).result(timeout=5)
    except JobFailed as error:
        print(error.error_type, error.error_message, error.job.attempt)
    """

    @property
    def error_type(self) -> str | None:
        """Class of the last error, as `KeyError` or `shop.errors.CardDeclined`."""
        return self._last("type")

    @property
    def error_message(self) -> str | None:
        """Text of the last error."""
        return self._last("message")

    def _last(self, what: str) -> str | None:
        return self.job.errors[-1].get(what) if self.job is not None and self.job.errors else None


class JobCancelled(JobEnded):
    """The job was cancelled; `job.reason` says why."""


class ResultTimeout(PgQueueError, TimeoutError):
    """The job had not ended within the time that was given."""


class ChildFailed(PgQueueError):
    """A job that was waited for did not complete, or its result is not stored.

    Of a job that failed unrun for it: its `error_type`.
    """


class EffectMismatch(PgQueueError):
    """A key of `once` was used before, with other arguments: it does not name one thing."""


class EffectHeld(PgQueueError):
    """Another call under a key of `once` is under way, and has been for longer than one waits."""


class TaskSignal(PgQueueError):
    """Raised by a task to choose its own outcome."""


class RetryJob(TaskSignal):
    """Run this job again later; uses an attempt.

    `delay` is in seconds or a timedelta; without it the task's backoff decides.

        raise RetryJob(delay=30)
    """

    def __init__(self, reason: str = "", *, delay: float | timedelta | None = None) -> None:
        super().__init__(reason or "the task asked for a retry")
        self.delay = None if delay is None else seconds(delay)


class SnoozeJob(TaskSignal):
    """Run this job again after `delay` (seconds or timedelta); uses no attempt.

    raise SnoozeJob(timedelta(minutes=5))
    """

    def __init__(self, delay: float | timedelta, reason: str = "") -> None:
        super().__init__(reason or "the task asked to be snoozed")
        self.delay = seconds(delay)


class LimitHit(SnoozeJob):
    """What `Limit.hit` raises: run again after `delay`, and let nothing of the limit with this `key` begin before."""

    def __init__(self, delay: float | timedelta, key: str = "") -> None:
        super().__init__(delay, "a limit was hit")
        self.key = key


class CancelJob(TaskSignal):
    """End this job as `cancelled`: it is kept in the history and is no failure."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason or "the task cancelled its job")


class FailJob(TaskSignal):
    """Send this job straight to `failed_jobs`, whatever attempts are left."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason or "the task failed its job")


def seconds(delay: float | timedelta, what: str = "delay") -> float:
    """A time span as seconds. Raises ArgumentError, naming `what` it is, for a negative or non-finite one."""
    given: object = delay
    if isinstance(given, bool) or not isinstance(given, int | float | timedelta):
        raise ArgumentError(f"{what} must be a number of seconds or a timedelta, not {delay!r}")
    value = delay.total_seconds() if isinstance(delay, timedelta) else float(delay)
    if not 0 <= value <= 100 * 366 * 86400:
        raise ArgumentError(f"{what} must be between 0 and 100 years, not {value:,.0f} seconds")
    return value
