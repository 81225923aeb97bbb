"""`transactional=True`: the task's own writes and the job's completion commit together, or not at all."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from pgqueue import Backoff, CancelJob, ConfigurationError, Context, JobFailed, PgQueue, SnoozeJob, Task
from pgqueue.config import sqlalchemy_url
from pgqueue.testing import adrain, aenqueued, drain
from tests.integration.waiting import DEADLINE, states

INSERT = "insert into charges values (7)"
IDLE = psycopg.pq.TransactionStatus.IDLE


@pytest.fixture(params=["psycopg", "engine", "async engine"])
async def bank(request: pytest.FixtureRequest, fresh_dsn: str) -> AsyncIterator[PgQueue]:
    """An app whose database has a table of charges; on its own pool, or on an engine."""
    with psycopg.connect(fresh_dsn) as connection:
        connection.execute("create table charges (order_id int primary key)")
    options: dict[str, Any] = {"backoff": Backoff.fixed(0)}
    if request.param == "psycopg":
        app = PgQueue(fresh_dsn, **options)
    else:
        make: Any = create_engine if request.param == "engine" else create_async_engine
        app = PgQueue(engine=make(sqlalchemy_url(fresh_dsn), poolclass=NullPool), **options)
    yield app
    await app.aclose()


def charges(app: PgQueue) -> int:
    with psycopg.connect(app.database.dsn) as connection:
        [[count]] = connection.execute("select count(*) from charges")
    return int(count)


async def charge(ctx: Context) -> None:
    """Writes on the job's connection, of whichever kind it is."""
    written = send(ctx, INSERT)
    if asyncio.iscoroutine(written) or hasattr(written, "__await__"):
        await written


def charge_in_a_thread(ctx: Context) -> None:
    send(ctx, INSERT)


def send(ctx: Context, command: str) -> Any:
    """To be awaited on an async connection."""
    return ctx.connection.execute(command if is_psycopg(ctx.connection) else text(command))


def is_psycopg(connection: Any) -> bool:
    return isinstance(connection, psycopg.Connection | psycopg.AsyncConnection)


def declare(app: PgQueue, kind: str, after: Any = None, **options: Any) -> Task[[], Any]:
    """A task that charges, and then does `after(ctx)`."""

    async def in_a_coroutine(ctx: Context) -> Any:
        await charge(ctx)
        return after(ctx) if after else "charged"

    def in_a_thread(ctx: Context) -> Any:
        charge_in_a_thread(ctx)
        return after(ctx) if after else "charged"

    body = in_a_coroutine if kind == "coroutine" else in_a_thread
    made: Task[[], Any] = app.task(name="charge", bind=True, transactional=True, **options)(body)
    return made


kinds = pytest.mark.parametrize("kind", ["coroutine", "thread"])


@kinds
async def test_the_write_and_the_completion_commit_together(bank: PgQueue, kind: str) -> None:
    job = await declare(bank, kind).aenqueue()
    assert (await adrain(bank)).completed == 1
    assert charges(bank) == 1
    after = await job.arefresh()
    assert (after.state, after.value) == ("completed", "charged")


@kinds
async def test_an_error_rolls_the_write_back_and_the_retry_writes_once(bank: PgQueue, kind: str) -> None:
    def fail_once(ctx: Context) -> None:
        if ctx.attempt == 1:
            raise ConnectionError("the bank is closed")

    job = await declare(bank, kind, fail_once).aenqueue()
    report = await adrain(bank, with_scheduled=True)
    assert (report.retried, report.completed) == (1, 1)
    assert charges(bank) == 1
    assert (await job.arefresh()).attempt == 2


@kinds
@pytest.mark.parametrize(
    ("signal", "state"), [(CancelJob("no"), "cancelled"), (SnoozeJob(60), "scheduled")], ids=["cancel", "snooze"]
)
async def test_any_other_outcome_rolls_the_write_back(bank: PgQueue, kind: str, signal: Exception, state: str) -> None:
    def raise_it(ctx: Context) -> None:
        raise signal

    job = await declare(bank, kind, raise_it).aenqueue()
    await adrain(bank)
    assert charges(bank) == 0
    assert (await job.arefresh()).state == state


@kinds
async def test_a_broken_transaction_is_an_error_of_the_task(bank: PgQueue, kind: str) -> None:
    with psycopg.connect(bank.database.dsn) as connection:
        connection.execute(INSERT)
    job = await declare(bank, kind, max_attempts=1).aenqueue()
    await adrain(bank)
    after = await job.arefresh()
    assert after.state == "failed"
    assert "UniqueViolation" in after.errors[0]["type"] + after.errors[0]["message"]
    assert charges(bank) == 1


