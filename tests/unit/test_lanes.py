"""The rule by which a mark moves, on scans as claims report them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgqueue.job import ClaimedJob
from pgqueue.queries.claiming import FoundLane, Scan
from pgqueue.worker import lanes as lanes_module
from pgqueue.worker.lanes import FAR, LANES, PENDING, Lane, Lanes


def seen(
    allocated: int,
    xact_id: int,
    xmin: int,
    found: Sequence[int] = (),
    *,
    full: bool = False,
    left_from: int | None = None,
) -> Scan:
    """A claim's report: `found` are the positions that it took."""
    jobs = [ClaimedJob("q", 1, (place, place, "t", "{}", 1, 25, 0, 0, None, None, True, 0.0), 0.0) for place in found]
    return Scan(jobs, False, full or left_from is not None, xact_id, allocated, xmin, left_from)


PAUSED = Scan([], True, False, 0, 0, 0, None)


def observe(lane: Lane, *scans: Scan, lifo: bool = False) -> int:
    for scan in scans:
        lane.observe(scan, lane.mark, lifo=lifo)
    return lane.mark


def test_one_scan_proves_nothing() -> None:
    assert observe(Lane(), seen(allocated=50, xact_id=100, xmin=100, found=[1, 2])) == 0


def test_a_mark_moves_when_all_that_took_positions_before_have_ended() -> None:
    lane = Lane()
    observe(lane, seen(allocated=50, xact_id=100, xmin=90, found=[1, 2]))
    assert observe(lane, seen(allocated=60, xact_id=101, xmin=99)) == 0
    assert observe(lane, seen(allocated=70, xact_id=102, xmin=100)) == 50


def test_an_empty_scan_moves_the_mark_as_a_short_one_does() -> None:
    lane = Lane()
    assert observe(lane, seen(50, 100, 100), seen(50, 101, 101)) == 50


def test_a_full_scan_moves_the_mark_no_further_than_its_last_job() -> None:
    lane = Lane()
    assert observe(lane, seen(50, 100, 100), seen(60, 101, 101, [3, 4, 9], full=True)) == 9


def test_a_full_scan_newest_first_does_not_move_the_mark() -> None:
    lane = Lane()
    assert observe(lane, seen(50, 100, 100), seen(60, 101, 101, [49, 48], full=True), lifo=True) == 0


def test_a_short_scan_newest_first_moves_the_mark() -> None:
    lane = Lane()
    assert observe(lane, seen(50, 100, 100), seen(60, 101, 101, [49, 3]), lifo=True) == 50


def test_a_mark_stops_before_a_job_that_was_left_for_want_of_a_slot() -> None:
    lane = Lane()
    assert observe(lane, seen(50, 100, 100), seen(60, 101, 101, [3, 9], left_from=7)) == 6


def test_when_nothing_was_taken_of_a_full_scan_the_mark_stays() -> None:
    lane = Lane()
    assert observe(lane, seen(50, 100, 100), seen(60, 101, 101, [], left_from=7)) == 0


def test_a_scan_of_a_paused_queue_moves_nothing_and_is_forgotten() -> None:
    lane = Lane()
    assert observe(lane, seen(50, 100, 100), PAUSED, PAUSED) == 0
    assert observe(lane, seen(50, 101, 101)) == 50


def test_a_rewind_goes_below_the_position_and_never_up() -> None:
    lane = Lane(100)
    lane.rewind(40)
    assert lane.mark == 39
    lane.rewind(90)
    assert lane.mark == 39


def test_a_scan_that_began_before_a_rewind_does_not_undo_it() -> None:
    lane = Lane()
    observe(lane, seen(50, 100, 100), seen(50, 101, 101))
    began = lane.mark
    lane.rewind(20)
    lane.observe(seen(60, 102, 102), began)
    assert lane.mark == 19


def test_a_job_that_came_back_above_the_mark_while_a_scan_was_under_way_is_not_passed() -> None:
    lane = Lane()
    observe(lane, seen(50, 100, 100))
    began = lane.mark
    lane.rewind(20)
    assert lane.mark == began
    lane.observe(seen(60, 101, 101), began)
    assert lane.mark < 20
    assert observe(lane, seen(60, 102, 102, [20]), seen(60, 103, 103)) == 60


def behind_a_long_writer(lane: Lane, scans: int, *, first: int = 1, writer: int = 100) -> None:
    """Full scans of 10 jobs each, far beyond the mark, while the transaction `writer` goes on."""
    for n in range(scans):
        place = FAR * 2 + (first + n) * 10
        observe(lane, seen(place + 500, 1000 + first + n, writer, range(place, place + 10), full=True))


def test_behind_a_long_writer_the_mark_runs_ahead_and_goes_back_when_the_writer_has_ended() -> None:
    lane = Lane()
    observe(lane, seen(40, 50, 50), seen(40, 51, 51))
    assert lane.mark == 40
    behind_a_long_writer(lane, PENDING - 1)
    assert lane.mark == 40
    behind_a_long_writer(lane, 3, first=PENDING)
    assert lane.mark > FAR
    assert observe(lane, seen(FAR * 4, 5000, 4000)) == 40
    assert observe(lane, seen(FAR * 4, 5001, 5000, [41, 42], full=True)) == 42
    assert observe(lane, seen(FAR * 4, 5002, 5001)) == FAR * 4


