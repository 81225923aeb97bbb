"""A job as data: one to enqueue, one that exists, one that a worker holds."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NamedTuple, Protocol

from pgqueue.errors import ArgumentError, ConfigurationError, JobCancelled, JobEnded, JobFailed

JobState = Literal["scheduled", "available", "running", "blocked", "completed", "cancelled", "failed"]
AS_REGISTERED = "task"
ENDED: frozenset[JobState] = frozenset({"completed", "cancelled", "failed"})
INFINITY = math.inf


class NewJob(NamedTuple):
    """A job that is not enqueued yet: immutable, checked, good for any number of enqueues.

    `args` is JSON text of an object. What is None is decided by the task's, the queue's and the app's defaults.
    `delay` is in seconds; `run_at` is aware. `tags` and `headers` and `options` are JSON text. `on_conflict` and
    `keep_key` are None for a key that a live job holds once; "task" leaves them to what the task has registered.
    `after`: ids of the jobs that it waits for, and what each does to it that does not complete. `flow_id` and `waits`
    are set when its flow is enqueued.
    """

    task: str
    args: str
    queue: str | None = None
    priority: int | None = None
    run_at: datetime | None = None
    delay: float | None = None
    max_attempts: int | None = None
    key: str | None = None
    serial_key: str | None = None
    on_conflict: str | None = None
    keep_key: timedelta | None = None
    tags: str | None = None
    headers: str | None = None
    options: str | None = None
    after: tuple[tuple[int, str], ...] = ()
    flow_id: int | None = None
    waits: bool = False


class JobOperations(Protocol):
    """What a job needs of its app to act on itself."""

    def get(self, job_id: int) -> Job: ...
    async def aget(self, job_id: int) -> Job: ...
    def cancel(self, job_id: int) -> Any: ...
    async def acancel(self, job_id: int) -> Any: ...
    def wait(self, job_id: int, timeout: float | None) -> Job: ...
    async def await_(self, job_id: int, timeout: float | None) -> Job: ...


@dataclass(frozen=True, slots=True, repr=False)
class Job:
    """A job as it was when it was read: live, completed, cancelled or failed.

    `created` is False when an enqueue found a job that holds the same key and returned that one, changed if that was
    asked for.
    Times are aware; `started_at` and `ended_at` belong to the last attempt. `reason` says why it failed or was
    cancelled; of a completed job, why its result is not stored. `unreadable` tells why `args`, `headers`,
    `errors` or the `result` could not be read, where SQL stored what this pgqueue does not take; they are empty then.
    """

    id: int
    queue: str
    task: str
    args: Mapping[str, Any]
    state: JobState
    priority: int
    attempt: int
    max_attempts: int
    run_at: datetime
    created_at: datetime | None = None
    key: str | None = None
    serial_key: str | None = None
    tags: tuple[str, ...] = ()
    headers: Mapping[str, Any] = field(default_factory=dict)
    errors: tuple[Mapping[str, Any], ...] = ()
    value: Any = None
    reason: str | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    created: bool = True
    unreadable: Mapping[str, str] | None = None
    operations: JobOperations | None = field(default=None, compare=False)

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"<Job {self.id} {self.task} {self.state}>"

    def refresh(self) -> Job:
        """The job as it is now. Raises JobNotFound when its history has been pruned."""
        return self._app().get(self.id)

    async def arefresh(self) -> Job:
        """As `refresh`."""
        return await self._app().aget(self.id)

    def cancel(self) -> bool:
        """Cancel it: at once when it waits; a running one is not retried. False when it had ended."""
        return bool(self._app().cancel(self.id))

    async def acancel(self) -> bool:
        """As `cancel`."""
        return bool(await self._app().acancel(self.id))

    def result(self, timeout: float | None = None) -> Any:
        """What the task returned, as JSON gives it back; waits up to `timeout` seconds, for ever when None.

        Raises JobFailed and JobCancelled, whose `job` is the one that ended, ResultTimeout, JobNotFound when no history
        is kept or the enqueue has not committed, JobEnded when what was returned could not be stored (as what is larger
        than 64 KiB) or cannot be read, and ConfigurationError inside a running event loop.

            send_email.enqueue("a@b.c").result(timeout=5)
        """
        return self._app().wait(self.id, timeout)._outcome()

    async def aresult(self, timeout: float | None = None) -> Any:
        """As `result`."""
        return (await self._app().await_(self.id, timeout))._outcome()

    def _outcome(self) -> Any:
        if self.state == "failed":
            last = self.errors[-1] if self.errors else {}
            why = ": ".join(filter(None, (last.get("type", self.reason), last.get("message"))))
            after = f"after {self.attempt} attempt{'s' if self.attempt != 1 else ''}"
            if self.reason == "child_failed":
                after = "for a job that it waited for"
            raise JobFailed(f"job {self.id} ({self.task}) failed {after}: {why}", self)
        if self.state == "cancelled":
            raise JobCancelled(f"job {self.id} ({self.task}) was cancelled: {self.reason}", self)
        if self.reason is not None:
            raise JobEnded(f"job {self.id} ({self.task}) completed, and its result is not stored: {self.reason}", self)
        if self.unreadable and "result" in self.unreadable:
            why = self.unreadable["result"]
            raise JobEnded(f"the result of job {self.id} ({self.task}) cannot be read: {why}", self)
        return self.value

    def _app(self) -> JobOperations:
        if self.operations is None:
            raise ConfigurationError(f"job {self.id} was not read through an app: use app.jobs.get({self.id})")
        return self.operations


class ClaimedJob:
    """A job that this worker holds. Arguments, options and headers stay JSON text until they are needed."""

    __slots__ = (
        "args",
        "attempt",
        "began",
        "begins_at",
        "children",
        "context",
        "crashes",
        "due",
        "fence",
        "headers",
        "id",
        "late",
        "limited",
        "made",
        "max_attempts",
        "options",
        "plain",
        "position",
        "queue",
        "suspicions",
        "task",
        "trace_id",
    )

    def __init__(self, queue: str, fence: int, row: tuple[Any, ...], now: float) -> None:
        self.queue = queue
        self.fence = fence
        self.began: float | None = None
        # Where somebody measures: since when it is there, on the clock of `began`.
        self.made: float | None = None
        # When its limit lets it begin, and by how many seconds later it may.
        self.begins_at: float | None = None
        self.late = INFINITY
        # What those came to that it has waited for.
        self.children: tuple[Any, ...] = ()
        self.limited = False
        # What its run sees of it, once somebody has asked.
        self.context: Any = None
        # Of the trace that its run belongs to, where somebody traces.
        self.trace_id: str | None = None
        (
            self.id,
            self.position,
            self.task,
            self.args,
            self.attempt,
            self.max_attempts,
            self.crashes,
            self.suspicions,
            self.options,
            self.headers,
            # Whether it was in no flow, and held no place at a limit.
            self.plain,
            waited,
        ) = row
        # Since when it could run, on the clock of `began`, which says `now`; None: nobody knows.
        self.due: float | None = None if waited is None else now - waited

    def option(self, name: str) -> Any:
        """One of its own options; None where it has none of that name, which most are told without reading them."""
        return json.loads(self.options).get(name) if self.options and f'"{name}"' in self.options else None


def checked_key(key: str, what: str = "key") -> str:
    """A unique or serial key that PostgreSQL can hold and index. Raises ArgumentError."""
    if type(key) is not str or not 1 <= len(key) <= 500 or "\x00" in key or not key.isprintable():
        given: object = key
        shown = repr(given[:60] if isinstance(given, str) else given)[:70]
        raise ArgumentError(f"{what} {shown} is not valid: use text of 1 to 500 printable characters")
    return key


def checked_tag(tag: object, task: str) -> None:
    """A tag of a job of `task`. Raises ArgumentError."""
    if not isinstance(tag, str) or not 1 <= len(tag) <= 500:
        shown = repr(tag[:60] if isinstance(tag, str) else tag)[:70]
        raise ArgumentError(f"{task}: tag {shown} is not valid: use text of 1 to 500 characters")


def checked_id(given: object, what: str = "job") -> int:
    """The id of a job, or `what` it is of. Raises ArgumentError, also for text: "12" would be 1 and 2 among several."""
    if type(given) is not int or not -(2**63) <= given < 2**63:
        raise ArgumentError(
            f"{given!r} is no {what} id: give a whole number below 2**63, such as {what}.id or int(text)"
        )
    return given


def checked_ids(job_ids: object) -> tuple[int, ...]:
    """One id, or several. Raises ArgumentError."""
    if isinstance(job_ids, Iterable) and not isinstance(job_ids, str | bytes):
        return tuple(checked_id(job_id) for job_id in job_ids)
    return (checked_id(job_ids),)


def checked_limit(limit: object) -> int:
    """How many at most. Raises ArgumentError."""
    if type(limit) is not int or not 0 <= limit < 2**63:
        raise ArgumentError(f"limit={limit!r} must be a whole number, at least 0")
    return limit


def checked_time(what: str, run_at: object) -> datetime:
    """When a job is to run. Raises ArgumentError for a naive time, and for one that no datetime in UTC can be."""
    if not isinstance(run_at, datetime) or run_at.utcoffset() is None:
        raise ArgumentError(f"{what}: run_at={run_at!r} must be an aware datetime, such as datetime.now(UTC)")
    try:
        run_at.astimezone(UTC)
    except OverflowError:
        raise ArgumentError(f"{what}: run_at={run_at!r} is not between the years 1 and 9999 in UTC") from None
    return run_at
