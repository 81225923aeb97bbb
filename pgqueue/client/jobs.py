"""Jobs in every state: reading, cancelling, rescheduling, waiting for their end."""

from __future__ import annotations

import asyncio
import builtins
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from typing import Any

from pgqueue.client.part import Part
from pgqueue.database.hearing import EXPIRES, Waiter
from pgqueue.errors import ArgumentError, ConfigurationError, ResultTimeout, seconds
from pgqueue.job import ENDED, Job, JobState, checked_id, checked_ids, checked_limit, checked_time
from pgqueue.journal import LogLine, Progress
from pgqueue.queries import deleting, editing, explaining, exporting, inspecting, journaling, purging, waiting
from pgqueue.queries.editing import Edit
from pgqueue.queries.explaining import Why
from pgqueue.queries.inspecting import JobFilter
from pgqueue.queries.purging import PURGED, Purging
from pgqueue.queries.statement import Statement
from pgqueue.task.options import new_job
from pgqueue.task.registry import Tasks

LEAST_ID = -(2**63)


@dataclass(frozen=True, slots=True)
class Jobs(Part):
    """`app.jobs`: jobs in every state, by id, key or filter. `using` joins the caller's transaction."""

    tasks: Tasks = field(default_factory=Tasks)

    def get(self, job_id: int, using: Any = None) -> Job:
        """The job, live or ended. Raises JobNotFound.

        app.jobs.get(42).state
        """
        return self._one(
            self.database.fetch(inspecting.job(self.schema, checked_id(job_id)), using), f"with id {job_id}"
        )

    async def aget(self, job_id: int, using: Any = None) -> Job:
        """As `get`."""
        return self._one(
            await self.database.afetch(inspecting.job(self.schema, checked_id(job_id)), using), f"with id {job_id}"
        )

    def why(self, job_id: int, using: Any = None) -> Why:
        """Why a job is where it is: the reasons, the one that decides first. Raises JobNotFound.

        for reason in app.jobs.why(42).reasons:
            print(reason.text, reason.fix or "")
        """
        return self.database.run(explaining.why(self.schema, checked_id(job_id)), using)

    async def awhy(self, job_id: int, using: Any = None) -> Why:
        """As `why`."""
        return await self.database.arun(explaining.why(self.schema, checked_id(job_id)), using)

    def find(self, key: str, *, queue: str | None = None, using: Any = None) -> Job | None:
        """The live job that holds `key`, None when no job does."""
        return self._first(self.database.fetch(inspecting.live_by_key(self.schema, key, queue), using))

    async def afind(self, key: str, *, queue: str | None = None, using: Any = None) -> Job | None:
        """As `find`."""
        return self._first(await self.database.afetch(inspecting.live_by_key(self.schema, key, queue), using))

    def list(self, which: JobFilter | None = None, *, limit: int = 100, **where: Any) -> builtins.list[Job]:
        """Jobs that match, newest first. Filters: queue, task, state, key, tag, ids, before.

        app.jobs.list(queue="email", state="running")
        """
        statement = inspecting.list_jobs(self.schema, which or _filter(where), checked_limit(limit))
        return [replace(job, operations=self) for job in self.database.fetch(statement)]

    def count(self, which: JobFilter | None = None, **where: Any) -> int:
        """How many match."""
        [(count,)] = self.database.fetch(inspecting.count_jobs(self.schema, which or _filter(where)))
        return int(count)

    def cancel(
        self,
        job_id: int | Sequence[int] | None = None,
        *,
        key: str | None = None,
        queue: str | None = None,
        why: str = "cancelled",
        using: Any = None,
    ) -> builtins.list[int]:
        """Cancel live jobs by id or by key; returns their ids. A running one is not retried, and stops where it can.

        app.jobs.cancel(key="welcome-7", using=session)
        """
        return [id_ for id_, _ in self.database.run(self._cancelling(job_id, key, queue, why), using, atomic=True)]

    async def acancel(
        self,
        job_id: int | Sequence[int] | None = None,
        *,
        key: str | None = None,
        queue: str | None = None,
        why: str = "cancelled",
        using: Any = None,
    ) -> builtins.list[int]:
        """As `cancel`."""
        return [
            id_ for id_, _ in await self.database.arun(self._cancelling(job_id, key, queue, why), using, atomic=True)
        ]

    def reschedule(
        self,
        job_id: int | None = None,
        *,
        key: str | None = None,
        queue: str | None = None,
        run_at: datetime | None = None,
        delay: float | timedelta = 0.0,
        using: Any = None,
    ) -> bool:
        """Move a waiting job to another time; False when none waits under that id or key.

        app.jobs.reschedule(key="welcome-7", delay=timedelta(hours=1), using=session)
        """
        return bool(self.database.run(self._rescheduling(job_id, key, queue, run_at, delay), using))

    async def areschedule(
        self,
        job_id: int | None = None,
        *,
        key: str | None = None,
        queue: str | None = None,
        run_at: datetime | None = None,
        delay: float | timedelta = 0.0,
        using: Any = None,
    ) -> bool:
        """As `reschedule`."""
        return bool(await self.database.arun(self._rescheduling(job_id, key, queue, run_at, delay), using))

    def edit(
        self,
        job_id: int,
        args: Mapping[str, Any] | None = None,
        *,
        unset: Sequence[str] = (),
        queue: str | None = None,
        priority: int | None = None,
        max_attempts: int | None = None,
        run_at: datetime | None = None,
        delay: float | timedelta | None = None,
        using: Any = None,
    ) -> Job:
        """Change a job that waits; the job as it is then. What is not given stays.

        `args` take the place of the arguments of their names, those in `unset` are left out; both are checked against
        the task's signature where this app has the task. `run_at` (aware) or `delay` (seconds or timedelta, from now)
        says when it is to run. A new priority or queue puts it last in its lane. A job that waits for its children
        goes on to; one that is parked at a limit passes its limits anew where arguments or queue change.

        Raises JobNotFound, ArgumentError, and JobNotEditable for a job that runs, also since a moment ago, or has
        ended; for arguments that its unique or serial key is made of, or with which it has done steps; for a queue,
        where it has a key, which holds within its queue; for no attempts left.

            app.jobs.edit(42, {"to": "b@c.d"}, priority=-5)
        """
        change = _edit(args, unset, queue, priority, max_attempts, run_at, delay)
        edited = self.database.run(
            editing.edit(self.schema, checked_id(job_id), change, self.tasks), using, atomic=True
        )
        return replace(edited, operations=self)

    async def aedit(
        self,
        job_id: int,
        args: Mapping[str, Any] | None = None,
        *,
        unset: Sequence[str] = (),
        queue: str | None = None,
        priority: int | None = None,
        max_attempts: int | None = None,
        run_at: datetime | None = None,
        delay: float | timedelta | None = None,
        using: Any = None,
    ) -> Job:
        """As `edit`."""
        change = _edit(args, unset, queue, priority, max_attempts, run_at, delay)
        edited = await self.database.arun(
            editing.edit(self.schema, checked_id(job_id), change, self.tasks), using, atomic=True
        )
        return replace(edited, operations=self)

    def purge(
        self,
        state: JobState | Sequence[JobState],
        *,
        queue: str | None = None,
        task: str | None = None,
        older_than: float | timedelta | None = None,
    ) -> int:
        """Delete jobs in a state, or in several, for good, with what they have told; returns how many.

        `older_than` (seconds or timedelta): those that were enqueued, or have ended, longer ago. No history is left, as
        `cancel` would. Deletes in short turns; what an interruption has left, another call deletes. Running jobs cannot
        be purged. Raises ArgumentError.

            app.jobs.purge("scheduled", queue="email", older_than=timedelta(days=30))
        """
        which = purging_of(state, queue, task, older_than)
        return sum(self.database.run_each(purging.purge(self.schema, one)) for one in which)

    async def apurge(
        self,
        state: JobState | Sequence[JobState],
        *,
        queue: str | None = None,
        task: str | None = None,
        older_than: float | timedelta | None = None,
    ) -> int:
        """As `purge`."""
        which = purging_of(state, queue, task, older_than)
        return sum([await self.database.arun_each(purging.purge(self.schema, one)) for one in which])

    def delete(self, job_id: int | Sequence[int], *, using: Any = None) -> builtins.list[int]:
        """Delete waiting and ended jobs by id, with what they have told; returns the ids of those that are gone.

        No history is left, as `cancel` would. Running jobs stay: cancel them. So does one that somebody redrives at
        this moment. In a flow one that waited counts as cancelled, and a failed one that a parent waits to see redriven
        as gone: whoever waits for it goes on or fails as its `on_failure` says, at once. What completed children have
        returned stays there for their parents. A unique key that is used for a time or for good stays used.

            app.jobs.delete([41, 42])
        """
        return self.database.run(deleting.delete(self.schema, checked_ids(job_id)), using, atomic=True)

    async def adelete(self, job_id: int | Sequence[int], *, using: Any = None) -> builtins.list[int]:
        """As `delete`."""
        return await self.database.arun(deleting.delete(self.schema, checked_ids(job_id)), using, atomic=True)

    def export(self, which: JobFilter | None = None, **where: Any) -> Iterator[Job]:
        """Every job that matches, oldest first; filters as in `list`.

        Read in pages while it is gone through, so that millions fill no memory and hold no snapshot. Each job comes
        once, as it was when its page was read, with all that its arguments, headers and errors say, secrets included:
        where they go is yours to decide.

            for job in app.jobs.export(state="failed"):
                print(job.id, job.args)
        """
        which = which or _filter(where)
        last: int | None = LEAST_ID
        while last is not None:
            jobs, last = self.database.run(exporting.page(self.schema, which, last))
            yield from (replace(job, operations=self) for job in jobs)

    async def aexport(self, which: JobFilter | None = None, **where: Any) -> AsyncIterator[Job]:
        """As `export`."""
        which = which or _filter(where)
        last: int | None = LEAST_ID
        while last is not None:
            jobs, last = await self.database.arun(exporting.page(self.schema, which, last))
            for job in jobs:
                yield replace(job, operations=self)

    def progress(self, job_id: int) -> Progress | None:
        """How far the job is, as its task told last: percent and message; None when it never did.

        app.jobs.progress(42).percent
        """
        return next(iter(self.database.fetch(journaling.progress(self.schema, checked_id(job_id)))), None)

    async def aprogress(self, job_id: int) -> Progress | None:
        """As `progress`."""
        return next(iter(await self.database.afetch(journaling.progress(self.schema, checked_id(job_id)))), None)

    def logs(self, job_id: int, limit: int = 1000) -> builtins.list[LogLine]:
        """The last lines that its task has logged, oldest first: attempt, at, level, message."""
        return self.database.fetch(journaling.logs(self.schema, checked_id(job_id), checked_limit(limit)))

    async def alogs(self, job_id: int, limit: int = 1000) -> builtins.list[LogLine]:
        """As `logs`."""
        return await self.database.afetch(journaling.logs(self.schema, checked_id(job_id), checked_limit(limit)))

    def wait(self, job_id: int, timeout: float | None = None) -> Job:
        """The job once it has ended: its end notifies this process, and it is looked for now and then all the same.

        Raises ResultTimeout after `timeout` seconds, JobNotFound without history, and ConfigurationError inside a
        running event loop, which it would block: a worker there could not run the job.
        """
        _refuse_inside_a_loop()
        deadline = _deadline(timeout)
        if (job := self.get(job_id)).state in ENDED:
            return job
        _until(deadline, 0.0, job, timeout)
        with self.database.waiters.waiting(job_id) as waiter:
            while job.state not in ENDED:
                if (record := self._record(waiter)) is not None:
                    with waiter.recording():
                        self.database.fetch(record)
                else:
                    waiter.event.wait(_until(deadline, waiter.pause(), job, timeout))
                    waiter.event.clear()
                job = self.get(job_id)
        return job

    async def await_(self, job_id: int, timeout: float | None = None) -> Job:
        """As `wait`."""
        deadline = _deadline(timeout)
        if (job := await self.aget(job_id)).state in ENDED:
            return job
        _until(deadline, 0.0, job, timeout)
        with self.database.waiters.awaiting(job_id) as waiter:
            while job.state not in ENDED:
                if (record := self._record(waiter)) is not None:
                    with waiter.recording():
                        await self.database.afetch(record)
                else:
                    pause = _until(deadline, waiter.pause(), job, timeout)
                    with suppress(TimeoutError):
                        async with asyncio.timeout(pause):
                            await waiter.event.wait()
                    waiter.event.clear()
                job = await self.aget(job_id)
        return job

    def _record(self, waiter: Waiter[Any]) -> Statement[Any] | None:
        """What has the end of the job notify the waiter; None when that is recorded, or nothing would be heard."""
        if waiter.channel is None:
            return None
        return waiting.wait(self.schema, [waiter.job_id], waiter.channel, EXPIRES)

    def _one(self, rows: builtins.list[Job], what: str) -> Job:
        return replace(inspecting.found(rows, what), operations=self)

    def _first(self, rows: builtins.list[Job]) -> Job | None:
        return replace(rows[0], operations=self) if rows else None

    def _cancelling(self, job_id: int | Sequence[int] | None, key: str | None, queue: str | None, why: str) -> Any:
        if (job_id is None) == (key is None):
            raise ArgumentError("cancel takes either an id or key=")
        if key is not None:
            return inspecting.cancel_key(self.schema, key, queue, why)
        return _single(inspecting.cancel(self.schema, checked_ids(job_id), why))

    def _rescheduling(
        self, job_id: int | None, key: str | None, queue: str | None, run_at: datetime | None, delay: float | timedelta
    ) -> Any:
        if (job_id is None) == (key is None):
            raise ArgumentError("reschedule takes either an id or key=")
        if run_at is not None:
            checked_time("reschedule", run_at)
        given = () if job_id is None else (checked_id(job_id),)

        def operation() -> Any:
            ids = builtins.list(given)
            if key is not None:
                ids = [job.id for job in (yield inspecting.live_by_key(self.schema, key, queue))]
            moved = yield inspecting.reschedule(self.schema, ids, run_at, seconds(delay))
            return bool(moved)

        return operation()


