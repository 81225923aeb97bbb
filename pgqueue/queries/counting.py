"""What the metrics of a database are read from: counts that end at a bound, each by an index."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pgqueue.queries import fleet
from pgqueue.queries.checkup import HOLDS_SNAPSHOT
from pgqueue.queries.measuring import AVAILABLE
from pgqueue.queries.statement import Operation, Statement, inline, texts

# Rows that all queues together are counted to, and each at least.
COUNTED, COUNTED_EACH = 100_000, 100

# What runs is bounded by the slots of the fleet. What is parked has no index by queue: all together it is.
_DEPTHS = """
    select q.queue, s.state, s.jobs from unnest(%(queues)s::text[]) q (queue) cross join lateral (
        select 'available' as state, count(*) as jobs from (
            (select 1 from {schema}.lanes_of(q.queue) l cross join lateral (
                select from {schema}.jobs j where j.queue = q.queue and j.priority = l.priority and j.position > l.mark
                  and j.position is not null and j.state = 'available' order by j.position limit %(most)s) w limit %(most)s)
            union all
            (select 1 from {schema}.jobs where queue = q.queue and ready is not null and state = 'available' limit %(most)s)
            limit %(most)s) a
        union all
        select 'scheduled', count(*) from (
            select from {schema}.jobs where queue = q.queue and position is null and ready is null and waits_for is null
            limit %(most)s) d) s
    union all
    select j.queue, 'running', count(*) from {schema}.claims c join {schema}.jobs j on j.id = any (c.job_ids) and j.claim_id = c.id
    group by j.queue
    union all
    select queue, 'blocked', count(*) from (
        select queue from {schema}.jobs where waits_for is not null and ready is null limit %(most)s) p
    group by queue
"""
_OLDEST = (
    "select q.queue, coalesce((select date_part('epoch', clock_timestamp() - min(run_at)) from ("
    + AVAILABLE.replace("{enough}", "1").replace("%(queue)s", "q.queue")
    + ") w where isfinite(run_at)), 0) from unnest(%(queues)s::text[]) q (queue)"
)
# From one queue to the next by the index.
_DUE = """
    with recursive due (queue) as (
        (select queue from {schema}.jobs where position is null and ready is null and waits_for is null order by queue limit 1)
        union all
        select n.queue from due d cross join lateral (
            select queue from {schema}.jobs j where j.position is null and j.ready is null and j.waits_for is null and j.queue > d.queue
            order by j.queue limit 1) n)
    select queue from due
"""
_FAILED = """
    with recursive named (queue) as (
        (select queue from {schema}.failed_jobs order by queue limit 1)
        union all
        select n.queue from named d cross join lateral (
            select queue from {schema}.failed_jobs f where f.queue > d.queue order by f.queue limit 1) n)
    select q.queue, (select count(*) from (select from {schema}.failed_jobs f where f.queue = q.queue limit %(most)s) c)
    from (select queue from named union select unnest(%(queues)s::text[])) q
"""
_XMIN_AGE = (
    "select coalesce(max(date_part('epoch', clock_timestamp() - since)), 0) from ("
    f"select xact_start as since from pg_stat_activity where {HOLDS_SNAPSHOT} "
    "union all select prepared from pg_prepared_xacts where database = current_database()) h"
)
# The history's partitions come and go: they are one table.
_DEAD_TUPLES = (
    "select coalesce(parent.relname, s.relname), sum(s.n_dead_tup) from pg_stat_user_tables s "
    "left join pg_inherits i on i.inhrelid = s.relid left join pg_class parent on parent.oid = i.inhparent "
    "where s.schemaname = %(name)s group by 1"
)


def queues(schema: str) -> Operation[list[str]]:
    """Every queue that has settings, a task or live jobs."""
    names: list[str] = yield fleet.queue_names(schema)
    due = yield Statement(inline(_DUE, schema))
    return sorted({*names, *(name for (name,) in due)})


def depths(schema: str, names: Iterable[str]) -> Statement[Any]:
    """(queue, state, live jobs), counted no further than to the queue's share of COUNTED."""
    return Statement(inline(_DEPTHS, schema), _of(names))


def oldest(schema: str, names: Iterable[str]) -> Statement[Any]:
    """(queue, seconds that the job has waited which could run for the longest; 0 where none could)."""
    return Statement(inline(_OLDEST, schema), {"queues": texts(names)})


def failed(schema: str, names: Iterable[str]) -> Statement[Any]:
    """(queue, failed jobs), counted as `depths` are."""
    return Statement(inline(_FAILED, schema), _of(names))


def paused(schema: str) -> Statement[Any]:
    """(queue, whether it is paused) of those with settings."""
    return Statement(inline("select name, paused from {schema}.queues", schema))


def workers(schema: str) -> Statement[Any]:
    """(queue, live workers that claim from it)."""
    return Statement(
        inline(
            "select q.queue, count(*) from {schema}.workers w, jsonb_object_keys(w.queues) q (queue) "
            "where w.expires_at > clock_timestamp() and w.state = 'running' group by q.queue",
            schema,
        )
    )


def last_runs(schema: str) -> Statement[Any]:
    """(schedule, the nominal time that it fired for last, in seconds since 1970) of those that have fired and will again."""
    return Statement(
        inline(
            "select name, date_part('epoch', last_run_at) from {schema}.schedules where enabled and last_run_at is not null "
            "and (next_run_at is null or isfinite(next_run_at))",
            schema,
        )
    )


def xmin_age(schema: str) -> Statement[Any]:
    """Seconds since the oldest transaction began that keeps dead rows from being removed."""
    return Statement(inline(_XMIN_AGE, schema))


def dead_tuples(schema: str) -> Statement[Any]:
    """(table, its dead rows)."""
    return Statement(inline(_DEAD_TUPLES, schema), {"name": schema})


def _of(names: Iterable[str]) -> dict[str, Any]:
    given = list(names)
    return {"queues": texts(given), "most": max(COUNTED_EACH, COUNTED // max(1, len(given)))}
