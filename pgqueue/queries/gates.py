"""The state of limits: the places that are taken at each gate, the jobs that are parked there, and letting them go."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from pgqueue.admission import HORIZON, PACE, Gate, Rule
from pgqueue.queries.statement import Operation, Statement, Together, array, inline, text, texts

SERIAL = "serial:"
FORGET = 10_000
AT_A_TIME = 1_000
COUNTED = 1_000


class GateName(NamedTuple):
    """Of which limit, and of which value of its key, a gate is."""

    name: str
    scope: str
    of: str
    key: str


@dataclass(frozen=True, slots=True)
class Gates:
    """Gates that this transaction has locked, by name, and the time that theirs count from: seconds since 1970."""

    now: float
    by_name: Mapping[str, Gate]
    before: Mapping[str, tuple[float, ...]]

    def changed(self) -> dict[str, Gate]:
        return {name: gate for name, gate in self.by_name.items() if gate.state() != self.before[name]}


class LetGo(NamedTuple):
    """The rows of the statements that went first, how many jobs went, and gates with room of which none did."""

    rows: list[list[Any]]
    went: int
    stuck: Collection[str] = ()


class Ticked(NamedTuple):
    """`opens_in`: seconds until the next may begin, None where nobody waits for a time. `after`: where to go on, if
    there is more. `stuck`: gates with room whose jobs nobody could take now.
    """

    opens_in: float | None
    after: str | None
    stuck: Collection[str]


def locked(schema: str, needed: Iterable[GateName], known: Iterable[str] = ()) -> Operation[Gates]:
    """The gates, locked until the end of the transaction, with what has been freed there; those `needed` are made."""
    by_name = {gate.name: gate for gate in needed}
    names = sorted({*by_name, *known})
    if not names:
        return Gates(0.0, {}, {})
    params = {"names": texts(names)}
    lock: Statement[Any] = Statement(text("lock_gates", schema), params)
    take_back: Statement[Any] = Statement(text("take_back", schema), params)
    rows, freed = yield Together((lock, take_back))
    # One that another has made may be forgotten again in between.
    while missing := sorted(by_name.keys() - {row[0] for row in rows}):
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
        rows, more = yield Together((lock, take_back))
        freed = [*more, *freed]
    now = freed[0][0]
    gates = {name: _gate(now, *columns) for name, *columns in rows}
    before = {name: gate.state() for name, gate in gates.items()}
    for _, name, loose, places in freed:
        if name in gates:
            gates[name].taken = max(0, gates[name].taken - places)
            gates[name].loose = max(0, gates[name].loose - (places if loose else 0))
    return Gates(now, gates, before)


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

    Jobs that run `again` keep their serial keys, if they are still there, and so do failed ones that halt theirs. Places go into `freed_places`, from where whoever
    next holds the gate takes them: an outcome waits for no gate.
    """
    kept: set[int] = set()
    if any(name.startswith(SERIAL) for id_ in again for name in held.get(id_, ())):
        live: Statement[Any] = Statement(
            inline(
                "select id from {schema}.jobs where id = any (%(ids)s::bigint[]) "
                "union all select id from {schema}.failed_jobs where id = any (%(ids)s::bigint[]) and places is not null",
                schema,
            ),
            {"ids": array(again)},
        )
        kept = {id_ for (id_,) in (yield live)}
    freed = [name for id_, places in held.items() for name in places if not (id_ in kept and name.startswith(SERIAL))]
    if freed:
        yield Statement(
            inline(
                "insert into {schema}.freed_places (gate, loose) select gate, false from unnest(%(gates)s::text[]) f (gate)",
                schema,
            ),
            {"gates": texts(freed)},
        )
    if closed:
        gates = sorted(closed)
        yield Statement(
            inline(
                "insert into {schema}.gates as g (name, scope, of, key, closed_until) "
                "select name, scope, of, key, clock_timestamp() + make_interval(secs => seconds) "
                "from unnest(%(names)s::text[], %(scopes)s::text[], %(of)s::text[], %(keys)s::text[], %(seconds)s::float8[]) "
                "c (name, scope, of, key, seconds) order by name "
                "on conflict (name) do update set closed_until = greatest(g.closed_until, excluded.closed_until)",
                schema,
            ),
            {
                "names": texts(gate.name for gate in gates),
                "scopes": texts(gate.scope for gate in gates),
                "of": texts(gate.of for gate in gates),
                "keys": texts(gate.key for gate in gates),
                "seconds": array(closed[gate] for gate in gates),
            },
        )


