"""How a worker hears of a job: by a notification long before it polls, and by polling where there is none."""

from __future__ import annotations

import asyncio
import logging

import psycopg
import pytest

from pgqueue import Backoff, Context, JobCancelled, PgQueue
from pgqueue.testing import aenqueued
from tests.integration.waiting import DEADLINE, Gate, until

LONG = 600


async def idle(app: PgQueue, dsn: str, count: int = 1) -> None:
    """Until `count` workers have said that they wait, and listen."""

    async def waits() -> bool:
        async with await psycopg.AsyncConnection.connect(dsn) as connection:
            found = await connection.execute("select count(distinct worker_id) from pgqueue.idle_workers")
            listening = await connection.execute(
                "select count(*) from pg_stat_activity where datname = current_database() and query like 'listen %'"
            )
            return [await found.fetchone(), await listening.fetchone()] == [(count,), (count,)]

    await until(waits)


async def test_an_idle_worker_is_woken_long_before_it_polls(app: PgQueue, dsn: str) -> None:
    gate = Gate(app, "wait")
    gate.opened.set()
    async with app.worker(poll_interval=LONG):
        await idle(app, dsn)
        for n in range(3):
            job = await gate.task.aenqueue(n)
            assert await job.aresult(DEADLINE) == n


async def test_an_enqueue_in_a_transaction_wakes_at_its_commit(app: PgQueue, dsn: str) -> None:
    gate = Gate(app, "wait")
    gate.opened.set()
    async with app.worker(poll_interval=LONG):
        await idle(app, dsn)
        async with await psycopg.AsyncConnection.connect(dsn) as connection:
            job = await gate.task.using(connection).aenqueue(1)
            assert gate.entered.empty()
        assert await job.aresult(DEADLINE) == 1


async def test_a_retry_runs_when_it_is_due_however_seldom_the_worker_polls(app: PgQueue) -> None:
    attempts: list[int] = []

    @app.task(name="flaky", bind=True, backoff=Backoff.delays([0.05, 0.2]))
    async def flaky(ctx: Context) -> str:
        attempts.append(ctx.attempt)
        if ctx.attempt < 3:
            raise ValueError(ctx.attempt)
        return "done"

    async with app.worker(poll_interval=LONG):
        job = await flaky.aenqueue()
        assert await job.aresult(DEADLINE) == "done"
    assert attempts == [1, 2, 3]


@pytest.mark.parametrize("count", [100, 2_000], ids=["insert", "copy"])
async def test_a_bulk_wakes_an_idle_worker(app: PgQueue, dsn: str, count: int) -> None:
    gate = Gate(app, "wait")
    gate.opened.set()
    async with app.worker(poll_interval=LONG):
        await idle(app, dsn)
        jobs = await app.aenqueue_many([gate.task.job(n) for n in range(count)])
        assert await jobs[-1].aresult(DEADLINE) == count - 1


async def test_a_new_priority_is_heard_of(app: PgQueue, dsn: str) -> None:
    gate = Gate(app, "wait")
    gate.opened.set()
    async with app.worker(poll_interval=LONG):
        await idle(app, dsn)
        for priority in (0, -7, 32_767):
            job = await gate.task.using(priority=priority).aenqueue(1)
            assert await job.aresult(DEADLINE) == 1


async def test_a_job_from_sql_is_heard_of(app: PgQueue, dsn: str) -> None:
    gate = Gate(app, "wait")
    async with app.worker(poll_interval=LONG):
        await idle(app, dsn)
        async with await psycopg.AsyncConnection.connect(dsn) as connection:
            await connection.execute("select pgqueue.enqueue('wait', '{\"n\": 5}')")
        assert await gate.enters() == 5
        gate.opened.set()


async def test_a_redriven_job_is_heard_of(app: PgQueue, dsn: str) -> None:
    gate = Gate(app, "wait", max_attempts=1, timeout=0.05)
    job = await gate.task.aenqueue(1)
    async with app.worker(poll_interval=LONG):
        await gate.enters()
        await until(lambda: aenqueued(app, state="failed"))
        await idle(app, dsn)
        gate.opened.set()
        await app.failed.aredrive([job.id])
        assert await gate.enters() == 1


async def test_without_notifications_polling_alone_finds_the_jobs(app: PgQueue) -> None:
    gate = Gate(app, "wait")
    gate.opened.set()
    async with app.worker(listen=False, poll_interval=0.05):
        job = await gate.task.aenqueue(1)
        assert await job.aresult(DEADLINE) == 1
        late = await gate.task.using(delay=0.1).aenqueue(2)
        assert await late.aresult(DEADLINE) == 2


async def test_without_notifications_a_running_job_is_cancelled_too(app: PgQueue) -> None:
    gate = Gate(app, "wait")
    async with app.worker(listen=False, poll_interval=0.05):
        job = await gate.task.aenqueue()
        await gate.enters()
        await job.acancel()
        with pytest.raises(JobCancelled):
            await job.aresult(DEADLINE)


async def test_a_notification_alone_cancels_no_job(app: PgQueue, dsn: str) -> None:
    gate = Gate(app, "wait")
    async with app.worker(poll_interval=LONG):
        await idle(app, dsn)
        job = await gate.task.aenqueue(1)
        assert await gate.enters() == 1
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
            await connection.execute("select pg_notify('pgqueue', %s)", [f"cancel {job.id}"])
        # Notifications come in their order: whoever hears of this one has heard of that.
        await gate.task.aenqueue(2)
        assert await gate.enters() == 2
        assert gate.inside == 2
        gate.opened.set()
        assert await job.aresult(DEADLINE) == 1


