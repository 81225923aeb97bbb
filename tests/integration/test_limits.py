"""Limits as workers keep them: never more at once, never more often, in the order of a key."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from functools import partial
from typing import Any

import psycopg
import pytest

from pgqueue import Backoff, PgQueue
from tests.integration.waiting import DEADLINE, Gate, states, until


def limit(dsn: str, scope: str, name: str, key: str = "", **columns: Any) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        names = ", ".join(["scope", "name", "key", *columns])
        values = ", ".join(["%s"] * (3 + len(columns)))
        given = [scope, name, key, *columns.values()]
        conn.execute(f"insert into pgqueue.limits ({names}) values ({values})".encode(), given)


async def completed(app: PgQueue, count: int) -> bool:
    return (await states(app))["completed"] == count


async def test_no_more_run_at_once_than_the_queue_allows_on_all_workers(app: PgQueue, dsn: str) -> None:
    limit(dsn, "queue", "default", concurrency=3)
    gate = Gate(app, "wait")
    await app.aenqueue_many([gate.task.job(n) for n in range(20)])
    async with app.worker({"default": 10}), app.worker({"default": 10}):
        assert [await gate.enters() for _ in range(3)] == [0, 1, 2]
        gate.opened.set()
        await until(partial(completed, app, 20))
    assert gate.most == 3


async def test_each_value_of_a_key_has_its_own_places(app: PgQueue, dsn: str) -> None:
    limit(dsn, "task", "wait", "{n}", concurrency=1)
    gate = Gate(app, "wait")
    await app.aenqueue_many([gate.task.job(n) for n in (1, 1, 2, 2)])
    async with app.worker({"default": 10}):
        assert {await gate.enters(), await gate.enters()} == {1, 2}
        assert (await states(app))["blocked"] == 2
        gate.opened.set()
        await until(partial(completed, app, 4))
    assert gate.most == 2


@pytest.mark.parametrize("workers", [1, 2])
async def test_jobs_begin_no_more_often_than_their_rate(app: PgQueue, dsn: str, workers: int) -> None:
    limit(dsn, "queue", "default", rate=200)
    began: list[float] = []

    @app.task(name="note")
    async def note() -> None:
        began.append(asyncio.get_running_loop().time())

    await app.aenqueue_many([note.job() for _ in range(300)])
    async with asyncio.TaskGroup() as group:
        running = [app.worker({"default": 10}) for _ in range(workers)]
        for worker in running:
            await worker.start()
        await until(partial(completed, app, 300))
        for worker in running:
            worker.stop()
            group.create_task(worker.wait())
    began.sort()
    for first, time in enumerate(began):
        assert bisect_left(began, time + 0.5) - first <= 200 * 0.55 + 1


async def test_a_job_that_waits_for_its_retry_keeps_its_serial_key(app: PgQueue, dsn: str) -> None:
    order: list[tuple[int, int]] = []

    @app.task(name="step", bind=True, backoff=Backoff.fixed(0.05))
    async def step(ctx: Any, n: int) -> None:
        order.append((n, ctx.attempt))
        if n == 1 and ctx.attempt < 3:
            raise ValueError(n)

    await app.aenqueue_many([step.job(n) for n in range(4)])
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("update pgqueue.jobs set serial_key = 'k'")
    async with app.worker({"default": 10}):
        async with asyncio.timeout(DEADLINE):
            await until(partial(completed, app, 4))
    assert order == [(0, 1), (1, 1), (1, 2), (1, 3), (2, 1), (3, 1)]