def test_behind_a_long_writer_an_idle_worker_does_not_walk_over_everything_at_every_poll() -> None:
    lane = Lane()
    observe(lane, *[seen(FAR * 3, 200 + n, 100) for n in range(PENDING + 1)])
    assert lane.mark == FAR * 3
    assert observe(lane, seen(FAR * 3, 300, 299)) == 0
    assert observe(lane, seen(FAR * 3, 301, 300)) == FAR * 3


def test_while_little_has_been_taken_since_a_long_writer_began_the_mark_waits_for_it() -> None:
    lane = Lane()
    observe(lane, *[seen(FAR - 1, 200 + n, 100) for n in range(PENDING * 3)])
    assert lane.mark == 0


def test_a_rewind_behind_a_long_writer_is_not_forgotten_when_the_writer_has_ended() -> None:
    lane = Lane()
    observe(lane, seen(400, 50, 50), seen(400, 51, 51))
    behind_a_long_writer(lane, PENDING + 2)
    lane.rewind(7)
    behind_a_long_writer(lane, 2, first=PENDING + 2)
    assert observe(lane, seen(FAR * 4, 5000, 4000)) == 6


def test_an_unknown_lane_begins_at_its_start_because_others_may_commit_below() -> None:
    lanes = Lanes()
    lanes.rewind(5, 100)
    lanes.swept([FoundLane(0, 0, 70)])
    assert [(priority, lane.mark) for priority, lane in lanes.ordered()] == [(0, 0), (5, 0)]


def test_lanes_are_served_by_priority_the_lowest_number_first() -> None:
    lanes = Lanes()
    for priority in (3, -7, 0):
        lanes.rewind(priority, 1)
    assert [priority for priority, _ in lanes.ordered()] == [-7, 0, 3]


def test_a_sweep_rewinds_known_lanes_and_forgets_empty_ones_only_when_there_are_many() -> None:
    lanes = Lanes()
    lanes.swept([FoundLane(priority, 0, 10) for priority in range(LANES)])
    lanes.ordered()[0][1].mark = 50
    lanes.swept([FoundLane(0, 0, 20)])
    assert len(lanes.ordered()) == LANES
    assert lanes.ordered()[0][1].mark == 19
    lanes.swept([FoundLane(LANES, 0, 30)])
    assert [priority for priority, _ in lanes.ordered()] == [LANES]


def test_a_lane_that_is_known_already_is_kept_and_rewound() -> None:
    lanes = Lanes()
    lanes.rewind(0, 1)
    [(_, lane)] = lanes.ordered()
    observe(lane, seen(50, 100, 100), seen(50, 101, 101))
    lanes.rewind(0, 30)
    assert lane.mark == 29


class World:
    """A sequence, transactions that take positions early and commit late, and one lane that reads them."""

    def __init__(self) -> None:
        self.lane = Lane()
        self.xact_id = 100
        self.allocated = 0
        self.open: dict[int, int] = {}
        self.waiting: set[int] = set()

    def begin(self) -> None:
        self.xact_id += 1
        self.allocated += 1
        self.open[self.xact_id] = self.allocated

    def end(self, which: int, *, commits: bool) -> None:
        if self.open:
            place = self.open.pop(sorted(self.open)[which % len(self.open)])
            if commits:
                self.waiting.add(place)

    def scan(self, count: int, lifo: bool) -> None:
        xmin = min(self.open, default=self.xact_id + 1)
        above = sorted((place for place in self.waiting if place > self.lane.mark), reverse=lifo)[:count]
        self.waiting -= set(above)
        self.xact_id += 1
        report = seen(self.allocated, self.xact_id, xmin, above, full=len(above) == count)
        self.lane.observe(report, self.lane.mark, lifo=lifo)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("begin"), st.just(0), st.just(True)),
        st.tuples(st.just("end"), st.integers(0, 5), st.booleans()),
        st.tuples(st.just("scan"), st.integers(1, 3), st.just(True)),
    ),
    max_size=80,
)


def run(world: World, steps: list[tuple[str, int, bool]], lifo: bool) -> Iterator[None]:
    for kind, number, commits in steps:
        match kind:
            case "begin":
                world.begin()
            case "end":
                world.end(number, commits=commits)
            case _:
                world.scan(number, lifo)
        yield


@given(STEPS, st.booleans())
def test_whatever_the_order_of_commits_no_job_is_stranded_below_the_mark(
    steps: list[tuple[str, int, bool]], lifo: bool
) -> None:
    world = World()
    for _ in run(world, steps, lifo):
        assert all(place > world.lane.mark for place in world.waiting)


@given(STEPS, st.booleans())
def test_a_mark_that_ran_ahead_strands_nothing_once_the_writers_have_ended(
    steps: list[tuple[str, int, bool]], lifo: bool
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lanes_module, "FAR", 1)
        patch.setattr(lanes_module, "PENDING", 2)
        world = World()
        for _ in run(world, steps, lifo):
            pass
        while world.open:
            world.end(0, commits=True)
        for _ in range(len(steps) + 4):
            world.scan(1, lifo)
        assert not world.waiting
