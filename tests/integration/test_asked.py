"""Workers that are asked through the database to drain or to stop."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import psycopg
import pytest

from pgqueue import ArgumentError, PgQueue, WorkerNotFound
from pgqueue.queries import fleet
from pgqueue.queries.statement import Statement
from pgqueue.worker.vitals import health_of
from tests.integration.waiting import DEADLINE, Gate, states, until


def state_of(app: PgQueue, name: str) -> str:
    return next((worker.state for worker in app.workers.list() if worker.name == name), "gone")


@pytest.mark.parametrize("listen", [True, False])
async def test_a_worker_that_drains_claims_no_more_and_stops_when_what_runs_has_ended(
    app: PgQueue, listen: bool
) -> None:
    gate = Gate(app, "gate")
    running = await gate.task.aenqueue(1)
    worker = app.worker({"default": 2}, name="w", listen=listen, poll_interval=0.05, shutdown_timeout=0)
    async with worker:
        await gate.enters()
        assert await app.workers.adrain("w")
        await until(lambda: asyncio.to_thread(lambda: worker.draining and not idle(app)))
        assert state_of(app, "w") == "draining"
        assert health_of(worker).unready == ("it drains: it claims no more, and stops when what runs has ended",)
        late = await gate.task.aenqueue(2)
        [stats] = app.queues.stats()
        assert (stats.workers, stats.slots) == (0, 0)
        assert [reason.code for reason in app.jobs.why(late.id).reasons] == ["workers_stopping"]
        assert not await app.workers.adrain("w")
        gate.opened.set()
        async with asyncio.timeout(DEADLINE):
            await worker.wait()
        assert worker.asked
    # Its shutdown timeout of 0 did not count.
    assert (await app.jobs.aget(running.id)).state == "completed"
    assert (await app.jobs.aget(late.id)).state == "available"
    assert app.workers.list() == []


def idle(app: PgQueue) -> list[object]:
    return app.database.fetch(Statement("select 1 from pgqueue.idle_workers"))


async def test_a_worker_that_drains_gives_back_what_has_not_begun_to_others(app: PgQueue) -> None:
    gate = Gate(app, "gate")
    async with app.worker({"default": 1}, name="first", lease=60) as worker:
        await gate.task.aenqueue(1)
        await gate.enters()
        await app.aenqueue_many([gate.task.job(n) for n in range(2, 5)])
        assert await app.workers.adrain(worker.id)
        async with app.worker({"default": 3}, name="second"):
            assert sorted([await gate.enters() for _ in range(3)]) == [2, 3, 4]
            gate.opened.set()
            async with asyncio.timeout(DEADLINE):
                await worker.wait()


async def test_cancellations_reach_the_jobs_of_a_worker_that_drains(app: PgQueue) -> None:
    gate = Gate(app, "gate")
    job = await gate.task.aenqueue()
    async with app.worker(name="w") as worker:
        await gate.enters()
        await app.workers.adrain("w")
        await until(lambda: asyncio.to_thread(lambda: state_of(app, "w") == "draining" and not idle(app)))
        await app.jobs.acancel(job.id)
        async with asyncio.timeout(DEADLINE):
            await worker.wait()
    assert (await app.jobs.aget(job.id)).state == "cancelled"


@pytest.mark.parametrize("drains_first", [True, False])
async def test_a_worker_that_is_asked_to_stop_gives_back_what_outlasts_its_shutdown_timeout(
    app: PgQueue, drains_first: bool
) -> None:
    gate = Gate(app, "gate")
    job = await gate.task.aenqueue()
    worker = app.worker(name="w", shutdown_timeout=0.05)
    async with worker:
        await gate.enters()
        if drains_first:
            assert await app.workers.adrain("w")
        assert await app.workers.astop("w")
        assert state_of(app, "w") == "stopping"
        assert not await app.workers.astop("w")
        assert not await app.workers.adrain("w")
        async with asyncio.timeout(DEADLINE):
            await worker.wait()
        assert worker.asked
    job = await app.jobs.aget(job.id)
    assert (job.state, job.attempt) == ("available", 0)
    assert await states(app) == {"available": 1}


def test_a_name_must_be_that_of_one_live_worker(app: PgQueue, dsn: str) -> None:
    with pytest.raises(WorkerNotFound, match="no live worker has the name or id w: none is alive"):
        app.workers.drain("w")
    dead, *alive = [uuid4() for _ in range(3)]
    for pid, id_ in enumerate([dead, *alive]):
        app.database.fetch(
            fleet.register_worker(
                app.schema, worker=id_, name="w", host="h", pid=pid, version="0", queues={}, tasks=[], lease=30
            )
        )
    with psycopg.connect(dsn) as conn:
        conn.execute("update pgqueue.workers set expires_at = now() - interval '1 s' where id = %s", [dead])
    with pytest.raises(WorkerNotFound, match=f"no live worker has the name or id {dead}: there are w, w"):
        app.workers.stop(dead)
    with pytest.raises(ArgumentError, match=rf"2 workers are called w: give the id of one: {alive[0]} \(process 1 "):
        app.workers.stop("w")
    assert app.workers.stop(alive[0])
    assert [one.state for one in app.workers.list()] == ["running", "stopping", "running"]


def test_who_asks_within_a_transaction_asks_when_it_commits(app: PgQueue, dsn: str) -> None:
    id_ = uuid4()
    app.database.fetch(
        fleet.register_worker(
            app.schema, worker=id_, name="w", host="h", pid=1, version="0", queues={}, tasks=[], lease=30
        )
    )
    with psycopg.connect(dsn) as conn:
        assert app.workers.drain("w", using=conn)
        assert state_of(app, "w") == "running"
    assert state_of(app, "w") == "draining"
