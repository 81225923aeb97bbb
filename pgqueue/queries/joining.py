"""Flows enqueued whole, and joined: by jobs that are to wait for jobs that exist, and by those that wait for what they bring."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple

from pgqueue.errors import ArgumentError, JobNotFound
from pgqueue.flow import Plan
from pgqueue.job import Job, JobOperations, NewJob
from pgqueue.queries.enqueuing import Declared, enqueue
from pgqueue.queries.statement import Operation, Statement, array, inline, text, texts

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
