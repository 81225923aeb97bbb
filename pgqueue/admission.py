"""Which of the jobs that a claim has found may begin: the one decision on concurrency, rates and the order of keys.

Each job passes *gates*: that of its queue, its task, its key. A gate has so many places, and lets jobs begin at
intervals. What a gate does not let through is parked at it, and is let go first when there is a place or it is time.

Rates are the generic cell rate algorithm (ITU-T I.371, virtual scheduling): a gate knows when the next job would begin
if all came evenly (`next_at`), and a job may begin up to `burst` - 1 intervals before that. So in any time t, no more
than burst + rate * t begin. Jobs that may begin within `horizon` are let through now, each with the time at which it is
to begin. Times are seconds from now.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

HORIZON = 0.1
PACE = 0.985
"""Of the rate: jobs may begin 15 ms and an interval late, and a second still holds no more than rate and burst."""
AT_ONCE = 10_000


@dataclass(frozen=True, slots=True)
class Rule:
    """What holds at a gate now. `interval` is in seconds.

    `ordered`: a serial key's, whose job keeps its place while it waits elsewhere, or for its retry. `whole`: a queue's,
    at which nothing passes another, so that what it refuses can stay where it is. `fair`: of one value of several that
    share the slots of a queue.
    """

    concurrency: int | None = None
    interval: float | None = None
    burst: int = 1
    ordered: bool = False
    whole: bool = False
    fair: bool = False


@dataclass(slots=True)
class Gate:
    """The state of one gate: places taken, jobs parked, and until when it is closed whatever its rule says.

    `loose` jobs were parked, have been let go, and have not been claimed since; each has its place reserved.
    """

    rule: Rule
    taken: int = 0
    waiting: int = 0
    loose: int = 0
    next_at: float = -math.inf
    closed_until: float = -math.inf

    def state(self) -> tuple[float, ...]:
        """What of it is stored."""
        return self.taken, self.waiting, self.loose, self.next_at

    def begins_in(self) -> float:
        """When its next job may begin."""
        rule = self.rule
        soonest = max(0.0, self.closed_until)
        if rule.interval is not None:
            soonest = max(soonest, self.next_at - (rule.burst - 1) * rule.interval)
        return soonest

    def begin(self, begins_in: float) -> None:
        """A job begins then."""
        if self.rule.interval is not None:
            self.next_at = max(self.next_at, begins_in) + self.rule.interval

    @property
    def sets_time(self) -> bool:
        """Whether what it lets through has a time before which it must not begin."""
        return self.rule.interval is not None or self.closed_until > 0

    @property
    def waits_for_time(self) -> bool:
        """Whether jobs are parked here that no end of another will let go."""
        return self.sets_time or (self.rule.concurrency is None and self.waiting > 0)

    @property
    def has_place(self) -> bool:
        return self.rule.concurrency is None or self.taken < self.rule.concurrency

    def let_go(self, horizon: float = HORIZON) -> int:
        """Let as many of its parked jobs go as may begin within `horizon`; returns how many, their places reserved.

        Where a limit was lifted, so many that the gate is not held for long.
        """
        rule, begins_in = self.rule, self.begins_in()
        if begins_in > horizon:
            return 0
        count = min(self.waiting, AT_ONCE)
        if rule.concurrency is not None:
            count = min(count, rule.concurrency - self.taken)
        if rule.interval is not None:
            count = min(count, self._within(horizon) - self.loose)
        count = max(0, count)
        self.waiting -= count
        self.loose += count
        if rule.concurrency is not None:
            self.taken += count
        return count

    def missed(self, count: int, parked: int | None) -> None:
        """So many of those that were let go could not be; so many are parked, or None for many."""
        self.loose -= count
        self.waiting = self.waiting + count if parked is None else parked
        if self.rule.concurrency is not None:
            self.taken -= count

    def _within(self, horizon: float) -> int:
        """How many jobs may begin by then."""
        assert self.rule.interval is not None
        first = max(self.next_at, self.closed_until, 0.0)
        return math.floor((horizon - first) / self.rule.interval) + self.rule.burst


@dataclass(frozen=True, slots=True)
class Candidate:
    """A job that a claim has found, and its gates. `reserved`: where it has a place; `let_go`: who had parked it.

    `once`: it must not repeat, and is taken only for a slot.
    """

    id: int
    gates: tuple[str, ...]
    reserved: frozenset[str] = frozenset()
    let_go: str | None = None
    once: bool = False


@dataclass(frozen=True, slots=True)
class Admitted:
    """`begins_in`: seconds from now; None: any time. `late`: by how many seconds it may begin later, or goes back.

    `places`: gates that are to be told when the attempt has ended.
    """

    id: int
    begins_in: float | None
    late: float
    places: tuple[str, ...]


@dataclass(slots=True)
class Decision:
    """`parked`: the gate of each job that must wait, and the places that it keeps. `left`: those that stay there.

    `again_in`: in how many seconds the limit of the queue lets more begin, where it refused; infinity: when a job ends.
    """

    admitted: list[Admitted] = field(default_factory=list)
    parked: dict[int, tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    left: list[int] = field(default_factory=list)
    again_in: float | None = None


def decide(
    candidates: Sequence[Candidate],
    gates: Mapping[str, Gate],
    slots: int,
    prefetch: int = 0,
    horizon: float = HORIZON,
    *,
    lead: float = 0.0,
) -> Decision:
    """Let jobs through in their order, as far as every gate of theirs has room; `gates` are as they are afterwards.

    A job that a gate let go has its place there reserved, and waits at other gates only where they have no place.
    Others do not pass those that are parked already. What could begin and has none of the `slots` is left where it is,
    with all that come after it; so is what the limit of the queue refuses. `prefetch` more are taken where they keep
    nobody from a place. It takes `lead` seconds until a job can begin.
    """
    decision = Decision()
    for candidate in candidates:
        if decision.left:
            decision.left.append(candidate.id)
            continue
        refused = next(
            (name for name in candidate.gates if not _lets_through(gates[name], name, candidate, horizon)), None
        )
        if refused is not None:
            gate = gates[refused]
            if gate.rule.whole and candidate.let_go is None:
                decision.left.append(candidate.id)
                decision.again_in = begins_in if (begins_in := gate.begins_in()) > horizon else math.inf
            else:
                _park(candidate, refused, gates, decision)
        elif len(decision.admitted) < slots or (
            len(decision.admitted) < slots + prefetch and _may_wait(candidate, gates)
        ):
            decision.admitted.append(_admit(candidate, gates, lead))
        else:
            decision.left.append(candidate.id)
    return decision


def _may_wait(candidate: Candidate, gates: Mapping[str, Gate]) -> bool:
    """Whether it may be taken before there is a slot for it: half of the places are left, and it begins at any time."""
    passed = [(gates[name], name in candidate.reserved) for name in candidate.gates]
    return not candidate.once and all(
        not gate.sets_time and (reserved or gate.rule.concurrency is None or gate.taken < gate.rule.concurrency // 2)
        for gate, reserved in passed
    )


def _lets_through(gate: Gate, name: str, candidate: Candidate, horizon: float) -> bool:
    if gate.begins_in() > horizon:
        return False
    # Who waits at one of two gates must not send those to the end of its line that the other has let go, or both would
    # send each other's back for ever. In the order of a serial key nobody passes.
    passes = gate.waiting == 0 or (candidate.let_go is not None and not gate.rule.ordered)
    return name in candidate.reserved or (gate.has_place and passes)


def _admit(candidate: Candidate, gates: Mapping[str, Gate], lead: float) -> Admitted:
    _settle(candidate, gates)
    passed = [(name, gates[name]) for name in candidate.gates]
    opens_in = max((gate.begins_in() for _, gate in passed), default=0.0)
    begins_in = max(lead, opens_in)
    places = []
    for name, gate in passed:
        gate.begin(begins_in)
        if gate.rule.concurrency is not None:
            _take(name, candidate, gates)
            places.append(name)
    _give_back(candidate, places, gates)
    # The claim may be back sooner than in `lead` seconds: who may not begin at once is told when.
    intervals = [gate.rule.interval for _, gate in passed if gate.rule.interval is not None]
    # In a second with what is late L and the intervals I begin (1 + L) / I, no more than PACE keeps free and one above.
    late = 1 - PACE + min(intervals) if intervals else math.inf
    return Admitted(candidate.id, begins_in if intervals or opens_in > 0 else None, late, tuple(places))


def _park(candidate: Candidate, refused: str, gates: Mapping[str, Gate], decision: Decision) -> None:
    _settle(candidate, gates)
    gates[refused].waiting += 1
    kept = []
    for name in candidate.gates[: candidate.gates.index(refused)]:
        if gates[name].rule.ordered:
            # The next of its serial key must not overtake it here.
            _take(name, candidate, gates)
            kept.append(name)
    # Or jobs that wait for each other's places would wait for ever.
    _give_back(candidate, kept, gates)
    decision.parked[candidate.id] = refused, tuple(kept)


def _settle(candidate: Candidate, gates: Mapping[str, Gate]) -> None:
    if candidate.let_go is not None and candidate.let_go in gates:
        gates[candidate.let_go].loose -= 1


def _take(name: str, candidate: Candidate, gates: Mapping[str, Gate]) -> None:
    if name not in candidate.reserved:
        gates[name].taken += 1


def _give_back(candidate: Candidate, kept: Collection[str], gates: Mapping[str, Gate]) -> None:
    for name in candidate.reserved.difference(kept):
        if name in gates:
            gates[name].taken = max(0, gates[name].taken - 1)
