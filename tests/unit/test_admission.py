"""Which jobs may begin: places, rates and the order at a gate. Times are seconds from now."""

from __future__ import annotations

import math
import random
from bisect import bisect_left
from collections.abc import Iterable

import pytest

from pgqueue.admission import PACE, Admitted, Candidate, Decision, Gate, Rule
from pgqueue.admission import decide as decided


def at(*gates: str, let_go: str | None = None, ids: Iterable[int] = (1,)) -> list[Candidate]:
    """Jobs with these gates; `let_go` by one of them, their places there are reserved."""
    reserved = frozenset() if let_go is None else frozenset([let_go])
    return [Candidate(id_, gates, reserved, let_go) for id_ in ids]


def decide(candidates: list[Candidate], gates: dict[str, Gate], slots: int = 1000, prefetch: int = 0) -> Decision:
    return decided(candidates, gates, slots, prefetch)


def ids(admitted: list[Admitted]) -> list[int]:
    return [one.id for one in admitted]


def test_as_many_begin_as_there_are_places_and_the_rest_is_parked() -> None:
    gate = Gate(Rule(concurrency=3), taken=1)
    decision = decide(at("g", ids=range(5)), {"g": gate})
    assert ids(decision.admitted) == [0, 1]
    assert decision.parked == dict.fromkeys((2, 3, 4), ("g", ()))
    assert (gate.taken, gate.waiting) == (3, 3)
    assert decision.admitted[0].places == ("g",)


def test_nobody_overtakes_what_is_parked() -> None:
    gate = Gate(Rule(concurrency=3), waiting=1)
    assert decide(at("g"), {"g": gate}).parked == {1: ("g", ())}


def test_a_job_that_was_let_go_has_its_place() -> None:
    gate = Gate(Rule(concurrency=1), waiting=2)
    assert gate.let_go() == 1
    assert (gate.taken, gate.waiting, gate.loose) == (1, 1, 1)
    decision = decide([*at("g", let_go="g"), *at("g", ids=[2])], {"g": gate})
    assert (ids(decision.admitted), decision.parked) == ([1], {2: ("g", ())})
    assert (gate.taken, gate.waiting, gate.loose) == (1, 2, 0)


def test_a_job_begins_only_when_all_its_gates_let_it_and_takes_nothing_before() -> None:
    queue, key = Gate(Rule(concurrency=5)), Gate(Rule(concurrency=1), taken=1)
    decision = decide(at("queue", "key"), {"queue": queue, "key": key})
    assert decision.parked == {1: ("key", ())}
    assert (queue.taken, key.taken) == (0, 1)


def test_a_job_that_must_wait_at_a_second_gate_gives_its_place_at_the_first_back() -> None:
    first, second = Gate(Rule(concurrency=1), waiting=2), Gate(Rule(concurrency=1), taken=1)
    assert first.let_go() == 1
    decision = decide(at("first", "second", let_go="first"), {"first": first, "second": second})
    assert decision.parked == {1: ("second", ())}
    assert (first.taken, first.loose, second.waiting) == (0, 0, 1)
    assert first.let_go() == 1


def test_a_job_keeps_no_place_at_the_gate_that_refuses_it() -> None:
    serial = Gate(Rule(concurrency=1, ordered=True), taken=1, closed_until=9.0)
    waits_for_retry = Candidate(1, ("serial",), frozenset(["serial"]))
    assert decide([waits_for_retry], {"serial": serial}).parked == {1: ("serial", ())}
    assert (serial.taken, serial.waiting) == (0, 1)
    serial.closed_until = 0.0
    assert serial.let_go() == 1


def test_a_job_that_is_parked_behind_its_serial_key_takes_the_place_there_first() -> None:
    serial, queue = Gate(Rule(concurrency=1, ordered=True)), Gate(Rule(concurrency=1), taken=1)
    decision = decide(at("serial", "queue", ids=[1, 2]), {"serial": serial, "queue": queue})
    assert decision.parked == {1: ("queue", ("serial",)), 2: ("serial", ())}
    assert (serial.taken, serial.waiting, queue.waiting) == (1, 1, 1)