@kinds
async def test_a_stale_claim_rolls_the_write_back(bank: PgQueue, kind: str) -> None:
    def lose_the_claim(ctx: Context) -> None:
        with psycopg.connect(bank.database.dsn) as other:
            other.execute("update pgqueue.jobs set claim_id = 1 where id = %s", [ctx.job_id])

    job = await declare(bank, kind, lose_the_claim).aenqueue()
    stale = asyncio.Event()
    bank.on("retried", lambda event: stale.set())
    async with bank.worker():
        await asyncio.wait_for(stale.wait(), DEADLINE)
    assert charges(bank) == 0
    after = await job.arefresh()
    assert (after.state, after.errors) == ("running", ())


@kinds
async def test_a_completion_that_fails_is_retried_whatever_errors_the_task_gives_up_on(
    bank: PgQueue, kind: str
) -> None:
    def lose_the_connection_once(ctx: Context) -> str:
        if ctx.attempt == 1:
            with psycopg.connect(bank.database.dsn, autocommit=True) as other:
                other.execute(
                    "select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = current_database() "
                    "and state = 'idle in transaction' and query like '%insert into charges%'"
                )
        return "charged"

    job = await declare(
        bank, kind, lose_the_connection_once, retry_on=ZeroDivisionError, give_up_on=Exception
    ).aenqueue()
    report = await adrain(bank, with_scheduled=True)
    assert (report.retried, report.failed, report.completed) == (1, 0, 1)
    assert charges(bank) == 1
    assert (await job.arefresh()).attempt == 2


@kinds
async def test_a_constraint_that_is_broken_at_the_commit_is_an_error_of_the_task(bank: PgQueue, kind: str) -> None:
    with psycopg.connect(bank.database.dsn) as connection:
        connection.execute("alter table charges add constraint late unique (order_id) deferrable initially deferred")
        connection.execute("alter table charges drop constraint charges_pkey")
        connection.execute(INSERT)
    errors = (psycopg.IntegrityError, IntegrityError)
    job = await declare(bank, kind, give_up_on=errors).aenqueue()
    await adrain(bank)
    after = await job.arefresh()
    assert (after.state, after.attempt) == ("failed", 1)
    assert charges(bank) == 1


@kinds
async def test_an_enqueue_on_the_jobs_connection_commits_with_it(bank: PgQueue, kind: str) -> None:
    next_job = bank.task(name="next")(nothing)

    async def in_a_coroutine(ctx: Context) -> None:
        await next_job.using(ctx.connection).aenqueue()
        if ctx.attempt == 1:
            raise ValueError

    def in_a_thread(ctx: Context) -> None:
        next_job.using(ctx.connection).enqueue()
        if ctx.attempt == 1:
            raise ValueError

    body = in_a_coroutine if kind == "coroutine" else in_a_thread
    task: Task[[], Any] = bank.task(name="first", bind=True, transactional=True)(body)
    await task.aenqueue()
    await adrain(bank, with_scheduled=True)
    assert sorted(job.task for job in await aenqueued(bank, state="completed")) == ["first", "next"]


@kinds
async def test_a_task_that_keeps_no_history_completes_all_the_same(bank: PgQueue, kind: str) -> None:
    await declare(bank, kind, keep_completed=False).aenqueue()
    assert (await adrain(bank)).completed == 1
    assert charges(bank) == 1
    assert await aenqueued(bank) == []


async def test_a_timeout_rolls_a_coroutine_back(bank: PgQueue) -> None:
    @bank.task(name="slow", bind=True, transactional=True, timeout=0.3, max_attempts=1)
    async def slow(ctx: Context) -> None:
        await charge(ctx)
        await asyncio.Event().wait()

    job = await slow.aenqueue()
    await adrain(bank)
    assert (await job.arefresh()).state == "failed"
    assert charges(bank) == 0


async def test_a_thread_that_returns_after_its_timeout_is_rolled_back(bank: PgQueue) -> None:
    go = threading.Event()

    @bank.task(name="slow", bind=True, transactional=True, timeout=0.3, max_attempts=1)
    def slow(ctx: Context) -> None:
        charge_in_a_thread(ctx)
        assert go.wait(DEADLINE)

    job = await slow.aenqueue()
    async with bank.worker():
        with pytest.raises(JobFailed, match=r"timeout of 0.3 s"):
            await job.aresult(DEADLINE)
        go.set()
    assert charges(bank) == 0


@kinds
async def test_many_transactional_jobs_run_beside_each_other(bank: PgQueue, kind: str) -> None:
    def body(ctx: Context) -> int:
        return ctx.job_id

    async def abody(ctx: Context) -> int:
        return ctx.job_id

    chosen: Any = abody if kind == "coroutine" else body
    task: Task[[], Any] = bank.task(name="many", bind=True, transactional=True)(chosen)
    await bank.aenqueue_many([task.job() for _ in range(60)])
    assert (await adrain(bank, slots=20)).completed == 60
    assert await states(bank) == {"completed": 60}


ENDINGS = ["commit", "rollback", "close"]