def _filter(where: dict[str, Any]) -> JobFilter:
    """Raises ArgumentError."""
    known = [one.name for one in fields(JobFilter)]
    for name in where:
        if name not in known:
            raise ArgumentError(f"jobs have no filter {name!r}: use {', '.join(known)}")
    return JobFilter(**where)


def _edit(
    args: Mapping[str, Any] | None,
    unset: Sequence[str],
    queue: str | None,
    priority: int | None,
    max_attempts: int | None,
    run_at: datetime | None,
    delay: float | timedelta | None,
) -> Edit:
    """Raises ArgumentError."""
    if isinstance(unset, str):
        raise ArgumentError(f"unset={unset!r} must be a list of names, such as [{unset!r}]")
    new = new_job("edit", "{}", queue=queue, priority=priority, max_attempts=max_attempts, run_at=run_at, delay=delay)
    change = Edit(
        dict(args) if args else None, tuple(unset), new.queue, new.priority, new.max_attempts, new.run_at, new.delay
    )
    if change == Edit():
        raise ArgumentError("nothing is to change: give args, unset, queue, priority, max_attempts, run_at or delay")
    if both := sorted({*unset} & {*(args or {})}):
        raise ArgumentError(f"{', '.join(both)} cannot be both given and left out: take it out of args, or of unset")
    return change


