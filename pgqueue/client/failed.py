"""The dead letter queue: reading, redriving, purging."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pgqueue.client.jobs import Jobs
from pgqueue.client.part import Part
from pgqueue.errors import ArgumentError, JobNotFound
from pgqueue.job import Job, checked_id, checked_ids, checked_limit
from pgqueue.limit import per_second
from pgqueue.names import data_name
from pgqueue.queries import failures
from pgqueue.queries.failures import FailureFilter, FailureGroup
from pgqueue.queries.statement import Statement


@dataclass(frozen=True, slots=True)
class FailedJobs(Part):
    """`app.failed`: the dead letter queue. Verbs need a filter (queue, task, error, fingerprint), ids, or `all=True`.

    `error` is an error's class, with or without its module, or a fingerprint; `fingerprint` is what `groups` tells.
    """

    def list(
        self,
        *,
        queue: str | None = None,
        task: str | None = None,
        error: str | None = None,
        fingerprint: str | None = None,
        limit: int = 100,
        before: int | None = None,
    ) -> builtins.list[Job]:
        """Failed jobs, newest first; those with an id below `before`.

        app.failed.list(queue="email", error="TimeoutError")
        """
        which = FailureFilter(None, queue, task, error, fingerprint)
        return self._jobs(
            self.database.fetch(
                failures.list_failed(self.schema, which, checked_limit(limit), before and checked_id(before))
            )
        )

    def get(self, job_id: int) -> Job:
        """One failed job. Raises JobNotFound, which says what the job is where it is not failed."""
        rows = self.database.fetch(failures.list_failed(self.schema, FailureFilter((checked_id(job_id),)), 1))
        if not rows:
            other = Jobs(self.database, self.schema).get(job_id)
            raise JobNotFound(f"job {job_id} is {other.state}, not failed: app.jobs.get({job_id}) has it")
        return self._jobs(rows)[0]

    def count(
        self,
        *,
        queue: str | None = None,
        task: str | None = None,
        error: str | None = None,
        fingerprint: str | None = None,
    ) -> int:
        """How many match."""
        which = FailureFilter(None, queue, task, error, fingerprint)
        return self.database.fetch(failures.count_failed(self.schema, which))[0]

    def groups(
        self,
        *,
        queue: str | None = None,
        task: str | None = None,
        error: str | None = None,
        fingerprint: str | None = None,
        limit: int = 100,
    ) -> builtins.list[FailureGroup]:
        """Failed jobs by fingerprint, the commonest first: one task, one class of error, one place in the code.

        At most `limit` groups, counted among the 100,000 newest jobs that match.

            for group in app.failed.groups(queue="email"):
                print(group.jobs, group.task, group.error_type, group.error_message, group.fingerprint)
        """
        which = FailureFilter(None, queue, task, error, fingerprint)
        return self.database.fetch(failures.failure_groups(self.schema, which, checked_limit(limit)))

    def redrive(
        self,
        job_ids: Sequence[int] | None = None,
        *,
        queue: str | None = None,
        task: str | None = None,
        error: str | None = None,
        fingerprint: str | None = None,
        all: bool = False,
        limit: int | None = None,
        rate: str | float | None = None,
        to_queue: str | None = None,
        using: Any = None,
    ) -> builtins.list[int]:
        """Send failed jobs back to their queues, oldest first; returns their ids.

        Ids and errors stay, attempts start anew. A job whose key a live job holds stays where it is, and so does one
        whose row another transaction has locked: nothing waits for it. With a `rate`
        ("100/min", or a number a second) they become due one after the other; `to_queue` sends them to another queue.
        `count` with the same filters says how many it would be.

        Raises ArgumentError without ids, filter or `all=True`, and ConfigurationError for a rate that is none.

            app.failed.redrive(queue="email", error="TimeoutError", rate="10/s")
            app.failed.redrive(fingerprint="3f9a0c41b7e2")
        """
        which = _chosen("redrive", job_ids, queue, task, error, fingerprint, all)
        return self.database.fetch(_redriving(self.schema, which, limit, rate, to_queue), using)

    async def aredrive(
        self,
        job_ids: Sequence[int] | None = None,
        *,
        queue: str | None = None,
        task: str | None = None,
        error: str | None = None,
        fingerprint: str | None = None,
        all: bool = False,
        limit: int | None = None,
        rate: str | float | None = None,
        to_queue: str | None = None,
        using: Any = None,
    ) -> builtins.list[int]:
        """As `redrive`."""
        which = _chosen("aredrive", job_ids, queue, task, error, fingerprint, all)
        return await self.database.afetch(_redriving(self.schema, which, limit, rate, to_queue), using)

    def purge(
        self,
        job_ids: Sequence[int] | None = None,
        *,
        queue: str | None = None,
        task: str | None = None,
        error: str | None = None,
        fingerprint: str | None = None,
        all: bool = False,
        limit: int | None = None,
    ) -> int:
        """Delete failed jobs for good; returns how many. Raises ArgumentError as `redrive`."""
        which = _chosen("purge", job_ids, queue, task, error, fingerprint, all)
        return self.database.fetch(failures.purge_failed(self.schema, which, _checked(limit)))[0]

    def _jobs(self, rows: builtins.list[Job]) -> builtins.list[Job]:
        operations = Jobs(self.database, self.schema)
        return [replace(job, operations=operations) for job in rows]


def _redriving(
    schema: str, which: FailureFilter, limit: int | None, rate: str | float | None, to_queue: str | None
) -> Statement[int]:
    queue = None if to_queue is None else data_name("queue", to_queue)
    return failures.redrive(schema, which, _checked(limit), per_second(rate), queue)


def _checked(limit: int | None) -> int | None:
    return None if limit is None else checked_limit(limit)


def _chosen(
    verb: str,
    ids: Sequence[int] | None,
    queue: str | None,
    task: str | None,
    error: str | None,
    fingerprint: str | None,
    everything: bool,
) -> FailureFilter:
    which = FailureFilter(None if ids is None else checked_ids(ids), queue, task, error, fingerprint)
    if everything is not (which == FailureFilter()):
        raise ArgumentError(f"{verb} takes ids, queue=, task=, error= and fingerprint=, or all=True")
    return which
