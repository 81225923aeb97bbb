"""Jobs in every state: reading, cancelling, rescheduling, waiting for their end."""

from __future__ import annotations

import asyncio
import builtins
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from typing import Any

from pgqueue.client.part import Part
from pgqueue.database.hearing import EXPIRES, Waiter
from pgqueue.errors import ArgumentError, ConfigurationError, ResultTimeout, seconds
from pgqueue.job import ENDED, Job, JobState, checked_id, checked_ids, checked_limit, checked_time
from pgqueue.journal import LogLine, Progress
from pgqueue.queries import explaining, inspecting, journaling, purging, waiting
from pgqueue.queries.explaining import Why
from pgqueue.queries.inspecting import JobFilter
from pgqueue.queries.purging import PURGED, Purging
from pgqueue.queries.statement import Statement


@dataclass(frozen=True, slots=True)
class Jobs(Part):
    """`app.jobs`: jobs in every state, by id, key or filter. `using` joins the caller's transaction."""

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