def test_a_place_at_a_gate_that_the_job_no_longer_has_is_given_back() -> None:
    before, now = Gate(Rule(concurrency=1), taken=1), Gate(Rule(concurrency=1))
    moved = Candidate(1, ("now",), frozenset(["before"]), "before")
    before.loose = 1
    assert ids(decide([moved], {"before": before, "now": now}).admitted) == [1]
    assert (before.taken, before.loose, now.taken) == (0, 0, 1)
    unlimited = Gate(Rule(), taken=1, loose=1)
    decide([Candidate(1, ("g",), frozenset(["g"]), "g")], {"g": unlimited})
    assert (unlimited.taken, unlimited.loose) == (0, 0)


def test_a_job_that_was_let_go_passes_those_who_wait_at_its_other_gate() -> None:
    task, key = Gate(Rule(concurrency=3), taken=2, waiting=5), Gate(Rule(concurrency=1), taken=1, loose=1)
    both = Candidate(1, ("task", "key"), frozenset(["key"]), "key")
    assert ids(decide([both], {"task": task, "key": key}).admitted) == [1]


@pytest.mark.parametrize("seed", range(5))
def test_jobs_of_two_full_gates_all_run_in_the_end(seed: int) -> None:
    rng = random.Random(seed)
    gates = {"task": Gate(Rule(concurrency=3)), "a": Gate(Rule(concurrency=2)), "b": Gate(Rule(concurrency=2))}
    keys = {id_: rng.choice("aab") for id_ in range(200)}
    fresh, parked = list(keys), dict[int, str]()
    loose, running, moves = dict[int, str](), dict[int, tuple[str, ...]](), 0
    while fresh or parked or loose or running:
        moves += 1
        assert moves < 2000, "they go round in circles"
        if running and rng.random() < 0.5:
            for name in running.pop(min(running)):
                gates[name].taken -= 1
        for name, gate in gates.items():
            for id_ in sorted(id_ for id_, at_gate in parked.items() if at_gate == name)[: gate.let_go()]:
                loose[id_] = parked.pop(id_)
        some = [*sorted(loose)[:3], *fresh[:2]]
        candidates = [
            Candidate(id_, ("task", keys[id_]), frozenset([loose[id_]] if id_ in loose else []), loose.get(id_))
            for id_ in some
        ]
        decision = decide(candidates, gates, slots=10 - len(running))
        for id_ in some:
            if id_ not in decision.left:
                loose.pop(id_, None)
                fresh = [other for other in fresh if other != id_]
        running |= {one.id: one.places for one in decision.admitted}
        parked |= {id_: name for id_, (name, _) in decision.parked.items()}
        assert all(gate.taken <= (gate.rule.concurrency or 0) for gate in gates.values())
    assert all((gate.taken, gate.waiting, gate.loose) == (0, 0, 0) for gate in gates.values())


def test_a_job_keeps_the_place_of_its_serial_key_while_it_waits_elsewhere() -> None:
    serial, queue = Gate(Rule(concurrency=1, ordered=True), taken=1), Gate(Rule(concurrency=1), taken=1)
    first, second = Candidate(1, ("serial", "queue"), frozenset(["serial"])), Candidate(2, ("serial", "queue"))
    decision = decide([first, second], {"serial": serial, "queue": queue})
    assert decision.parked == {1: ("queue", ("serial",)), 2: ("serial", ())}
    assert serial.taken == 1


def test_what_could_begin_but_has_no_slot_is_left_with_all_that_come_after_it() -> None:
    free, full = Gate(Rule(concurrency=9)), Gate(Rule(concurrency=1), taken=1)
    candidates = [*at("free", ids=[1]), *at("full", ids=[2]), *at("free", ids=[3]), *at("full", ids=[4])]
    decision = decide(candidates, {"free": free, "full": full}, slots=1)
    assert (ids(decision.admitted), decision.left, list(decision.parked)) == ([1], [3, 4], [2])
    assert free.taken == 1


