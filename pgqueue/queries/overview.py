"""How much there is, for a page that is read again and again: no further than a bound, however much there is."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pgqueue.queries.statement import Statement, inline

# Rows that are counted in all: a few hundred milliseconds.
LIVE_COUNTED, FAILED_COUNTED = 1_000_000, 100_000


@dataclass(frozen=True, slots=True)
class QueueCounts:
    """What waits and runs in a queue. `due` jobs are scheduled, and their time has come: no worker was there yet.

    `retrying` are scheduled too. `capped`: there are more live jobs in all than are counted. `stopped` says in a word why
    nothing of it begins: paused, or open (its circuit breaker); None where nothing stops it.
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
    capped: bool

    @property
    def unserved(self) -> bool:
        """Whether jobs wait that no worker is there for."""
        return not self.workers and bool(self.available or self.due)


def queues(schema: str, name: str | None = None) -> Statement[QueueCounts]:
    """Of one queue, or of all by name."""
    which = "where queue = %(name)s" if name is not None else ""
    return Statement(
        inline(
            "with seen as (select queue, state, run_at, attempt from {schema}.jobs "
            f"{which} limit %(live)s), "
            "live as (select queue, count(*) filter (where state = 'available') as available, "
            "count(*) filter (where state = 'running') as running, count(*) filter (where state = 'scheduled') as scheduled, "
            "count(*) filter (where state = 'scheduled' and run_at <= now()) as due, "
            "count(*) filter (where state = 'scheduled' and attempt > 0) as retrying, "
            "count(*) filter (where state = 'blocked') as blocked, "
            "min(run_at) filter (where isfinite(run_at) and (state = 'available' or (state = 'scheduled' and run_at <= now()))) as oldest "
            "from seen group by queue), "
            f"failed as (select queue, count(*) as failed from (select queue from {{schema}}.failed_jobs {which} limit %(failed)s) f group by queue), "
            "served as (select q.queue, count(*) as workers, sum(q.slots::int) as slots "
            "from {schema}.workers w, jsonb_each_text(w.queues) as q (queue, slots) "
            "where w.expires_at > now() and w.state = 'running' group by q.queue), "
            "names as (select queue from live union select queue from failed union select queue from served "
            "union select name from {schema}.queues) "
            "select queue, case when coalesce(q.paused, false) then 'paused' "
            "when exists (select from {schema}.breakers b where b.scope = 'queue' and b.name = names.queue and b.open_until > now()) then 'open' end, "
            "coalesce(available, 0), coalesce(running, 0), coalesce(scheduled, 0), coalesce(due, 0), "
            "coalesce(retrying, 0), coalesce(blocked, 0), coalesce(failed, 0), now() - oldest, coalesce(workers, 0), "
            "coalesce(slots, 0), (select count(*) from seen) >= %(live)s "
            "from names left join live using (queue) left join failed using (queue) left join served using (queue) "
            "left join {schema}.queues q on q.name = names.queue "
            "where %(name)s::text is null or queue = %(name)s order by queue",
            schema,
        ),
        {"name": name, "live": LIVE_COUNTED, "failed": FAILED_COUNTED},
        _counts,
    )


def _counts(row: tuple[Any, ...]) -> QueueCounts:
    return QueueCounts(*row)


@dataclass(frozen=True, slots=True)
class TaskCounts:
    """A task as workers have registered it, and its jobs. Without a `queue` nobody has: its jobs are orphans."""

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


def tasks(schema: str, name: str | None = None) -> Statement[TaskCounts]:
    """Of one task, or of all by name."""
    which = "where task = %(name)s" if name is not None else ""
    return Statement(
        inline(
            "with live as (select task, count(*) as live, count(*) filter (where state = 'running') as running "
            f"from (select task, state from {{schema}}.jobs {which} limit %(live)s) j group by task), "
            f"failed as (select task, count(*) as failed from (select task from {{schema}}.failed_jobs {which} limit %(failed)s) f group by task), "
            "names as (select name from {schema}.tasks union select task from live union select task from failed) "
            "select names.name, t.queue, t.priority, t.max_attempts, t.timeout, t.unique_key, t.serial_key, t.on_failed, t.alias_of, "
            "t.last_seen_at, coalesce(live, 0), coalesce(running, 0), coalesce(failed, 0) from names "
            "left join {schema}.tasks t using (name) left join live on live.task = names.name left join failed on failed.task = names.name "
            "where %(name)s::text is null or names.name = %(name)s order by names.name",
            schema,
        ),
        {"name": name, "live": LIVE_COUNTED, "failed": FAILED_COUNTED},
        lambda row: TaskCounts(*row),
    )
