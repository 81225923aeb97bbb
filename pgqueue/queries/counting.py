"""What the metrics of a database are read from: counts that end at a bound, each by an index."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pgqueue.queries import fleet
from pgqueue.queries.measuring import AVAILABLE
from pgqueue.queries.statement import Operation, Statement, inline, texts

# Rows that all queues together are counted to, and each at least.
COUNTED, COUNTED_EACH = 100_000, 100

HOLDS_SNAPSHOT = (
    "backend_xmin is not null and xact_start is not null and pid <> pg_backend_pid() "
    "and backend_type = 'client backend' and (datname = current_database() or datname is null)"
)
"""Of `pg_stat_activity`: those whose transactions keep dead rows from being removed."""

_WAITING = """
    select q.queue, a.jobs, d.jobs, d.due, d.retrying from unnest(%(queues)s::text[]) q (queue) cross join lateral (
        select count(*) as jobs from (
            (select 1 from {schema}.lanes_of(q.queue) l cross join lateral (
                select from {schema}.jobs j where j.queue = q.queue and j.priority = l.priority and j.position > l.mark
                  and j.position is not null and j.state = 'available' order by j.position limit %(most)s) w limit %(most)s)
            union all
            (select 1 from {schema}.jobs where queue = q.queue and ready is not null and state = 'available' limit %(most)s)
            limit %(most)s) w) a
    cross join lateral (
        select count(*) as jobs, count(*) filter (where run_at <= now()) as due, count(*) filter (where attempt > 0) as retrying
        from (select run_at, attempt from {schema}.jobs
              where queue = q.queue and position is null and ready is null and waits_for is null
              order by run_at limit %(most)s) w) d
"""
# What runs is bounded by the slots of the fleet. What is parked has no index by queue: all together it is.
# Fenced by its offset: a planner that joins the tables reads all that waits.
_RUNNING = """
    select j.queue, count(*) from {schema}.claims c cross join lateral (
        select queue from {schema}.jobs where id = any (c.job_ids) and claim_id = c.id offset 0) j
    group by j.queue
"""
_BLOCKED = """
    select queue, count(*) from (
        select queue from {schema}.jobs where waits_for is not null and ready is null limit %(most)s) p
    group by queue
"""
_OLDEST = (
    "select q.queue, (select date_part('epoch', clock_timestamp() - min(run_at)) from ("
    + AVAILABLE.replace("{enough}", "1").replace("%(queue)s", "q.queue")
    + ") w where isfinite(run_at)) from unnest(%(queues)s::text[]) q (queue)"
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
_FAILED_QUEUES = """
    with recursive named (queue) as (
        (select queue from {schema}.failed_jobs order by queue limit 1)
        union all
        select n.queue from named d cross join lateral (
            select queue from {schema}.failed_jobs f where f.queue > d.queue order by f.queue limit 1) n)
    select queue from named
"""
_FAILED = """
    select q.queue, (select count(*) from (select from {schema}.failed_jobs f where f.queue = q.queue limit %(most)s) c)
    from unnest(%(queues)s::text[]) q (queue)
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


@dataclass(frozen=True, slots=True)
class Depth:
    """The live jobs of a queue by state; those that are `due` or `retrying` are among the scheduled.

    `capped` names the counts that are bounds: there are at least as many.
    """

    queue: str
    available: int = 0
    running: int = 0
    scheduled: int = 0
    due: int = 0
    retrying: int = 0
    blocked: int = 0
    capped: frozenset[str] = frozenset()


def queues(schema: str) -> Operation[list[str]]:
    """Every queue that has settings, a task or live jobs."""
    names: list[str] = yield fleet.queue_names(schema)
    due = yield Statement(inline(_DUE, schema))
    return sorted({*names, *(name for (name,) in due)})


def depths(schema: str, names: Iterable[str]) -> Operation[list[Depth]]:
    """The live jobs of these queues, and of any other in which jobs run or are blocked, by name."""
    counted = yield from _counted(schema, _WAITING, names)
    running = dict((yield Statement(inline(_RUNNING, schema))))
    blocked = dict((yield Statement(inline(_BLOCKED, schema), {"most": COUNTED})))
    all_blocked = sum(blocked.values()) < COUNTED
    found = []
    for name in sorted({*counted, *running, *blocked}):
        (available, scheduled, due, retrying), most = counted.get(name, ((0, 0, 0, 0), 1))
        # Scheduled ones are counted by their time: what is due comes first.
        bounds = {
            "available": available == most,
            "scheduled": scheduled == most,
            "due": due == most,
            "retrying": scheduled == most,
            "blocked": not all_blocked,
        }
        capped = frozenset(count for count, is_bound in bounds.items() if is_bound)
        held = blocked.get(name, 0)
        found.append(Depth(name, available, running.get(name, 0), scheduled, due, retrying, held, capped))
    return found


def oldest(schema: str, names: Iterable[str]) -> Statement[tuple[str, float | None]]:
    """(queue, seconds that the job has waited which could run for the longest; None where none could)."""
    return Statement(inline(_OLDEST, schema), {"queues": texts(names)})


def failed(schema: str, names: Iterable[str]) -> Operation[dict[str, tuple[int, bool]]]:
    """By queue, these and any other: how many failed jobs it has, and whether there are more than are counted."""
    others = [name for (name,) in (yield Statement(inline(_FAILED_QUEUES, schema)))]
    counted = yield from _counted(schema, _FAILED, {*names, *others})
    return {name: (jobs, jobs == most) for name, ((jobs,), most) in counted.items()}


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


def _counted(schema: str, count: str, names: Iterable[str]) -> Operation[dict[str, tuple[tuple[int, ...], int]]]:
    """By queue, its counts, and to how many each of them was counted.

    Each queue has the same share of COUNTED at first; what is left goes to those that have more.
    """
    found: dict[str, tuple[tuple[int, ...], int]] = {}
    asked, most = list(names), 0
    for _ in range(2):
        share = max(COUNTED_EACH, COUNTED // max(1, len(asked)))
        if not asked or share == most:
            break
        most = share
        rows = yield Statement(inline(count, schema), {"queues": texts(asked), "most": most})
        found |= {name: (tuple(counts), most) for name, *counts in rows}
        asked = [name for name, *counts in rows if most in counts]
    return found