def test_what_the_limit_of_a_whole_queue_refuses_stays_where_it_is() -> None:
    queue = Gate(Rule(concurrency=2, whole=True), taken=1)
    decision = decide(at("q", ids=[1, 2, 3]), {"q": queue}, slots=9)
    assert (ids(decision.admitted), decision.left, decision.parked) == ([1], [2, 3], {})
    assert (decision.again_in, queue.taken, queue.waiting) == (math.inf, 2, 0)


def test_the_rate_of_a_whole_queue_says_when_more_may_begin() -> None:
    queue = Gate(Rule(interval=0.5, whole=True), next_at=0.3)
    decision = decide(at("q", ids=[1, 2]), {"q": queue}, slots=9)
    assert (decision.left, decision.again_in) == ([1, 2], 0.3)


def test_what_another_limit_has_let_go_waits_for_the_queue_without_keeping_its_place() -> None:
    queue, task = Gate(Rule(concurrency=1, whole=True), taken=1), Gate(Rule(concurrency=1), taken=1, loose=1)
    candidate = Candidate(1, ("q", "t"), frozenset({"t"}), let_go="t")
    decision = decide([candidate], {"q": queue, "t": task}, slots=9)
    assert decision.parked == {1: ("q", ())}
    assert (queue.waiting, task.taken, task.loose) == (1, 0, 0)


def test_what_has_no_slot_yet_is_taken_where_it_keeps_half_of_the_places_for_others() -> None:
    roomy, single, rate = Gate(Rule(concurrency=6)), Gate(Rule(concurrency=1)), Gate(Rule(interval=0.001))
    soon = Gate(Rule(concurrency=6), closed_until=0.05)
    assert ids(decide(at("g", ids=range(9)), {"g": roomy}, slots=1, prefetch=9).admitted) == [0, 1, 2]
    assert ids(decide(at("g", ids=range(2)), {"g": single}, slots=0, prefetch=9).admitted) == []
    assert ids(decide(at("g", ids=range(2)), {"g": rate}, slots=1, prefetch=9).admitted) == [0]
    assert ids(decide(at("g", ids=range(2)), {"g": soon}, slots=1, prefetch=9).admitted) == [0]


def test_a_job_that_must_not_repeat_is_not_taken_before_there_is_a_slot_for_it() -> None:
    gate = Gate(Rule(concurrency=9))
    assert decide([Candidate(1, ("g",), once=True)], {"g": gate}, slots=0, prefetch=9).left == [1]


def test_jobs_begin_evenly() -> None:
    gate = Gate(Rule(interval=0.02))
    decision = decide(at("g", ids=range(10)), {"g": gate})
    assert [round(one.begins_in or 0.0, 6) for one in decision.admitted] == [0.0, 0.02, 0.04, 0.06, 0.08, 0.1]
    assert len(decision.parked) == 4
    assert decision.admitted[0].places == ()


def test_a_burst_begins_together_and_is_paid_back() -> None:
    gate = Gate(Rule(interval=1.0, burst=3))
    assert [one.begins_in for one in decide(at("g", ids=range(5)), {"g": gate}).admitted] == [0.0, 0.0, 0.0]
    gate.next_at -= 1.0
    assert gate.let_go() == 1


@pytest.mark.parametrize("lead", [0.0, 0.04, 0.06])
def test_nobody_begins_before_a_closed_gate_opens_however_soon_the_claim_is_back(lead: float) -> None:
    gate = Gate(Rule(concurrency=1), closed_until=0.05)
    [admitted] = decided(at("g"), {"g": gate}, 1000, lead=lead).admitted
    # Without a time it would begin as soon as the claim is back, which may take less than was thought.
    assert admitted.begins_in == max(lead, 0.05)


