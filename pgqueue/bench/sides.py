"""One round of one side of a measurement: its processes, its time, and every job accounted for.

Rates are in jobs a second, latencies in seconds. All raise Unbalanced when a job was lost or ran twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from pgqueue.bench import produce, work
from pgqueue.bench.ledger import Unbalanced, balance
from pgqueue.bench.part import Part
from pgqueue.bench.place import Place
from pgqueue.bench.produce import BULK_WARM_UP, WARM_UP, Produced
from pgqueue.bench.work import Worked

PRODUCERS = 2
INTERVAL = 0.02


@dataclass(frozen=True, slots=True)
class Sizes:
    """`jobs` is that of a drain and of a bulk; the rest follows from it."""

    jobs: int = 20_000
    rounds: int = 3

    @property
    def singles(self) -> int:
        """Jobs that are enqueued one by one."""
        return max(10, self.jobs // 50)

    @property
    def mixed(self) -> int:
        """Jobs that are enqueued one by one while a worker runs them."""
        return max(10, self.jobs // 10)

    @property
    def pickups(self) -> int:
        """Jobs for an idle worker."""
        return max(10, self.jobs // 200)


def enqueue_one(place: Place, sizes: Sizes) -> float:
    part = Part(place, produce.enqueue_each, first=0, count=sizes.singles, warm_up=WARM_UP)
    return _enqueued(place, sizes.singles, WARM_UP, part)


def insert_one(place: Place, sizes: Sizes) -> float:
    part = Part(place, produce.insert_each, first=0, count=sizes.singles, warm_up=WARM_UP)
    return _enqueued(place, sizes.singles, WARM_UP, part)


def enqueue_many(place: Place, sizes: Sizes) -> float:
    return _enqueued(place, sizes.jobs, BULK_WARM_UP, Part(place, produce.enqueue_many, count=sizes.jobs))


def copy_many(place: Place, sizes: Sizes) -> float:
    return _enqueued(place, sizes.jobs, BULK_WARM_UP, Part(place, produce.copy, count=sizes.jobs))


def _enqueued(place: Place, jobs: int, warm_up: int, part: Part[Produced]) -> float:
    with part:
        place.empty()
        part.begin()
        found = part.result()
    there = place.count("jobs") - warm_up
    if there != jobs:
        raise Unbalanced(
            f"{jobs:,} jobs were enqueued, and {there:,} are in the table jobs: "
            "this is a bug of pgqueue, or something on this server changes what is written"
        )
    return jobs / _seconds(found["before"][0], found["after"][-1])


def drain(place: Place, sizes: Sizes, *, kept: bool) -> float:
    return _drained(place, sizes.jobs, Part(place, work.drain, jobs=sizes.jobs, kept=kept))


def claim_and_finish(place: Place, sizes: Sizes, *, kept: bool) -> float:
    return _drained(place, sizes.jobs, Part(place, work.claim_and_finish, jobs=sizes.jobs, kept=kept))


def _drained(place: Place, jobs: int, part: Part[Worked]) -> float:
    with part:
        produce.fill(place, jobs)
        part.begin()
        found = part.result()
    balance("drain", jobs, found["wrong"], left=place.count("jobs"))
    return jobs / _seconds(found["began"], found["ended"])


def enqueue_and_run(place: Place, sizes: Sizes) -> float:
    return _mixed(place, sizes, Part(place, work.work, jobs=_shared(sizes)), produce.enqueue_each)


def insert_and_finish(place: Place, sizes: Sizes) -> float:
    loop = Part(place, work.claim_and_finish, jobs=_shared(sizes), kept=True, wait=True)
    return _mixed(place, sizes, loop, produce.insert_each)


def _shared(sizes: Sizes) -> int:
    return sizes.mixed // PRODUCERS * PRODUCERS


def _mixed(place: Place, sizes: Sizes, running: Part[Worked], enqueue: Callable[..., Produced]) -> float:
    each = sizes.mixed // PRODUCERS
    with running, ExitStack() as stack:
        place.empty()
        firsts = range(0, each * PRODUCERS, each)
        producers = [stack.enter_context(Part(place, enqueue, first=first, count=each)) for first in firsts]
        running.begin()
        for producer in producers:
            producer.wait_until_ready()
        for producer in producers:
            producer.start()
        began = min(producer.result()["before"][0] for producer in producers)
        found = running.result()
    balance("enqueue and run", each * PRODUCERS, found["wrong"], left=place.count("jobs"))
    return each * PRODUCERS / _seconds(began, found["ended"])


def pick_up(place: Place, sizes: Sizes) -> tuple[list[float], list[float]]:
    """Seconds from just before each call, and from its end, to the task's first line."""
    count = sizes.pickups
    producer = Part(place, produce.enqueue_each, first=0, count=count, warm_up=WARM_UP, interval=INTERVAL)
    with producer, Part(place, work.work, jobs=count) as worker:
        place.empty()
        worker.begin()
        producer.begin()
        made = producer.result()
        found = worker.result()
    balance("pickup", count, found["wrong"], left=place.count("jobs"))
    return _apart(made["before"], found["started"]), _apart(made["after"], found["started"])


def notify(place: Place, sizes: Sizes) -> list[float]:
    """Seconds from just before each NOTIFY to its arrival in another process."""
    count, channel = sizes.pickups, f"{place.schema} bare"
    producer = Part(place, produce.notify_each, channel=channel, count=count, interval=INTERVAL)
    with producer, Part(place, work.hear, channel=channel, count=count) as listener:
        listener.begin()
        producer.begin()
        made = producer.result()
        return _apart(made["before"], listener.result())


def _apart(before: Sequence[int], after: Sequence[int]) -> list[float]:
    return [_seconds(*pair) for pair in zip(before, after, strict=True)]


def _seconds(began: int, ended: int) -> float:
    return (ended - began) / 1e9