@kinds
@pytest.mark.parametrize("swallowed", [False, True], ids=["raised", "swallowed"])
@pytest.mark.parametrize("ending", ENDINGS)
async def test_a_task_that_ends_its_transaction_fails_and_nothing_of_it_is_kept(
    bank: PgQueue, kind: str, ending: str, swallowed: bool
) -> None:
    def end_in_a_thread(ctx: Context) -> None:
        charge_in_a_thread(ctx)
        with suppress(*[Exception] if swallowed else []):
            getattr(ctx.connection, ending)()

    async def end_in_a_coroutine(ctx: Context) -> None:
        await charge(ctx)
        with suppress(*[Exception] if swallowed else []):
            await getattr(ctx.connection, ending)()

    body: Any = end_in_a_coroutine if kind == "coroutine" else end_in_a_thread
    task: Task[[], Any] = bank.task(name="end", bind=True, transactional=True, max_attempts=1)(body)
    job = await task.aenqueue()
    await adrain(bank)
    after = await job.arefresh()
    if swallowed and after.state == "completed":
        # psycopg refuses a commit without harm to the transaction.
        assert charges(bank) == 1
        return
    assert after.state == "failed"
    assert re.search("leave that to the worker|forbidden within a Transaction", after.errors[0]["message"])
    assert charges(bank) == 0


@kinds
@pytest.mark.parametrize(
    "ending", ["commit", "rollback", "commit and chain", "rollback and chain", "commit; begin", "rollback; begin"]
)
async def test_a_task_that_ends_its_transaction_in_sql_fails_and_keeps_nothing_of_the_next_one(
    bank: PgQueue, kind: str, ending: str
) -> None:
    outside = []

    def in_a_thread(ctx: Context) -> None:
        send(ctx, ending)
        outside.append(is_psycopg(ctx.connection) and ctx.connection.info.transaction_status == IDLE)
        charge_in_a_thread(ctx)

    async def in_a_coroutine(ctx: Context) -> None:
        await send(ctx, ending)
        outside.append(is_psycopg(ctx.connection) and ctx.connection.info.transaction_status == IDLE)
        await charge(ctx)

    body: Any = in_a_coroutine if kind == "coroutine" else in_a_thread
    task: Task[[], Any] = bank.task(name="end", bind=True, transactional=True, max_attempts=1)(body)
    job = await task.aenqueue()
    await adrain(bank)
    after = await job.arefresh()
    assert after.state == "failed"
    assert "leave that to the worker" in after.errors[0]["message"]
    # In no transaction, psycopg's connection commits each statement.
    assert charges(bank) == sum(outside)


@kinds
async def test_savepoints_and_an_isolation_level_in_sql_are_the_tasks_own_business(bank: PgQueue, kind: str) -> None:
    sent = [
        "set transaction isolation level serializable",
        "savepoint part",
        INSERT,
        "rollback to savepoint part",
        INSERT,
        "release savepoint part",
    ]

    def in_a_thread(ctx: Context) -> None:
        for command in sent:
            send(ctx, command)

    async def in_a_coroutine(ctx: Context) -> None:
        for command in sent:
            await send(ctx, command)

    body: Any = in_a_coroutine if kind == "coroutine" else in_a_thread
    task: Task[[], Any] = bank.task(name="part", bind=True, transactional=True)(body)
    await task.aenqueue()
    assert (await adrain(bank)).completed == 1
    assert charges(bank) == 1


@pytest.mark.parametrize(("kind", "make"), [("thread", create_engine), ("coroutine", create_async_engine)])
async def test_an_engine_that_commits_each_statement_runs_no_transactional_task(
    fresh_dsn: str, kind: str, make: Any
) -> None:
    app = PgQueue(engine=make(sqlalchemy_url(fresh_dsn), poolclass=NullPool, isolation_level="AUTOCOMMIT"))
    job = await declare(app, kind, max_attempts=1).aenqueue()
    await adrain(app)
    # The task itself would have failed for want of its table.
    assert "AUTOCOMMIT" in (await job.arefresh()).errors[0]["message"]
    await app.aclose()


@pytest.mark.parametrize("signal", [None, CancelJob("no")], ids=["returns", "raises"])
def test_a_session_on_the_jobs_connection_commits_or_rolls_back_with_the_job(
    fresh_dsn: str, signal: Exception | None
) -> None:
    with psycopg.connect(fresh_dsn) as connection:
        connection.execute("create table charges (order_id int primary key)")
    app = PgQueue(engine=create_engine(sqlalchemy_url(fresh_dsn), poolclass=NullPool))

    @app.task(name="in-session", bind=True, transactional=True)
    def in_session(ctx: Context) -> None:
        with Session(ctx.connection) as session, session.begin():
            session.execute(text(INSERT))
        with Session(ctx.connection) as session, session.begin():
            if signal is not None:
                raise signal

    job = in_session.enqueue()
    drain(app)
    assert (job.refresh().state, charges(app)) == (("cancelled", 0) if signal else ("completed", 1))


def test_a_process_task_cannot_be_transactional(dsn: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot run in a process"):
        PgQueue(dsn).task(name="x", run_in="process", transactional=True)(nothing)


def nothing() -> None: ...
