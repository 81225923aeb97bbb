"""The side that runs jobs: a worker, and the bare loops that are held against it, each the function of a part."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Coroutine
from typing import Any, TypedDict

import psycopg

from pgqueue.bench import bare
from pgqueue.bench.ledger import Ledger
from pgqueue.bench.part import Begin
from pgqueue.bench.place import Place
from pgqueue.database import Database
from pgqueue.task import Task
from pgqueue.worker import Worker, loop

SLOTS = 100
"""Of the worker that drains. The others have as many as a worker has by default."""
POLL = 0.05


class Worked(TypedDict):
    """Times in nanoseconds of the monotonic clock; `wrong` lists what did not run once, and how often it did."""

    began: int
    ended: int
    started: list[int]
    wrong: list[tuple[int, int]]


class Noop:
    """A new app with a task that does nothing but to write the ledger."""

    def __init__(self, place: Place, jobs: int = 0, *, kept: bool = True) -> None:
        self.app = place.app()
        self.ledger = ledger = Ledger(jobs)
        self.all_ran = all_ran = asyncio.Event()

        @self.app.task(name=bare.TASK, keep_completed=None if kept else 0)
        async def noop(number: int) -> None:
            if ledger.hit(number):
                all_ran.set()

        self.task: Task[[int], Coroutine[Any, Any, None]] = noop


def drain(place: Place, begin: Begin, *, jobs: int, kept: bool) -> Worked:
    """One worker until nothing is left: from when it has registered until all outcomes are written."""
    begin()
    return loop.run(_drain(Noop(place, jobs, kept=kept)))


async def _drain(noop: Noop) -> Worked:
    worker = noop.app.worker(queues={bare.QUEUE: SLOTS}, drain=True)
    await worker.start()
    began = time.monotonic_ns()
    while not noop.all_ran.is_set() and not worker.stopping:
        await _for_a_moment(noop.all_ran)
    return await _end(noop, worker, began)


def work(place: Place, begin: Begin, *, jobs: int) -> Worked:
    """One worker until so many jobs ran that others enqueue, or for PATIENCE none did; ready once it has registered."""
    return loop.run(_work(Noop(place, jobs), begin))


async def _work(noop: Noop, begin: Begin) -> Worked:
    worker = noop.app.worker(queues=[bare.QUEUE])
    await worker.start()
    await asyncio.to_thread(begin)
    began = moved = time.monotonic_ns()
    ran = 0
    while not noop.all_ran.is_set() and time.monotonic_ns() - moved < bare.PATIENCE * 1e9:
        await _for_a_moment(noop.all_ran)
        if noop.ledger.distinct > ran:
            ran, moved = noop.ledger.distinct, time.monotonic_ns()
    return await _end(noop, worker, began)


async def _for_a_moment(event: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(POLL):
            await event.wait()
    except TimeoutError:
        return


async def _end(noop: Noop, worker: Worker, began: int) -> Worked:
    while worker.executor.running:
        await worker.executor.changed()
    await worker.finisher.flushed()
    ended = time.monotonic_ns()
    worker.stop()
    await worker.wait()
    await noop.app.aclose()
    return Worked(began=began, ended=ended, started=noop.ledger.began, wrong=noop.ledger.wrong())


def claim_and_finish(place: Place, begin: Begin, *, jobs: int, kept: bool, wait: bool = False) -> Worked:
    """The bare loop: until nothing is left or, where it is to `wait`, until there were so many jobs."""
    with place.connect() as conn:
        loop = bare.ClaimLoop(conn, place.schema)
        begin()
        began = time.monotonic_ns()
        ids = loop.run(kept=kept, until=jobs if wait else None)
        ended = time.monotonic_ns()
    # An empty table gives the ids from 1 on.
    runs = Counter(ids)
    wrong = [(id_ - 1, runs[id_]) for id_ in range(1, jobs + 1) if runs[id_] != 1]
    return Worked(began=began, ended=ended, started=[], wrong=wrong)


def hear(place: Place, begin: Begin, *, channel: str, count: int) -> list[int]:
    """When each number arrived as a notification; ready once it listens."""
    return loop.run(_hear(place, begin, channel, Ledger(count)))


async def _hear(place: Place, begin: Begin, channel: str, ledger: Ledger) -> list[int]:
    options = Database(place.dsn, pooler=place.pooler).session_options("pgqueue bench")
    async with await psycopg.AsyncConnection.connect(place.dsn, autocommit=True, **options) as conn:
        await bare.listen(conn, channel)
        await asyncio.to_thread(begin)
        await bare.hear(conn, ledger.hit)
    return ledger.began