def let_go(schema: str, gates: Gates, first: Iterable[Statement[Any]] = ()) -> Operation[LetGo]:
    """Run `first`, let parked jobs of these gates go as far as there is room, and write the gates down."""
    by_name = gates.by_name
    statements = list(first)
    asked = {name: count for name, gate in by_name.items() if (count := gate.let_go())}
    if asked:
        params = {
            "gates": texts(asked),
            "counts": array(asked.values()),
            "counted": texts(name for name in asked if by_name[name].rule.concurrency is not None),
            "channel": schema,
        }
        statements.append(Statement(text("let_go", schema), params))
    asked_at = len(statements) - 1
    if changed := gates.changed():
        statements.append(_store(schema, gates.now, changed))
    rows: list[list[Any]] = (yield Together(tuple(statements))) if statements else []
    if not asked:
        return LetGo(rows, 0)
    found = {name: count for name, count, _ in rows[asked_at]}
    missed = {name: count - found.get(name, 0) for name, count in asked.items() if found.get(name, 0) < count}
    for name, count in missed.items():
        # Some are locked, or were cancelled.
        [(parked,)] = yield _parked(schema, name)
        by_name[name].missed(count, parked if parked < COUNTED else None)
    if missed:
        yield _store(schema, gates.now, {name: by_name[name] for name in missed})
    return LetGo(rows, sum(found.values()), [name for name in missed if name not in found])


def _store(schema: str, now: float, gates: Mapping[str, Gate]) -> Statement[Any]:
    return Statement(
        text("store_gates", schema),
        {
            "names": texts(gates),
            "taken": array(gate.taken for gate in gates.values()),
            "waiting": array(gate.waiting for gate in gates.values()),
            "loose": array(gate.loose for gate in gates.values()),
            "next_at": array(now + gate.next_at for gate in gates.values()),
        },
    )


def _parked(schema: str, gate: str) -> Statement[Any]:
    return Statement(
        # No more than tell that there are many: a backlog is not counted each time that it stands.
        inline(
            "select count(*) from (select from {schema}.jobs where waits_for = %(gate)s and ready is null limit %(most)s) j",
            schema,
        ),
        {"gate": gate, "most": COUNTED},
    )


def _gate(
    now: float,
    concurrency: int | None,
    interval: float | None,
    burst: int,
    ordered: bool,
    whole: bool,
    fair: bool,
    taken: int,
    waiting: int,
    loose: int,
    next_at: float | None,
    closed_until: float | None,
) -> Gate:
    pace = None if interval is None else interval / PACE
    gate = Gate(Rule(concurrency, pace, burst, ordered, whole, fair), taken, waiting, loose)
    if next_at is not None:
        gate.next_at = next_at - now
    if closed_until is not None:
        gate.closed_until = closed_until - now
    return gate


def hand_over(schema: str, *, all_gates: bool = False) -> Operation[int]:
    """Let those who wait have the places that have been freed; returns how many went. In a transaction of its own.

    At a gate where nobody waits they stay until a claim comes that way; with `all_gates` they are taken back there too.
    """
    rows: list[Any] = yield Statement(text("freed_gates", schema), {"all_gates": all_gates, "channel": schema})
    names = [name for name, _ in rows if name is not None]
    return (yield from let_go(schema, (yield from locked(schema, (), names)))).went if names else 0


def tick(schema: str, after: str = "", skip: Collection[str] = ()) -> Operation[Ticked]:
    """Let go what may begin at gates where jobs are parked, in the order of their names from `after` on.

    In a transaction of its own. Leaves out what somebody else is at, what is closed or has no place, and `skip`.
    """
    waiting: Statement[Any] = Statement(
        text("waiting_gates", schema), {"after": after, "skip": list(skip), "count": AT_A_TIME, "horizon": HORIZON}
    )
    closed: Statement[Any] = Statement(
        inline(
            "select extract(epoch from min(closed_until) - clock_timestamp())::float8 from {schema}.gates "
            "where waiting > 0 and closed_until > clock_timestamp() and closed_until < 'infinity'",
            schema,
        )
    )
    rows, [(opens_in,)] = yield Together((waiting, closed))
    names = [name for (name,) in rows]
    gates = yield from locked(schema, (), names)
    gone = yield from let_go(schema, gates)
    soonest = [] if opens_in is None else [opens_in]
    soonest += [gate.begins_in() for gate in gates.by_name.values() if gate.waiting > 0 and gate.waits_for_time]
    return Ticked(
        # What is on its way is not there yet: half of the horizon later there is room for more.
        max(HORIZON, min(soonest)) - HORIZON / 2 if soonest else None,
        names[-1] if len(names) == AT_A_TIME else None,
        gone.stuck,
    )


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
    gates = yield from locked(schema, (), names)
    # What has just been taken back is written first, or it would be miscounted.
    if changed := gates.changed():
        yield _store(schema, gates.now, changed)
    still: list[Count] = yield miscounted(schema, names)
    for count in still:
        gate = gates.by_name[count.gate]
        gate.taken, gate.waiting, gate.loose = count.held, count.parked, count.let_go
    yield from let_go(schema, gates)
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
