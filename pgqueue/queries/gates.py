"""The state of limits: the places that are taken at each gate, the jobs that are parked there, and letting them go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from pgqueue.admission import HORIZON, Gate, Rule
from pgqueue.queries.statement import Operation, Statement, array, inline, text, texts

SERIAL = "serial:"
FORGET = 10_000


class GateName(NamedTuple):
    """Of which limit, and of which value of its key, a gate is."""

    name: str
    scope: str
    of: str
    key: str


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
    # One that another has made may be forgotten again in between.
    while missing := sorted(by_name.keys() - {row[1] for row in rows}):
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


def free_held(
    schema: str, held: Mapping[int, Sequence[str]], again: Collection[int], closed: Mapping[GateName, float]
) -> Operation[None]:
    """Free what jobs held that have been written, and keep the gates in `closed` closed for so many seconds.

    Jobs that run `again` keep their serial keys, if they are still there.
    """
    kept: set[int] = set()
    if any(name.startswith(SERIAL) for id_ in again for name in held.get(id_, ())):
        live: Statement[Any] = Statement(
            inline("select id from {schema}.jobs where id = any (%(ids)s::bigint[])", schema), {"ids": array(again)}
        )
        kept = {id_ for (id_,) in (yield live)}
    freed = Counter(
        name for id_, places in held.items() for name in places if not (id_ in kept and name.startswith(SERIAL))
    )
    now, gates = yield from locked(schema, closed, freed)
    for gate, seconds in closed.items():
        gates[gate.name].closed_until = max(gates[gate.name].closed_until, seconds)
    if closed:
        yield Statement(
            inline(
                "update {schema}.gates set closed_until = greatest(closed_until, clock_timestamp() + make_interval(secs => c.seconds)) "
                "from unnest(%(names)s::text[], %(seconds)s::float8[]) c (closed, seconds) where name = c.closed",
                schema,
            ),
            {"names": texts(gate.name for gate in closed), "seconds": array(closed.values())},
        )
    yield from _freed(schema, now, gates, freed)


def take_back(schema: str) -> Operation[int]:
    """Free the places of jobs that were cancelled while they waited; returns how many. In a transaction of its own."""
    taken: Statement[Any] = Statement(inline("delete from {schema}.freed_places returning gate, loose", schema))
    rows = yield taken
    if rows:
        now, gates = yield from locked(schema, (), {gate for gate, _ in rows})
        for name, loose in rows:
            if loose and name in gates:
                gates[name].loose = max(0, gates[name].loose - 1)
        yield from _freed(schema, now, gates, Counter(gate for gate, _ in rows))
    return len(rows)


def _freed(schema: str, now: datetime | None, gates: Mapping[str, Gate], counts: Counter[str]) -> Operation[None]:
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
            {
                "gates": texts(asked),
                "counts": array(asked.values()),
                "counted": texts(name for name in asked if gates[name].rule.concurrency is not None),
                "channel": schema,
            },
        )
        found = {name: count for name, count, _ in rows}
        went = sum(found.values())
        for name, count in asked.items():
            if found.get(name, 0) < count:
                # Some are locked, or were cancelled.
                [(parked,)] = yield _parked(schema, name)
                gates[name].missed(count - found.get(name, 0), parked)
    yield _store(schema, now, gates)
    return went


def _store(schema: str, now: datetime | None, gates: Mapping[str, Gate]) -> Statement[Any]:
    return Statement(
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


class Count(NamedTuple):
    """What a gate says, and what there is."""

    gate: str
    taken: int
    waiting: int
    loose: int
    held: int
    parked: int
    let_go: int


def miscounted(schema: str, gates: Collection[str] | None = None) -> Statement[Count]:
    """Gates, these or all, that say something else than the jobs. One look sees both as of one moment: exact without locks."""
    return Statement(
        text("miscounted", schema), {"gates": None if gates is None else list(gates)}, lambda row: Count(*row)
    )


def recount(schema: str) -> Operation[list[Count]]:
    """Set gates right whose jobs were changed by hand; returns them as they were. In a transaction of its own."""
    wrong = yield miscounted(schema)
    if not wrong:
        return []
    names = [count.gate for count in wrong]
    now, gates = yield from locked(schema, (), names)
    still: list[Count] = yield miscounted(schema, names)
    for count in still:
        gate = gates[count.gate]
        gate.taken, gate.waiting, gate.loose = count.held, count.parked, count.let_go
    yield from let_go(schema, now, gates)
    return still


def forget(schema: str) -> Statement[Any]:
    """Delete gates that say nothing: nobody has a place or waits there, and the next may begin at once."""
    return Statement(
        inline(
            "delete from {schema}.gates where name = any (array(select name from {schema}.gates "
            "where taken = 0 and waiting = 0 and loose = 0 and coalesce(next_at, '-infinity') < clock_timestamp() "
            "and coalesce(closed_until, '-infinity') < clock_timestamp() limit %(count)s for update skip locked)) returning name",
            schema,
        ),
        {"count": FORGET},
    )
