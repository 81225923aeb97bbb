"""Jobs that are enqueued in an application's own transactions: how long after their commit they begin."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from contextlib import ExitStack
from typing import Any

import psycopg

from benchmarks.scenarios.pickups import IDLE_BEFORE, arrivals
from benchmarks.scenarios.snapshots import churn_jobs, one_snapshot
from benchmarks.scenarios.working import LIMIT
from benchmarks.trial import Trial
from benchmarks.workers import ContenderFailed
from pgqueue import PgQueue
from pgqueue.task import Task

BURST = 50_000
BUSY = "select not exists (select from pgqueue.idle_workers)"
APART = 0.25
LONGEST_WORK = 0.02
STRANDED_MS = 500.0
"""Half of a poll: what takes as long was not found by a claim, but by a poll or a sweep."""


def late_commits(trial: Trial, held: float, count: int, dead: int) -> dict[str, Any]:
    """`count` transactions enqueue a job each and commit `held` seconds later; the worker is idle by then.

    Half of the jobs are enqueued while it is idle, and half while it works off others, when nobody sends a
    notification. With `dead`, as many jobs have come and gone before under a snapshot that is still held.
    """
    app, task = _app(trial)
    first = dead + BURST
    with ExitStack() as stack:
        stack.callback(app.close)
        if dead:
            stack.enter_context(one_snapshot(trial.dsn))
            churned, _ = churn_jobs(trial, 0, dead, LIMIT)
            if churned < dead:
                raise ContenderFailed(f"only {churned} of {dead} jobs came and went in {LIMIT:g} s")
        workers = stack.enter_context(trial.workers(first + count, timed=True))
        workers.go()
        time.sleep(IDLE_BEFORE)
        connections = [stack.enter_context(psycopg.connect(trial.dsn)) for _ in range(count)]
        began = []
        for number, connection in enumerate(connections):
            if number == count // 2:
                app.enqueue_many([task.job(dead + n) for n in range(BURST)])
                if not workers.until(lambda: trial.connection.execute(BUSY).fetchall() == [(True,)], LIMIT, rest=1):
                    raise ContenderFailed("the worker never said that it was busy")
            task.using(connection).enqueue(first + number)
            began.append(time.monotonic())
        if not workers.until(lambda: workers.ledgers.ran(dead, BURST) >= BURST, LIMIT):
            raise ContenderFailed(f"the worker did not end {BURST} jobs")
        commits = []
        for start, connection in zip(began, connections, strict=True):
            time.sleep(max(APART, start + held - time.monotonic()))
            connection.commit()
            commits.append(time.monotonic_ns())
        return {"held": held, "dead": dead, **arrivals(workers, first, commits)}


def app_traffic(trial: Trial, producers: int, seconds: float, a_second: float) -> dict[str, Any]:
    """`a_second` transactions of 0 to 20 ms over all producers, each with one enqueue; before, one producer alone."""
    alone = _traffic(trial, 1, seconds / 2, min(a_second, 30.0))
    beside = _traffic(trial, producers, seconds, a_second)
    return {
        "producers": producers,
        "alone": alone,
        **beside,
        "lost": alone["lost"] + beside["lost"],
        "doubled": alone["doubled"] + beside["doubled"],
    }


def _traffic(trial: Trial, producers: int, seconds: float, a_second: float) -> dict[str, Any]:
    app, task = _app(trial)
    size = int(2 * seconds * a_second) + producers
    with trial.workers(size, timed=True) as workers:
        workers.go()
        time.sleep(IDLE_BEFORE)
        commits = asyncio.run(_produce(trial.dsn, task, producers, seconds, a_second))
        found = arrivals(workers, 0, commits)
    app.close()
    stranded = sum(each > STRANDED_MS for each in found["samples"])
    return {"a_second": len(commits) / seconds, "stranded": stranded, **found}


async def _produce(dsn: str, task: Task[..., Any], producers: int, seconds: float, a_second: float) -> list[int]:
    """When each job's commit ended, in nanoseconds."""
    commits: dict[int, int] = {}
    numbers = itertools.count()
    ends = time.monotonic() + seconds
    rest = max(0.0, producers / a_second - LONGEST_WORK / 2)

    async def produce(seed: int) -> None:
        rng = random.Random(seed)
        async with await psycopg.AsyncConnection.connect(dsn) as connection:
            while time.monotonic() < ends:
                await asyncio.sleep(rng.uniform(0.0, 2 * rest))
                number = next(numbers)
                await task.using(connection).aenqueue(number)
                await asyncio.sleep(rng.uniform(0.0, LONGEST_WORK))
                await connection.commit()
                commits[number] = time.monotonic_ns()

    await asyncio.gather(*(produce(seed) for seed in range(producers)))
    return [commits[number] for number in sorted(commits)]


def _app(trial: Trial) -> tuple[PgQueue, Task[..., Any]]:
    app = PgQueue(trial.dsn)

    async def noop(id: int) -> None: ...

    return app, app.task(name="noop")(noop)
