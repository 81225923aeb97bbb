"""Retention within the days that are kept: rows of ended jobs that are too old, or too many, and what they have told.

A task says before its queue, and that before the app. `completed_jobs` has no index by task, which every completion
would pay for: rows of tasks with a rule of their own are marked (`own_retention`) and have one to themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

from pgqueue.queries.pruning import LONGEST
from pgqueue.queries.statement import Statement, inline

Scope = Literal["queue", "task", "failed"]

# Of each scope: the table, the column of time, and which rows; {task} is a parameter or a column. A failed job that halts
# its serial key stays until somebody has seen it.
_ROWS: dict[Scope, tuple[str, str, str]] = {
    "queue": ("completed_jobs", "finished_at", "queue = %(queue)s and own_retention is null"),
    "task": ("completed_jobs", "finished_at", "queue = %(queue)s and task = {task} and own_retention"),
    "failed": ("failed_jobs", "failed_at", "queue = %(queue)s and task = {task} and places is null"),
}
# What is kept for so long leaves with the partitions, but nobody waits a day for what is kept for an hour.
BY_DAYS = "greatest(longest.keep, interval '1 day')"
UNREGISTERED = "case when t.name is null then %(keep)s::interval end"
# An interval that no timedelta can hold is as good as for ever. Where nothing is kept but so many, these are kept for a while.
_AGE = "least(case when age = interval '0' and count is not null then {otherwise} else age end, interval '36525 days')"
_COMPLETED, _FAILED = _AGE.format(otherwise="interval '1 day'"), _AGE.format(otherwise="null")


@dataclass(frozen=True, slots=True)
class Rule:
    """What is kept of some ended jobs of a queue: none older than `age`, and the newest `count` of all `tasks` together.

    `tasks` is (None,) for all whose tasks have no rule of their own.
    """

    scope: Scope
    queue: str
    tasks: Sequence[str | None]
    age: timedelta | None
    count: int | None


class Swept(NamedTuple):
    """How many rows were looked at, the last one's key, and how many were deleted."""

    seen: int
    last: int
    gone: int


def queue_rules(schema: str, keep: timedelta) -> Statement[Rule]:
    """Of completed jobs whose tasks say nothing themselves, where a queue keeps less than the partitions do."""
    return Statement(
        inline(
            # Of the queues that there is something of: they need no row. Several apps may share one, and a queue that is
            # no task's own may be anybody's: the one that keeps the most decides.
            "with recursive found (name) as ((select queue from {schema}.completed_jobs where own_retention is null order by queue limit 1) "
            "union all select n.queue from found f cross join lateral (select c.queue from {schema}.completed_jobs c "
            "where c.own_retention is null and c.queue > f.name order by c.queue limit 1) n), "
            f"{LONGEST.removeprefix('with ')}, apps as (select t.queue as name, "
            "max(coalesce(make_interval(secs => (t.app_defaults ->> 'keep_completed')::float8), %(keep)s)) as age, "
            "case when count(*) = count(t.app_defaults ->> 'keep_completed_count') "
            "then max((t.app_defaults ->> 'keep_completed_count')::int) end as count from {schema}.tasks t group by rollup (t.queue)), "
            "rules as (select f.name, coalesce(q.keep_completed, d.age, %(keep)s) as age, "
            "case when num_nonnulls(q.keep_completed, q.keep_completed_count) > 0 then q.keep_completed_count else d.count end as count "
            "from found f left join {schema}.queues q on q.name = f.name left join lateral ("
            "select a.age, a.count from apps a where a.name = f.name or a.name is null order by a.name nulls last limit 1) d on true) "
            f"select name, {_COMPLETED}, count from rules, longest where age < {BY_DAYS} or count is not null order by name",
            schema,
        ),
        {"keep": keep},
        lambda row: Rule("queue", row[0], (None,), row[1], row[2]),
    )


def task_rules(schema: str, keep: timedelta) -> Statement[Rule]:
    """Of completed jobs whose tasks have, or had, a rule of their own."""
    return Statement(
        inline(
            f"{_pairs('completed_jobs', 'own_retention')}, {LONGEST.removeprefix('with ')}, {_resolved('keep_completed', '%(keep)s::interval')} "
            f"select queue, task, {_COMPLETED}, count from resolved, longest "
            f"where age < {BY_DAYS} or count is not null order by queue, task",
            schema,
        ),
        {"keep": keep},
        lambda row: Rule("task", row[0], (row[1],), row[2], row[3]),
    )


