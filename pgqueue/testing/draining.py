"""Running what waits, here and now."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pgqueue.app import PgQueue
from pgqueue.errors import ConfigurationError
from pgqueue.events import Event, EventName
from pgqueue.queries import claiming, inspecting
from pgqueue.queries.statement import Statement, inline
from pgqueue.worker import Worker

ENDINGS: tuple[EventName, ...] = ("completed", "retried", "snoozed", "cancelled", "failed")
POLL = 0.01
# In one look, also at flows: what is settled between two would be seen by neither.
WAITS = (
    "select exists (select from {schema}.jobs j where j.task = any (%(tasks)s) and j.queue = any (%(queues)s) "
    "and (j.position is not null or j.ready is not null "
    "or (j.state = 'scheduled' and j.run_at <= clock_timestamp()) "
    # Not what is behind something paused, or behind a job that waits for its own time.
    "or (j.state = 'blocked' and exists (select from {schema}.gates g "
    "left join {schema}.limits l on l.scope = g.scope and l.name = g.of and l.key = g.key "
    "where g.name = j.waits_for and coalesce(g.closed_until, '-infinity') <= clock_timestamp() "
    "and not coalesce(l.paused, false) and not exists (select from {schema}.jobs h "
    "where g.scope = 'serial' and h.places @> array[g.name] "
    "and h.state = 'scheduled' and h.run_at > clock_timestamp()) "
    # Nor what a failed job halts.
    "and not exists (select from {schema}.failed_jobs f where g.scope = 'serial' and f.places is not null "
    "and f.places @> array[g.name])))) "
    "and not exists (select from {schema}.queues q where q.name = j.queue and q.paused)) "
    "or {moving}"
)


@dataclass(frozen=True, slots=True, repr=False)
class DrainReport:
    """What a drain ran: an event for each attempt, in the order in which they ended.

    report = drain(app)
    assert (report.completed, report.retried) == (2, 1)
    """

    events: tuple[Event, ...] = ()

    def __repr__(self) -> str:
        counts = ((name, self.count(name)) for name in ENDINGS)
        return f"<DrainReport {' '.join(f'{name}={count}' for name, count in counts if count) or 'nothing ran'}>"

    def count(self, name: EventName) -> int:
        return sum(event.name == name for event in self.events)

    @property
    def attempts(self) -> int:
        return len(self.events)

    @property
    def completed(self) -> int:
        return self.count("completed")

    @property
    def retried(self) -> int:
        return self.count("retried")

    @property
    def snoozed(self) -> int:
        return self.count("snoozed")

    @property
    def cancelled(self) -> int:
        return self.count("cancelled")

    @property
    def failed(self) -> int:
        return self.count("failed")


def drain(
    app: PgQueue,
    queues: Sequence[str] | None = None,
    *,
    with_scheduled: bool = False,
    slots: int = 10,
    timeout: float = 60.0,
) -> DrainReport:
    """Run what waits in `queues` (names or globs; None is every queue) until nothing that this app can run is left.

    Jobs that the jobs enqueue are run too. What is scheduled for later (a delay, a retry, a snooze) stays, unless
    `with_scheduled`: then its time is taken to have come, again and again, until nothing is left. Jobs of paused queues
    and of tasks that the app does not have stay, and so do those that a pause, an open circuit breaker or the scheduled
    or failed job of a serial key blocks. `slots` of each queue run side by side: 1 runs them in their order.

    Raises TimeoutError after `timeout` seconds, ConfigurationError inside a running event loop, SchemaOutOfDate.

        send_email.enqueue("a@b.c")
        assert drain(app).completed == 1
    """
    if _inside_a_loop():
        raise ConfigurationError("drain() was called inside a running event loop: use `await adrain(…)` there")
    return asyncio.run(_drain_and_close(app, queues, with_scheduled, slots, timeout))


async def adrain(
    app: PgQueue,
    queues: Sequence[str] | None = None,
    *,
    with_scheduled: bool = False,
    slots: int = 10,
    timeout: float = 60.0,
) -> DrainReport:
    """As `drain`, in the running event loop."""
    events: list[Event] = []
    async with asyncio.timeout(timeout):
        with _recorded(app, events):
            worker = Worker(app, list(queues or ["*"]), slots=slots, poll_interval=0.1, with_alerts=False)
            worker.hurries = True
            async with worker:
                while True:
                    await _until_quiet(app, worker)
                    if not (with_scheduled and await _bring_forward(app, worker)):
                        break
    return DrainReport(tuple(events))


async def _drain_and_close(
    app: PgQueue, queues: Sequence[str] | None, with_scheduled: bool, slots: int, timeout: float
) -> DrainReport:
    try:
        return await adrain(app, queues, with_scheduled=with_scheduled, slots=slots, timeout=timeout)
    finally:
        # What the tasks opened belongs to this event loop, which ends here.
        await app.database.aclose()


def _inside_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


@contextmanager
def _recorded(app: PgQueue, events: list[Event]) -> Iterator[None]:
    for name in ENDINGS:
        app.subscribers.add(name, events.append)
    try:
        yield
    finally:
        for name in ENDINGS:
            app.subscribers.remove(name, events.append)


async def _until_quiet(app: PgQueue, worker: Worker) -> None:
    while not worker.idle or await _waits(app, worker):  # noqa: ASYNC110 - what ends the wait is in the database
        await asyncio.sleep(POLL)


async def _waits(app: PgQueue, worker: Worker) -> bool:
    """Whether a job is available or runs that this worker can end."""
    statement: Statement[Any] = Statement(
        inline(
            WAITS,
            app.schema,
            moving=claiming.MOVING,
        ),
        {"tasks": app.tasks.names, "queues": sorted(worker.queues)},
    )
    [(waits,)] = await worker.services.fetch(statement)
    return bool(waits)


async def _bring_forward(app: PgQueue, worker: Worker) -> bool:
    """Make available what is scheduled for later, in the order of its times; False when there was nothing."""
    scheduled: Statement[Any] = Statement(
        inline(
            "select id from {schema}.jobs where state = 'scheduled' and task = any (%(tasks)s) "
            "and queue = any (%(queues)s) order by run_at, id",
            app.schema,
        ),
        {"tasks": app.tasks.names, "queues": sorted(worker.queues)},
    )
    found = await worker.services.fetch(scheduled)
    for (job_id,) in found:
        await worker.services.fetch(inspecting.reschedule(app.schema, [job_id], None, 0.0))
    return bool(found)