@pytest.mark.parametrize(("rate", "burst"), [(10, 1), (100, 1), (1000, 1), (100, 10), (7, 3)])
def test_no_second_holds_more_than_rate_and_burst_though_each_begins_as_late_as_it_may(rate: int, burst: int) -> None:
    gate = Gate(Rule(interval=1 / (PACE * rate), burst=burst))
    chance = random.Random(rate)
    begins, now = [], 0.0
    while now < 5.0:
        for one in decided(at("g", ids=range(rate)), {"g": gate}, 1000).admitted:
            assert one.begins_in is not None
            begins.append(now + one.begins_in + chance.choice([0.0, one.late, chance.uniform(0.0, one.late)]))
        now += 0.05
        gate.next_at, gate.waiting = gate.next_at - 0.05, 0
    begins.sort()
    busiest = max(bisect_left(begins, begin + 1.0) - n for n, begin in enumerate(begins))
    assert busiest <= rate + burst
    # And it is as fast as it may be, but for what the pace keeps free.
    assert len(begins) >= 5.0 * rate * PACE * 0.98


def test_a_gate_that_is_closed_lets_nobody_through_until_then() -> None:
    gate = Gate(Rule(concurrency=9), closed_until=5.0)
    assert decide(at("g", ids=[1, 2]), {"g": gate}).parked == {1: ("g", ()), 2: ("g", ())}
    assert gate.let_go() == 0
    gate.closed_until = 0.05
    assert gate.let_go() == 2
    assert [one.begins_in for one in decide(at("g", let_go="g", ids=[1, 2]), {"g": gate}).admitted] == [0.05, 0.05]


@pytest.mark.parametrize(("lead", "begins_in"), [(0.0, 0.05), (0.07, 0.07)])
def test_what_is_let_through_before_a_gate_opens_has_a_time_however_long_it_takes_to_begin(
    lead: float, begins_in: float
) -> None:
    gate = Gate(Rule(concurrency=1), closed_until=0.05)
    assert [one.begins_in for one in decided(at("g"), {"g": gate}, 1, lead=lead).admitted] == [begins_in]
    gate = Gate(Rule(concurrency=1), closed_until=0.0)
    assert [one.begins_in for one in decided(at("g"), {"g": gate}, 1, lead=lead).admitted] == [None]


def test_no_more_are_let_go_than_may_begin_while_others_are_on_their_way() -> None:
    gate = Gate(Rule(interval=0.05), waiting=10)
    assert gate.let_go() == 3
    assert gate.let_go() == 0


@pytest.mark.parametrize(
    ("rate", "burst", "concurrency", "jobs"),
    [(10, 1, None, 60), (100, 1, None, 500), (1000, 5, None, 3000), (50, 10, 3, 300), (None, 1, 4, 300)],
)
@pytest.mark.parametrize("seed", range(3))
def test_in_any_second_no_more_begin_than_the_rate_and_a_burst_and_never_more_at_once(
    rate: int | None, burst: int, concurrency: int | None, jobs: int, seed: int
) -> None:
    rng = random.Random(seed)
    gate = Gate(Rule(concurrency, 1 / rate if rate else None, burst))
    now, begun, ends = 0.0, list[float](), list[float]()
    fresh, parked, loose = list(range(jobs)), list[int](), list[int]()
    while fresh or parked or loose or ends:
        step = rng.choice([0.001, 0.005, 0.02])
        now += step
        gate.next_at -= step
        if concurrency:
            gate.taken -= sum(end <= now for end in ends)
        ends = [end for end in ends if end > now]
        loose += [parked.pop(0) for _ in range(gate.let_go())]
        candidates = at("g", let_go="g", ids=loose[:20]) + at("g", ids=fresh[: rng.randint(0, 80)])
        decision = decide(candidates, {"g": gate})
        for candidate in candidates:
            (loose if candidate.let_go else fresh).remove(candidate.id)
        begun += [now + (one.begins_in or 0.0) for one in decision.admitted]
        ends += [now + (one.begins_in or 0.0) + rng.uniform(0.0, 0.05) for one in decision.admitted]
        parked = sorted([*parked, *decision.parked])
        assert (gate.waiting, gate.loose) == (len(parked), len(loose))
        assert len(ends) <= (concurrency or jobs)
    assert len(begun) == jobs
    begun.sort()
    if rate:
        most = max(bisect_left(begun, first + 1 - 1e-9) - place for place, first in enumerate(begun))
        assert most <= rate + burst
        assert (jobs - burst) / (begun[-1] - begun[0]) == pytest.approx(rate, rel=0.02)
