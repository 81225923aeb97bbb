"""Writing outcomes: sets of jobs, each statement fenced by the claims that its jobs were run under."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from typing import Any, NamedTuple
from uuid import UUID

from pgqueue.breaker import Of
from pgqueue.outcome import AttemptError, Cancelled, Completed, Failed, Outcome, Retry, Snooze, Wait
from pgqueue.queries import breakers, gates, joining
from pgqueue.queries.claiming import release
from pgqueue.queries.gates import GateName
from pgqueue.queries.statement import Operation, Statement, array, inline, source, text, texts


@dataclass(slots=True)
class Finished:
    """One attempt's outcome, on its way to the database. `duration` is in seconds; `kept` says whether history is.

    `limited`: the job may have places at gates, which are freed with it, or `failed`: the breakers that count it. `hit`:
    gates that its outcome closes. `tried`: it may be the one that a breaker tries. `waited`: seconds from when it could
    run until it ran; None for one that has not run.
    `suspected`: it is given back since its process crashed, and that may have been its fault.
    `own_retention`: its task says how long its history is kept. `plain`: when it was claimed it was in no flow, and held
    no place.
    """

    id: int
    fence: int
    task: str
    outcome: Outcome | None
    duration: float = 0.0
    kept: bool = True
    limited: bool = False
    hit: tuple[GateName, ...] = ()
    tried: bool = False
    failed: tuple[Of, ...] = ()
    queue: str = ""
    waited: float | None = None
    suspected: bool = False
    own_retention: bool = False
    plain: bool = False


# Most of what completes is plain, and what else its statement looks after would cost as much as the deletion itself. A job
# may have come into a flow since it was claimed.
_PLAIN = {"only": " and flow_id is null and places is null", "bound": ""}
_BOUND = {"only": "", "bound": source("complete_bound")}

_GROUPS = {Retry: "retry", Snooze: "retry", Wait: "wait", Failed: "fail", Cancelled: "cancel", type(None): "release"}


class Written(NamedTuple):
    """Of a batch: how many had lost their claim, and how many that were written are of flows, whose parents are to be told.

    `left` are to be written still, as what they are: they have come into a flow since they were claimed.
    """

    stale: int
    in_flows: int
    left: Sequence[Finished] = ()


class Grouped(NamedTuple):
    """A batch by what is to be written of each. `limited`: those whose places are not freed by what writes them."""

    latest: dict[int, Finished]
    groups: dict[str, list[Finished]]
    limited: list[Finished]

    @property
    def needs_transaction(self) -> bool:
        """Whether it takes more than one statement."""
        return len(self.groups) > 1 or bool(self.limited) or "wait" in self.groups


def grouped(batch: Sequence[Finished]) -> Grouped:
    """A job of which the batch holds two outcomes counts with the later one: it was claimed again in between."""
    latest = {one.id: one for one in batch}
    groups: defaultdict[str, list[Finished]] = defaultdict(list)
    for one in latest.values():
        if type(one.outcome) is Completed:
            # Most: a call for each would cost as much as all else here.
            name = ("complete_own" if one.own_retention else "complete") if one.kept else "complete_unkept"
        else:
            name = "suspect" if one.suspected else _GROUPS[type(one.outcome)]
        groups[name].append(one)
    # What completes frees its places in the same statement, but for that which a breaker tries.
    limited = [one for one in latest.values() if one.limited and (one.tried or type(one.outcome) is not Completed)]
    return Grouped(latest, groups, limited)


def finish(schema: str, worker: UUID | None, batch: Sequence[Finished]) -> Operation[Written]:
    """Write `batch`, as `grouped` has it; an outcome of None gives the job back unstarted."""
    stale, in_flows, left = yield from finish_grouped(schema, worker, grouped(batch))
    if left:
        rest = yield from finish_grouped(schema, worker, grouped(left))
        return Written(stale + rest.stale, in_flows + rest.in_flows)
    return Written(stale, in_flows)


def finish_grouped(schema: str, worker: UUID | None, batch: Grouped) -> Operation[Written]:
    """As `finish`, but for what is `left`: without a transaction, what is written stays so if that cannot be."""
    latest, groups, limited = batch
    written = in_flows = 0
    left: list[Finished] = []
    held: dict[int, list[str]] = {}
    closed: dict[GateName, float] = {}
    went: set[int] = set()
    if limited:
        held = dict((yield gates.places_of(schema, [one.id for one in limited], {one.fence for one in limited})))
        for one in limited:
            if isinstance(one.outcome, Snooze):
                closed |= {gate: max(closed.get(gate, 0.0), one.outcome.delay) for gate in one.hit}
    for name, group in sorted(groups.items()):
        match name:
            case "complete" | "complete_own" | "complete_unkept":
                count, members, bound = yield from _complete(schema, worker, group, name)
                written += count
                in_flows += members
                left += bound
            case "retry":
                ended = yield from _or_cancelled(schema, worker, group, partial(_retry, schema, worker), went)
                written, in_flows = written + ended[0], in_flows + ended[1]
            case "release" | "suspect":
                back = partial(_release, schema, suspected=name == "suspect")
                ended = yield from _or_cancelled(schema, worker, group, back, set())
                written, in_flows = written + ended[0], in_flows + ended[1]
            case "wait":
                ended = yield from _or_cancelled(schema, worker, group, partial(_wait, schema), went)
                written, in_flows = written + ended[0], in_flows + ended[1]
            case "fail":
                rows = yield _fail(schema, worker, group)
                went.update(id_ for id_, _ in rows)
                written += len(rows)
                in_flows += sum(member for _, member in rows)
            case _:
                rows = yield _cancel(schema, worker, group)
                written += len(rows)
                in_flows += sum(member for _, member in rows)
    if held or closed:
        again = [one.id for name in ("retry", "release", "suspect", "fail") for one in groups.get(name, ())]
        freed = {id_: places for id_, places in held.items() if type(latest[id_].outcome) is not Completed}
        yield from gates.free_held(schema, freed, again, closed)
    if limited:
        yield from breakers.tell(schema, latest.values(), held, went)
    return Written(len(latest) - written - len(left), in_flows, left)


def finish_unlocked(schema: str, worker: UUID | None, batch: Sequence[Finished]) -> Operation[tuple[set[int], int]]:
    """Write those of `batch` whose rows nobody else has locked, in one transaction; their ids, and how many are of flows."""
    free = set((yield lock_claimed(schema, batch)))
    written = yield from finish(schema, worker, [one for one in batch if one.id in free])
    return free, written.in_flows


def _or_cancelled(
    schema: str,
    worker: UUID | None,
    group: list[Finished],
    back: Callable[[list[Finished]], Operation[set[int]]],
    went: set[int],
) -> Operation[tuple[int, int]]:
    """Jobs go `back`, which says who did; those that may not run again are cancelled."""
    gone: set[int] = yield from back(group)
    went |= gone
    rest = [one for one in group if one.id not in gone]
    if not rest:
        return len(group), 0
    written = len(gone)
    if (yield _take_keys_back(schema, rest)):
        again: set[int] = yield from back(rest)
        went |= again
        written += len(again)
        rest = [one for one in rest if one.id not in again]
    # Still fenced: what is left is stale, its cancellation was asked for while it ran, or another has its key.
    cancelled = (yield _cancel(schema, worker, rest)) if rest else ()
    return written + len(cancelled), sum(member for _, member in cancelled)


def _take_keys_back(schema: str, group: list[Finished]) -> Statement[Any]:
    return Statement(
        inline("select id from {schema}.take_keys_back(%(ids)s::bigint[], %(fences)s::bigint[]) id", schema),
        {"ids": array(one.id for one in group), "fences": array({one.fence for one in group})},
    )


def _common(worker: UUID | None, group: list[Finished]) -> dict[str, Any]:
    return {
        "ids": array(one.id for one in group),
        "fences": array({one.fence for one in group}),
        "worker": worker,
    }


def _durations(group: list[Finished]) -> str:
    return array(one.duration for one in group)


def _complete(
    schema: str, worker: UUID | None, group: list[Finished], name: str
) -> Operation[tuple[int, int, list[Finished]]]:
    """How many were written, how many of these are of flows, and what is left: it is not plain any more."""
    params = _common(worker, group)
    outcomes = [one.outcome for one in group if type(one.outcome) is Completed]
    results = [outcome.result for outcome in outcomes]
    unstored = [outcome.unstored for outcome in outcomes]
    params["unstored"] = None if unstored.count(None) == len(unstored) else texts(unstored)
    params["results"] = None if results.count(None) == len(results) else texts(results)
    # Of what keeps no history only parents in flows read results.
    if name != "complete_unkept":
        # Whole numbers are written and read in half the time.
        params["microseconds"] = array([int(one.duration * 1e6) for one in group])
        params["own"] = True if name == "complete_own" else None
        name = "complete"
    if False in [one.plain for one in group]:
        [(written, members)] = yield Statement(text(name, schema, **_BOUND), params)
        return written, members, []
    [(written, _)] = yield Statement(text(name, schema, **_PLAIN), params)
    if written == len(group):
        return written, 0, []
    there = set((yield _claimed(schema, group)))
    return written, 0, [replace(one, plain=False) for one in group if one.id in there]


def _claimed(schema: str, group: list[Finished]) -> Statement[int]:
    """Ids of those that still carry their claim."""
    return Statement(
        inline(
            "select id from {schema}.jobs where id = any (%(ids)s::bigint[]) and claim_id = any (%(fences)s::bigint[])",
            schema,
        ),
        {"ids": array(one.id for one in group), "fences": array({one.fence for one in group})},
        lambda row: row[0],
    )


def _release(schema: str, group: list[Finished], *, suspected: bool) -> Operation[set[int]]:
    ids, fences = [one.id for one in group], [one.fence for one in group]
    return {id_ for (id_,) in (yield release(schema, ids, fences, suspected=suspected))}


def _wait(schema: str, group: list[Finished]) -> Operation[set[int]]:
    waits = [
        joining.Waiting(one.id, one.fence, one.outcome.plan, one.outcome.on_failure, one.outcome.max_attempts)
        for one in group
        if isinstance(one.outcome, Wait)
    ]
    return (yield from joining.wait_for_children(schema, waits))


def _retry(schema: str, worker: UUID | None, group: list[Finished]) -> Operation[set[int]]:
    group = sorted(group, key=attrgetter("id"))
    params = _common(worker, group)
    outcomes = [one.outcome for one in group if isinstance(one.outcome, Retry | Snooze)]
    params["delays"] = array(outcome.delay for outcome in outcomes)
    params["refunds"] = array(int(isinstance(outcome, Snooze)) for outcome in outcomes)
    params["crashes"] = array(int(isinstance(outcome, Retry) and outcome.crashed) for outcome in outcomes)
    params["errors"] = texts(_json(outcome.error) if isinstance(outcome, Retry) else None for outcome in outcomes)
    retried: Statement[Any] = Statement(text("retry", schema), params)
    return {id_ for (id_,) in (yield retried)}


def _cancel(schema: str, worker: UUID | None, group: list[Finished]) -> Statement[Any]:
    params = _common(worker, group)
    params["durations"] = _durations(group)
    params["reasons"] = texts(one.outcome.reason if isinstance(one.outcome, Cancelled) else None for one in group)
    return Statement(text("cancel_claimed", schema), params)


def _fail(schema: str, worker: UUID | None, group: list[Finished]) -> Statement[Any]:
    params = _common(worker, group)
    params["durations"] = _durations(group)
    failures = [(one.task, one.outcome) for one in group if isinstance(one.outcome, Failed)]
    params["reasons"] = texts(outcome.reason for _, outcome in failures)
    params["crashes"] = array(int(outcome.crashed) for _, outcome in failures)
    params["errors"] = texts(_json(outcome.error) for _, outcome in failures)
    params["fingerprints"] = texts(fingerprint(task, outcome.error) for task, outcome in failures)
    return Statement(text("fail", schema), params)


def lock_claimed(schema: str, batch: Sequence[Finished]) -> Statement[int]:
    """Ids of the jobs of `batch` that nobody else has locked."""
    params = {"ids": array(one.id for one in batch), "fences": array({one.fence for one in batch})}
    return Statement(text("lock_claimed", schema), params, lambda row: row[0])


def fingerprint(task: str, error: AttemptError) -> str:
    """The same 12 hex digits for errors of one task, one type and one place in the code."""
    return hashlib.sha256(repr((task, error.type, error.place)).encode()).hexdigest()[:12]


def _json(error: AttemptError) -> str:
    return json.dumps({"type": error.type, "message": error.message, "traceback": error.traceback})
