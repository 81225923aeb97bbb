"""What lies in `failed_jobs`: which jobs match, what becomes of them, and the same error counted once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pgqueue.job import Job
from pgqueue.queries.inspecting import as_job
from pgqueue.queries.reading import Reader, moment
from pgqueue.queries.statement import Statement, array, inline

# The one definition is the SQL function, which `redrive` and `purge_failed` use too.
MATCHES = "{schema}.is_failure(f, %(ids)s::bigint[], %(queue)s, %(task)s, %(error)s, %(fingerprint)s)"
COUNTED = 100_000
COLUMNS = (
    f"id, queue, task, args::text, 'failed', priority, attempt, max_attempts, {moment('run_at')}, created_at, unique_key, serial_key, tags, "
    "headers::text, errors::text, null, reason, started_at, failed_at"
)


@dataclass(frozen=True, slots=True)
class FailureFilter:
    """Which failed jobs: every given condition must hold. `error` is a class, with or without its module, or a fingerprint."""

    ids: tuple[int, ...] | None = None
    queue: str | None = None
    task: str | None = None
    error: str | None = None
    fingerprint: str | None = None

    def params(self) -> dict[str, object]:
        ids = None if self.ids is None else list(self.ids)
        return {
            "ids": ids,
            "queue": self.queue,
            "task": self.task,
            "error": self.error,
            "fingerprint": self.fingerprint,
        }


@dataclass(frozen=True, slots=True)
class FailureGroup:
    """Failed jobs of one fingerprint; the message is that of the `newest`, its first 1,000 characters."""

    fingerprint: str
    queues: tuple[str, ...]
    task: str
    error_type: str
    error_message: str
    jobs: int
    first_failed_at: datetime
    last_failed_at: datetime
    newest: int


def list_failed(schema: str, which: FailureFilter, limit: int, before: int | None = None) -> Statement[Job]:
    """Those with an id below `before`, newest first: a page."""
    return Statement(
        inline(
            f"select {COLUMNS} from {{schema}}.failed_jobs f where {MATCHES} "
            "and (%(before)s::bigint is null or id < %(before)s) order by id desc limit %(limit)s",
            schema,
        ),
        {**which.params(), "limit": limit, "before": before},
        as_job,
    )


def count_failed(schema: str, which: FailureFilter) -> Statement[int]:
    return Statement(
        inline(f"select count(*) from {{schema}}.failed_jobs f where {MATCHES}", schema),
        which.params(),
        lambda row: row[0],
    )


def failed_ids(schema: str, which: FailureFilter, limit: int | None = None) -> Statement[int]:
    """Ids, oldest first."""
    return Statement(
        inline(f"select id from {{schema}}.failed_jobs f where {MATCHES} order by id limit %(limit)s", schema),
        {**which.params(), "limit": limit},
        lambda row: row[0],
    )


def failure_groups(schema: str, which: FailureFilter, limit: int) -> Statement[FailureGroup]:
    """The commonest first, among the newest COUNTED that match: one look must not read millions."""
    return Statement(
        inline(
            "select fingerprint, array_agg(distinct queue), task, error_type, "
            "(array_agg(message order by failed_at desc))[1], count(*), min(failed_at), max(failed_at), "
            "(array_agg(id order by failed_at desc))[1] from (select id, fingerprint, queue, task, error_type, left(error_message, 1000) as message, failed_at "
            f"from {{schema}}.failed_jobs f where {MATCHES} order by id desc limit %(counted)s) f "
            "group by fingerprint, task, error_type order by count(*) desc, max(failed_at) desc limit %(limit)s",
            schema,
        ),
        {**which.params(), "limit": limit, "counted": COUNTED},
        lambda row: FailureGroup(row[0], tuple(row[1]), *row[2:]),
    )


def args_of(schema: str, ids: Sequence[int]) -> Statement[tuple[int, Any]]:
    """(id, arguments) of failed jobs: to know in a message what must not be shown."""
    return Statement(
        inline("select id, args::text from {schema}.failed_jobs where id = any (%(ids)s::bigint[])", schema),
        {"ids": array(ids)},
        lambda row: (row[0], Reader().value("args", row[1])),
    )


def redrive(
    schema: str, which: FailureFilter, limit: int | None = None, rate: float | None = None, to_queue: str | None = None
) -> Statement[int]:
    """Rows: the ids that went back to their queues. `rate` is in jobs a second."""
    return _verb("redrive", schema, which, limit, {"rate": rate, "to_queue": to_queue})


def stayed(schema: str, ids: Sequence[int], to_queue: str | None) -> Statement[tuple[int, int | None, str]]:
    """(id, live job that holds its unique key, why it failed) of those that are failed jobs still."""
    return Statement(
        inline(
            "select f.id, (select j.id from {schema}.jobs j where j.queue = coalesce(%(to_queue)s, f.queue) "
            "and j.unique_key = f.unique_key limit 1), f.reason from {schema}.failed_jobs f where f.id = any (%(ids)s::bigint[]) order by 1",
            schema,
        ),
        {"ids": array(ids), "to_queue": to_queue},
    )


def purge_failed(schema: str, which: FailureFilter, limit: int | None = None) -> Statement[int]:
    """One row: how many were deleted."""
    return _verb("purge_failed", schema, which, limit, {})


def _verb(
    name: str, schema: str, which: FailureFilter, limit: int | None, more: Mapping[str, object]
) -> Statement[int]:
    given = "".join(f", {option} => %({option})s" for option in more)
    return Statement(
        inline(
            f"select {{schema}}.{name}(%(ids)s::bigint[], %(queue)s, %(task)s, %(error)s, %(limit)s, %(everything)s, "
            f"fingerprint => %(fingerprint)s{given})",
            schema,
        ),
        {**which.params(), "limit": limit, "everything": which == FailureFilter(), **more},
        lambda row: row[0],
    )
