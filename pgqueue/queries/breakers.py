"""Circuit breakers: declared, changed, operated; what counts for them, and what opens and settles them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from math import isinf
from typing import TYPE_CHECKING, Any

from pgqueue.breaker import Breaker, Counts, Of, State, Status, Thresholds, decide, kinds_of
from pgqueue.outcome import Completed
from pgqueue.queries.gates import GateName, let_go, locked
from pgqueue.queries.limits import Templates
from pgqueue.queries.statement import Operation, Statement, array, inline, text, texts

if TYPE_CHECKING:
    from pgqueue.queries.finishing import Finished

KEY = "breaker"
"""No template: no limit that people make has it. A breaker that is not closed is a limit with this key."""
COMPACT_FROM, COMPACT_AT_ONCE, PARTS = 200, 10_000, 60
_GATE = re.compile(rf"(queue|task):([^:]+):{KEY}:{KEY}")


@dataclass(frozen=True, slots=True)
class Known:
    """A breaker as it was at `now`, seconds since 1970; `blocked` jobs wait for it.

    `untried`: the job that it has let go to be tried, by its place in the ready lane, while nobody has claimed it.
    """

    of: Of
    rule: Thresholds
    declared: bool
    status: Status
    now: float
    seen: Counts
    opened_at: datetime | None
    reason: str | None
    blocked: int
    untried: int | None

    @property
    def state(self) -> State:
        return self.status.state(self.now)

    @property
    def tries_in(self) -> float | None:
        """Seconds until it lets a job be tried; None where it is not open, or until somebody closes it."""
        until = self.status.open_until
        return None if until is None or isinf(until) else max(0.0, until - self.now)

    @property
    def opens(self) -> bool:
        """Whether what it has seen opens it."""
        return decide(self.rule, self.status, self.now, seen=self.seen) != self.status

    @property
    def gate(self) -> GateName:
        return GateName(f"{self.of.scope}:{self.of.name}:{KEY}:{KEY}", self.of.scope, self.of.name, KEY)


def with_breakers(templates: Templates, breakers: Iterable[Of]) -> Templates:
    """The keys that a claim of a queue with limits looks at: breakers open without a word to its worker."""
    keys = {of: set(given) for of, given in templates.items()}
    for of in breakers:
        keys.setdefault((of.scope, of.name), set()).add(KEY)
    return keys


def register(schema: str, declared: Mapping[Of, Breaker | None]) -> Statement[Any]:
    """Write what the code declares where it is not what it said last; take away what it no longer says of a task.

    A queue's stays: another app may have declared it.
    """
    rules = sorted((of, breaker.thresholds) for of, breaker in declared.items() if breaker is not None)
    return Statement(
        inline(
            "with given as (select * from unnest(%(scopes)s::text[], %(names)s::text[], %(failures)s::int[], %(ratios)s::float8[], "
            "%(minimums)s::int[], %(withins)s::float8[], %(opens)s::float8[], %(caps)s::float8[], %(errors)s::text[], %(declared)s::text[]) "
            "g (scope, name, failures, ratio, minimum, within, open_for, cap, errors, declared)), "
            "written as (insert into {schema}.breakers as b (scope, name, failures, ratio, minimum, within, open_for, cap, errors, declared) "
            "select scope, name, failures, ratio, minimum, within, open_for, cap, string_to_array(errors, ' '), declared from given "
            "on conflict (scope, name) do update set failures = excluded.failures, ratio = excluded.ratio, minimum = excluded.minimum, "
            "within = excluded.within, open_for = excluded.open_for, cap = excluded.cap, errors = excluded.errors, "
            "declared = excluded.declared, updated_at = clock_timestamp() where b.declared is distinct from excluded.declared returning 1), "
            "gone as (select {schema}.remove_breaker(b.scope, b.name) as removed from {schema}.breakers b where b.scope = 'task' "
            "and b.name = any (%(tasks)s::text[]) and b.declared is not null and b.name not in (select name from given where scope = 'task')) "
            # Both are counted, so that both are done.
            "select case when written.rows + gone.rows > 0 then pg_notify(%(channel)s, 'limits') end "
            "from (select count(*) from written) written (rows), (select count(*) from gone where removed) gone (rows)",
            schema,
        ),
        {
            "scopes": texts(of.scope for of, _ in rules),
            "names": texts(of.name for of, _ in rules),
            "failures": [rule.failures for _, rule in rules],
            "ratios": [rule.ratio for _, rule in rules],
            "minimums": array(rule.minimum for _, rule in rules),
            "withins": array(rule.within for _, rule in rules),
            "opens": array(rule.open_for for _, rule in rules),
            "caps": array(rule.cap for _, rule in rules),
            "errors": texts(None if rule.errors is None else " ".join(rule.errors) for _, rule in rules),
            "declared": texts(str(rule) for _, rule in rules),
            "tasks": texts(of.name for of in declared if of.scope == "task"),
            "channel": schema,
        },
    )


def change(schema: str, of: Of, breaker: Breaker) -> Statement[Any]:
    """Make a breaker, or change its thresholds; its state stays."""
    rule = breaker.thresholds
    return Statement(
        inline(
            "select {schema}.set_breaker(%(scope)s, %(name)s, %(failures)s::int, %(within)s, %(open_for)s, %(cap)s, %(ratio)s::float8, "
            "%(minimum)s, %(errors)s::text[])",
            schema,
        ),
        {
            "scope": of.scope,
            "name": of.name,
            "failures": rule.failures,
            "within": rule.within,
            "open_for": rule.open_for,
            "cap": rule.cap,
            "ratio": rule.ratio,
            "minimum": rule.minimum,
            "errors": None if rule.errors is None else list(rule.errors),
        },
    )


def _verb(schema: str, call: str, of: Of, **params: Any) -> Statement[bool]:
    return Statement(
        inline(f"select {{schema}}.{call}", schema),
        {"scope": of.scope, "name": of.name, **params},
        lambda row: row[0],
    )


def open_(
    schema: str, of: Of, seconds: float | None = None, *, why: str = "by hand", trials: int = 0
) -> Statement[bool]:
    """Let nothing begin for so many seconds, or until it is closed; false where there is no such breaker. As the other verbs."""
    call = "open_breaker(%(scope)s, %(name)s, %(seconds)s::float8, %(why)s, %(trials)s)"
    return _verb(schema, call, of, seconds=float("inf") if seconds is None else float(seconds), why=why, trials=trials)


def close(schema: str, of: Of) -> Statement[bool]:
    """Let all go on, and count from now on."""
    return _verb(schema, "close_breaker(%(scope)s, %(name)s)", of)


def reset(schema: str, of: Of) -> Statement[bool]:
    """Forget what was counted; if it is open, try a job now."""
    return _verb(schema, "reset_breaker(%(scope)s, %(name)s)", of)


def remove(schema: str, of: Of) -> Statement[bool]:
    """Take it away, and let its jobs go."""
    return _verb(schema, "remove_breaker(%(scope)s, %(name)s)", of)


def read(schema: str, only: Collection[Of] | None = None) -> Statement[Known]:
    """By scope and name."""
    names = None if only is None else texts(f"{of.scope}:{of.name}" for of in only)
    return Statement(text("breakers", schema), {"names": names}, _known)


def _known(row: tuple[Any, ...]) -> Known:
    scope, name, failures, ratio, minimum, within, open_for, cap, errors, declared, *rest = row
    open_until, trials, now, failed, attempts, opened_at, reason, blocked, untried = rest
    rule = Thresholds(failures, ratio, minimum, within, open_for, cap, None if errors is None else tuple(errors))
    return Known(
        Of(scope, name),
        rule,
        declared,
        Status(open_until, trials),
        now,
        Counts(failed, attempts),
        opened_at,
        reason,
        blocked,
        untried,
    )


def count(schema: str, counts: Mapping[Of, Counts]) -> Statement[Any]:
    """Add attempts that have just ended, where there is such a breaker. Waits for nobody."""
    return Statement(
        inline(
            "insert into {schema}.breaker_counts (scope, name, failures, attempts) select g.scope, g.name, g.failures, g.attempts "
            "from unnest(%(scopes)s::text[], %(names)s::text[], %(failures)s::bigint[], %(attempts)s::bigint[]) "
            "g (scope, name, failures, attempts) join {schema}.breakers b on b.scope = g.scope and b.name = g.name",
            schema,
        ),
        {
            "scopes": texts(of.scope for of in counts),
            "names": texts(of.name for of in counts),
            "failures": array(one.failures for one in counts.values()),
            "attempts": array(one.attempts for one in counts.values()),
        },
    )


def _lock(schema: str, of: Of) -> Statement[Any]:
    return Statement(
        inline(
            "select from {schema}.breakers where scope = %(scope)s and name = %(name)s for update",
            schema,
        ),
        {"scope": of.scope, "name": of.name},
    )


def open_if_passed(schema: str, of: Of) -> Operation[Known | None]:
    """Open a breaker that has seen too much, in a transaction of its own. Returns what it was like; None: it stays closed."""
    yield _lock(schema, of)
    # A statement later: it sees what those have counted who had the lock before.
    found: list[Known] = yield read(schema, [of])
    for known in found:
        if known.opens:
            yield open_(schema, of, known.rule.pause(0), why=_why(known))
            return known
    return None


def _why(known: Known) -> str:
    share = "" if known.rule.ratio is None else f" of {known.seen.attempts}"
    return f"{known.seen.failures}{share} attempts failed within {known.rule.within:g} s"


def tell(
    schema: str, outcomes: Iterable[Finished], held: Mapping[int, Sequence[str]], went: Collection[int]
) -> Operation[None]:
    """Count the failures among `outcomes`, of jobs that `went`, and settle the trials: those of jobs that `held` a place.

    In the transaction that writes the outcomes and frees the places: no second job is tried in between. A trial whose
    error does not count, and one that was snoozed or cancelled, settles nothing: the next job is tried.
    """
    failures: Counter[Of] = Counter()
    trials: dict[Of, bool] = {}
    for one in outcomes:
        failed = one.failed if one.id in went else ()
        failures.update(failed)
        for gate in held.get(one.id, ()):
            if gate.endswith(KEY) and (found := _GATE.fullmatch(gate)):
                of = Of(*found.groups())
                if of in failed or type(one.outcome) is Completed:
                    trials[of] = of not in failed
    if failures:
        yield count(schema, {of: Counts(number, number) for of, number in failures.items()})
    for of, completed in sorted(trials.items()):
        yield _lock(schema, of)
        found_again: list[Known] = yield read(schema, [of])
        for known in found_again:
            after = decide(known.rule, known.status, known.now, trial=completed)
            if after.open_until is None and known.state != "closed":
                yield close(schema, of)
            elif after.open_until is not None and after != known.status:
                pause = after.open_until - known.now
                yield open_(schema, of, pause, why="the job that was tried failed", trials=after.trials)


def failed_against(schema: str, outcomes: Sequence[tuple[Finished, str]]) -> Operation[list[Finished]]:
    """Outcomes that nobody's worker has noted, each with its queue: the same, with the breakers that they count for."""
    if not outcomes:
        return []
    names = {of for one, queue in outcomes for of in (Of("task", one.task), Of("queue", queue))}
    found: list[Known] = yield read(schema, names)
    told = []
    for one, queue in outcomes:
        of_job = (Of("task", one.task), Of("queue", queue))
        kinds = kinds_of(one.outcome)
        told.append(
            replace(one, failed=tuple(known.of for known in found if known.of in of_job and known.rule.counts(kinds)))
        )
    return told