def failed_rules(schema: str, keep: timedelta | None) -> Statement[Rule]:
    """Of failed jobs; one for each task that has its own, else one for each queue. `keep` is for tasks that nobody knows."""
    return Statement(
        inline(
            f"{_pairs('failed_jobs', 'true')}, {_resolved('keep_failed', UNREGISTERED)} "
            f"select queue, array_agg(task order by task), {_FAILED}, count from resolved "
            "where num_nonnulls(age, count) > 0 group by queue, case when own then task end, age, count order by queue, 2",
            schema,
        ),
        {"keep": keep},
        lambda row: Rule("failed", row[0], tuple(row[1]), row[2], row[3]),
    )


def _pairs(table: str, which: str) -> str:
    """The queues and tasks that the index knows, from one to the next: the rows between are not read."""
    return (
        f"with recursive pairs (queue, task) as ((select queue, task from {{schema}}.{table} where {which} order by queue, task limit 1) "
        f"union all select n.queue, n.task from pairs p cross join lateral (select r.queue, r.task from {{schema}}.{table} r "
        f"where {which} and (r.queue, r.task) > (p.queue, p.task) order by r.queue, r.task limit 1) n)"
    )


def _resolved(option: str, unsaid: str) -> str:
    """The rule of each pair; the age is `unsaid` where nobody says. A level that gives a count leaves the age to the one above."""
    own, queues = (f"num_nonnulls({level}.{option}, {level}.{option}_count) > 0" for level in "tq")
    return (
        f"resolved as (select p.queue, p.task, {own} as own, coalesce(t.{option}, q.{option}, "
        f"make_interval(secs => (t.app_defaults ->> '{option}')::float8), {unsaid}) as age, "
        f"case when {own} then t.{option}_count when {queues} then q.{option}_count "
        f"else (t.app_defaults ->> '{option}_count')::int end as count "
        "from pairs p left join {schema}.tasks t on t.name = p.task left join {schema}.queues q on q.name = p.queue)"
    )


def oldest_kept(schema: str, rule: Rule) -> Statement[datetime]:
    """When the last ended of those that its count keeps; no row where there are not so many."""
    table, time, which = _ROWS[rule.scope]
    return Statement(
        inline(
            f"select n.at from unnest(%(tasks)s::text[]) g (task) cross join lateral (select {time} as at from {{schema}}.{table} r "
            f"where {which.format(task='g.task')} order by {time} desc limit %(count)s) n "
            "order by n.at desc offset %(count)s - 1 limit 1",
            schema,
        ),
        {"queue": rule.queue, "tasks": list(rule.tasks), "count": rule.count},
        lambda row: row[0],
    )


def prune(schema: str, rule: Rule, task: str | None, before: datetime | None, count: int) -> Statement[int]:
    """Rows: how many were deleted, at most `count`, the oldest first, with what their jobs have told."""
    table, time, which = _ROWS[rule.scope]
    return Statement(
        inline(
            f"with old as (select ctid, tableoid from {{schema}}.{table} where {which.format(task='%(task)s')} "
            # Worked out once, where the index can use it.
            f"and {time} < (select greatest(clock_timestamp() - %(age)s::interval, %(before)s::timestamptz)) "
            f"order by {time} limit %(count)s for update skip locked), "
            f"gone as (delete from {{schema}}.{table} r using old where r.ctid = old.ctid and r.tableoid = old.tableoid returning r.id), "
            "told as (delete from {schema}.job_progress where job_id = any (array(select id from gone))), "
            "logged as (delete from {schema}.job_logs where job_id = any (array(select id from gone))) "
            "select count(*)::int from gone",
            schema,
        ),
        {"queue": rule.queue, "task": task, "age": rule.age, "before": before, "count": count},
        lambda row: row[0],
    )


def sweep(schema: str, table: Literal["job_logs", "job_progress"], after: int, count: int) -> Statement[Swept]:
    """Look at so many rows from a key on, and delete those whose jobs are nowhere any more: their days were dropped."""
    key = "id" if table == "job_logs" else "job_id"
    return Statement(
        inline(
            f"with seen as (select {key} as key, job_id from {{schema}}.{table} where {key} > %(after)s order by {key} limit %(count)s), "
            "ids as (select array(select distinct job_id from seen) as of), "
            "there as (select id from {schema}.jobs where id = any ((select of from ids)::bigint[]) "
            "union all select id from {schema}.completed_jobs where id = any ((select of from ids)::bigint[]) "
            "union all select id from {schema}.failed_jobs where id = any ((select of from ids)::bigint[])), "
            f"gone as (delete from {{schema}}.{table} where {key} = any (array("
            "select s.key from seen s where s.job_id not in (select id from there))) returning 1) "
            "select (select count(*) from seen), coalesce((select max(key) from seen), 0), (select count(*) from gone)",
            schema,
        ),
        {"after": after, "count": count},
        lambda row: Swept(*row),
    )


__all__ = ["Rule", "Swept", "failed_rules", "oldest_kept", "prune", "queue_rules", "sweep", "task_rules"]
