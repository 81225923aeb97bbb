"""The dead letter queue: reading, redriving, purging."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pgqueue.client.part import Part
from pgqueue.job import Job
from pgqueue.queries import inspecting
from pgqueue.queries.inspecting import JobFilter


@dataclass(frozen=True, slots=True)
class FailedJobs(Part):
    """`app.failed`: the dead letter queue. Filters are ids, queue, task, error (class name or fingerprint)."""

    def list(
        self,
        *,
        queue: str | None = None,
        task: str | None = None,
        error: str | None = None,
        limit: int = 100,
        before: int | None = None,
    ) -> builtins.list[Job]:
        """Failed jobs, newest first.

        app.failed.list(queue="email", error="TimeoutError")
        """
        which = JobFilter(queue=queue, task=task, error=error, state="failed", before=before)
        return self.database.fetch(inspecting.list_jobs(self.schema, which, limit))

    def get(self, job_id: int) -> Job:
        """One failed job. Raises JobNotFound."""
        rows = self.database.fetch(inspecting.list_jobs(self.schema, JobFilter(ids=(job_id,), state="failed"), 1))
        return inspecting.found(rows, f"with id {job_id} is in failed_jobs")

    def count(self, **where: Any) -> int:
        """How many match."""
        [(count,)] = self.database.fetch(inspecting.count_jobs(self.schema, JobFilter(state="failed", **where)))
        return int(count)

    def redrive(
        self,
        job_ids: Sequence[int] | None = None,
        *,
        queue: str | None = None,
        task: str | None = None,
        error: str | None = None,
        limit: int | None = None,
        using: Any = None,
    ) -> builtins.list[int]:
        """Send failed jobs back to their queues, oldest first; returns their ids.

        Ids and errors stay, attempts start anew. A job whose key a live job holds stays where it is.

            app.failed.redrive(queue="email", error="TimeoutError")
        """
        statement = inspecting.redrive(self.schema, ids=job_ids, queue=queue, task=task, error=error, limit=limit)
        return self.database.fetch(statement, using)

    async def aredrive(
        self,
        job_ids: Sequence[int] | None = None,
        *,
        queue: str | None = None,
        task: str | None = None,
        error: str | None = None,
        limit: int | None = None,
        using: Any = None,
    ) -> builtins.list[int]:
        """As `redrive`."""
        statement = inspecting.redrive(self.schema, ids=job_ids, queue=queue, task=task, error=error, limit=limit)
        return await self.database.afetch(statement, using)

    def purge(
        self,
        job_ids: Sequence[int] | None = None,
        *,
        queue: str | None = None,
        task: str | None = None,
        error: str | None = None,
        limit: int | None = None,
    ) -> int:
        """Delete failed jobs for good; returns how many."""
        statement = inspecting.purge_failed(self.schema, ids=job_ids, queue=queue, task=task, error=error, limit=limit)
        return self.database.fetch(statement)[0]
