"""What happened, as data, and who wants to know."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args, runtime_checkable

from pgqueue.errors import ConfigurationError
from pgqueue.job import Job

EventName = Literal[
    "enqueued",
    "started",
    "progress",
    "completed",
    "retried",
    "snoozed",
    "cancelled",
    "failed",
    "released",
    "rescued",
    "paused",
    "resumed",
    "drained",
]
NAMES: frozenset[str] = frozenset(get_args(EventName))

logger = logging.getLogger("pgqueue.events")


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened to a job or a queue in this process. `duration` is in seconds.

    - enqueued: a job was made here, also by a schedule; its transaction may still be open
    - started: a run begins
    - progress: what a run told last was written; `detail` is its Progress
    - completed, retried, snoozed, cancelled, failed: what a run came to, about to be written; `detail` is the Outcome
    - released: a run was interrupted, and its job given back without using an attempt
    - rescued: a job was taken back from a dead worker, whose id is `detail`; retried or failed follows where the
      worker's death was blamed on the job
    - paused, resumed: a worker here has learnt that of a queue that it serves, within some two seconds
    - drained: a worker here found nothing more to run in a queue, and all that it had taken of it has ended

    The last three are of a queue: their `job_id` is 0 and their `task` empty. What happens in the database alone has no
    event: an enqueue or a cancellation of a waiting job by SQL. `worker` is the worker's name where another process
    is watched, and `detail` is a text or a number there. `trace_id` is that of a run which has ended here, where
    pgqueue.tracing is in use.
    """

    name: EventName
    job_id: int
    task: str
    queue: str
    attempt: int = 0
    duration: float | None = None
    detail: Any = None
    worker: str | None = None
    trace_id: str | None = None


Callback = Callable[[Event], Any]
Counts = Counter[tuple[str, str]]


@runtime_checkable
class Bulk(Protocol):
    """Jobs that are made when they are looked at; it knows how many there are of each queue and task without that."""

    def counts(self) -> Counts: ...


def known(name: str) -> str:
    """`name` if there is such an event. Raises ConfigurationError."""
    if name not in NAMES:
        raise ConfigurationError(f"there is no event {name!r}: use one of {', '.join(sorted(NAMES))}")
    return name


@dataclass(slots=True)
class Subscribers:
    """Callbacks by event. One that raises is logged; it never hurts the job."""

    callbacks: dict[str, list[Callback]] = field(default_factory=dict)
    # Called with how many jobs of each queue and task were made: in a bulk, an event a job costs as much as the job.
    on_made: list[Callable[[Counts], None]] = field(default_factory=list)

    def add(self, name: str, callback: Callback) -> None:
        given: object = callback
        if not callable(given):
            raise ConfigurationError(f"on({name!r}) was given {given!r}: give a function that takes the event")
        self.callbacks.setdefault(known(name), []).append(callback)

    def remove(self, name: str, callback: Callback) -> None:
        self.callbacks.get(name, []).remove(callback)
        if not self.callbacks[name]:
            del self.callbacks[name]

    def wants(self, name: str) -> bool:
        """Whether anybody listens: the hot path builds no event for nobody."""
        return name in self.callbacks

    def emit(self, event: Event) -> None:
        for callback in tuple(self.callbacks.get(event.name, ())):
            try:
                callback(event)
            except Exception:
                logger.exception("a subscriber to %r raised", event.name)


def tell_enqueued(subscribers: Subscribers, jobs: Iterable[Job]) -> None:
    """Tell them of the jobs that were made; where a key was held none was."""
    if subscribers.on_made:
        counts = (
            jobs.counts() if isinstance(jobs, Bulk) else Counter((job.queue, job.task) for job in jobs if job.created)
        )
        for callback in subscribers.on_made:
            callback(counts)
    if subscribers.wants("enqueued"):
        for job in jobs:
            if job.created:
                subscribers.emit(Event("enqueued", job.id, job.task, job.queue))
