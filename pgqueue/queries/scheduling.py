"""Schedules: reconciling them with the code, and firing one nominal time exactly once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from pgqueue.job import Job, NewJob
from pgqueue.middleware import Middleware, around_enqueue
from pgqueue.queries.enqueuing import enqueue
from pgqueue.queries.reading import NEVER, Reader, moment, span
from pgqueue.queries.statement import Operation, Statement, inline

COLUMNS = (
    f"name, task, queue, cron, {span('every')}, tz, args::text, job_options::text, enabled, source, catch_up, {span('grace')}, "
    f"overlap, {span('jitter')}, {moment('start_at')}, {moment('end_at')}, max_runs, runs, {moment('next_run_at')}, "
    f"{moment('last_run_at')}, last_job_id, error, {moment('updated_at')}"
)
WHAT_FIRES = "cron, every, tz, start_at, end_at, max_runs"
DEFINITION = f"task, queue, {WHAT_FIRES}, args, job_options, catch_up, grace, overlap, jitter"


@dataclass(frozen=True, slots=True)
class ScheduleRow:
    """A row of `schedules`. Either `cron` or `every` is set; the fields from `catch_up` to `max_runs` are its Policy.

    `next_run_at` is None until a scheduler has worked it out. `source` is code, removed (from the code) or live.
    `unreadable` tells which of `args` and `job_options` could not be read, and why.
    """

    name: str
    task: str
    queue: str | None
    cron: str | None
    every: timedelta | None
    tz: str
    args: Mapping[str, Any]
    job_options: Mapping[str, Any]
    enabled: bool
    source: str
    catch_up: str
    grace: timedelta | None
    overlap: str
    jitter: timedelta | None
    start: datetime | None
    end: datetime | None
    max_runs: int | None
    runs: int
    next_run_at: datetime | None
    last_run_at: datetime | None
    last_job_id: int | None
    error: str | None
    updated_at: datetime
    unreadable: str | None = None

    @property
    def ended(self) -> bool:
        """Whether no nominal time is left."""
        return self.next_run_at is not None and self.next_run_at.year >= NEVER.year


def now(schema: str) -> Statement[datetime]:
    """The database's clock, the only one that decides."""
    return Statement(inline("select {schema}.clock()", schema), {}, lambda row: row[0])


def seen(schema: str) -> Statement[Any]:
    """A scheduler looks for what is due. Written in a sequence, which leaves no dead rows; at most every two seconds."""
    return Statement(
        inline(
            "select setval('{schema}.scheduler_seen', s) from (select extract(epoch from clock_timestamp())::bigint as s) n "
            "where s >= (select last_value from {schema}.scheduler_seen) + 2",
            schema,
        )
    )


def declare(schema: str, row: ScheduleRow) -> Statement[Any]:
    """Write a definition. One that fires at other times starts from its own next one; another keeps its place.

    What is added live does not change what the code declares.
    """
    return Statement(
        inline(
            f"insert into {{schema}}.schedules as s (name, source, next_run_at, {DEFINITION}) values "
            "(%(name)s, %(source)s, coalesce(%(next)s::timestamptz, 'infinity'), %(task)s, %(queue)s, %(cron)s, %(every)s, %(tz)s, "
            "%(start)s, %(end)s, %(max_runs)s, %(args)s::jsonb, %(job_options)s::jsonb, %(catch_up)s, %(grace)s, %(overlap)s, %(jitter)s) "
            f"on conflict (name) do update set ({DEFINITION}, source, error) = ({_columns('excluded', DEFINITION)}, excluded.source, null), "
            # A pause by hand stays; what the code had dropped, or a bad rule that it mended, comes back.
            "enabled = s.enabled or s.source = 'removed' or s.error is not null, "
            f"next_run_at = case when ({_columns('s', WHAT_FIRES)}) is distinct from ({_columns('excluded', WHAT_FIRES)}) "
            "or not s.enabled then excluded.next_run_at else s.next_run_at end, updated_at = {schema}.clock() "
            f"where ({_columns('s', DEFINITION)}, s.source, s.error) is distinct from ({_columns('excluded', DEFINITION)}, excluded.source, null) "
            "and (s.source <> 'code' or excluded.source = 'code') returning name",
            schema,
        ),
        {
            "name": row.name,
            "source": row.source,
            "task": row.task,
            "queue": row.queue,
            "cron": row.cron,
            "every": row.every,
            "tz": row.tz,
            "args": json.dumps(dict(row.args)),
            "job_options": json.dumps(dict(row.job_options)) if row.job_options else None,
            "catch_up": row.catch_up,
            "grace": row.grace,
            "overlap": row.overlap,
            "jitter": row.jitter,
            "start": row.start,
            "end": row.end,
            "max_runs": row.max_runs,
            "next": row.next_run_at,
        },
    )


def _columns(table: str, names: str) -> str:
    return ", ".join(f"{table}.{name}" for name in names.split(", "))


def disable_removed(schema: str, kept: Iterable[str]) -> Statement[str]:
    """Schedules that came from code and that the code no longer declares."""
    return Statement(
        inline(
            "update {schema}.schedules set enabled = false, source = 'removed', updated_at = {schema}.clock() "
            "where source = 'code' and name <> all (%(kept)s::text[]) returning name",
            schema,
        ),
        {"kept": sorted(kept)},
        lambda row: row[0],
    )