async def test_a_delayed_job_runs_when_it_is_due(app: PgQueue, dsn: str) -> None:
    gate = Gate(app, "wait")
    gate.opened.set()
    async with app.worker(poll_interval=LONG):
        await idle(app, dsn)
        job = await gate.task.using(delay=0.3).aenqueue(1)
        assert job.state == "scheduled"
        assert await job.aresult(DEADLINE) == 1
        after = await job.arefresh()
        assert after.started_at is not None
        assert after.started_at >= after.run_at


async def test_a_job_that_is_rescheduled_to_now_runs_now(app: PgQueue, dsn: str) -> None:
    gate = Gate(app, "wait")
    gate.opened.set()
    job = await gate.task.using(delay=3600).aenqueue(1)
    async with app.worker(poll_interval=LONG):
        await idle(app, dsn)
        assert await app.jobs.areschedule(job.id)
        assert await job.aresult(DEADLINE) == 1


async def test_a_worker_whose_connections_are_cut_connects_again_and_goes_on(
    app: PgQueue, dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pgqueue")
    gate = Gate(app, "wait")
    gate.opened.set()
    async with app.worker({"default": 2}, poll_interval=LONG):
        await idle(app, dsn)
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
            await connection.execute(
                "select pg_terminate_backend(pid, 5000) from pg_stat_activity "
                "where datname = current_database() and application_name like 'pgqueue %'"
            )
        jobs = await app.aenqueue_many([gate.task.job(n) for n in range(20)])
        assert [await job.aresult(DEADLINE) for job in jobs] == list(range(20))
        assert [await gate.enters() for _ in range(20)] == list(range(20))


async def test_behind_a_pooler_the_worker_polls(fresh_dsn: str) -> None:
    app = PgQueue(fresh_dsn, pooler=True)
    gate = Gate(app, "wait")
    gate.opened.set()
    async with app.worker(poll_interval=0.05):
        job = await gate.task.aenqueue(3)
        assert await job.aresult(DEADLINE) == 3
        async with await psycopg.AsyncConnection.connect(fresh_dsn) as connection:
            found = await connection.execute(
                "select count(*) from pg_stat_activity where datname = current_database() and query like 'listen %'"
            )
            assert await found.fetchone() == (0,)
    await app.aclose()


async def test_workers_at_once_run_each_job_once(app: PgQueue, dsn: str) -> None:
    runs: list[int] = []
    done = asyncio.Event()

    @app.task(name="note")
    async def note(n: int) -> None:
        runs.append(n)
        if len(runs) == 500:
            done.set()

    async with app.worker(poll_interval=LONG), app.worker(poll_interval=LONG), app.worker(poll_interval=LONG):
        await idle(app, dsn, count=3)
        for start in range(0, 500, 50):
            await app.aenqueue_many([note.using(priority=n % 3).job(n) for n in range(start, start + 50)])
        await asyncio.wait_for(done.wait(), DEADLINE)
    assert sorted(runs) == list(range(500))


@pytest.mark.parametrize("savepoint", [False, True])
async def test_an_enqueue_from_before_the_worker_was_idle_is_found_at_its_late_commit(
    app: PgQueue, dsn: str, savepoint: bool
) -> None:
    gate = Gate(app, "wait")
    gate.opened.set()
    async with (
        await psycopg.AsyncConnection.connect(dsn) as early,
        await psycopg.AsyncConnection.connect(dsn) as undone,
    ):
        await gate.task.using(undone).aenqueue(0)
        if savepoint:
            await early.execute("savepoint inner_one")
        job = await gate.task.using(early).aenqueue(1)
        async with app.worker(poll_interval=LONG):
            await idle(app, dsn)
            await undone.rollback()
            await early.commit()
            assert await job.aresult(DEADLINE) == 1


async def test_hints_that_never_end_do_not_keep_a_worker_from_looking_elsewhere(app: PgQueue, dsn: str) -> None:
    gate = Gate(app, "wait")
    gate.opened.set()

    async def hint_for_ever() -> None:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
            while True:
                await connection.execute("select pg_notify('pgqueue', 'available default 0 1')")

    async with app.worker(poll_interval=0.05):
        await idle(app, dsn)
        hints = asyncio.create_task(hint_for_ever())
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
            await connection.execute(
                "insert into pgqueue.jobs (queue, task, args, state, priority, position) "
                "values ('default', 'wait', '{\"n\": 7}', 'available', 9, nextval('pgqueue.jobs_position'))"
            )
        assert await gate.enters() == 7
        hints.cancel()


async def test_a_notification_of_a_priority_that_cannot_be_is_no_lane(app: PgQueue, dsn: str) -> None:
    gate = Gate(app, "wait")
    gate.opened.set()
    async with app.worker(poll_interval=LONG) as worker:
        await idle(app, dsn)
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
            await connection.execute("select pg_notify('pgqueue', 'available default 40000 1')")
        job = await gate.task.aenqueue(1)
        assert await job.aresult(DEADLINE) == 1
        assert [priority for priority, _ in worker.serving.lanes()["default"].ordered()] == [0]
