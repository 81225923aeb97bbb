"""Claims of a queue with limits, what frees its places, and what lets parked jobs go. The decision is in `admission`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from pgqueue import arguments
from pgqueue.admission import HORIZON, Candidate, Decision, Gate, Rule, decide
from pgqueue.job import ClaimedJob
from pgqueue.limit import fill
from pgqueue.queries.claiming import Scan
from pgqueue.queries.statement import Operation, Statement, array, inline, text, texts

SERIAL = "serial:"


class GateName(NamedTuple):
    """Of which limit, and of which value of its key, a gate is."""

    name: str
    scope: str
    of: str
    key: str


Templates = Mapping[tuple[str, str], Collection[str]]
"""By scope and name the keys of the limits that there are; an empty one is a limit for all jobs."""


def templates(schema: str) -> Statement[tuple[str, str, str]]:
    """Scope, name and key of every limit."""
    return Statement(inline("select scope, name, key from {schema}.limits", schema))


def by_name(rows: Iterable[tuple[str, str, str]]) -> dict[tuple[str, str], set[str]]:
    found: dict[tuple[str, str], set[str]] = {}
    for scope, name, key in rows:
        found.setdefault((scope, name), set()).add(key)
    return found


class Found(NamedTuple):
    """An available job, locked. `place` is its position, or its place in the ready lane."""

    id: int
    place: int
    task: str
    args: str
    max_attempts: int
    serial_key: str | None
    places: list[str] | None
    waits_for: str | None


def gates_of(job: Found, queue: str, templates: Templates) -> list[GateName]:
    """The gates of a job: first that of its serial key, which it keeps while it waits at the others."""
    found = []
    if job.serial_key is not None:
        found.append(GateName(f"{SERIAL}{queue}:{job.serial_key}", "serial", queue, ""))
    args: Mapping[str, Any] | None = None
    for scope, of in (("queue", queue), ("task", job.task)):
        for key in sorted(templates.get((scope, of), ())):
            if key and args is None:
                args = arguments.loads(job.args)
            value = f":{key}:{fill(key, args or {})}" if key else ""
            found.append(GateName(f"{scope}:{of}{value}", scope, of, key))
    return found


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
    templates: Templates,
) -> Operation[Scan]:
    """As `claiming.claim`, for a queue with limits, in a transaction of its own.

    It looks at `count` jobs, takes no more than there are `slots`, and parks those that a limit refuses.
    """
    lane = {"queue": queue, "priority": priority, "mark": mark, "known": known, "tasks": tasks, "count": count}
    rows = yield Statement(text("pick", schema), {**lane, "worker": worker})
    if not rows:
        return Scan([], True, False, None, 0, 0, None)
    xact_id, allocated, xmin = rows[0][:3]
    found = [] if rows[0][3] is None else [Found(*row[3:]) for row in rows]
    jobs, decision = yield from _decide(schema, queue, found, slots, fence, worker, templates)
    left = min((job.place for job in found if job.id in decision.left), default=None)
    full = len(found) == count or left is not None
    return Scan(jobs, False, full, xact_id, allocated, xmin, left)


def claim_ready(
    schema: str,
    *,
    queue: str,
    tasks: list[str],
    slots: int,
    fence: int,
    worker: UUID,
    templates: Templates,
) -> Operation[list[ClaimedJob]]:
    """Take jobs that a limit has let go, as many as there are `slots`, in a transaction of its own."""
    params = {"queue": queue, "tasks": tasks, "count": slots, "worker": worker}
    found = yield Statement(text("pick_ready", schema), params, Found._make)
    jobs, _ = yield from _decide(schema, queue, found, slots, fence, worker, templates)
    return jobs


def _decide(
    schema: str, queue: str, found: Sequence[Found], slots: int, fence: int, worker: UUID, templates: Templates
) -> Operation[tuple[list[ClaimedJob], Decision]]:
    gates_by_job = {job.id: gates_of(job, queue, templates) for job in found}
    names = {gate.name: gate for gates in gates_by_job.values() for gate in gates}
    # Also those of a limit that is gone since.
    reserved = {name for job in found for name in [*(job.places or ()), *([job.waits_for] if job.waits_for else ())]}
    now, gates = yield from locked(schema, names.values(), reserved)
    candidates = [
        Candidate(job.id, tuple(gate.name for gate in gates_by_job[job.id]), frozenset(job.places or ()), job.waits_for)
        for job in found
    ]
    decision = decide(candidates, gates, slots)
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
    yield from let_go(schema, now, gates)
    return jobs, decision


def locked(
    schema: str, needed: Iterable[GateName], known: Iterable[str] = ()
) -> Operation[tuple[datetime | None, dict[str, Gate]]]:
    """The gates by name, locked until the end of the transaction; those `needed` are made. And the time they are of."""
    by_name = {gate.name: gate for gate in needed}
    names = sorted({*by_name, *known})
    if not names:
        return None, {}
    lock: Statement[Any] = Statement(text("lock_gates", schema), {"names": texts(names)})
    rows = yield lock
    missing = sorted(by_name.keys() - {row[1] for row in rows})
    if missing:
        yield Statement(
            inline(
                "insert into {schema}.gates (name, scope, of, key) "
                "select * from unnest(%(names)s::text[], %(scopes)s::text[], %(of)s::text[], %(keys)s::text[]) g (name) "
                "order by g.name on conflict do nothing",
                schema,
            ),
            {
                "names": texts(missing),
                "scopes": texts(by_name[name].scope for name in missing),
                "of": texts(by_name[name].of for name in missing),
                "keys": texts(by_name[name].key for name in missing),
            },
        )
        rows = yield lock
    return (rows[0][0] if rows else None), {row[1]: _gate(*row[2:]) for row in rows}


def places_of(schema: str, ids: Iterable[int], fences: Iterable[int]) -> Statement[tuple[int, list[str]]]:
    """The places of running jobs that these claims still hold, locked."""
    return Statement(
        inline(
            "select id, places from {schema}.jobs where id = any (%(ids)s::bigint[]) and claim_id = any (%(fences)s::bigint[]) "
            "and places is not null order by id for update",
            schema,
        ),
        {"ids": array(ids), "fences": array(fences)},
    )


def free_held(schema: str, held: Mapping[int, Sequence[str]], again: Collection[int]) -> Operation[None]:
    """Free what jobs held that have been written. Those that run `again` keep their serial keys, if they are still there."""
    kept: set[int] = set()
    if any(name.startswith(SERIAL) for id_ in again for name in held.get(id_, ())):
        live: Statement[Any] = Statement(
            inline("select id from {schema}.jobs where id = any (%(ids)s::bigint[])", schema), {"ids": array(again)}
        )
        kept = {id_ for (id_,) in (yield live)}
    yield from free(
        schema,
        (name for id_, places in held.items() for name in places if not (id_ in kept and name.startswith(SERIAL))),
    )


def free(schema: str, places: Iterable[str]) -> Operation[None]:
    """Give back a place for each time that a gate is named, and let the next ones go. In the transaction of the outcome."""
    counts = Counter(places)
    now, gates = yield from locked(schema, (), counts)
    for name, gate in gates.items():
        gate.taken = max(0, gate.taken - counts[name])
    yield from let_go(schema, now, gates)


def let_go(schema: str, now: datetime | None, gates: Mapping[str, Gate]) -> Operation[int]:
    """Let parked jobs of these gates go as far as there is room, and write the gates down. Returns how many went."""
    if not gates:
        return 0
    asked = {name: count for name, gate in gates.items() if (count := gate.let_go())}
    went = 0
    if asked:
        rows = yield Statement(
            text("let_go", schema),
            {"gates": texts(asked), "counts": array(asked.values()), "channel": schema},
        )
        found = {name: count for name, count, _ in rows}
        went = sum(found.values())
        for name, count in asked.items():
            if found.get(name, 0) < count:
                # Some are locked, or were taken away by hand.
                [(parked,)] = yield _parked(schema, name)
                gates[name].missed(count - found.get(name, 0), parked)
    yield Statement(
        text("store_gates", schema),
        {
            "names": texts(gates),
            "taken": array(gate.taken for gate in gates.values()),
            "waiting": array(gate.waiting for gate in gates.values()),
            "loose": array(gate.loose for gate in gates.values()),
            "next_at": array(gate.next_at for gate in gates.values()),
            "now": now,
        },
    )
    return went


def _parked(schema: str, gate: str) -> Statement[Any]:
    return Statement(
        inline("select count(*) from {schema}.jobs where waits_for = %(gate)s and ready is null", schema),
        {"gate": gate},
    )


def _gate(
    concurrency: int | None,
    interval: float | None,
    burst: int,
    ordered: bool,
    taken: int,
    waiting: int,
    loose: int,
    next_at: float | None,
    closed_until: float | None,
) -> Gate:
    gate = Gate(Rule(concurrency, interval, burst, ordered), taken, waiting, loose)
    if next_at is not None:
        gate.next_at = next_at
    if closed_until is not None:
        gate.closed_until = closed_until
    return gate


def tick(schema: str) -> Operation[float | None]:
    """Let go what may begin at gates where jobs are parked, but for gates that somebody else is at.

    In a transaction of its own. Returns in how many seconds the next may begin; None where nobody waits for a time.
    """
    waiting: Statement[Any] = Statement(
        inline("select name from {schema}.gates where waiting > 0 order by name for update skip locked", schema)
    )
    names = [name for (name,) in (yield waiting)]
    now, gates = yield from locked(schema, (), names)
    yield from let_go(schema, now, gates)
    # What is on its way is not there yet: half of the horizon later there is room for more.
    soonest = [gate.begins_in() for gate in gates.values() if gate.waiting > 0 and gate.waits_for_time]
    return max(HORIZON, min(soonest)) - HORIZON / 2 if soonest else None
