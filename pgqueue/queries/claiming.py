"""Taking jobs, giving them back, and where a lane begins."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID

from pgqueue.job import ClaimedJob
from pgqueue.queries.statement import Operation, Statement, array, inline, text, texts

LIMITED = "%(limited)s::text[]"
GUARDED = (
    "array(select unnest(%(limited)s::text[]) union all select name from {schema}.limits where scope = 'task' and key = 'breaker' "
    "union all select a.alias from unnest(%(aliases)s::text[], %(renamed)s::text[]) a (alias, name) "
    "join {schema}.limits l on l.scope = 'task' and l.key = 'breaker' and l.name = a.name "
    "union all select unnest(%(tasks)s::text[]) where exists (select from {schema}.limits "
    "where scope = 'queue' and name = %(queue)s and key = 'breaker'))"
)
"""Those whose breaker is not closed too, as the claim itself sees it: its worker may not have heard."""

WAITED = ", case when isfinite(run_at) then date_part('epoch', clock_timestamp() - run_at) end"
"""The last column of what is taken: seconds since it could run."""
AGED = WAITED + ", date_part('epoch', clock_timestamp() - created_at)"
"""And one more: seconds since it was enqueued."""

MOVING = "exists (select from {schema}.flow_news) or exists (select from {schema}.flow_turns)"
"""Whether the parents of some job of a flow are still to be told of it."""


class Scan(NamedTuple):
    """What a claim saw: rows of its lane above the mark, and what is needed to move the mark.

    `limited`: it met jobs with a serial key or a limited task, which it may not take. Of a claim with limits: `reached`, up
    to which position it has looked; `ready`, jobs that it took and that a limit had let go; `parked`, how many it parked;
    `went`, how many it let go; `again_in`, in how many seconds the limit of the queue lets more begin, where it refused;
    `fair`, whether its jobs share slots; `decided_at`, when, on the claimer's clock.
    """

    jobs: list[ClaimedJob]
    paused: bool
    full: bool
    xact_id: int | None
    allocated: int
    xmin: int
    left_from: int | None
    limited: bool = False
    reached: int | None = None
    ready: Sequence[ClaimedJob] = ()
    parked: int = 0
    went: int = 0
    again_in: float | None = None
    fair: bool = False
    decided_at: float | None = None


def claim(
    schema: str,
    *,
    queue: str,
    priority: int,
    mark: int,
    known: int,
    tasks: list[str],
    count: int,
    slots: int,
    fence: int,
    worker: UUID,
    lifo: bool,
    limited: Iterable[str] = (),
    guarded: bool = False,
    aliases: Mapping[str, str] = MappingProxyType({}),
    ages: bool = False,
) -> Operation[Scan]:
    """Take up to `count` jobs of one lane above `mark`; those that must not repeat only as far as `slots` can start them.

    A scan that sees no position allocated beyond `known` tells no transaction id. Jobs of `limited` tasks are not taken;
    where it is `guarded`, neither are those that a circuit breaker stops, which knows tasks by what `aliases` say. With
    `ages` each job knows since when it is there.
    """
    params = {
        "queue": queue,
        "priority": priority,
        "mark": mark,
        "known": known,
        "tasks": tasks,
        "count": count,
        "slots": slots,
        "fence": fence,
        "worker": worker,
        "limited": texts(limited),
    }
    if guarded:
        params |= {"aliases": texts(aliases.keys()), "renamed": texts(aliases.values())}
    parts = {
        "limited": GUARDED if guarded else LIMITED,
        "ages": AGED if ages else WAITED,
        "direction": " desc" if lifo else "",
    }
    claims = text("claim", schema, **parts)
    rows: list[tuple[Any, ...]] = yield Statement(claims, params, binary=True)
    if not rows:
        return Scan([], True, False, None, 0, 0, None)
    xact_id, allocated, xmin, left_from, limits = rows[0][0]
    jobs = taken(queue, fence, rows[1:], 1, ages=ages)
    full = len(jobs) == count or left_from is not None
    return Scan(jobs, False, full, xact_id, allocated, xmin, left_from, bool(limits))


def taken(queue: str, fence: int, rows: Iterable[tuple[Any, ...]], start: int = 0, *, ages: bool) -> list[ClaimedJob]:
    """Claimed jobs of rows, from the column `start` on; the last ones are those of AGED where there are `ages`."""
    now = time.perf_counter()
    if not ages:
        return [ClaimedJob(queue, fence, row[start:], now) for row in rows]
    jobs = []
    for row in rows:
        job = ClaimedJob(queue, fence, row[start:-1], now)
        job.made = now - row[-1]
        jobs.append(job)
    return jobs


class FoundLane(NamedTuple):
    """A lane as a sweep finds it. `waiting`: the position of its first available job, None where none waits.

    Without a priority it is none: there are jobs that a limit has let go.
    """

    priority: int | None
    kept: int
    waiting: int | None


def lanes(schema: str, *, queue: str, tasks: list[str]) -> Statement[FoundLane]:
    """The lanes of a queue, by priority, and what waits there for one of `tasks`."""
    return Statement(text("lanes", schema), {"queue": queue, "tasks": tasks}, FoundLane._make)


def keep_mark(schema: str, *, queue: str, priority: int, proven: int, least: int, whole: bool) -> Statement[int]:
    """Keep a proven mark for sweeps and for workers to come, if it is `least` positions further than the kept one.

    `whole`: look below the kept one too. Returns what is kept now, which is lower where a job is available.
    """
    params = {"queue": queue, "priority": priority, "proven": proven, "least": least, "whole": whole}
    return Statement(text("keep_mark", schema), params, lambda row: row[0])


def lock_held(schema: str, ids: Iterable[int], fences: Iterable[int]) -> Statement[int]:
    """Ids of those running jobs that these claims still hold, locked until the end of the transaction."""
    return Statement(
        inline(
            "select id from {schema}.jobs where id = any (%(ids)s::bigint[]) and claim_id = any (%(fences)s::bigint[]) "
            "order by id for update",
            schema,
        ),
        {"ids": array(ids), "fences": array({*fences})},
        lambda row: row[0],
    )


def release(schema: str, ids: Sequence[int], fences: Sequence[int], *, suspected: bool = False) -> Statement[Any]:
    return Statement(
        text("release", schema),
        {"ids": array(ids), "fences": array(set(fences)), "suspected": int(suspected), "channel": schema},
    )


def claims_of(schema: str, worker: UUID) -> Statement[Any]:
    """(claim id, job ids) of the claims of one worker."""
    return Statement(
        inline(
            "select id, job_ids from {schema}.claims where worker_id = %(worker)s",
            schema,
        ),
        {"worker": worker},
    )


def give_claims_to(schema: str, worker: UUID, fences: Sequence[int]) -> Statement[Any]:
    return Statement(
        inline(
            "update {schema}.claims set worker_id = %(worker)s where id = any (%(fences)s::bigint[]) returning id",
            schema,
        ),
        {"worker": worker, "fences": array(fences)},
    )


def writers_of_jobs(schema: str) -> Statement[str]:
    """Ids of the transactions under way that have written to `jobs`."""
    return Statement(
        inline(
            # Locks know an id without its epoch, which is that of the newest id, or the one before. Savepoints have ids
            # of their own, which are later ones.
            "select min(newest - mod(newest - own.transactionid::text::bigint, 1::bigint << 32))::text "
            "from pg_locks own join pg_locks jobs on jobs.virtualtransaction = own.virtualtransaction, "
            "(select pg_snapshot_xmax(pg_current_snapshot())::text::bigint + (1::bigint << 31)) n (newest) "
            "where own.locktype = 'transactionid' and own.mode = 'ExclusiveLock' and jobs.locktype = 'relation' "
            "and jobs.relation = '{schema}.jobs'::regclass and jobs.mode = 'RowExclusiveLock' "
            "and jobs.database = (select oid from pg_database where datname = current_database()) "
            "group by own.virtualtransaction",
            schema,
        ),
        {},
        lambda row: row[0],
    )


def still_under_way(xact_ids: list[str]) -> Statement[str]:
    """Those transactions of `writers_of_jobs` that have not ended."""
    return Statement(
        "select x from unnest(%(xact_ids)s::text[]) x where pg_xact_status(x::xid8) = 'in progress'",
        {"xact_ids": xact_ids},
        lambda row: row[0],
    )


def cancelled_among(schema: str, ids: Sequence[int]) -> Statement[int]:
    """Those of the running jobs `ids` that were asked to stop."""
    return Statement(
        inline("select id from {schema}.jobs where id = any (%(ids)s::bigint[]) and cancel_requested", schema),
        {"ids": array(ids)},
        lambda row: row[0],
    )


def drop_claims(schema: str, fences: Sequence[int]) -> Statement[Any]:
    return Statement(text("drop_claims", schema), {"fences": array(fences)})


class Promotion(NamedTuple):
    """One turn: how many became available, in how many seconds the next is due (None: nothing is scheduled), when it
    was, and what is needed to move the mark. `xact_id` is None for a turn that promoted nothing."""

    promoted: int
    due_in: float | None
    now: datetime
    xact_id: int | None
    xmin: int


def promote(schema: str, *, queue: str, count: int, since: datetime | None = None) -> Statement[Promotion]:
    """Make up to `count` jobs available that are due `since` then, or at all."""
    return Statement(
        text("promote", schema),
        {"queue": queue, "count": count, "since": since, "channel": schema},
        lambda row: Promotion(row[0], *row[2:]),
    )


def holds_drain(schema: str, queues: list[str], tasks: list[str]) -> Statement[Any]:
    """One row, true while something of `queues` and `tasks` is available, running, blocked or waits for its retry."""
    return Statement(
        inline(
            # A limit keeps the planner from joining whole indexes.
            "select exists (select from unnest(%(queues)s::text[]) q (name) cross join lateral ("
            "select from {schema}.lanes_of(q.name) l cross join lateral ("
            "select from {schema}.jobs j where j.queue = q.name and j.priority = l.priority and j.position > l.mark "
            "and j.position is not null and j.task = any (%(tasks)s) limit 1) w) w) "
            # What runs may lie below the marks.
            "or exists (select from {schema}.claims c cross join lateral ("
            "select from {schema}.jobs j where j.id = any (c.job_ids) and j.claim_id = c.id and j.task = any (%(tasks)s) limit 1) r "
            "where c.queue = any (%(queues)s)) "
            "or exists (select from {schema}.jobs where queue = any (%(queues)s) and position is null and ready is null and waits_for is null and task = any (%(tasks)s) "
            "and (attempt > 0 or suspicions > 0)) "
            "or exists (select from {schema}.jobs where queue = any (%(queues)s) and ready is not null and task = any (%(tasks)s)) "
            "or exists (select from {schema}.jobs j where queue = any (%(queues)s) and waits_for is not null and ready is null and task = any (%(tasks)s) "
            # Whom children hold waits for them, wherever they run.
            "and j.waits_for <> 'children' "
            # What a failed job halts waits for people.
            "and not exists (select from {schema}.failed_jobs f where f.places is not null and f.places @> array[j.waits_for])) "
            f"or {MOVING}",
            schema,
        ),
        {"queues": queues, "tasks": tasks},
    )
