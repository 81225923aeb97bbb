"""Flows: enqueued whole, joined by jobs that exist, counted as their members end; who waits goes on or fails."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple

from psycopg.errors import LockNotAvailable

from pgqueue.errors import ArgumentError, JobNotFound
from pgqueue.flow import Child, Plan
from pgqueue.job import Job, JobOperations, NewJob
from pgqueue.queries.enqueuing import Declared, enqueue
from pgqueue.queries.statement import Operation, Statement, array, inline, text, texts

SETTLE = 2_000
WITH_CHILDREN = '{"children": true}'


class Edge(NamedTuple):
    """The parent waits for the child."""

    parent: int
    child: int
    on_failure: str


class Known(NamedTuple):
    """Jobs that are waited for and were there before: members of flows, and `forgotten` ones (flow, job).

    Those have ended, and nothing more is known of them.
    """

    members: Sequence[int] = ()
    forgotten: Sequence[tuple[int, Job]] = ()


class Planned(NamedTuple):
    """What is to be inserted into a flow, or into none: `jobs` are those of the plan.

    `parent` waits for all that nobody in it waits for.
    """

    flow: int | None
    plan: Plan
    jobs: Sequence[NewJob]
    parent: int | None = None
    on_failure: str = "fail_parent"


class Waiting(NamedTuple):
    """A running job that goes back to wait for what its plan brings, as it was claimed."""

    job_id: int
    fence: int
    plan: Plan
    on_failure: str
    fallback_attempts: int


@dataclass(frozen=True, slots=True)
class FlowRow:
    """A flow as the view `all_flows` shows it. `state` is running, completed, failed or cancelled.

    `skipped` are callbacks of a batch that were not to run.
    """

    id: int
    name: str | None
    created_at: datetime
    state: str
    jobs: int
    live: int
    completed: int
    failed: int
    cancelled: int
    skipped: int
    ended_at: datetime | None


@dataclass(frozen=True, slots=True)
class FlowJob:
    """A job of a flow. `children`: ids of those that it waits for, of any flow; `state` as in `Job`, or gone or skipped.

    `callback`, of one of a batch: success, complete or failure.
    """

    job_id: int
    task: str
    queue: str
    name: str | None
    state: str
    children: tuple[int, ...]
    error: str | None
    attempt: int | None
    percent: float | None
    callback: str | None = None


def enqueue_plan(
    schema: str,
    plan: Plan,
    jobs: Sequence[NewJob],
    fallback_attempts: int,
    operations: JobOperations | None = None,
    declared: Declared | None = None,
    flow: int | None = None,
) -> Operation[tuple[int, list[Job]]]:
    """Insert `jobs`, those of `plan`, and who waits for whom, in a transaction that the caller holds.

    The id of the flow, a new one where none is given, and the jobs in the order of the plan. A job whose key is held
    stands for its holder: who waits for it waits for that one, which waits for nobody that it did not wait for.
    Raises JobNotFound for one that is to be waited for and is not there.
    """
    if flow is None:
        [flow] = yield _new_flows(schema, [plan.name])
    [made] = yield from _enqueue_planned(schema, [Planned(flow, plan, jobs)], fallback_attempts, operations, declared)
    return flow, made


def _enqueue_planned(
    schema: str,
    parts: Sequence[Planned],
    fallback_attempts: int,
    operations: JobOperations | None = None,
    declared: Declared | None = None,
) -> Operation[list[list[Job]]]:
    """All of them in as many statements as one takes."""
    outside = {
        job_id: part.flow for part in reversed(parts) if part.flow is not None for _, job_id, _ in part.plan.outside
    }
    members: set[int] = set((yield from _adopted(schema, outside))) if outside else set()
    if missing := sorted(outside.keys() - members):
        raise JobNotFound(
            f"no job with id {', '.join(map(str, missing[:5]))} to wait for: it never was, its transaction has not "
            "committed, or it has ended and no history is kept. Enqueue both in one transaction, or as a flow"
        )
    given = [job for part in parts for job in _members_of(part)]
    enqueued: list[Job] = yield from enqueue(schema, given, fallback_attempts, operations, declared)
    rest = iter(enqueued)
    made = [[next(rest) for _ in part.jobs] for part in parts]
    new = {job.id for job in enqueued if job.created}
    held = {
        job.id: (part.flow, job)
        for part, jobs in zip(parts, made, strict=True)
        if part.flow is not None
        for job in jobs
        if job.id not in new
    }
    if held:
        members.update((yield from _adopted(schema, {job_id: flow for job_id, (flow, _) in held.items()})))
    growing = [part.parent for part in parts if part.parent is not None and (outside or held)]
    if growing:
        # Two that come to wait for each other at once would not see each other's edges.
        yield Statement(
            "select pg_advisory_xact_lock(hashtextextended(%(what)s, 0))", {"what": f"pgqueue flows {schema}"}
        )
    edges: dict[tuple[int, int], Edge] = {}
    waiting: list[int] = []
    callbacks: dict[int, str] = {}
    names: list[tuple[int, Job, str | None]] = []
    for part, jobs in zip(parts, made, strict=True):
        plan = part.plan
        if part.flow is None:
            continue
        if part.parent is not None:
            edges |= {(part.parent, top): Edge(part.parent, top, part.on_failure) for top in _tops(part, jobs)}
            waiting.append(part.parent)
        inner = ((parent, jobs[child].id, policy) for parent, child, policy in plan.edges)
        for parent, child, policy in (*inner, *plan.outside):
            # One whose children stand for itself waits for nobody.
            if jobs[parent].created and jobs[parent].id != child:
                edges[jobs[parent].id, child] = Edge(jobs[parent].id, child, policy)
        waiting += {jobs[place].id for place in _parents(plan) if jobs[place].created}
        callbacks |= {job.id: when for job, when in zip(jobs, plan.callbacks, strict=True) if when is not None}
        names += [(part.flow, job, name) for job, name in zip(jobs, plan.names, strict=True) if job.created]
    known = Known(sorted(members), [held[job_id] for job_id in sorted(held.keys() - members)])
    if names or edges or waiting:
        yield _record(schema, names, edges.values(), waiting, callbacks, known)
    for parent, first in (yield _rings(schema, growing)) if growing else ():
        raise ArgumentError(_ring(parent, first))
    return made


def _members_of(part: Planned) -> Iterator[NewJob]:
    parents = _parents(part.plan)
    for place, job in enumerate(part.jobs):
        if part.flow is None:
            yield job
        elif place in parents:
            yield job._replace(flow_id=part.flow, waits=True, options=_with_children(job.options))
        else:
            yield job._replace(flow_id=part.flow)


def _parents(plan: Plan) -> set[int]:
    return {parent for parent, *_ in (*plan.edges, *plan.outside)}


def _tops(part: Planned, jobs: Sequence[Job]) -> list[int]:
    """Those that nobody in the plan waits for, but callbacks."""
    callbacks = part.plan.callbacks
    inner = {child for parent, child, _ in part.plan.edges if callbacks[parent] is None}
    return sorted({job.id for place, job in enumerate(jobs) if place not in inner and callbacks[place] is None})


def _ring(parent: int, first: int) -> str:
    if parent == first:
        return f"job {parent} is to wait for itself: a job that it brings has its key. Give it another"
    return (
        f"job {parent} is to wait for job {first}, and job {first} waits for job {parent}: neither would ever go on. "
        "Give the job that it brings another key, or nothing to wait for that waits for it"
    )


def enqueue_all(
    schema: str,
    jobs: Sequence[NewJob],
    fallback_attempts: int,
    operations: JobOperations | None = None,
    declared: Declared | None = None,
) -> Operation[list[Job]]:
    """Insert jobs some of which wait for jobs that exist: each of those in the flow of the first that it waits for."""
    groups = [(after, tuple(alike)) for after, alike in groupby(jobs, attrgetter("after"))]
    outside = [job_id for after, _ in groups for job_id, _ in after]
    flows: dict[int, int] = dict((yield _flows_of(schema, outside)))
    firsts = [next((flows[job_id] for job_id, _ in after if job_id in flows), None) for after, _ in groups]
    lacking = [n for n, (after, _) in enumerate(groups) if after and firsts[n] is None]
    new: list[int] = (yield _new_flows(schema, [None] * len(lacking))) if lacking else []
    for n, flow in zip(lacking, new, strict=True):
        firsts[n] = flow
    parts = [_after(first, after, alike) for first, (after, alike) in zip(firsts, groups, strict=True)]
    made = yield from _enqueue_planned(schema, parts, fallback_attempts, operations, declared)
    return [job for part in made for job in part]


def _after(flow: int | None, after: Sequence[tuple[int, Any]], jobs: tuple[NewJob, ...]) -> Planned:
    nothing = (None,) * len(jobs)
    edges = tuple((place, *edge) for place in range(len(jobs)) for edge in after)
    return Planned(flow, Plan(None, jobs, nothing, nothing, (), edges, tuple(range(len(jobs)))), jobs)


def wait_for_children(schema: str, waits: Sequence[Waiting]) -> Operation[set[int]]:
    """Running jobs go back to wait for what their plans bring.

    Returns the ids of those that did: their claims held, and nobody had cancelled them. Raises ArgumentError for one
    that would wait for itself, and whatever the enqueue of its plan raises.
    """
    new: list[int] = yield _new_flows(schema, [one.plan.name for one in waits])
    rows = yield Statement(
        text("wait_for_children", schema),
        {
            "ids": array(one.job_id for one in waits),
            "fences": array({one.fence for one in waits}),
            "flows": array(new),
        },
    )
    flows: dict[int, int] = dict(rows)
    if unused := set(new) - set(flows.values()):
        yield Statement(
            inline("delete from {schema}.flows where id = any (%(ids)s::bigint[])", schema), {"ids": array(unused)}
        )
    went = [one for one in waits if one.job_id in flows]
    if went:
        parts = [Planned(flows[one.job_id], one.plan, one.plan.jobs, one.job_id, one.on_failure) for one in went]
        yield from _enqueue_planned(schema, parts, went[0].fallback_attempts)
    return set(flows)


def _with_children(options: str | None) -> str:
    return WITH_CHILDREN if options is None else f"{options[:-1]}, {WITH_CHILDREN[1:]}"


def _new_flows(schema: str, names: Sequence[str | None]) -> Statement[int]:
    return Statement(
        inline("insert into {schema}.flows (name) select unnest(%(names)s::text[]) returning id", schema),
        {"names": texts(names)},
        lambda row: row[0],
    )


def _flows_of(schema: str, ids: Sequence[int]) -> Statement[tuple[int, int]]:
    """(job, its flow) of those that are in one."""
    return Statement(
        inline("select job_id, flow_id from {schema}.flow_jobs where job_id = any (%(ids)s::bigint[])", schema),
        {"ids": array(ids)},
        lambda row: (row[0], row[1]),
    )


def _adopted(schema: str, flows: Mapping[int, int]) -> Operation[list[int]]:
    """Make jobs members of flows, where they are of none; ids of those that are there.

    None of them ends, lives again, or is counted meanwhile.
    """
    given = {"ids": array(sorted(flows)), "flows": array(flows[job_id] for job_id in sorted(flows))}
    loose = yield Statement(
        inline("select id from {schema}.jobs where id = any (%(ids)s::bigint[]) and flow_id is null limit 1", schema),
        given,
    )
    # Or what is found here could be pruned before anybody waits for it.
    yield Statement(
        inline(
            "select from {schema}.flows where id = any (array(select flow_id from {schema}.flow_jobs "
            "where job_id = any (%(ids)s::bigint[]))) order by id for key share",
            schema,
        ),
        given,
    )
    # In the order of their ids, and before anything is read: who ends them, or redrives them, comes before or after.
    # Where one is to be written all are locked alike: there is one order of locks.
    strength = "no key update" if loose else "key share"
    yield Statement(
        inline(f"select id from {{schema}}.jobs where id = any (%(ids)s::bigint[]) order by id for {strength}", schema),
        given,
    )
    yield Statement(
        inline(
            "select id from {schema}.failed_jobs where id = any (%(ids)s::bigint[]) order by id for key share", schema
        ),
        given,
    )
    yield Statement(text("adopt_jobs", schema), given)
    members: list[int] = yield Statement(
        inline(
            "select job_id from {schema}.flow_jobs where job_id = any (%(ids)s::bigint[]) order by job_id for share",
            schema,
        ),
        given,
        lambda row: row[0],
    )
    yield Statement(
        inline(
            "select from {schema}.flow_news where job_id = any (%(ids)s::bigint[]) order by job_id for share", schema
        ),
        given,
    )
    return members


def _rings(schema: str, parents: Sequence[int]) -> Statement[tuple[int, int]]:
    """(parent, what it waits for) where that waits for the parent, through any number of others. At most one."""
    children = (
        "select f.child_id from {schema}.flow_edges f where f.parent_id = %s and exists ("
        # What has begun waits no more, nor for what it waited for in another round.
        "select from {schema}.flow_waits w join {schema}.jobs j on j.id = w.job_id "
        "where w.job_id = f.parent_id and w.round = f.round and j.state = 'blocked') offset 0"
    )
    return Statement(
        inline(
            "with recursive below (parent, first, job_id) as (select p, e.child_id, e.child_id "
            f"from unnest(%(parents)s::bigint[]) p cross join lateral ({children % 'p'}) e union "
            f"select b.parent, b.first, e.child_id from below b cross join lateral ({children % 'b.job_id'}) e) "
            "select parent, first from below where job_id = parent limit 1",
            schema,
        ),
        {"parents": array(parents)},
        lambda row: (row[0], row[1]),
    )


def _record(
    schema: str,
    members: Sequence[tuple[int, Job, str | None]],
    edges: Collection[Edge],
    waiting: Sequence[int],
    callbacks: Mapping[int, str],
    known: Known,
) -> Statement[Any]:
    """New members (flow, job, name), and who waits for whom."""
    return Statement(
        text("record_flow", schema),
        {
            "flows": array(flow for flow, *_ in members),
            "ids": array(job.id for _, job, _ in members),
            "queues": texts(job.queue for _, job, _ in members),
            "tasks": texts(job.task for _, job, _ in members),
            "names": texts(name for *_, name in members),
            "parents": array(edge.parent for edge in edges),
            "children": array(edge.child for edge in edges),
            "policies": texts(edge.on_failure for edge in edges),
            "known": array(known.members),
            "forgotten": array(job.id for _, job in known.forgotten),
            "forgotten_flows": array(flow for flow, _ in known.forgotten),
            "forgotten_queues": texts(job.queue for _, job in known.forgotten),
            "forgotten_tasks": texts(job.task for _, job in known.forgotten),
            "waiting": array(waiting),
            "callback_ids": array(callbacks),
            "callbacks": texts(callbacks.values()),
            "channel": schema,
        },
    )


class Settled(NamedTuple):
    """How much there was to tell; and whether something else than to be let go is to become of some that wait."""

    told: int
    due: bool


def settle(schema: str, count: int = SETTLE) -> Statement[Settled]:
    """Have those that wait count members that have ended, or live again, and let them go. One row."""
    return Statement(text("settle_flows", schema), {"count": count}, Settled._make)


def release(schema: str, count: int = SETTLE) -> Statement[int]:
    """Jobs that wait for nobody any more, and that somebody held, go to their queues."""
    return _turn("release_waits", schema, count)


def fail(schema: str, count: int = SETTLE) -> Statement[int]:
    """Jobs that are to fail for a child go to `failed_jobs`."""
    return _turn("fail_waits", schema, count)


def cancel_siblings(schema: str, count: int = SETTLE) -> Statement[int]:
    """What else runs for a parent that has failed so is cancelled."""
    return _turn("cancel_siblings", schema, count)


def revive(schema: str, count: int = SETTLE) -> Statement[int]:
    """Jobs that failed for a child which was redriven wait again."""
    return _turn("revive_waits", schema, count)


def drop_callbacks(schema: str, count: int = SETTLE) -> Statement[int]:
    """Callbacks of batches that are not to run end as cancelled."""
    return _turn("drop_callbacks", schema, count)


def turn(schema: str, count: int = SETTLE) -> Operation[int]:
    """One look at all flows; returns how much there was to do. Each statement commits by itself: the next goes on from it."""
    [(done, due)] = yield settle(schema, count)
    if not due:
        return int(done)
    # Before anything fails: what is revived fails nobody any more.
    while revived := (yield from _unless_held(revive(schema, count))):
        [settled] = yield settle(schema, count)
        done += revived + settled.told
    for step in (release, fail, cancel_siblings, drop_callbacks):
        done += yield from _unless_held(step(schema, count))
    return int(done)


def _unless_held(step: Statement[int]) -> Operation[int]:
    """What somebody holds waits for a later look, and nothing else for it."""
    try:
        [done] = yield step
    except LockNotAvailable:
        return 0
    return int(done)


def _turn(name: str, schema: str, count: int) -> Statement[int]:
    return Statement(text(name, schema), {"count": count, "channel": schema}, lambda row: row[0])


def sweep(schema: str, after: int, count: int) -> Statement[Any]:
    """(last job id, how many are gone) of the next `count` members: jobs that were deleted tell nobody that they ended."""
    return Statement(
        inline(
            "with seen as materialized (select job_id, state from {schema}.flow_jobs where job_id > %(after)s order by job_id limit %(count)s), "
            "lost as materialized (select s.job_id from seen s where case when s.state is null "
            "then (select true from {schema}.jobs j where j.id = s.job_id) when s.state = 'failed' "
            "then (select true from {schema}.failed_jobs f where f.id = s.job_id) else true end is null), "
            "gone as (update {schema}.flow_jobs n set state = 'gone', ended_at = coalesce(ended_at, clock_timestamp()), "
            "error = coalesce(error, jsonb_build_object('type', 'pgqueue.errors.JobNotFound', 'message', 'the job was deleted')) "
            # Since the look it may have been redriven, or have ended.
            "where n.job_id = any (array(select job_id from lost)) and n.state is not distinct from "
            "(select s.state from seen s where s.job_id = n.job_id) "
            "and not exists (select from {schema}.jobs j where j.id = n.job_id) "
            "and not exists (select from {schema}.failed_jobs f where f.id = n.job_id) returning n.job_id), "
            "news as (insert into {schema}.flow_news (job_id, was, state) "
            "select job_id, (select s.state from seen s where s.job_id = g.job_id), 'gone' from gone g) "
            "select (select max(job_id) from seen), (select count(*) from gone)",
            schema,
        ),
        {"after": after, "count": count},
    )


def children(schema: str, ids: Sequence[int]) -> Operation[dict[int, tuple[Child, ...]]]:
    """What those came to that jobs have waited for, in the order of their ids, by job. Many may have waited for one."""
    edges: list[tuple[int, int]] = yield Statement(
        inline(
            "select parent_id, child_id from {schema}.flow_edges where parent_id = any (%(ids)s::bigint[]) order by 1, 2",
            schema,
        ),
        {"ids": array(ids)},
        lambda row: (row[0], row[1]),
    )
    members: list[Child] = yield Statement(
        inline(
            "select job_id, task, name, state, result::text, error from {schema}.flow_jobs "
            "where job_id = any (%(ids)s::bigint[])",
            schema,
        ),
        {"ids": array(sorted({child for _, child in edges}))},
        lambda row: Child(*row),
    )
    known = {child.job_id: child for child in members}
    return {
        parent: tuple(known[child] for _, child in group if child in known)
        for parent, group in groupby(edges, itemgetter(0))
    }


def list_flows(schema: str, limit: int, name: str | None = None, before: int | None = None) -> Statement[FlowRow]:
    """Newest first."""
    return Statement(
        inline(
            "select id, name, created_at, state, jobs, live, completed, failed, cancelled, skipped, ended_at from {schema}.all_flows "
            "where (%(name)s::text is null or name = %(name)s) and (%(before)s::bigint is null or id < %(before)s) "
            "order by id desc limit %(limit)s",
            schema,
        ),
        {"limit": limit, "name": name, "before": before},
        lambda row: FlowRow(*row),
    )


def flow_row(schema: str, flow: int) -> Statement[FlowRow]:
    return Statement(
        inline(
            "select id, name, created_at, state, jobs, live, completed, failed, cancelled, skipped, ended_at from {schema}.all_flows where id = %(id)s",
            schema,
        ),
        {"id": flow},
        lambda row: FlowRow(*row),
    )


def flow_of_job(schema: str, job_id: int) -> Statement[FlowRow]:
    return Statement(
        inline(
            "select id, name, created_at, state, jobs, live, completed, failed, cancelled, skipped, ended_at from {schema}.all_flows "
            "where id = (select flow_id from {schema}.flow_jobs where job_id = %(job_id)s)",
            schema,
        ),
        {"job_id": job_id},
        lambda row: FlowRow(*row),
    )


def jobs_of(schema: str, flow: int, limit: int) -> Statement[FlowJob]:
    """The jobs of a flow in the order of their ids, at most `limit`."""
    return _members(schema, "select * from {schema}.flow_jobs where flow_id = %(id)s", flow, limit)


class FlowEdge(NamedTuple):
    """A parent waits for a child. `callback` is of a parent that is one of a batch: success, complete or failure."""

    parent: int
    child: int
    on_failure: str
    callback: str | None


def edges_of(schema: str, flow: int, limit: int) -> Statement[FlowEdge]:
    """What the first `limit` jobs of a flow wait for, or have waited for."""
    return Statement(
        inline(
            "select e.parent_id, e.child_id, e.on_failure, w.callback from "
            "(select job_id from {schema}.flow_jobs where flow_id = %(id)s order by job_id limit %(limit)s) n "
            "join {schema}.flow_edges e on e.parent_id = n.job_id left join {schema}.flow_waits w on w.job_id = e.parent_id "
            "order by e.parent_id, e.child_id",
            schema,
        ),
        {"id": flow, "limit": limit},
        FlowEdge._make,
    )


def waited_for(schema: str, job_id: int, limit: int) -> Statement[FlowJob]:
    """Those that a job waits for now, or has waited for last, in the order of their ids, at most `limit`."""
    return _members(
        schema,
        "select n.* from {schema}.flow_jobs n where job_id = any (array(select e.child_id from {schema}.flow_edges e "
        "join {schema}.flow_waits w on w.job_id = e.parent_id and w.round = e.round where e.parent_id = %(id)s))",
        job_id,
        limit,
    )


def waiting_for(schema: str, job_id: int, limit: int) -> Statement[FlowJob]:
    """Those that wait for a job, or have waited for it, in the order of their ids, at most `limit`."""
    return _members(
        schema,
        "select n.* from {schema}.flow_jobs n where job_id = any (array(select e.parent_id from {schema}.flow_edges e "
        "where e.child_id = %(id)s order by e.parent_id limit %(limit)s))",
        job_id,
        limit,
    )


def _members(schema: str, which: str, id_: int, limit: int) -> Statement[FlowJob]:
    return Statement(
        inline(
            "select n.job_id, n.task, n.queue, n.name, coalesce(n.state, j.state, 'gone'), "
            "array(select e.child_id from {schema}.flow_edges e where e.parent_id = n.job_id order by e.child_id), "
            f"n.error ->> 'message', j.attempt, p.percent, w.callback from ({which} order by job_id limit %(limit)s) n "
            "left join {schema}.flow_waits w on w.job_id = n.job_id left join {schema}.jobs j on j.id = n.job_id left join {schema}.job_progress p on p.job_id = n.job_id order by n.job_id",
            schema,
        ),
        {"id": id_, "limit": limit},
        lambda row: FlowJob(row[0], row[1], row[2], row[3], row[4], tuple(row[5]), *row[6:]),
    )


def live_ids(schema: str, flow: int) -> Statement[int]:
    return Statement(
        inline(
            "select job_id from {schema}.flow_jobs where flow_id = %(id)s and state is null and not adopted order by job_id",
            schema,
        ),
        {"id": flow},
        lambda row: row[0],
    )


def failed_ids(schema: str, flow: int) -> Statement[int]:
    """Those that failed themselves, or for one that cannot come back: what failed for these comes back with them."""
    return Statement(
        inline(
            "select n.job_id from {schema}.flow_jobs n join {schema}.failed_jobs f on f.id = n.job_id "
            "where n.flow_id = %(id)s and n.state = 'failed' "
            "and (f.reason <> 'child_failed' or not {schema}.comes_with_a_child(f.id, null)) order by n.job_id",
            schema,
        ),
        {"id": flow},
        lambda row: row[0],
    )


def prune(schema: str, after: int, count: int, age: Any) -> Operation[tuple[int | None, int]]:
    """(last flow looked at, how many were deleted) of the next `count`: those whose jobs have all ended longer ago.

    A flow with a job in `failed_jobs` stays, since that may be redriven. In a transaction of its own: who joins one holds
    it, and what joined one before is seen by the statement that follows.
    """
    seen: list[int] = yield Statement(
        inline("select id from {schema}.flows where id > %(after)s order by id limit %(count)s", schema),
        {"after": after, "count": count},
        lambda row: row[0],
    )
    free = yield Statement(
        inline(
            "select id from {schema}.flows where id = any (%(ids)s::bigint[]) order by id for update skip locked",
            schema,
        ),
        {"ids": array(seen)},
        lambda row: row[0],
    )
    [gone] = yield Statement(text("prune_flows", schema), {"ids": array(free), "age": age}, lambda row: row[0])
    return (seen[-1] if seen else None), gone
