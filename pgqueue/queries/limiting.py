"""Claims of a queue with limits: what begins, and what is parked. The decision is in `admission`."""

from __future__ import annotations

import json
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID

from pgqueue import arguments
from pgqueue.admission import Candidate, Decision, Gate, decide
from pgqueue.errors import ArgumentError
from pgqueue.limit import fill
from pgqueue.queries.claiming import AGED, WAITED, Scan, taken
from pgqueue.queries.gates import SERIAL, GateName, let_go, locked
from pgqueue.queries.limits import Templates
from pgqueue.queries.statement import Operation, Statement, Together, array, text, texts


class Found(NamedTuple):
    """An available job, locked. `place` is its position, or its place in the ready lane."""

    id: int
    place: int
    task: str
    args: str
    serial_key: str | None
    places: list[str] | None
    waits_for: str | None
    max_attempts: int
    priority: int


def gates_of(queue: str, task: str, args: str, serial_key: str | None, templates: Templates) -> list[GateName]:
    """The gates of a job: first that of its serial key, which it keeps while it waits at the others."""
    found = []
    if serial_key is not None:
        found.append(GateName(f"{SERIAL}{queue}:{serial_key}", "serial", queue, ""))
    values: Mapping[str, Any] | None = None
    for scope, of in (("queue", queue), ("task", task)):
        for key in sorted(templates.get((scope, of), ())):
            if key and values is None:
                values = _arguments(args)
            value = f":{key}:{fill(key, values or {})}" if key else ""
            found.append(GateName(f"{scope}:{of}{value}", scope, of, key))
    return found


def _arguments(args: str) -> Mapping[str, Any]:
    try:
        values = arguments.loads(args)
    except ArgumentError:
        # Its run will say so, and fail this job alone.
        return {}
    return values if isinstance(values, Mapping) else {}


class Lane(NamedTuple):
    """Where a claim looks: jobs of a priority above a mark. Positions up to `known` tell nothing new."""

    priority: int
    mark: int
    known: int


def claim_limited(
    schema: str,
    *,
    queue: str,
    lane: Lane | None,
    tasks: list[str],
    count: int,
    slots: int,
    prefetch: int,
    fence: int,
    worker: UUID,
    lifo: bool = False,
    templates: Templates,
    aliases: Mapping[str, str] = MappingProxyType({}),
    lead: float = 0.0,
    clock: Callable[[], float] = time.monotonic,
    ages: bool = False,
) -> Operation[Scan]:
    """As `claiming.claim`, for a queue with limits, in a transaction of its own.

    First it takes what limits have let go, then it looks at `count` jobs of the lane, if one is given. It takes no more
    than there are `slots`, and `prefetch` more where nobody would wait for their places, and parks those that a limit
    refuses. Jobs of a rate begin at times of `clock`, in `lead` seconds at the soonest. Limits know tasks by what
    `aliases` say. `ages` as there.
    """
    common = {"queue": queue, "tasks": tasks, "worker": worker}
    picks: list[Statement[Any]] = [Statement(text("pick_ready", schema), {**common, "count": slots + prefetch})]
    if lane is not None:
        where = {**common, **lane._asdict(), "count": count}
        picks.append(Statement(text("pick", schema, direction=" desc" if lifo else ""), where))
    _, let_go, *seen = yield Together((_one_at_a_time(schema, queue), *picks))
    ready = [_found(row, aliases) for row in let_go]
    if lane is None:
        return (
            yield from _decide(
                schema, queue, ready, (), slots, prefetch, fence, worker, templates, lifo, lead, clock, ages
            )
        )[0]
    [rows] = seen
    if not rows:
        return Scan([], True, False, None, 0, 0, None)
    xact_id, allocated, xmin = rows[0][:3]
    picked = [] if rows[0][3] is None else [_found(row[3:], aliases) for row in rows]
    # The order of a serial key is first in first out whatever that of its queue is.
    found = (yield from _first_of_keys(schema, queue, lane.priority, tasks, picked, aliases)) if lifo else picked
    overtaking = yield from _overtaking(schema, queue, lane.priority, found)
    if lifo:
        # Each goes at the turn of the one that it came for.
        found = [job._replace(place=one.place) for job, one in zip(found, picked, strict=True)]
    ids = {job.id for job in found}
    first = [job for job in found if job.id not in overtaking]
    scan, left = yield from _decide(
        schema, queue, ready, first, slots, prefetch, fence, worker, templates, lifo, lead, clock, ages
    )
    left_from = min((job.place for job in found if job.id in overtaking or job.id in left), default=None)
    return scan._replace(
        # What an earlier job of its key came for is still there.
        full=scan.full or len(found) == count or left_from is not None or not {job.id for job in picked} <= ids,
        xact_id=xact_id,
        allocated=allocated,
        xmin=xmin,
        left_from=left_from,
        reached=max((job.place for job in found), default=None),
    )


def _found(row: Sequence[Any], aliases: Mapping[str, str]) -> Found:
    job = Found(*row)
    return job._replace(task=aliases[job.task]) if job.task in aliases else job


def _one_at_a_time(schema: str, queue: str) -> Statement[Any]:
    # Two claims at once could pick jobs of one serial key, and the one with the later job come to its gate first.
    return Statement(
        "select pg_advisory_xact_lock(hashtextextended(%(what)s, 0))", {"what": f"pgqueue claim {schema} {queue}"}
    )


