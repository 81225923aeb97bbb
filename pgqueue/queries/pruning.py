"""Retention by the day: partitions of `completed_jobs`, made ahead and dropped; what is kept for less is in `retaining`."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from psycopg import sql

from pgqueue.queries.statement import Statement, inline

ENDED = "Past its retention: pgqueue drops it."
LONGEST = (
    "with longest as (select greatest(%(keep)s::interval, (select max(coalesce(keep_completed, interval '1 day')) from {schema}.queues "
    "where num_nonnulls(keep_completed, keep_completed_count) > 0), "
    "(select max(greatest(case when num_nonnulls(keep_completed, keep_completed_count) > 0 then coalesce(keep_completed, interval '1 day') end, "
    "make_interval(secs => (app_defaults ->> 'keep_completed')::float8))) from {schema}.tasks)) as keep)"
)
DAY = "'^completed_jobs_[0-9]{{8}}$'"
IS_PAST = "((right(c.relname, 8))::date + 1)::timestamp at time zone 'UTC' < clock_timestamp() - longest.keep"


def make_partitions(schema: str) -> Statement[Any]:
    return Statement(inline("select {schema}.make_partitions()", schema))


def ended_partitions(schema: str, keep: timedelta) -> Statement[Any]:
    """(name, whether a detach was begun) of partitions of which every row is past the longest retention."""
    return Statement(
        inline(
            f"{LONGEST} select c.relname::text, i.inhdetachpending "
            "from pg_inherits i join pg_class c on c.oid = i.inhrelid, longest "
            "where i.inhparent = '{schema}.completed_jobs'::regclass "
            f"and c.relname ~ {DAY} and {IS_PAST} order by 1",
            schema,
        ),
        {"keep": keep},
    )


def kept_partitions(schema: str, keep: timedelta) -> Statement[str]:
    """Partitions that a pruner marked, and that are not past the longest retention any more: it was lengthened."""
    return Statement(
        inline(
            f"{LONGEST} select c.relname::text from pg_inherits i join pg_class c on c.oid = i.inhrelid, longest "
            "where i.inhparent = '{schema}.completed_jobs'::regclass "
            f"and c.relname ~ {DAY} and obj_description(c.oid, 'pg_class') = %(mark)s and not {IS_PAST} order by 1",
            schema,
        ),
        {"keep": keep, "mark": ENDED},
        lambda row: row[0],
    )


def detached_partitions(schema: str, keep: timedelta) -> Statement[str]:
    """Partitions past the longest retention that a pruner marked and detached.

    Others' tables, and days that somebody detached to keep, are not.
    """
    return Statement(
        inline(
            # Materialized: what others call their tables need not be a date.
            f"{LONGEST}, c as materialized (select c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace "
            f"where n.nspname = %(schema)s and c.relkind = 'r' and c.relname ~ {DAY} "
            "and obj_description(c.oid, 'pg_class') = %(mark)s "
            "and not exists (select from pg_inherits i where i.inhrelid = c.oid)) "
            f"select c.relname::text from c, longest where {IS_PAST} order by 1",
            schema,
        ),
        {"schema": schema, "keep": keep, "mark": ENDED},
        lambda row: row[0],
    )


def mark_ended(schema: str, name: str) -> Statement[Any]:
    """Say on a partition that it may be dropped once it is detached: the detach itself may be cut off."""
    return _ddl(f"comment on table {{partition}} is '{ENDED}'", schema, name)


def mark_kept(schema: str, name: str) -> Statement[Any]:
    """Take that back."""
    return _ddl("comment on table {partition} is null", schema, name)


def detach_partition(schema: str, name: str, *, finalize: bool) -> Statement[Any]:
    how = "finalize" if finalize else "concurrently"
    return replace(_ddl(f"alter table {{parent}} detach partition {{partition}} {how}", schema, name), alone=True)


def drop_partition(schema: str, name: str) -> Statement[Any]:
    return _ddl("drop table if exists {partition}", schema, name)


def forget_lanes(schema: str, after: timedelta) -> Statement[int]:
    """Delete the marks of lanes of which none was written for so long: of a lane all at once, since the lowest counts.

    Returns how many.
    """
    return Statement(
        inline(
            "with gone as (delete from {schema}.lanes l where not exists (select from {schema}.lanes n where n.queue = l.queue "
            "and n.priority = l.priority and n.kept_at > clock_timestamp() - %(after)s) returning id) select count(*) from gone",
            schema,
        ),
        {"after": after},
        lambda row: row[0],
    )


def _ddl(text: str, schema: str, name: str) -> Statement[Any]:
    query = sql.SQL(text).format(
        parent=sql.Identifier(schema, "completed_jobs"), partition=sql.Identifier(schema, name)
    )
    return Statement(query.as_string())


def forget_keys(schema: str, count: int) -> Statement[int]:
    """Delete unique keys that are no longer used, up to so many; returns how many."""
    return Statement(
        inline(
            "with gone as (delete from {schema}.used_keys where (key, queue) in (select key, queue from {schema}.used_keys "
            "where expires_at <= clock_timestamp() limit %(count)s for update skip locked) returning 1) select count(*) from gone",
            schema,
        ),
        {"count": count},
        lambda row: row[0],
    )
