"""The order in which claimed jobs get the slots of their queue."""

from __future__ import annotations

from pgqueue.job import ClaimedJob
from pgqueue.worker.slots import Slots


def claimed(id_: int, max_attempts: int) -> ClaimedJob:
    return ClaimedJob("mail", 1, (id_, id_, "send", "{}", 1, max_attempts, 0, 0, None, None))


def test_jobs_that_must_not_repeat_keep_their_order_ahead_of_the_others() -> None:
    started: list[int] = []
    slots = Slots("mail", 2, lambda _, job: started.append(job.id))
    slots.take([claimed(n, 1 if n % 2 else 25) for n in range(8)])
    assert started == [1, 3]
    assert [job.id for job in slots.buffer] == [5, 7, 0, 2, 4, 6]


def test_jobs_that_must_not_repeat_go_ahead_of_what_waited_before() -> None:
    started: list[int] = []
    slots = Slots("mail", 1, lambda _, job: started.append(job.id))
    slots.take([claimed(n, 25) for n in range(3)])
    slots.take([claimed(3, 25), claimed(4, 1), claimed(5, 1)])
    assert started == [0]
    assert [job.id for job in slots.buffer] == [4, 5, 1, 2, 3]
    for _ in range(5):
        slots.ended(1.0)
    assert started == [0, 4, 5, 1, 2, 3]
