"""Where every enqueue ends."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from pgqueue.client.jobs import Jobs
from pgqueue.client.part import Part
from pgqueue.errors import ArgumentError, seconds
from pgqueue.events import Subscribers, tell_enqueued
from pgqueue.flow import Plan
from pgqueue.job import Job, NewJob, checked_time
from pgqueue.middleware import Stack, around_enqueue
from pgqueue.queries import copying, enqueuing, joining
from pgqueue.queries.fleet import QueueRow


@dataclass(frozen=True, slots=True)
class Inserter(Part):
    """Inserts jobs with the defaults of the app and of its queues, through its middleware, and tells subscribers."""

    operations: Jobs
    max_attempts: int
    queues: Mapping[str, QueueRow]
    subscribers: Subscribers
    middleware: Stack

    def insert(self, jobs: Sequence[NewJob], using: Any = None) -> Sequence[Job]:
        """The jobs, in order; in one transaction."""
        with around_enqueue(self.middleware.enqueues, jobs) as enqueue:
            enqueue.made = self.database.run(self._operation(enqueue.jobs), using, atomic=_in_turn(jobs))
        return self._told(enqueue.made)

    async def ainsert(self, jobs: Sequence[NewJob], using: Any = None) -> Sequence[Job]:
        """As `insert`."""
        with around_enqueue(self.middleware.enqueues, jobs) as enqueue:
            enqueue.made = await self.database.arun(self._operation(enqueue.jobs), using, atomic=_in_turn(jobs))
        return self._told(enqueue.made)

    def insert_flow(self, plan: Plan, using: Any = None) -> tuple[int, Sequence[Job]]:
        """The id of the flow, and its jobs in the order of the plan; in one transaction."""
        with around_enqueue(self.middleware.enqueues, plan.jobs) as enqueue:
            flow, enqueue.made = self.database.run(self._whole(plan, enqueue.jobs), using, atomic=True)
        return flow, self._told(enqueue.made)

    async def ainsert_flow(self, plan: Plan, using: Any = None) -> tuple[int, Sequence[Job]]:
        """As `insert_flow`."""
        with around_enqueue(self.middleware.enqueues, plan.jobs) as enqueue:
            flow, enqueue.made = await self.database.arun(self._whole(plan, enqueue.jobs), using, atomic=True)
        return flow, self._told(enqueue.made)

    def _whole(self, plan: Plan, jobs: Sequence[NewJob]) -> Any:
        return joining.enqueue_plan(self.schema, plan, jobs, self.max_attempts, self.operations, self._declared())

    def _operation(self, jobs: Sequence[NewJob]) -> Any:
        if any(job.after for job in jobs):
            return joining.enqueue_all(self.schema, jobs, self.max_attempts, self.operations, self._declared())
        insert: Any = copying.copy if copying.can_copy(jobs) else enqueuing.enqueue
        return insert(self.schema, jobs, self.max_attempts, self.operations, self._declared())

    def _declared(self) -> dict[str, tuple[int | None, int | None]]:
        return {queue.name: (queue.priority, queue.max_attempts) for queue in self.queues.values()}

    def _told(self, jobs: Sequence[Job]) -> Sequence[Job]:
        tell_enqueued(self.subscribers, jobs)
        return jobs


def _in_turn(jobs: Sequence[NewJob]) -> bool:
    """Whether it takes several statements, which are one transaction."""
    return len(jobs) > 1 or bool(jobs and jobs[0].after)


def staggered(jobs: Sequence[NewJob], spread: float | timedelta | None) -> Sequence[NewJob]:
    """The nth job `spread` (seconds or timedelta) times n later. Raises ArgumentError for what is no new job."""
    given: object = jobs
    if isinstance(given, NewJob):
        raise ArgumentError(f"enqueue_many takes a list of jobs, not one of {given.task}: write enqueue_many([job])")
    if not isinstance(given, Iterable):
        raise ArgumentError(f"enqueue_many takes a list of jobs made by task.job(…), not {type(given).__name__}")
    jobs = list(jobs)
    for job in jobs:
        if not isinstance(job, NewJob):
            raise ArgumentError(f"enqueue_many takes jobs made by task.job(…), not {type(job).__name__}")
    if spread is None:
        return jobs
    step = seconds(spread, "spread")
    return [_later(job, n * step) for n, job in enumerate(jobs)]


def _later(job: NewJob, by: float) -> NewJob:
    if job.run_at is None:
        return job._replace(delay=seconds((job.delay or 0.0) + by, f"spread: the delay of {job.task}"))
    try:
        return job._replace(run_at=checked_time(job.task, job.run_at + timedelta(seconds=by)))
    except OverflowError:
        raise ArgumentError(f"spread: {job.run_at} and {by:g} s more is after the year 9999") from None