def due(schema: str, limit: int = 100) -> Statement[ScheduleRow]:
    """Whose time has come, or is not known yet."""
    return Statement(
        inline(
            f"select {COLUMNS} from {{schema}}.schedules where enabled and (next_run_at is null or next_run_at <= {{schema}}.clock()) "
            "order by next_run_at nulls first limit %(limit)s",
            schema,
        ),
        {"limit": limit},
        _row,
    )


def next_due_in(schema: str) -> Statement[float | None]:
    """Seconds until the next nominal time; None when nothing is scheduled."""
    return Statement(
        inline(
            f"select extract(epoch from {moment('min(next_run_at)')} - {{schema}}.clock())::float8 from {{schema}}.schedules where enabled",
            schema,
        ),
        {},
        lambda row: row[0],
    )


class Fired(NamedTuple):
    """What came of nominal times: their jobs, and the job of an earlier time for which they were left out."""

    made: Sequence[Job] = ()
    left_out_for: int | None = None


def fire(
    schema: str,
    row: ScheduleRow,
    times: Sequence[datetime],
    following: datetime | None,
    jobs: Sequence[NewJob],
    fallback_attempts: int,
    layers: Sequence[Middleware] = (),
) -> Operation[Fired]:
    """Enqueue the jobs of nominal times, if nobody has: compare-and-set and enqueue in one transaction.

    The times must also lie after the last one, so that a reconcile that sets next_run_at back fires nothing twice. The
    middleware of `layers` wraps the enqueue, within that transaction. What is left out does not count towards max_runs.
    """
    moved: list[Any] = yield Statement(
        inline(
            "update {schema}.schedules set last_run_at = coalesce(%(last)s, last_run_at), "
            "next_run_at = coalesce(%(following)s::timestamptz, 'infinity') "
            f"where name = %(name)s and enabled and {moment('next_run_at')} is not distinct from %(expected)s::timestamptz "
            "and (%(first)s::timestamptz is null or last_run_at is null or last_run_at < %(first)s) returning last_job_id",
            schema,
        ),
        {
            "name": row.name,
            "first": times[0] if times else None,
            "last": times[-1] if times else None,
            "following": following,
            "expected": row.next_run_at,
        },
    )
    if not moved or not times:
        # Another scheduler was first, or all that was missed stays so.
        return Fired()
    if (running := (yield from _overlapping(schema, row, moved[0][0]))) is not None:
        return Fired(left_out_for=running)
    with around_enqueue(layers, jobs) as wrapped:
        wrapped.made = yield from enqueue(schema, wrapped.jobs, fallback_attempts)
    yield Statement(
        inline(
            "update {schema}.schedules set runs = runs + %(count)s, last_job_id = %(job)s, "
            "next_run_at = case when runs + %(count)s >= max_runs then 'infinity' else next_run_at end where name = %(name)s",
            schema,
        ),
        {"name": row.name, "count": len(times), "job": wrapped.made[-1].id},
    )
    return Fired(wrapped.made)


def _overlapping(schema: str, row: ScheduleRow, last_job_id: int | None) -> Operation[int | None]:
    """The job of an earlier time for which this one is left out. One that is to make way is cancelled here."""
    if row.overlap == "allow" or last_job_id is None:
        return None
    states: list[Any] = yield Statement(
        inline("select state from {schema}.jobs where id = %(id)s", schema), {"id": last_job_id}
    )
    if not states:
        return None
    if row.overlap == "cancel_running":
        why = f"the next time of schedule {row.name} came"
        yield Statement(
            inline("select id from {schema}.cancel(array[%(id)s]::bigint[], %(why)s)", schema),
            {"id": last_job_id, "why": why},
        )
        return None
    return None if row.overlap == "queue_one" and states[0][0] == "running" else last_job_id


def disable(schema: str, name: str, error: str) -> Statement[Any]:
    return Statement(
        inline(
            "update {schema}.schedules set enabled = false, error = %(error)s, updated_at = {schema}.clock() where name = %(name)s returning name",
            schema,
        ),
        {"name": name, "error": error},
    )


def set_enabled(schema: str, name: str, enabled: bool, next_run_at: datetime | None = None) -> Statement[Any]:
    """Pause it, or resume it from `next_run_at` on; None: no time is left."""
    return Statement(
        inline(
            "update {schema}.schedules set enabled = %(enabled)s, "
            "next_run_at = case when %(enabled)s then coalesce(%(next)s::timestamptz, 'infinity') else next_run_at end, "
            "error = case when %(enabled)s then null else error end, updated_at = {schema}.clock() where name = %(name)s returning name",
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
    read = Reader()
    name, task, queue, cron, every, tz, args, job_options, *rest = row
    given, options = read.object("args", args), read.object("job_options", job_options)
    why = next((f"{column}: {why}" for column, why in (read.unreadable or {}).items()), None)
    values: tuple[Any, ...] = (name, task, queue, cron, every, tz, given, options, *rest, why)
    return ScheduleRow(*values)
