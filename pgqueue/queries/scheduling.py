"""Schedules: reconciling them with the code, and firing one nominal time exactly once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pgqueue.job import Job, NewJob
from pgqueue.middleware import Middleware, around_enqueue
from pgqueue.queries.enqueuing import enqueue
from pgqueue.queries.reading import Reader, moment
from pgqueue.queries.statement import Operation, Statement, inline

COLUMNS = (
    # An interval longer than any that can be used is one that a timedelta can hold.
    "name, task, queue, cron, case when every is not null then least(every, interval '10000 days') end, tz, args::text, "
    f"enabled, source, {moment('next_run_at')}, {moment('last_run_at')}, error"
)


@dataclass(frozen=True, slots=True)
class ScheduleRow:
    """A row of `schedules`. Either `cron` or `every` is set. `unreadable` tells why `args` could not be read."""

    name: str
    task: str
    queue: str | None
    cron: str | None
    every: timedelta | None
    tz: str
    args: Mapping[str, Any]
    enabled: bool
    source: str
    next_run_at: datetime
    last_run_at: datetime | None
    error: str | None
    unreadable: str | None = None


def now(schema: str) -> Statement[datetime]:
    """The database's clock, the only one that decides."""
    return Statement("select clock_timestamp()", {}, lambda row: row[0])


def declare(schema: str, row: ScheduleRow) -> Statement[Any]:
    """Write what the code says. A changed rule starts from its own next time; an unchanged one keeps its place."""
    return Statement(
        inline(
            "insert into {schema}.schedules as s (name, task, queue, cron, every, tz, args, source, next_run_at) values "
            "(%(name)s, %(task)s, %(queue)s, %(cron)s, %(every)s, %(tz)s, %(args)s::jsonb, 'code', %(next)s) "
            "on conflict (name) do update set task = excluded.task, queue = excluded.queue, cron = excluded.cron, every = excluded.every, "
            "tz = excluded.tz, args = excluded.args, source = 'code', error = null, "
            # A pause by hand stays; what the code had dropped, or a bad rule that it mended, comes back.
            "enabled = s.enabled or s.source = 'removed' or s.error is not null, "
            "next_run_at = case when (s.cron, s.every, s.tz) is distinct from (excluded.cron, excluded.every, excluded.tz) "
            "or not s.enabled then excluded.next_run_at else s.next_run_at end, updated_at = clock_timestamp() "
            "where (s.task, s.queue, s.cron, s.every, s.tz, s.args, s.source, s.error) is distinct from "
            "(excluded.task, excluded.queue, excluded.cron, excluded.every, excluded.tz, excluded.args, 'code', null) returning name",
            schema,
        ),
        {
            "name": row.name,
            "task": row.task,
            "queue": row.queue,
            "cron": row.cron,
            "every": row.every,
            "tz": row.tz,
            "args": json.dumps(dict(row.args)),
            "next": row.next_run_at,
        },
    )


def disable_removed(schema: str, kept: Iterable[str]) -> Statement[str]:
    """Schedules that came from code and that the code no longer declares."""
    return Statement(
        inline(
            "update {schema}.schedules set enabled = false, source = 'removed', updated_at = clock_timestamp() "
            "where source = 'code' and name <> all (%(kept)s::text[]) returning name",
            schema,
        ),
        {"kept": sorted(kept)},
        lambda row: row[0],
    )


def due(schema: str, limit: int = 100) -> Statement[ScheduleRow]:
    return Statement(
        inline(
            f"select {COLUMNS} from {{schema}}.schedules where enabled and next_run_at <= clock_timestamp() "
            "order by next_run_at limit %(limit)s",
            schema,
        ),
        {"limit": limit},
        _row,
    )


def next_due_in(schema: str) -> Statement[float | None]:
    """Seconds until the next nominal time; None when nothing is scheduled."""
    return Statement(
        inline(
            f"select extract(epoch from {moment('min(next_run_at)')} - clock_timestamp())::float8 from {{schema}}.schedules where enabled",
            schema,
        ),
        {},
        lambda row: row[0],
    )


def fire(
    schema: str,
    row: ScheduleRow,
    nominal: datetime,
    following: datetime,
    job: NewJob,
    fallback_attempts: int,
    layers: Sequence[Middleware] = (),
) -> Operation[Job | None]:
    """Enqueue the job of one nominal time, if nobody has: compare-and-set and enqueue in one transaction.

    The time must also lie after the last one, so that a reconcile that sets next_run_at back fires nothing twice. The
    middleware of `layers` wraps the enqueue, within that transaction.
    """
    moved = yield Statement(
        inline(
            "update {schema}.schedules set last_run_at = %(nominal)s, next_run_at = %(following)s "
            f"where name = %(name)s and enabled and {moment('next_run_at')} = %(expected)s "
            "and (last_run_at is null or last_run_at < %(nominal)s) returning name",
            schema,
        ),
        {"name": row.name, "nominal": nominal, "following": following, "expected": row.next_run_at},
    )
    if not moved:
        # Either another scheduler was first, or the time is not after the last: only then does it still stand there.
        yield Statement(
            inline(
                "update {schema}.schedules set next_run_at = %(following)s "
                f"where name = %(name)s and {moment('next_run_at')} = %(expected)s and last_run_at >= %(nominal)s returning name",
                schema,
            ),
            {"name": row.name, "nominal": nominal, "following": following, "expected": row.next_run_at},
        )
        return None
    with around_enqueue(layers, [job]) as wrapped:
        wrapped.made = yield from enqueue(schema, wrapped.jobs, fallback_attempts)
    return wrapped.made[0]


def disable(schema: str, name: str, error: str) -> Statement[Any]:
    return Statement(
        inline(
            "update {schema}.schedules set enabled = false, error = %(error)s, updated_at = clock_timestamp() where name = %(name)s returning name",
            schema,
        ),
        {"name": name, "error": error},
    )


def set_enabled(schema: str, name: str, enabled: bool, next_run_at: datetime | None) -> Statement[Any]:
    return Statement(
        inline(
            "update {schema}.schedules set enabled = %(enabled)s, next_run_at = coalesce(%(next)s, next_run_at), "
            "error = case when %(enabled)s then null else error end, updated_at = clock_timestamp() where name = %(name)s returning name",
            schema,
        ),
        {"name": name, "enabled": enabled, "next": next_run_at},
    )


def remove(schema: str, name: str) -> Statement[Any]:
    return Statement(
        inline("delete from {schema}.schedules where name = %(name)s returning name", schema), {"name": name}
    )


def list_schedules(schema: str, name: str | None = None) -> Statement[ScheduleRow]:
    return Statement(
        inline(
            f"select {COLUMNS} from {{schema}}.schedules where %(name)s::text is null or name = %(name)s order by name",
            schema,
        ),
        {"name": name},
        _row,
    )


def _row(row: tuple[Any, ...]) -> ScheduleRow:
    name, task, queue, cron, every, tz, args, enabled, source, next_run_at, last_run_at, error = row
    read = Reader()
    given = read.object("args", args)
    why = read.unreadable["args"] if read.unreadable else None
    return ScheduleRow(name, task, queue, cron, every, tz, given, enabled, source, next_run_at, last_run_at, error, why)
