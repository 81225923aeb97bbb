"""The order in which claimed jobs get the slots of their queue."""

from __future__ import annotations

from pgqueue.job import ClaimedJob
from pgqueue.worker.slots import Slots


def claimed(id_: int, max_attempts: int) -> ClaimedJob:
    return ClaimedJob("mail", 1, (id_, id_, "send", "{}", 1, max_attempts, 0, 0, None, None, True, 0.0), 0.0)


def test_jobs_that_must_not_repeat_keep_their_order_ahead_of_the_others() -> None:
    started: list[int] = []
    slots = Slots("mail", 2, lambda _, job: started.append(job.id), lambda job: None)
    slots.take([claimed(n, 1 if n % 2 else 25) for n in range(8)])
    assert started == [1, 3]
    assert [job.id for job in slots.buffer] == [5, 7, 0, 2, 4, 6]


def test_jobs_that_must_not_repeat_go_ahead_of_what_waited_before() -> None:
    started: list[int] = []
    slots = Slots("mail", 1, lambda _, job: started.append(job.id), lambda job: None)
    slots.take([claimed(n, 25) for n in range(3)])
    slots.take([claimed(3, 25), claimed(4, 1), claimed(5, 1)])
    assert started == [0]
    assert [job.id for job in slots.buffer] == [4, 5, 1, 2, 3]
    for _ in range(5):
        slots.ended()
    assert started == [0, 4, 5, 1, 2, 3]


async def test_what_has_not_started_is_given_back_some_of_it_or_all() -> None:
    started: list[int] = []
    slots = Slots("mail", 4, lambda _, job: started.append(job.id), lambda job: None)
    timed = [claimed(n, 25) for n in range(2)]
    for job in timed:
        job.begins_at = 3600.0
    slots.take([*timed, *(claimed(n, 25) for n in range(2, 10))])
    assert (started, slots.running, slots.waiting) == ([2, 3], 4, 8)
    assert [job.id for job in slots.give_back(lambda job: job.id % 2 == 1)] == [5, 7, 9, 1]
    # What had its slot reserved has left it to the next.
    assert (started, slots.running, slots.waiting) == ([2, 3, 4], 4, 3)
    assert [job.id for job in slots.give_back()] == [6, 8, 0]
    assert (slots.running, slots.waiting) == (3, 0)


class Clock:
    """Time that passes when the test says so, in seconds."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_prefetch_is_a_tenth_of_a_second_of_what_the_queue_gets_done() -> None:
    clock = Clock()
    slots = Slots("mail", 100, lambda _, job: None, lambda job: None, clock)
    slots.take([claimed(n, 25) for n in range(100)])
    assert slots.target == 0
    for _ in range(100):
        # One after the other, as coroutines do that compute.
        clock.now += 1 / 128
        slots.ended()
    slots.take([claimed(n, 25) for n in range(100, 200)])
    assert slots.target == 12


def test_nothing_is_prefetched_while_a_queue_stands() -> None:
    clock = Clock()
    slots = Slots("mail", 1, lambda _, job: None, lambda job: None, clock)
    slots.take([claimed(n, 25) for n in range(200)])
    for _ in range(100):
        clock.now += 1 / 1024
        slots.ended()
    slots.aim()
    assert slots.target == 102
    clock.now += 1.5
    slots.aim()
    assert slots.target == 0


def test_after_a_job_that_must_not_repeat_only_free_slots_are_filled() -> None:
    clock = Clock()
    slots = Slots("mail", 2, lambda _, job: None, lambda job: None, clock)
    slots.take([claimed(n, 25) for n in range(100)])
    for _ in range(100):
        clock.now += 1 / 1024
        slots.ended()
    slots.take([claimed(100, 1), claimed(101, 25)])
    assert (slots.target, slots.wanted()) == (0, 0)
    assert not slots.room.is_set()
    slots.ended()
    assert slots.wanted() == 1
    assert slots.room.is_set()
