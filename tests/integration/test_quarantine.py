"""Suspects run alone where that can be had soon, at little cost to the other queues, and they do run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import psycopg
import pytest

from pgqueue import PgQueue
from pgqueue.job import Job
from pgqueue.worker import Worker, quarantine
from tests.integration import process_app
from tests.integration.waiting import DEADLINE, Gate, states, until

PATIENCE = 0.2


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quarantine, "PATIENCE", PATIENCE)


async def suspect(
    app: PgQueue, dsn: str, task: str, queue: str = "suspects", *, suspicions: int = 2, crashes: int = 0, **args: Any
) -> Job:
    """A job that was with so many dying workers, or has killed one, before any worker here can claim it."""
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        job = await app.aenqueue(task, args, queue=queue, using=connection)
        await connection.execute(
            "update pgqueue.jobs set suspicions = %s, crashes = %s where id = %s", [suspicions, crashes, job.id]
        )
    return await app.jobs.aget(job.id)


@asynccontextmanager
async def standstill(worker: Worker) -> AsyncIterator[list[float]]:
    """Measures for how long the worker starts nothing: [standing, in all], in seconds, once it is left."""
    measured = [0.0, 0.0]

    async def watch() -> None:
        last = time.monotonic()
        while True:
            standing = not all(slots.open for slots in worker.serving.slots.values())
            await asyncio.sleep(0.002)
            now = time.monotonic()
            measured[0] += (now - last) * standing
            measured[1] += now - last
            last = now

    watching = asyncio.create_task(watch())
    try:
        yield measured
    finally:
        watching.cancel()


async def test_a_suspect_beside_a_long_job_runs_in_the_end_and_the_worker_stands_still_for_a_small_share_of_the_time(
    app: PgQueue, dsn: str
) -> None:
    long, short = Gate(app, "long"), Gate(app, "short")
    short.opened.set()
    await long.task.aenqueue()
    async with app.worker({"default": 2, "suspects": 2}) as worker:
        await long.enters()
        job = await suspect(app, dsn, "short")
        async with standstill(worker) as measured:
            await job.aresult(DEADLINE)
        assert long.inside == 1
        assert 0 < measured[0] < 2 * PATIENCE
        assert measured[1] > measured[0] * 10
        long.opened.set()


async def test_many_suspects_beside_a_long_job_do_not_take_turns_in_stopping_the_worker(app: PgQueue, dsn: str) -> None:
    long, short = Gate(app, "long"), Gate(app, "short")
    short.opened.set()
    await long.task.aenqueue()
    async with app.worker({"default": 2, "suspects": 4}) as worker:
        await long.enters()
        async with standstill(worker) as measured:
            for _ in range(8):
                await suspect(app, dsn, "short")
            await until(partial(has, app, completed=8))
        assert measured[0] < 0.1 * measured[1] + 2 * PATIENCE
        long.opened.set()


async def test_a_suspect_that_finds_the_worker_at_rest_runs_alone(app: PgQueue, dsn: str) -> None:
    gate = Gate(app, "wait")
    await suspect(app, dsn, "wait")
    async with app.worker({"default": 2, "suspects": 2}) as worker:
        await gate.enters()
        other = await app.aenqueue("wait")
        assert (worker.executor.running, worker.serving.slots["default"].open) == (1, False)
        gate.opened.set()
        await other.aresult(DEADLINE)


async def test_a_suspect_that_runs_long_gets_company(app: PgQueue, dsn: str) -> None:
    slow, short = Gate(app, "slow"), Gate(app, "short")
    short.opened.set()
    await suspect(app, dsn, "slow")
    async with app.worker({"default": 2, "suspects": 2}):
        await slow.enters()
        await (await short.task.aenqueue()).aresult(DEADLINE)
        assert slow.inside == 1
        slow.opened.set()


async def test_the_more_workers_died_with_a_suspect_the_longer_it_may_be_alone(
    app: PgQueue, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantine, "PATIENCE", 0.01)
    slow = Gate(app, "slow")
    await suspect(app, dsn, "slow", suspicions=2 + 4)
    async with app.worker({"default": 2, "suspects": 2}) as worker, standstill(worker) as measured:
        await slow.enters()
        await (await app.aenqueue("slow", {"n": 1})).arefresh()
        assert await slow.enters() == 1
        slow.opened.set()
    assert measured[0] > 0.01 * 2**3


async def test_a_worker_that_stops_gives_back_the_suspect_that_waits_to_be_alone(
    app: PgQueue, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantine, "PATIENCE", 3600.0)
    long, short = Gate(app, "long"), Gate(app, "short")
    await long.task.aenqueue()
    async with app.worker({"default": 2, "suspects": 2}) as worker:
        await long.enters()
        job = await suspect(app, dsn, "short")
        await until(partial(is_in, job, "running"))
        worker.stop()
        await until(partial(is_in, job, "available"))
        assert long.inside == 1
        long.opened.set()
    assert (await job.arefresh()).attempt == 0
    assert short.most == 0


async def test_a_drain_waits_for_the_suspect_that_was_put_off(app: PgQueue, dsn: str) -> None:
    long, short = Gate(app, "long"), Gate(app, "short")
    short.opened.set()
    await long.task.aenqueue()
    job = await suspect(app, dsn, "short")
    drain = asyncio.create_task(Worker(app, {"default": 2, "suspects": 2}, drain=True).run())
    await long.enters()
    await until(partial(is_in, job, "scheduled"))
    long.opened.set()
    await asyncio.wait_for(drain, DEADLINE)
    assert (await job.arefresh()).state == "completed"


async def test_a_worker_that_lost_its_jobs_does_not_run_the_suspect_that_waited_among_them(
    app: PgQueue, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantine, "PATIENCE", 3600.0)
    long, once = Gate(app, "long"), Gate(app, "once")
    await long.task.aenqueue()
    async with app.worker({"default": 2, "suspects": 2}, lease=1.0) as worker:
        await long.enters()
        job = await suspect(app, dsn, "once")
        await until(partial(is_in, job, "running"))
        before = worker.id
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
            await connection.execute("update pgqueue.workers set id = gen_random_uuid()")

        async def lives_anew() -> bool:
            return worker.id != before and worker.life.registered.is_set()

        await until(lives_anew)
        assert once.most == 0
        long.opened.set()
        once.opened.set()


async def test_a_task_whose_own_process_crashed_stops_nobody(dsn: str) -> None:
    app = process_app.app
    app.database.point_at(dsn)
    job = await suspect(app, dsn, "process_pid", "default", suspicions=0, crashes=1)
    async with app.worker() as worker, standstill(worker) as measured:
        await job.aresult(DEADLINE)
    await app.aclose()
    assert measured[0] == 0


async def has(app: PgQueue, **counts: int) -> bool:
    found = await states(app)
    return all(found[state] == count for state, count in counts.items())


async def is_in(job: Job, state: str) -> bool:
    return (await job.arefresh()).state == state
