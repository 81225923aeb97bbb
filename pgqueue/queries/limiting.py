"""Claims of a queue with limits: what begins, and what is parked. The decision is in `admission`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from pgqueue import arguments
from pgqueue.admission import Candidate, Decision, decide
from pgqueue.errors import ArgumentError
from pgqueue.job import ClaimedJob
from pgqueue.limit import fill
from pgqueue.queries.claiming import Scan
from pgqueue.queries.gates import SERIAL, GateName, let_go, locked
from pgqueue.queries.limits import Templates
from pgqueue.queries.statement import Operation, Statement, array, text, texts


class Found(NamedTuple):
    """An available job, locked. `place` is its position, or its place in the ready lane."""

    id: int
    place: int
    task: str
    args: str
    serial_key: str | None
    places: list[str] | None
    waits_for: str | None


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


def claim_limited(
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
    lifo: bool = False,
    templates: Templates,
) -> Operation[Scan]:
    """As `claiming.claim`, for a queue with limits, in a transaction of its own.

    It looks at `count` jobs, takes no more than there are `slots`, and parks those that a limit refuses.
    """
    yield _one_at_a_time(schema, queue)
    lane = {"queue": queue, "priority": priority, "mark": mark, "known": known, "tasks": tasks, "count": count}
    rows = yield Statement(text("pick_lifo" if lifo else "pick", schema), {**lane, "worker": worker})
    if not rows:
        return Scan([], True, False, None, 0, 0, None)
    xact_id, allocated, xmin = rows[0][:3]
    found = [] if rows[0][3] is None else [Found(*row[3:]) for row in rows]
    overtaking = yield from _overtaking(schema, queue, priority, found)
    first = [job for job in found if job.id not in overtaking]
    jobs, decision = yield from _decide(schema, queue, first, slots, fence, worker, templates)
    left = min((job.place for job in found if job.id in overtaking or job.id in decision.left), default=None)
    full = len(found) == count or left is not None
    return Scan(
        jobs, False, full, xact_id, allocated, xmin, left, reached=max((job.place for job in found), default=None)
    )


def _one_at_a_time(schema: str, queue: str) -> Statement[Any]:
    # Two claims at once could pick jobs of one serial key, and the one with the later job come to its gate first.
    return Statement(
        "select pg_advisory_xact_lock(hashtextextended(%(what)s, 0))", {"what": f"pgqueue claim {schema} {queue}"}
    )


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


def claim_ready(
    schema: str,
    *,
    queue: str,
    tasks: list[str],
    slots: int,
    fence: int,
    worker: UUID,
    templates: Templates,
) -> Operation[Scan]:
    """Take jobs that a limit has let go, as many as there are `slots`, in a transaction of its own."""
    params = {"queue": queue, "tasks": tasks, "count": slots, "worker": worker}
    found = yield Statement(text("pick_ready", schema), params, Found._make)
    jobs, _ = yield from _decide(schema, queue, found, slots, fence, worker, templates)
    return Scan(jobs, False, len(found) == slots, None, 0, 0, None)


def _decide(
    schema: str, queue: str, found: Sequence[Found], slots: int, fence: int, worker: UUID, templates: Templates
) -> Operation[tuple[list[ClaimedJob], Decision]]:
    gates_by_job = {job.id: gates_of(queue, job.task, job.args, job.serial_key, templates) for job in found}
    names = {gate.name: gate for gates in gates_by_job.values() for gate in gates}
    # Also those of a limit that is gone since.
    reserved = {name for job in found for name in [*(job.places or ()), *([job.waits_for] if job.waits_for else ())]}
    gates = yield from locked(schema, names.values(), reserved)
    candidates = [
        Candidate(job.id, tuple(gate.name for gate in gates_by_job[job.id]), frozenset(job.places or ()), job.waits_for)
        for job in found
    ]
    decision = decide(candidates, gates.by_name, slots)
    jobs: list[ClaimedJob] = []
    if decision.admitted:
        admitted = sorted(decision.admitted, key=lambda one: one.id)
        rows = yield Statement(
            text("admit", schema),
            {
                "ids": array(one.id for one in admitted),
                "places": texts(json.dumps(one.places) for one in admitted),
                "fence": fence,
                "worker": worker,
                "queue": queue,
            },
        )
        jobs = [ClaimedJob(queue, fence, row) for row in rows]
        by_id = {one.id: one for one in admitted}
        for job in jobs:
            job.limited = bool(by_id[job.id].places)
            job.begins_in = by_id[job.id].begins_in
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
    yield from let_go(schema, gates)
    return jobs, decision