def _first_of_keys(
    schema: str, queue: str, priority: int, tasks: list[str], picked: Sequence[Found], aliases: Mapping[str, str]
) -> Operation[list[Found]]:
    """In place of each job with a serial key one of its key that came before, first in first out."""
    keys = Counter(job.serial_key for job in picked if job.serial_key is not None)
    if not keys:
        return list(picked)
    rows = yield Statement(
        text("first_of_keys", schema),
        {
            "queue": queue,
            "priority": priority,
            "tasks": tasks,
            "keys": texts(keys),
            "counts": array(keys.values()),
        },
    )
    first: dict[str | None, deque[Found]] = {key: deque() for key in keys}
    for job in sorted((_found(row, aliases) for row in rows), key=lambda job: job.place):
        first[job.serial_key].append(job)
    return [job if job.serial_key is None else first[job.serial_key].popleft() for job in picked]


def _overtaking(schema: str, queue: str, priority: int, found: Sequence[Found]) -> Operation[set[int]]:
    """Those before which a job of the same serial key is available that somebody has locked: its turn comes first."""
    keyed = [job for job in found if job.serial_key is not None]
    if not keyed:
        return set()
    rows = yield Statement(
        text("overtaking", schema),
        {
            "queue": queue,
            "priority": priority,
            "ids": array(job.id for job in keyed),
            "keys": texts(job.serial_key for job in keyed),
            "positions": array(job.place for job in keyed),
        },
    )
    return {id_ for (id_,) in rows}


def _decide(
    schema: str,
    queue: str,
    ready: Sequence[Found],
    fresh: Sequence[Found],
    slots: int,
    prefetch: int,
    fence: int,
    worker: UUID,
    templates: Templates,
    lifo: bool,
    lead: float,
    clock: Callable[[], float],
    ages: bool,
) -> Operation[tuple[Scan, Collection[int]]]:
    """What was taken and what there is to know of it, and the ids of those that were left."""
    found = [*ready, *fresh]
    if not found:
        return Scan([], False, False, None, 0, 0, None), ()
    gates_by_job = {job.id: gates_of(queue, job.task, job.args, job.serial_key, templates) for job in found}
    names = {gate.name: gate for gates in gates_by_job.values() for gate in gates}
    # Also those of a limit that is gone since.
    reserved = {name for job in found for name in [*(job.places or ()), *([job.waits_for] if job.waits_for else ())]}
    gates = yield from locked(schema, names.values(), reserved)
    decided_at = clock()
    candidates = [
        Candidate(
            job.id,
            tuple(gate.name for gate in gates_by_job[job.id]),
            frozenset(job.places or ()),
            job.waits_for,
            job.max_attempts == 1,
        )
        for job in _in_turn(ready, fresh, gates.by_name, lifo)
    ]
    decision = decide(candidates, gates.by_name, slots, prefetch, lead=lead)
    written = yield from let_go(schema, gates, _writes(schema, queue, decision, fence, worker, ages))
    jobs = taken(queue, fence, written.rows[0], ages=ages) if decision.admitted else []
    by_id = {one.id: one for one in decision.admitted}
    for job in jobs:
        job.limited = bool(by_id[job.id].places)
        begins_in, job.late = by_id[job.id].begins_in, by_id[job.id].late
        job.begins_at = None if begins_in is None else decided_at + begins_in
    were_ready = {job.id for job in ready}
    scan = Scan(
        [job for job in jobs if job.id not in were_ready],
        False,
        len(ready) == slots + prefetch or written.went > 0,
        None,
        0,
        0,
        None,
        ready=[job for job in jobs if job.id in were_ready],
        parked=len(decision.parked),
        went=written.went,
        again_in=decision.again_in,
        decided_at=decided_at,
        fair=any(gate.rule.fair for gate in gates.by_name.values()),
    )
    return scan, decision.left


def _in_turn(ready: Sequence[Found], fresh: Sequence[Found], gates: Mapping[str, Gate], lifo: bool) -> Iterator[Found]:
    """Who has waited at a limit goes first, but not before a job of a sooner priority.

    Where values of a key share the slots, whose turn it is says the order in which they came or were let go.
    """
    lane = fresh[0].priority if fresh else math.inf
    sooner = [job for job in ready if job.priority <= lane]
    fair = {job.id for job in sooner if job.waits_for is not None and _is_fair(gates.get(job.waits_for))}
    yield from (job for job in sooner if job.id not in fair)
    turns = [*fresh, *(job for job in sooner if job.id in fair)]
    yield from sorted(turns, key=lambda job: (job.priority, -job.place if lifo else job.place)) if fair else fresh
    yield from (job for job in ready if job.priority > lane)


def _is_fair(gate: Gate | None) -> bool:
    return gate is not None and gate.rule.fair


def _writes(
    schema: str, queue: str, decision: Decision, fence: int, worker: UUID, ages: bool
) -> Iterator[Statement[Any]]:
    """What begins, and what is parked."""
    if decision.admitted:
        admitted = sorted(decision.admitted, key=lambda one: one.id)
        yield Statement(
            text("admit", schema, ages=AGED if ages else WAITED),
            {
                "ids": array(one.id for one in admitted),
                "places": texts(json.dumps(one.places) for one in admitted),
                "fence": fence,
                "worker": worker,
                "queue": queue,
            },
        )
    if decision.parked:
        parked = sorted(decision.parked.items())
        yield Statement(
            text("park", schema),
            {
                "ids": array(id_ for id_, _ in parked),
                "gates": texts(gate for _, (gate, _) in parked),
                "places": texts(json.dumps(kept) for _, (_, kept) in parked),
            },
        )
