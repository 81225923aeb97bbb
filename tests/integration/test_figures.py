"""Figures: what workers count of their runs, and when it is in the table."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from pgqueue import (
    ArgumentError,
    Backoff,
    CancelJob,
    ChunkJob,
    Context,
    PgQueue,
    SnoozeJob,
    WaitForChildren,
    chain,
)
from pgqueue.database import afetch
from pgqueue.outcome import Completed
from pgqueue.queries import figures
from pgqueue.queries.figures import Summary, Tally
from pgqueue.queries.finishing import Finished
from pgqueue.services.pruner import Pruner
from pgqueue.services.service import Runner
from pgqueue.testing import adrain
from pgqueue.worker.minutes import MOST_LANES, MinuteKeeper, Minutes
from tests.integration.waiting import DEADLINE, Gate, until
from tests.sql.rows import claim, connect, runner_on
from tests.sql.rows import worker as registered

Counts = dict[str, int]
COUNTED = ("completed", "failed", "retried", "snoozed", "cancelled")


async def counted(app: PgQueue) -> dict[str, Counts]:
    """By task, without what is zero."""
    return {row.name: counts(row) for row in await app.figures.aby_task()}


def counts(row: Summary) -> Counts:
    return {name: count for name in COUNTED if (count := getattr(row, name))}


async def runs(app: PgQueue, task: str, column: str = "runs") -> int:
    """How many times are in a histogram."""
    async with app.database.aconnection() as connection:
        query = f"select coalesce(sum(n), 0)::int from pgqueue.task_minutes, unnest({column}) n where task = %s"
        [(found,)] = await (await connection.execute(query, [task])).fetchall()
    return int(found)


def ended(job_id: int, queue: str = "mail") -> Finished:
    return Finished(job_id, 1, "send", Completed(), 0.001, queue=queue, waited=0.5)


def answering(fetch: Callable[[Any], Awaitable[list[Any]]]) -> Runner:
    async def run(operation: Any, atomic: bool) -> None:
        raise AssertionError(operation)

    return Runner(fetch, run)


async def test_every_run_of_a_worker_is_counted_as_what_it_came_to(app: PgQueue) -> None:
    @app.task(name="ends", bind=True, backoff=Backoff.fixed(0), max_attempts=2)
    async def ends(ctx: Context, how: str) -> None:
        if how == "cancel":
            raise CancelJob("no")
        if how == "fail" or (how == "retry" and ctx.attempt == 1):
            raise ValueError("no")

    @app.task(name="snoozes")
    async def snoozes() -> None:
        raise SnoozeJob(3600)

    await app.aenqueue_many([ends.job(how) for how in ("complete", "complete", "cancel", "fail", "retry")])
    await snoozes.aenqueue()
    await adrain(app)
    assert await counted(app) == {
        "ends": {"completed": 3, "failed": 1, "retried": 2, "cancelled": 1},
        "snoozes": {"snoozed": 1},
    }
    assert (await runs(app, "ends"), await runs(app, "ends", "waits"), await runs(app, "snoozes")) == (7, 7, 1)


async def test_tasks_of_every_kind_are_counted_each_job_once(app: PgQueue) -> None:
    @app.task(name="thread")
    def thread() -> None: ...

    @app.task(name="transactional", transactional=True)
    async def transactional() -> None: ...

    @app.task(name="chunk", chunk=10)
    async def chunk(jobs: list[ChunkJob[Any]]) -> None: ...

    @app.task(name="transactional_chunk", chunk=10, transactional=True)
    def transactional_chunk(jobs: list[ChunkJob[Any]]) -> None: ...

    made = (thread, transactional, chunk, transactional_chunk)
    await app.aenqueue_many([task.job() for task in made for _ in range(10)])
    await adrain(app)
    assert await counted(app) == {task.name: {"completed": 10} for task in made}
    assert {await runs(app, task.name, column) for task in made for column in ("runs", "waits")} == {10}


async def test_a_job_that_waits_for_others_is_counted_as_snoozed(app: PgQueue) -> None:
    @app.task(name="child")
    async def child() -> None: ...

    @app.task(name="parent", bind=True)
    async def parent(ctx: Context) -> None:
        if not ctx.children():
            raise WaitForChildren(child.job())

    await parent.aenqueue()
    await adrain(app)
    assert await counted(app) == {"child": {"completed": 1}, "parent": {"completed": 1, "snoozed": 1}}


async def test_what_ends_without_a_worker_is_not_counted(app: PgQueue) -> None:
    @app.task(name="fails", max_attempts=1)
    async def fails() -> None:
        raise ValueError

    app.flows.enqueue(chain(fails.job(), fails.job()))
    waiting = await fails.using(delay=3600).aenqueue()
    await waiting.acancel()
    await adrain(app)
    assert await counted(app) == {"fails": {"failed": 1}}


async def test_a_job_that_is_blamed_for_the_death_of_its_worker_is_counted_by_who_rescues_it(
    app: PgQueue, dsn: str
) -> None:
    @app.task(name="send", queue="mail", max_attempts=1)
    async def send() -> None: ...

    await send.aenqueue()
    with connect(dsn) as connection:
        assert len(claim(connection, registered(connection, lease=-1.0)).jobs) == 1
    rescued = asyncio.Event()
    app.on("rescued", lambda event: rescued.set())
    async with app.worker({"other": 1}, lease=1.0), asyncio.timeout(DEADLINE):
        await rescued.wait()
    assert await counted(app) == {"send": {"failed": 1}}
    assert await runs(app, "send") == 0


async def test_jobs_of_which_nothing_is_kept_are_counted(app: PgQueue) -> None:
    @app.task(name="forgotten", keep_completed=0)
    async def forgotten() -> None: ...

    await app.aenqueue_many([forgotten.job() for _ in range(700)])
    await adrain(app)
    assert await counted(app) == {"forgotten": {"completed": 700}}


async def test_times_are_those_of_the_runs_and_of_the_wait_before(app: PgQueue, dsn: str) -> None:
    gate = Gate(app, "wait", queue="mail")
    job = await gate.task.aenqueue()
    with psycopg.connect(dsn) as connection:
        connection.execute(
            "update pgqueue.jobs set run_at = clock_timestamp() - interval '1 hour' where id = %s", [job.id]
        )
    before = time.perf_counter()
    async with app.worker():
        await gate.enters()
        entered = time.perf_counter()
        await until(lambda: asyncio.sleep(0.01, time.perf_counter() - entered > 0.05))
        opened = time.perf_counter()
        gate.opened.set()
    after = time.perf_counter()
    [row] = await app.figures.aby_queue()
    assert row.name == "mail"
    assert row.run.p50 is not None
    assert (opened - entered) / 2 < row.run.p50 < (after - before) * 2
    assert row.wait.p50 is not None
    assert 3600.0 / 2 < row.wait.p50 < (3600.0 + after - before) * 2


async def test_two_workers_add_up(app: PgQueue) -> None:
    gate = Gate(app, "wait", queue="mail")
    await app.aenqueue_many([gate.task.job() for _ in range(4)])
    async with app.worker({"mail": 2}), app.worker({"mail": 2}):
        for _ in range(4):
            await gate.enters()
        gate.opened.set()
    assert await counted(app) == {"wait": {"completed": 4}}


async def test_a_worker_that_goes_on_adds_what_it_has_counted(app: PgQueue) -> None:
    @app.task(name="quick")
    async def quick() -> None: ...

    async with app.worker() as worker:
        await (await quick.aenqueue()).aresult(10)
        await until(lambda: asyncio.sleep(0.01, worker.finisher.backlog == 0))
        await worker.duties.minutes.run_once()
        assert await counted(app) == {"quick": {"completed": 1}}
        await (await quick.aenqueue()).aresult(10)
    assert await counted(app) == {"quick": {"completed": 2}}


async def test_what_could_not_be_added_is_added_later(app: PgQueue, dsn: str) -> None:
    minutes = Minutes()
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        keeper = MinuteKeeper(runner_on(connection), app.schema, minutes)
        minutes.count([ended(1)])
        await connection.execute("set default_transaction_read_only = on")
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            await keeper.run_once()
        minutes.count([ended(2)])
        await connection.execute("set default_transaction_read_only = off")
        for _ in range(2):
            await keeper.run_once()
    assert await counted(app) == {"send": {"completed": 2}}


async def test_a_worker_with_nothing_to_add_asks_nothing(app: PgQueue) -> None:
    async def fetch(statement: Any) -> list[Any]:
        raise AssertionError(statement)

    keeper = MinuteKeeper(answering(fetch), app.schema, Minutes())
    assert 0 < await keeper.run_once() <= 5


async def test_turns_come_about_at_the_end_of_a_minute_of_the_database(app: PgQueue) -> None:
    async def fetch(statement: Any) -> list[Any]:
        return [2.0]

    minutes = Minutes()
    keeper = MinuteKeeper(answering(fetch), app.schema, minutes)
    for _ in range(20):
        minutes.count([ended(1)])
        assert 1.5 <= await keeper.run_once() <= 2.5


def test_a_worker_counts_no_more_names_than_it_can_bear() -> None:
    minutes = Minutes()
    minutes.count([ended(number, queue=f"tenant-{number}") for number in range(MOST_LANES + 7)])
    minutes.count([ended(1, queue="tenant-1")])
    taken = minutes.take()
    assert len(taken) == MOST_LANES + 1
    assert taken["other", "other"].outcomes["completed"] == 7
    assert taken["tenant-1", "send"].outcomes["completed"] == 2


async def test_what_was_given_back_is_not_counted(app: PgQueue) -> None:
    gate = Gate(app, "wait", queue="mail")
    await app.aenqueue_many([gate.task.job() for _ in range(2)])
    async with app.worker({"mail": 1}) as worker:
        await gate.enters()
        worker.give_back()
        await worker.wait()
    assert await counted(app) == {}


async def test_the_pruner_deletes_figures_of_more_than_three_days_ago(app: PgQueue, dsn: str) -> None:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        minutes = Minutes()
        keeper = MinuteKeeper(runner_on(connection), app.schema, minutes)
        minutes.count([ended(1)])
        await keeper.run_once()
        await connection.execute(
            "insert into pgqueue.task_minutes select minute - interval '3 days 32 minutes', run_seconds, wait_seconds, "
            "completed, failed, retried, snoozed, cancelled, queue, task, runs, waits from pgqueue.task_minutes"
        )
        await Pruner(runner_on(connection), app.schema).run_once()
        [(left,)] = await (await connection.execute("select count(*) from pgqueue.task_minutes")).fetchall()
    assert left == 1


async def test_the_pruner_packs_what_is_hours_ago(app: PgQueue, dsn: str) -> None:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        for minutes in range(500, 530):
            await afetch(connection, figures.add(app.schema, {("mail", "send"): Tally()}, minutes * 60.0))
        await Pruner(runner_on(connection), app.schema).run_once()
        [(left,)] = await (await connection.execute("select count(*) from pgqueue.task_minutes")).fetchall()
    assert left in (3, 4)


def test_figures_are_asked_for_within_what_is_kept(app: PgQueue) -> None:
    assert len(app.figures.throughput(timedelta(days=3), step=timedelta(hours=1))) in (73, 74)
    for since in (0, -1, timedelta(days=4), True):
        with pytest.raises(ArgumentError, match="since"):
            app.figures.throughput(since)
    for step in (0, 30, 61, timedelta(days=4)):
        with pytest.raises(ArgumentError, match="step"):
            app.figures.latency(step=step)


async def test_figures_are_read_in_coroutines_too(app: PgQueue) -> None:
    @app.task(name="quick", queue="mail")
    async def quick() -> None: ...

    await quick.aenqueue()
    await adrain(app)
    reads: list[tuple[Callable[[], list[Any]], Callable[[], Awaitable[list[Any]]]]] = [
        (lambda: app.figures.throughput(queue="mail"), lambda: app.figures.athroughput(queue="mail")),
        (lambda: app.figures.latency(task="quick"), lambda: app.figures.alatency(task="quick")),
        (lambda: app.figures.by_task(queue="mail"), lambda: app.figures.aby_task(queue="mail")),
        (app.figures.by_queue, app.figures.aby_queue),
    ]
    for read, aread in reads:
        found, afound = await asyncio.to_thread(read), await aread()
        assert len(found) > 0
        assert type(found[0]) is type(afound[0])
    assert sum(point.completed for point in app.figures.throughput(queue="mail", task="quick")) == 1
