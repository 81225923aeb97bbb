"""What runs now, and where."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from pgqueue.queries.statement import Statement, inline


@dataclass(frozen=True, slots=True)
class RunningJob:
    """A job that a worker holds, for so long; `percent` is None where its task tells no progress."""

    id: int
    queue: str
    task: str
    attempt: int
    max_attempts: int
    worker: UUID | None
    held_for: timedelta
    cancel_requested: bool
    percent: float | None
    message: str | None


def running(schema: str, limit: int, worker: UUID | None = None) -> Statement[RunningJob]:
    """Longest first: of one worker, or of all. What is read are the claims, not the jobs that wait."""
    return Statement(
        inline(
            "select j.id, j.queue, j.task, j.attempt, j.max_attempts, c.worker_id, clock_timestamp() - c.claimed_at, "
            "coalesce(j.cancel_requested, false), p.percent, p.message "
            # Fenced by its offset: a planner that joins the tables reads all that waits.
            "from {schema}.claims c cross join lateral "
            "(select * from {schema}.jobs where id = any (c.job_ids) and claim_id = c.id offset 0) j "
            "left join {schema}.job_progress p on p.job_id = j.id "
            "where %(worker)s::uuid is null or c.worker_id = %(worker)s order by c.claimed_at, j.id limit %(limit)s",
            schema,
        ),
        {"worker": worker, "limit": limit},
        _running,
    )


def _running(row: tuple[Any, ...]) -> RunningJob:
    return RunningJob(*row)
