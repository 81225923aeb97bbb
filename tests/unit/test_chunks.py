"""How the jobs of chunk tasks are gathered, and how many of them are claimed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from pgqueue.job import ClaimedJob
from pgqueue.task.chunking import Chunking
from pgqueue.worker.chunks import GatheringSlots
from pgqueue.worker.slots import Slots

WAIT = 5.0


class Time:
    """Time that passes when the test says so, in seconds, with the timers of an event loop."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[Alarm] = []

    def __call__(self) -> float:
        return self.now

    def call_later(self, seconds: float, call: Callable[..., None], /, *args: object) -> Alarm:
        alarm = Alarm(self.now + seconds, lambda: call(*args))
        self.timers.append(alarm)
        return alarm

    def passes(self, seconds: float) -> None:
        end = self.now + seconds
        while due := sorted(
            (one for one in self.timers if one.at <= end and not one.cancelled), key=lambda one: one.at
        ):
            self.timers.remove(due[0])
            self.now = max(self.now, due[0].at)
            due[0].ring()
        self.now = end

    @property
    def pending(self) -> int:
        return sum(not one.cancelled for one in self.timers)


class Alarm:
    def __init__(self, at: float, ring: Callable[[], None]) -> None:
        self.at = at
        self.ring = ring
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Place:
    """Slots of a queue with the chunk task `index` (chunks of three) and the plain task `send`."""

    def __init__(self, slots: int = 2, *, size: int = 3) -> None:
        self.time = Time()
        self.chunks: list[list[int]] = []
        self.plain: list[int] = []
        self.given_back: list[int] = []
        self.hurries = False
        self.slots = GatheringSlots(
            "mail",
            slots,
            lambda _, job: self.plain.append(job.id),
            lambda job: self.given_back.append(job.id),
            self.time,
            chunks={"index": Chunking(size, WAIT), "other": Chunking(size, WAIT)},
            start_chunk=self._start_chunk,
            runs_alone=lambda job: job.suspicions > 0,
            hurries=lambda: self.hurries,
            call_later=self.time.call_later,
        )

    def _start_chunk(self, slots: Slots, jobs: Sequence[ClaimedJob]) -> None:
        self.chunks.append([job.id for job in jobs])

    def take(self, *ids: int, **fields: Any) -> None:
        self.slots.take([claimed(n, **fields) for n in ids])


def claimed(
    id_: int, task: str = "index", *, suspicions: int = 0, max_attempts: int = 25, begins_at: float | None = None
) -> ClaimedJob:
    job = ClaimedJob("mail", 1, (id_, id_, task, "{}", 1, max_attempts, 0, suspicions, None, None, True, 0.0), 0.0)
    job.begins_at, job.late = begins_at, 0.02
    return job


@pytest.fixture
def place() -> Place:
    return Place()


def test_a_full_chunk_begins_at_once(place: Place) -> None:
    place.take(1, 2)
    assert place.chunks == []
    place.take(3, 4)
    assert place.chunks == [[1, 2, 3]]
    assert (place.slots.running, place.slots.waiting, place.slots.ids()) == (1, 1, [4])


def test_a_chunk_that_is_not_full_begins_when_its_first_job_has_waited(place: Place) -> None:
    place.take(1)
    place.time.passes(WAIT - 1)
    place.take(2)
    assert place.chunks == []
    place.time.passes(1)
    assert place.chunks == [[1, 2]]
    assert place.time.pending == 0
    place.take(3)
    place.time.passes(WAIT)
    assert place.chunks == [[1, 2], [3]]


def test_each_task_has_chunks_of_its_own_and_plain_jobs_go_by(place: Place) -> None:
    place.slots.take([claimed(1), claimed(2, "other"), claimed(3, "send")])
    assert place.plain == [3]
    place.time.passes(WAIT)
    assert place.chunks == [[1]]
    place.slots.ended()
    assert place.chunks == [[1], [2]]


def test_a_chunk_takes_one_slot_and_what_is_gathered_takes_none(place: Place) -> None:
    place.take(1, 2)
    assert place.slots.running == 0
    place.take(3, 4, 5, 6)
    assert (place.slots.running, place.chunks) == (2, [[1, 2, 3], [4, 5, 6]])
    place.take(7, 8, 9)
    assert len(place.chunks) == 2
    place.slots.ended()
    assert place.chunks[2] == [7, 8, 9]


def test_a_chunk_without_a_slot_takes_others_until_it_has_one() -> None:
    place = Place(slots=1)
    place.take(1, 2, 3)
    place.take(4)
    place.time.passes(WAIT)
    place.take(5)
    assert place.chunks == [[1, 2, 3]]
    place.slots.ended()
    assert place.chunks == [[1, 2, 3], [4, 5]]
    assert place.slots.waiting == 0


def test_a_full_chunk_can_be_claimed_for_one_slot() -> None:
    place = Place(slots=1, size=100)
    assert place.slots.wanted() == 1
    place.take(1)
    assert (place.slots.wanted(), place.slots.claimable) == (99, 99)
    place.take(*range(2, 101))
    assert [len(chunk) for chunk in place.chunks] == [100]
    assert (place.slots.wanted(), place.slots.claimable) == (0, 0)
    assert not place.slots.room.is_set()