def purging_of(
    state: JobState | Sequence[JobState], queue: str | None, task: str | None, older_than: float | timedelta | None
) -> builtins.list[Purging]:
    """What `purge` means, for each table. Raises ArgumentError."""
    states = (state,) if isinstance(state, str) else tuple(state)
    if not states or not {*states} <= {*PURGED}:
        raise ArgumentError(
            f"state={state!r} cannot be purged: give {', '.join(PURGED)}, or several; running jobs can be cancelled"
        )
    age = None if older_than is None else timedelta(seconds=seconds(older_than, "older_than"))
    return purging.plan(Purging("", states, queue, task, age))


def _single(statement: Any) -> Any:
    rows = yield statement
    return rows


def _refuse_inside_a_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise ConfigurationError("result() was called inside a running event loop: use `await job.aresult(…)` there")


def _deadline(timeout: float | None) -> float | None:
    return None if timeout is None else time.monotonic() + seconds(timeout, "timeout")


def _until(deadline: float | None, pause: float, job: Job, timeout: float | None) -> float:
    """Seconds to wait. Raises ResultTimeout when the time is up."""
    if deadline is None:
        return pause
    left = deadline - time.monotonic()
    if left <= 0:
        raise ResultTimeout(f"job {job.id} ({job.task}) is still {job.state} after {timeout} s")
    return min(pause, left)
