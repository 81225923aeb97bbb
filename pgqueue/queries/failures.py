"""What lies in `failed_jobs`: which jobs match, and the same error counted once."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from pgqueue.queries.statement import Statement, inline

MATCHES = (
    "(%(ids)s::bigint[] is null or id = any (%(ids)s)) and (%(queue)s::text is null or queue = %(queue)s) "
    "and (%(task)s::text is null or task = %(task)s) and (%(error)s::text is null or fingerprint = %(error)s "
    "or error_type = %(error)s or right(error_type, length(%(error)s) + 1) = '.' || %(error)s)"
)


@dataclass(frozen=True, slots=True)
class FailureFilter:
    """Which failed jobs, as `redrive` and `purge_failed` choose them. `error` is a class name or a fingerprint."""

    ids: tuple[int, ...] | None = None
    queue: str | None = None
    task: str | None = None
    error: str | None = None

    def params(self) -> dict[str, object]:
        ids = None if self.ids is None else list(self.ids)
        return {"ids": ids, "queue": self.queue, "task": self.task, "error": self.error}


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """Failed jobs of one fingerprint; the message is the newest one's."""

    fingerprint: str
    queues: tuple[str, ...]
    task: str
    error_type: str
    error_message: str
    jobs: int
    first_failed_at: datetime
    last_failed_at: datetime


def failed_ids(schema: str, which: FailureFilter, limit: int | None = None) -> Statement[int]:
    """Ids, oldest first."""
    return Statement(
        inline(f"select id from {{schema}}.failed_jobs where {MATCHES} order by id limit %(limit)s", schema),
        {**which.params(), "limit": limit},
        lambda row: row[0],
    )


def newest_failed_ids(schema: str, which: FailureFilter, limit: int, before: int | None) -> Statement[int]:
    """Ids below `before`, newest first: a page."""
    return Statement(
        inline(
            f"select id from {{schema}}.failed_jobs where {MATCHES} "
            "and (%(before)s::bigint is null or id < %(before)s) order by id desc limit %(limit)s",
            schema,
        ),
        {**which.params(), "limit": limit, "before": before},
        lambda row: row[0],
    )


def failure_groups(schema: str, which: FailureFilter, limit: int) -> Statement[FailureGroup]:
    """The commonest first."""
    return Statement(
        inline(
            "select fingerprint, array_agg(distinct queue), task, error_type, "
            "(array_agg(error_message order by failed_at desc))[1], "
            f"count(*), min(failed_at), max(failed_at) from {{schema}}.failed_jobs where {MATCHES} "
            "group by fingerprint, task, error_type order by count(*) desc, max(failed_at) desc limit %(limit)s",
            schema,
        ),
        {**which.params(), "limit": limit},
        lambda row: FailureGroup(row[0], tuple(row[1]), *row[2:]),
    )