def test_many_slots_want_a_job_each_and_what_the_open_chunk_has_room_for() -> None:
    place = Place(slots=10, size=100)
    assert place.slots.wanted() == 10
    place.take(*range(10))
    assert place.slots.wanted() == 9 + 90
    place.take(*range(10, 109))
    assert len(place.chunks) == 1
    assert place.slots.wanted() == 8 + 91


def test_beside_jobs_of_other_tasks_no_more_is_claimed_than_there_are_slots() -> None:
    place = Place(slots=10, size=100)
    place.slots.take([claimed(1), claimed(2, "send")])
    assert place.slots.wanted() == 8
    place.take(3)
    assert place.slots.wanted() == 8 + 98


def test_nothing_is_claimed_for_a_chunk_that_has_no_slot(place: Place) -> None:
    place.take(1, 2, 3, 4, 5, 6)
    place.take(7)
    assert (place.slots.wanted(), place.slots.claimable, place.slots.idle) == (0, 0, 0)


def test_what_has_not_begun_is_given_back(place: Place) -> None:
    place.take(*range(1, 9))
    place.take(9, begins_at=0.1)
    place.take(10, task="send")
    assert place.chunks == [[1, 2, 3], [4, 5, 6]]
    assert sorted(job.id for job in place.slots.give_back()) == [7, 8, 9, 10]
    assert (place.slots.waiting, place.time.pending, place.slots.running) == (0, 0, 2)
    place.slots.ended()
    assert len(place.chunks) == 2


def test_some_of_what_has_not_begun_is_given_back(place: Place) -> None:
    place.take(*range(1, 9))
    place.take(9, task="send")
    assert sorted(job.id for job in place.slots.give_back(lambda job: job.id in (7, 9))) == [7, 9]
    assert place.slots.ids() == [8]
    place.slots.ended()
    place.time.passes(WAIT)
    assert place.chunks[2] == [8]


def test_closed_slots_begin_no_chunk(place: Place) -> None:
    place.take(1)
    place.slots.open = False
    place.time.passes(WAIT)
    assert place.chunks == []
    assert [job.id for job in place.slots.give_back()] == [1]


def test_a_job_is_dropped_wherever_it_waits(place: Place) -> None:
    place.take(*range(1, 8))
    place.take(8, begins_at=0.1)
    place.take(9, 10, task="other")
    place.take(11, task="other")
    assert place.slots.drop(1) is None
    for job_id in (7, 8, 10):
        job = place.slots.drop(job_id)
        assert job is not None
        assert job.id == job_id
    assert place.slots.ids() == [9, 11]
    assert place.time.pending == 0
    place.slots.ended()
    assert place.chunks[2] == [9, 11]


def test_a_chunk_whose_jobs_are_all_dropped_takes_no_slot(place: Place) -> None:
    place.take(*range(1, 7))
    place.take(7)
    place.time.passes(WAIT)
    assert place.slots.drop(7) is not None
    place.slots.ended()
    assert (len(place.chunks), place.slots.running) == (2, 1)
    place.take(8)
    place.time.passes(WAIT)
    assert place.chunks[2] == [8]


def test_a_job_that_begins_later_joins_when_it_may(place: Place) -> None:
    place.take(1, 2)
    place.take(3, begins_at=0.05)
    assert (place.chunks, place.slots.running) == ([], 0)
    place.time.passes(0.05)
    assert place.chunks == [[1, 2, 3]]


def test_a_job_that_is_held_up_beyond_its_time_goes_back(place: Place) -> None:
    place.take(1, begins_at=0.05)
    [alarm] = place.time.timers
    place.time.now += 0.05 + 0.03
    alarm.ring()
    assert (place.given_back, place.slots.waiting) == ([1], 0)


def test_jobs_that_must_not_repeat_do_not_wait_for_slots_that_a_chunk_had_room_for(place: Place) -> None:
    place.take(1)
    once = [claimed(n, "send", max_attempts=1) for n in range(2, 6)]
    place.slots.take(once)
    assert (place.plain, place.given_back) == ([2, 3], [4, 5])


def test_a_suspect_is_a_chunk_of_its_own(place: Place) -> None:
    place.take(1)
    place.take(2, suspicions=1)
    assert place.chunks == [[2]]
    assert place.slots.ids() == [1]
    place.take(3, suspicions=1, begins_at=0.05)
    assert place.chunks == [[2]]
    place.time.passes(0.05)
    assert place.chunks == [[2], [3]]


def test_in_a_hurry_a_chunk_begins_when_no_more_is_there(place: Place) -> None:
    place.take(1, 2)
    place.slots.found_nothing()
    assert place.chunks == []
    place.hurries = True
    place.slots.found_nothing()
    assert place.chunks == [[1, 2]]
    place.take(3, begins_at=0.05)
    place.slots.found_nothing()
    place.time.passes(0.05)
    assert place.chunks == [[1, 2], [3]]
    assert place.time.pending == 0
