"""How much there is, for a page that is read again and again: no further than a bound, however much there is."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pgqueue.queries import counting
from pgqueue.queries.counting import Depth
from pgqueue.queries.statement import Operation, Statement, inline

# Rows that tasks are counted in: the newest, as there is no index by task.
TASKS_COUNTED = 100_000


@dataclass(frozen=True, slots=True)
class QueueCounts:
    """What waits and runs in a queue. `due` jobs are scheduled, and their time has come: no worker was there yet.

    `retrying` are scheduled too. `capped` names the counts of which there is at least as much. `stopped` says in a word
    why nothing of it begins: paused, or open (its circuit breaker); None where nothing stops it.
    """

    queue: str
    stopped: str | None
    available: int
    running: int
    scheduled: int
    due: int
    retrying: int
    blocked: int
    failed: int
    oldest_waiting: timedelta | None
    workers: int
    slots: int
    capped: frozenset[str]

    @property
    def unserved(self) -> bool:
        """Whether jobs wait that no worker is there for."""
        return not self.workers and bool(self.available or self.due)


def queues(schema: str, name: str | None = None) -> Operation[list[QueueCounts]]:
    """Of one queue, or of all by name; nothing for one that nothing knows."""
    known: dict[str, tuple[str | None, int, int, bool]] = {
        queue: (stopped, workers, slots, is_set) for queue, stopped, workers, slots, is_set in (yield _known(schema))
    }
    names = [name] if name is not None else sorted({*known, *(yield from counting.queues(schema))})
    depths = {depth.queue: depth for depth in (yield from counting.depths(schema, names))}
    failed = yield from counting.failed(schema, names)
    if name is None:
        names = sorted({*names, *depths, *failed})
    waited = dict((yield counting.oldest(schema, names)))
    found = []
    for queue in names:
        depth = depths.get(queue, Depth(queue))
        failures, more_failed = failed.get(queue, (0, False))
        stopped, workers, slots, is_set = known.get(queue, (None, 0, 0, False))
        live = depth.available or depth.running or depth.scheduled or depth.blocked
        if name is not None and not (live or failures or workers or is_set):
            continue
        oldest = waited.get(queue)
        found.append(
            QueueCounts(
                queue,
                stopped,
                depth.available,
                depth.running,
                depth.scheduled,
                depth.due,
                depth.retrying,
                depth.blocked,
                failures,
                None if oldest is None else timedelta(seconds=oldest),
                workers,
                slots,
                depth.capped | {"failed"} if more_failed else depth.capped,
            )
        )
    return found


def _known(schema: str) -> Statement[tuple[str, str | None, int, int, bool]]:
    """(queue, what stops it, live workers that claim from it, their slots, whether it has settings)."""
    return Statement(
        inline(
            "with served as (select q.queue, count(*) as workers, sum(q.slots::int) as slots "
            "from {schema}.workers w, jsonb_each_text(w.queues) as q (queue, slots) "
            "where w.expires_at > now() and w.state = 'running' group by q.queue), "
            "open as (select name from {schema}.breakers where scope = 'queue' and open_until > now()), "
            "names as (select queue from served union select name from {schema}.queues union select name from open) "
            "select n.queue, case when q.paused then 'paused' when o.name is not null then 'open' end, "
            "coalesce(s.workers, 0), coalesce(s.slots, 0), q.name is not null from names n "
            "left join served s using (queue) left join {schema}.queues q on q.name = n.queue "
            "left join open o on o.name = n.queue",
            schema,
        )
    )


@dataclass(frozen=True, slots=True)
class TaskCounts:
    """A task as workers have registered it, and its jobs. Without a `queue` nobody has: its jobs are orphans.

    `capped` names the counts of which there is at least as much: they are of the newest jobs.
    """

    name: str
    queue: str | None
    priority: int | None
    max_attempts: int | None
    timeout: float | None
    unique_key: str | None
    serial_key: str | None
    on_failed: str | None
    alias_of: str | None
    last_seen_at: datetime | None
    live: int
    running: int
    failed: int
    capped: frozenset[str]


def tasks(schema: str, name: str | None = None) -> Statement[TaskCounts]:
    """Of one task, or of all by name."""
    return Statement(
        inline(
            "with seen as materialized (select task from {schema}.jobs order by id desc limit %(most)s), "
            "live as (select task, count(*) as live from seen group by task), "
            "held as (select j.task, count(*) as running from {schema}.claims c cross join lateral (select task "
            "from {schema}.jobs where id = any (c.job_ids) and claim_id = c.id offset 0) j group by j.task), "
            "broken as materialized (select task from {schema}.failed_jobs order by id desc limit %(most)s), "
            "failed as (select task, count(*) as failed from broken group by task), "
            "had as (select task, max(heartbeat_at) as at from {schema}.workers w cross join lateral unnest(w.tasks) task "
            "where w.expires_at > clock_timestamp() group by task), "
            "names as (select name from {schema}.tasks union select task from live union select task from held "
            "union select task from failed) "
            "select names.name, t.queue, t.priority, t.max_attempts, t.timeout, t.unique_key, t.serial_key, t.on_failed, t.alias_of, "
            "greatest(t.last_seen_at, had.at), greatest(live, running, 0), coalesce(running, 0), coalesce(failed, 0), "
            "(select count(*) from seen) = %(most)s, (select count(*) from broken) = %(most)s from names "
            "left join {schema}.tasks t using (name) left join live on live.task = names.name left join held on held.task = names.name "
            "left join failed on failed.task = names.name left join had on had.task = names.name "
            "where %(name)s::text is null or names.name = %(name)s order by names.name",
            schema,
        ),
        {"name": name, "most": TASKS_COUNTED},
        _task_counts,
    )


def _task_counts(row: tuple[Any, ...]) -> TaskCounts:
    *values, more_live, more_failed = row
    bounds = {"live": more_live, "failed": more_failed}
    values.append(frozenset(count for count, is_bound in bounds.items() if is_bound))
    return TaskCounts(*values)