def try_another(schema: str, known: Known) -> Operation[bool]:
    """Take back a job that was let go to be tried and that nobody has claimed, for another that somebody can run.

    In a transaction of its own. False where somebody has it, or it has gone.
    """
    gates = yield from locked(schema, (), [known.gate.name])
    rows = yield Statement(
        inline(
            "update {schema}.jobs set state = 'blocked', ready = null, places = nullif(array_remove(places, %(gate)s), '{{}}') "
            "where id = any (array(select id from {schema}.jobs where ready = %(ready)s and waits_for = %(gate)s and state = 'available' "
            "and %(gate)s = any (places) for update skip locked)) and state = 'available' returning id",
            schema,
        ),
        {"gate": known.gate.name, "ready": known.untried},
    )
    if not rows or known.gate.name not in gates.by_name:
        return False
    gate = gates.by_name[known.gate.name]
    gate.missed(len(rows), gate.waiting + len(rows))
    yield from let_go(schema, gates)
    return True


def compact(schema: str) -> Statement[int]:
    """Keep few rows of what was counted: a breaker's time has sixty parts then."""
    return Statement(
        text("compact_counts", schema),
        {"many": COMPACT_FROM, "count": COMPACT_AT_ONCE, "parts": PARTS},
        lambda row: row[0],
    )
