"""The side that enqueues: what users call, and the bare loops that are held against it, each the function of a part."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypedDict

from pgqueue.bench import bare
from pgqueue.bench.part import Begin
from pgqueue.bench.place import Place
from pgqueue.bench.work import Noop

WARM_UP = 10
BULK_WARM_UP = 2_000
"""Jobs before those that count, with higher numbers: plans and code as they are in a process that runs for long."""
COPIED_AT_A_TIME = 10_000


class Produced(TypedDict):
    """Times before and after each call, in nanoseconds of the monotonic clock."""

    before: list[int]
    after: list[int]


def enqueue_each(
    place: Place, begin: Begin, *, first: int, count: int, warm_up: int = 0, interval: float = 0.0
) -> Produced:
    """Jobs one by one, each in a commit of its own, about every `interval` seconds."""
    noop = Noop(place)
    noop.app.jobs.count()
    begin()
    found = _timed(noop.task.enqueue, first, count, warm_up, interval)
    noop.app.close()
    return found


def insert_each(place: Place, begin: Begin, *, first: int, count: int, warm_up: int = 0) -> Produced:
    """The bare loop of the same."""
    with place.connect() as conn:
        begin()
        return _timed(bare.inserting(conn, place.schema), first, count, warm_up)


def notify_each(place: Place, begin: Begin, *, channel: str, count: int, interval: float) -> Produced:
    """Notifications for `hear`."""
    with place.connect() as conn:
        begin()
        return _timed(bare.notifying(conn, channel), 0, count, WARM_UP, interval)


def _timed(call: Callable[[int], object], first: int, count: int, warm_up: int, interval: float = 0.0) -> Produced:
    # Never in step with what the other side does regularly.
    pause = (lambda: random.uniform(0.5, 1.5) * interval) if interval else None
    end = first + count
    bare.timed(call, range(end, end + warm_up), pause)
    before, after = bare.timed(call, range(first, end), pause)
    return Produced(before=before, after=after)


def enqueue_many(place: Place, begin: Begin, *, count: int) -> Produced:
    """Jobs in one call, the making of the jobs included."""
    noop = Noop(place)

    def enqueue(first: int, end: int) -> None:
        noop.app.enqueue_many([noop.task.job(number) for number in range(first, end)])

    found = _timed_bulk(enqueue, begin, count)
    noop.app.close()
    return found


def copy(place: Place, begin: Begin, *, count: int) -> Produced:
    """The bare loop of the same."""
    with place.connect() as conn:
        return _timed_bulk(lambda first, end: bare.copy(conn, place.schema, bare.rows(range(first, end))), begin, count)


def _timed_bulk(enqueue: Callable[[int, int], None], begin: Begin, count: int) -> Produced:
    begin()
    enqueue(count, count + BULK_WARM_UP)
    before = time.monotonic_ns()
    enqueue(0, count)
    after = time.monotonic_ns()
    return Produced(before=[before], after=[after])


def fill(place: Place, jobs: int) -> None:
    """A full queue in empty tables, for a drain."""
    place.empty()
    noop = Noop(place)
    for first in range(0, jobs, COPIED_AT_A_TIME):
        last = min(first + COPIED_AT_A_TIME, jobs)
        noop.app.enqueue_many([noop.task.job(number) for number in range(first, last)])
    noop.app.close()
    place.settle()
