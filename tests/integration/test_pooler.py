"""Behind PgBouncer, which pools transactions: nothing rides on a session, and nothing of ours stays behind on one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import psycopg
import pytest
from psycopg import errors as pg_errors
from psycopg import sql
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from pgqueue import Backoff, ConfigurationError, ConnectionFailed, Context, PgQueue, Task, migrate
from pgqueue.config import sqlalchemy_url
from pgqueue.database import afetch
from pgqueue.queries import pruning
from pgqueue.queries.statement import Statement
from pgqueue.testing import enqueued
from pgqueue.worker.connection import WorkerConnection
from tests.integration.bouncer import bouncer, program
from tests.integration.waiting import DEADLINE, default_to_serializable

pytestmark = pytest.mark.skipif(program() is None, reason="no pgbouncer on the PATH: apt-get install pgbouncer")

COPIED = 2_000
SETTINGS = (
    "synchronous_commit",
    "lock_timeout",
    "statement_timeout",
    "idle_in_transaction_session_timeout",
    "enable_seqscan",
    "enable_bitmapscan",
    "plan_cache_mode",
    "jit",
    "default_transaction_isolation",
)


@pytest.fixture
def pooled(fresh_dsn: str) -> Iterator[str]:
    with bouncer(fresh_dsn) as dsn:
        yield dsn


@pytest.fixture
async def app(pooled: str) -> AsyncIterator[PgQueue]:
    made = PgQueue(pooled, pooler=True, backoff=Backoff.fixed(0))
    yield made
    await made.aclose()


@pytest.fixture
def send(app: PgQueue) -> Task[[int], int]:
    @app.task(name="send")
    async def send(n: int) -> int:
        return n

    return send  # type: ignore[return-value]


def settings_of_every_server_connection(dsn: str) -> set[tuple[str, ...]]:
    """Three transactions at once are held by the three server connections that there are."""
    seen = {}
    connections = [psycopg.connect(dsn, prepare_threshold=None) for _ in range(3)]
    for connection in connections:
        [(pid, *values)] = connection.execute(
            "select pg_backend_pid(), " + ", ".join(f"current_setting('{name}')" for name in SETTINGS)
        )
        seen[pid] = tuple(values)
    for connection in connections:
        connection.close()
    assert len(seen) == 3
    return set(seen.values())


def test_every_way_to_enqueue_goes_through_a_pooler(app: PgQueue, send: Task[[int], int], pooled: str) -> None:
    for n in range(12):
        send.enqueue(n)
    app.enqueue_many([send.job(n) for n in range(12, 20)])
    app.enqueue_many([send.job(n) for n in range(20, 20 + COPIED)])
    with psycopg.connect(pooled, prepare_threshold=None) as connection:
        send.using(connection, key="once").enqueue(-1)
        assert not send.using(connection, key="once").enqueue(-2).created
    assert sorted(job.args["n"] for job in enqueued(app)) == list(range(-1, 20 + COPIED))


async def test_every_async_way_to_enqueue_goes_through_a_pooler(
    app: PgQueue, send: Task[[int], int], pooled: str
) -> None:
    await asyncio.gather(*(send.aenqueue(n) for n in range(12)))
    await app.aenqueue_many([send.job(n) for n in range(12, 20)])
    await app.aenqueue_many([send.job(n) for n in range(20, 20 + COPIED)])
    async with await psycopg.AsyncConnection.connect(pooled, prepare_threshold=None) as connection:
        await send.using(connection, key="once").aenqueue(-1)
    assert sorted(job.args["n"] for job in enqueued(app)) == list(range(-1, 20 + COPIED))


def test_an_enqueue_joins_a_session_of_an_engine_behind_the_pooler(
    app: PgQueue, send: Task[[int], int], pooled: str
) -> None:
    engine = create_engine(sqlalchemy_url(pooled), poolclass=NullPool, connect_args={"prepare_threshold": None})
    with Session(engine) as session, session.begin():
        send.using(session).enqueue(1)
        session.execute(text("select 1"))
    with Session(engine) as session:
        send.using(session).enqueue(2)
        session.rollback()
    assert [job.args["n"] for job in enqueued(app)] == [1]


async def test_a_worker_behind_a_pooler_does_it_all_and_leaves_no_setting_behind(
    app: PgQueue, send: Task[[int], int], pooled: str, fresh_dsn: str
) -> None:
    before = settings_of_every_server_connection(pooled)

    @app.task(name="charge", bind=True, transactional=True)
    async def charge(ctx: Context) -> None:
        await ctx.connection.execute("create table charges (n int)")

    @app.task(name="fail", max_attempts=2)
    def fail() -> None:
        raise ValueError("no")

    async with app.worker(slots=4, poll_interval=0.05, lease=3, with_scheduler=True) as worker:
        made = await app.aenqueue_many([send.job(n) for n in range(300)])
        later = await send.using(delay=0.1).aenqueue(7)
        failing, charging = await app.aenqueue("fail"), await charge.aenqueue()
        assert [await job.aresult(DEADLINE) for job in made] == list(range(300))
        assert await later.aresult(DEADLINE) == 7
        await charging.aresult(DEADLINE)
        assert (await app.jobs.await_(failing.id, DEADLINE)).state == "failed"
        services: list[Any] = [worker.duties.rescuer, worker.duties.reconciler, worker.duties.cancellations]
        for service in services:
            await service.run_once()
    with psycopg.connect(fresh_dsn) as connection:
        assert connection.execute("select count(*) from charges").fetchone() == (0,)
    assert settings_of_every_server_connection(pooled) == before


async def test_the_settings_of_a_workers_connection_hold_in_each_of_its_transactions(
    pooled: str, fresh_dsn: str
) -> None:
    default_to_serializable(fresh_dsn)
    app = PgQueue(pooled, pooler=True)
    connection = WorkerConnection(app.database, "test", lock_timeout="321ms")
    shown: Statement[Any] = Statement(
        "select current_setting('lock_timeout'), current_setting('enable_seqscan'), current_setting('jit'), "
        "current_setting('transaction_isolation')"
    )

    def operation() -> Any:
        return (yield shown)

    expected = [("321ms", "off", "off", "read committed")]
    assert await connection.fetch(shown) == expected
    assert await connection.run(operation()) == expected
    assert await connection.run(operation(), atomic=True) == expected
    async with await psycopg.AsyncConnection.connect(pooled, prepare_threshold=None) as other:
        assert (await afetch(other, shown))[0][:3] == ("0", "on", "on")
    await connection.close()


async def test_a_partition_is_detached_through_a_pooler(app: PgQueue, send: Task[[int], int], fresh_dsn: str) -> None:
    with psycopg.connect(fresh_dsn) as connection:
        connection.execute("create table pgqueue.completed_jobs_20200101 (like pgqueue.completed_jobs including all)")
        connection.execute(
            "alter table pgqueue.completed_jobs attach partition pgqueue.completed_jobs_20200101 "
            "for values from ('2020-01-01 00:00+00') to ('2020-01-02 00:00+00')"
        )
    pruned = asyncio.Event()

    class Seen(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "dropped completed_jobs_20200101" in record.getMessage():
                pruned.set()

    logger, handler = logging.getLogger("pgqueue.services"), Seen()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        async with app.worker(poll_interval=0.05), asyncio.timeout(DEADLINE):
            await pruned.wait()
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)


async def test_a_lock_timeout_of_the_role_bounds_a_detach_through_a_pooler(app: PgQueue, fresh_dsn: str) -> None:
    with psycopg.connect(fresh_dsn, autocommit=True) as connection:
        database = sql.Identifier(connection.info.dbname)
        connection.execute(sql.SQL("alter role current_user in database {} set lock_timeout = '50ms'").format(database))
        [(today,)] = connection.execute("select to_char(clock_timestamp() at time zone 'UTC', 'YYYYMMDD')")
    pruner = WorkerConnection(app.database, "pruner", lock_timeout="2s")
    with psycopg.connect(fresh_dsn) as reader:
        reader.execute("select from pgqueue.completed_jobs")
        async with asyncio.timeout(DEADLINE):
            with pytest.raises(pg_errors.LockNotAvailable):
                await pruner.fetch(pruning.detach_partition("pgqueue", f"completed_jobs_{today}", finalize=False))
    await pruner.close()


async def test_a_worker_behind_a_pooler_says_that_it_polls(
    app: PgQueue, send: Task[[int], int], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "pgqueue.worker"):
        async with app.worker(poll_interval=0.05):
            pass
    assert "behind a pooler there is no LISTEN: jobs are found by polling, every 0.05 s" in caplog.text


def test_an_app_that_was_not_told_of_the_pooler_is_told_what_to_say(pooled: str) -> None:
    app = PgQueue(pooled)
    with pytest.raises(ConnectionFailed, match=r"PgQueue\(…, pooler=True\)"):
        app.enqueue("send")
    app.close()


def test_a_migration_through_a_pooler_is_refused(pooled: str) -> None:
    with pytest.raises(ConfigurationError, match=r"leads to a pooler.*DSN of PostgreSQL itself"):
        migrate.upgrade(pooled)
