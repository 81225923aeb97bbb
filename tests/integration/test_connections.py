"""An enqueue joins the transaction that it is given: on every kind of connection it commits and rolls back with it."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, ExitStack, contextmanager, suppress
from functools import partial
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import dict_row, namedtuple_row
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from pgqueue import (
    ArgumentError,
    ConfigurationError,
    ConnectionFailed,
    Context,
    NewJob,
    PgQueue,
    SchemaOutOfDate,
    Task,
)
from pgqueue.config import sqlalchemy_url
from pgqueue.database import arun, fetch, pools
from pgqueue.queries.statement import Operation, Statement, Together
from pgqueue.testing import aenqueued, enqueued
from pgqueue.worker.connection import WorkerConnection
from tests.integration.waiting import DEADLINE, default_to_serializable, until

Joined = Callable[[], AbstractContextManager[Any]]
AJoined = Callable[[], AbstractAsyncContextManager[Any]]
MANY = 2_000
NOT_SO_MANY = "alter table pgqueue.jobs add constraint not_so_many check (args <> '{\"n\": 1500}') not valid"


class Rollback(Exception):
    """What the caller's own code raises."""


@pytest.fixture
def send(app: PgQueue) -> Task[[int], None]:
    @app.task(name="send")
    def send(n: int) -> None: ...

    return send


def numbers(app: PgQueue) -> list[int]:
    return [job.args["n"] for job in enqueued(app)]


def some_jobs(send: Task[[int], None], count: int) -> Sequence[NewJob]:
    return [send.job(n) for n in range(count)]


def test_an_enqueue_commits_with_the_callers_transaction(app: PgQueue, send: Task[[int], None], joined: Joined) -> None:
    with joined() as connection:
        send.using(connection).enqueue(1)
        app.enqueue("send", {"n": 2}, using=connection)
        app.enqueue_many([send.job(3), send.job(4)], using=connection)
        assert numbers(app) == []
        assert len(enqueued(app, using=connection)) == 4
    assert numbers(app) == [1, 2, 3, 4]


def test_an_enqueue_rolls_back_with_the_callers_transaction(
    app: PgQueue, send: Task[[int], None], joined: Joined
) -> None:
    with suppress(Rollback), joined() as connection:
        send.using(connection).enqueue(1)
        assert send.using(connection, key="once").enqueue(2).created
        app.enqueue_many([send.job(3), send.using(key="twice").job(4)], using=connection)
        app.enqueue_many(some_jobs(send, MANY), using=connection)
        raise Rollback
    assert numbers(app) == []
    assert send.using(key="once").enqueue(5).created


def test_thousands_of_jobs_commit_with_the_callers_transaction(
    app: PgQueue, send: Task[[int], None], joined: Joined
) -> None:
    with joined() as connection:
        made = app.enqueue_many(some_jobs(send, MANY), using=connection)
    assert numbers(app) == list(range(MANY))
    assert [job.id for job in enqueued(app)] == [job.id for job in made]


def test_a_unique_job_is_found_in_the_callers_transaction(
    app: PgQueue, send: Task[[int], None], joined: Joined
) -> None:
    with joined() as connection:
        first = send.using(connection, key="k").enqueue(1)
        second = send.using(connection, key="k").enqueue(2)
        assert (first.created, second.created, second.id) == (True, False, first.id)
    assert numbers(app) == [1]


def test_cancel_reschedule_and_find_by_key_join_the_callers_transaction(
    app: PgQueue, send: Task[[int], None], joined: Joined
) -> None:
    moved, gone = (send.using(key=key).enqueue(1) for key in ("moved", "gone"))
    with suppress(Rollback), joined() as connection:
        assert app.jobs.cancel(key="gone", using=connection) == [gone.id]
        assert app.jobs.reschedule(key="moved", delay=60, using=connection)
        assert app.jobs.find("gone", using=connection) is None
        found = app.jobs.find("moved", using=connection)
        assert found is not None
        assert found.state == "scheduled"
        raise Rollback
    assert moved.refresh().state == gone.refresh().state == "available"
    with joined() as connection:
        app.jobs.cancel(key="gone", using=connection)
        app.jobs.reschedule(key="moved", delay=60, using=connection)
    assert (moved.refresh().state, gone.refresh().state) == ("scheduled", "cancelled")


async def test_an_async_enqueue_commits_with_the_callers_transaction(
    app: PgQueue, send: Task[[int], None], ajoined: AJoined
) -> None:
    async with ajoined() as connection:
        await send.using(connection).aenqueue(1)
        await app.aenqueue("send", {"n": 2}, using=connection)
        await app.aenqueue_many([send.job(3), send.job(4)], using=connection)
        assert numbers(app) == []
        assert len(await aenqueued(app, using=connection)) == 4
    assert numbers(app) == [1, 2, 3, 4]


async def test_an_async_enqueue_rolls_back_with_the_callers_transaction(
    app: PgQueue, send: Task[[int], None], ajoined: AJoined
) -> None:
    with suppress(Rollback):
        async with ajoined() as connection:
            await send.using(connection).aenqueue(1)
            assert (await send.using(connection, key="once").aenqueue(2)).created
            await app.aenqueue_many([send.job(3), send.using(key="twice").job(4)], using=connection)
            await app.aenqueue_many(some_jobs(send, MANY), using=connection)
            raise Rollback
    assert numbers(app) == []
    assert (await send.using(key="once").aenqueue(5)).created


async def test_thousands_of_jobs_commit_with_the_callers_async_transaction(
    app: PgQueue, send: Task[[int], None], ajoined: AJoined
) -> None:
    async with ajoined() as connection:
        made = await app.aenqueue_many(some_jobs(send, MANY), using=connection)
    assert numbers(app) == list(range(MANY))
    assert [job.id for job in enqueued(app)] == [job.id for job in made]


async def test_keys_work_in_the_callers_async_transaction(
    app: PgQueue, send: Task[[int], None], ajoined: AJoined
) -> None:
    async with ajoined() as connection:
        first = await send.using(connection, key="k").aenqueue(1)
        assert (await send.using(connection, key="k").aenqueue(2)).id == first.id
        assert await app.jobs.areschedule(key="k", delay=60, using=connection)
        found = await app.jobs.afind("k", using=connection)
        assert found is not None
        assert found.state == "scheduled"
        assert await app.jobs.acancel(key="k", using=connection) == [first.id]
    assert (await first.arefresh()).state == "cancelled"


def test_an_enqueue_next_to_the_callers_own_writes_leaves_the_session_usable(
    app: PgQueue, send: Task[[int], None], dsn: str
) -> None:
    engine = create_engine(sqlalchemy_url(dsn), poolclass=NullPool)
    with Session(engine) as session, session.begin():
        session.execute(text("create temp table orders (id int) on commit drop"))
        with suppress(Rollback), session.begin_nested():
            send.using(session).enqueue(1)
            raise Rollback
        send.using(session).enqueue(2)
        session.execute(text("insert into orders values (1)"))
        assert session.execute(text("select count(*) from orders")).scalar_one() == 1
    assert numbers(app) == [2]


@pytest.mark.parametrize("row_factory", [dict_row, namedtuple_row], ids=["dict_row", "namedtuple_row"])
@pytest.mark.parametrize("cursor_factory", [psycopg.Cursor, psycopg.ClientCursor, psycopg.RawCursor])
def test_the_factories_of_the_callers_connection_do_not_matter(
    app: PgQueue, send: Task[[int], None], dsn: str, row_factory: Any, cursor_factory: Any
) -> None:
    with psycopg.connect(dsn, row_factory=row_factory, cursor_factory=cursor_factory) as connection:
        send.using(connection, key="k").enqueue(1)
        assert not send.using(connection, key="k").enqueue(2).created
        app.enqueue_many(some_jobs(send, MANY), using=connection)
    assert len(numbers(app)) == MANY + 1


async def test_the_factories_of_the_callers_async_connection_do_not_matter(
    app: PgQueue, send: Task[[int], None], dsn: str
) -> None:
    factories: dict[str, Any] = {"row_factory": dict_row, "cursor_factory": psycopg.AsyncClientCursor}
    async with await psycopg.AsyncConnection.connect(dsn, **factories) as connection:
        await send.using(connection, key="k").aenqueue(1)
        assert not (await send.using(connection, key="k").aenqueue(2)).created
    assert numbers(app) == [1]


def test_on_an_autocommit_connection_each_enqueue_commits_whole(
    app: PgQueue, send: Task[[int], None], dsn: str
) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        send.using(connection).enqueue(0)
        assert numbers(app) == [0]
        app.enqueue_many(some_jobs(send, MANY), using=connection)
        assert len(numbers(app)) == MANY + 1
        connection.execute(NOT_SO_MANY)
        try:
            keyed = [send.using(key=f"k{n}").job(n) for n in range(1_600)]
            with pytest.raises(psycopg.errors.CheckViolation):
                app.enqueue_many(keyed, using=connection)
        finally:
            connection.execute("alter table pgqueue.jobs drop constraint not_so_many")
    assert len(numbers(app)) == MANY + 1


async def test_on_an_async_autocommit_connection_a_bulk_commits_whole(
    app: PgQueue, send: Task[[int], None], dsn: str
) -> None:
    engine = create_async_engine(sqlalchemy_url(dsn), poolclass=NullPool, isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection, await psycopg.AsyncConnection.connect(dsn, autocommit=True) as other:
        for each in (connection, other):
            await app.aenqueue_many(some_jobs(send, MANY), using=each)
    transactions: Statement[Any] = Statement("select count(distinct xmin::text) from pgqueue.jobs")
    assert app.database.fetch(transactions) == [(2,)]
    assert len(numbers(app)) == 2 * MANY


def test_the_own_pool_commits_at_once(app: PgQueue, send: Task[[int], None]) -> None:
    assert send.enqueue(1).id == enqueued(app)[0].id
    app.enqueue_many([send.job(2), send.job(3)])
    app.enqueue_many(some_jobs(send, MANY))
    assert len(numbers(app)) == MANY + 3


@pytest.mark.parametrize("asynchronous", [False, True], ids=["Engine", "AsyncEngine"])
async def test_an_app_on_an_engine_enqueues_both_ways(dsn: str, asynchronous: bool) -> None:
    make: Any = create_async_engine if asynchronous else create_engine
    engine = make(sqlalchemy_url(dsn), poolclass=NullPool)
    app = PgQueue(engine=engine)
    app.task(name="send")(send_number)
    app.enqueue("send", {"n": 1})
    await app.aenqueue("send", {"n": 2})
    app.enqueue_many(some_jobs(app.tasks["send"], MANY))
    await app.aenqueue_many([app.new_job("send", {"n": 3})] * 2)
    assert len(numbers(app)) == MANY + 4
    await app.aclose()


def test_a_bulk_on_an_engine_is_written_whole_or_not_at_all(dsn: str) -> None:
    app = PgQueue(engine=create_engine(sqlalchemy_url(dsn), poolclass=NullPool))
    app.task(name="send")(send_number)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(NOT_SO_MANY)
        try:
            with pytest.raises(Exception, match="not_so_many"):
                app.enqueue_many([app.new_job("send", {"n": n}, key=f"k{n}") for n in range(1_600)])
        finally:
            connection.execute("alter table pgqueue.jobs drop constraint not_so_many")
    assert numbers(app) == []


def test_a_sync_method_refuses_an_async_connection_and_names_the_other(
    app: PgQueue, send: Task[[int], None], dsn: str
) -> None:
    engine = create_async_engine(sqlalchemy_url(dsn))
    with pytest.raises(ArgumentError, match=r"'AsyncSession', which is async.*aenqueue"):
        send.using(AsyncSession(engine)).enqueue(1)
    with pytest.raises(ArgumentError, match=r"'AsyncConnection', which is async.*aenqueue"):
        send.using(engine.connect()).enqueue(1)


async def test_a_psycopg_connection_of_the_other_kind_is_refused_with_the_fix(
    app: PgQueue, send: Task[[int], None], dsn: str
) -> None:
    async with await psycopg.AsyncConnection.connect(dsn) as aconnection:
        with pytest.raises(ArgumentError, match=r"'AsyncConnection', which is async.*aenqueue"):
            send.using(aconnection).enqueue(1)
    with psycopg.connect(dsn) as connection:
        with pytest.raises(ArgumentError, match=r"'Connection', which is sync.*enqueue"):
            await send.using(connection).aenqueue(1)
        with pytest.raises(ArgumentError, match=r"'Connection', which is sync"):
            await app.aenqueue_many([send.job(1), send.job(2)], using=connection)


async def test_an_async_method_refuses_a_session(app: PgQueue, send: Task[[int], None], joined: Joined) -> None:
    with joined() as connection, pytest.raises(ArgumentError, match=r"which is sync.*enqueue instead of aenqueue"):
        await send.using(connection).aenqueue(1)


@pytest.mark.parametrize(
    "wrong",
    ["postgresql:///shop", 42, object(), SimpleNamespace(execute=print)],
    ids=["text", "number", "object", "fake"],
)
async def test_what_is_no_connection_is_refused_with_what_is_taken(
    app: PgQueue, send: Task[[int], None], wrong: Any
) -> None:
    with pytest.raises(ArgumentError, match=f"using= takes a psycopg Connection .* not '{type(wrong).__name__}'"):
        send.using(wrong).enqueue(1)
    with pytest.raises(ArgumentError, match=f"using= takes a psycopg Connection .* not '{type(wrong).__name__}'"):
        await send.using(wrong).aenqueue(1)


def test_an_engine_is_refused_as_a_connection(app: PgQueue, send: Task[[int], None], dsn: str) -> None:
    with pytest.raises(ArgumentError, match="not 'Engine'"):
        send.using(create_engine(sqlalchemy_url(dsn))).enqueue(1)


def test_an_engine_on_another_driver_is_refused_with_the_url_to_use() -> None:
    app = PgQueue(engine=create_engine("sqlite://"))
    app.task(name="send")(send_number)
    with pytest.raises((ArgumentError, ConfigurationError), match=r"postgresql\+psycopg://.*not sqlite"):
        app.enqueue("send", {"n": 1})
    with create_engine("sqlite://").connect() as connection, pytest.raises(ArgumentError, match="not sqlite"):
        app.enqueue("send", {"n": 1}, using=connection)


def test_a_dsn_and_an_engine_together_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="both a DSN and an engine"):
        PgQueue("postgresql:///shop", engine=create_engine("sqlite://"))


def test_without_tables_the_command_that_makes_them_is_named(empty_dsn: str) -> None:
    app = PgQueue(empty_dsn)
    with pytest.raises(SchemaOutOfDate, match="run `pgqueue migrate`"):
        app.enqueue("send", {})
    with psycopg.connect(empty_dsn) as connection, pytest.raises(SchemaOutOfDate, match="run `pgqueue migrate`"):
        app.enqueue("send", {}, using=connection)
    with (
        create_engine(sqlalchemy_url(empty_dsn), poolclass=NullPool).connect() as other,
        pytest.raises(SchemaOutOfDate, match="run `pgqueue migrate`"),
    ):
        app.enqueue("send", {}, using=other)
    app.close()


async def test_without_tables_a_worker_does_not_start(empty_dsn: str) -> None:
    app = PgQueue(empty_dsn)
    app.task(name="send")(send_number)
    with pytest.raises(SchemaOutOfDate, match="run `pgqueue migrate`"):
        async with app.worker():
            pass


async def test_a_server_that_does_not_answer_is_named_at_once_without_its_password() -> None:
    app = PgQueue("postgresql://someone:secret@localhost:1/shop")
    where = r"cannot connect to postgresql://someone:\*\*\*@localhost:1/shop: .*refused.*: start PostgreSQL there"
    began = time.monotonic()
    with pytest.raises(ConnectionFailed, match=where) as caught:
        app.enqueue("send", {})
    assert "secret" not in str(caught.value)
    with pytest.raises(ConnectionFailed, match=where):
        await app.aenqueue("send", {})
    assert time.monotonic() - began < 5
    await app.aclose()


async def test_a_server_that_comes_back_is_connected_to_again(fresh_dsn: str) -> None:
    app = PgQueue("postgresql://localhost:1/shop", pool_size=1)
    for _ in range(3):
        with pytest.raises(ConnectionFailed):
            app.enqueue("send", {})
        with pytest.raises(ConnectionFailed):
            await app.aenqueue("send", {})
    app.database.point_at(fresh_dsn)
    assert app.enqueue("send", {}).id
    assert (await app.aenqueue("send", {})).id
    await app.aclose()


@pytest.mark.parametrize("asynchronous", [False, True], ids=["Engine", "AsyncEngine"])
async def test_a_server_that_does_not_answer_is_reported_for_an_engine_too(asynchronous: bool) -> None:
    make: Any = create_async_engine if asynchronous else create_engine
    app = PgQueue(engine=make("postgresql+psycopg://someone:secret@localhost:1/shop"))
    with pytest.raises(ConnectionFailed, match="cannot connect to PostgreSQL") as caught:
        await app.aenqueue("send", {}) if asynchronous else app.enqueue("send", {})
    assert "secret" not in str(caught.value)


async def test_a_pool_that_is_used_up_says_so(dsn: str) -> None:
    app = PgQueue(dsn, pool_size=1)
    app.database._pools.patience = 0.1
    used_up = r"no connection .* came free within 0.1 s: all 1 are in use.*pool_size"
    with app.database.connection(), pytest.raises(ConnectionFailed, match=used_up):
        app.enqueue("send", {})
    async with app.database.aconnection():
        with pytest.raises(ConnectionFailed, match=used_up):
            await app.aenqueue("send", {})
    assert app.enqueue("send", {}).id
    assert (await app.aenqueue("send", {})).id
    await app.aclose()


async def test_a_connection_that_others_use_is_waited_for(dsn: str) -> None:
    app = PgQueue(dsn, pool_size=1)
    held, free = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        async with app.database.aconnection():
            held.set()
            await free.wait()

    holder = asyncio.create_task(hold())
    await held.wait()
    waiting = [asyncio.create_task(app.aenqueue("send", {})) for _ in range(5)]
    waiting[0].cancel()
    free.set()
    made = await asyncio.gather(*waiting, holder, return_exceptions=True)
    assert isinstance(made[0], asyncio.CancelledError)
    assert len(enqueued(app)) == 4
    await app.aclose()


def test_connections_are_used_again_and_no_more_than_the_pool_holds_are_made(dsn: str) -> None:
    app = PgQueue(dsn, pool_size=3)
    pids: set[int] = set()
    barrier = threading.Barrier(8)

    def use() -> None:
        barrier.wait()
        for _ in range(20):
            with app.database.connection() as connection:
                pids.add(connection.info.backend_pid)

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(pids) <= 3
    app.close()


async def test_a_connection_that_closed_or_broke_is_replaced(dsn: str) -> None:
    app = PgQueue(dsn, pool_size=1)
    terminate: Statement[Any] = Statement("select pg_terminate_backend(pg_backend_pid())")
    for _ in range(2):
        with pytest.raises(psycopg.OperationalError):
            app.database.fetch(terminate)
        with pytest.raises(psycopg.OperationalError):
            await app.database.afetch(terminate)
        with app.database.connection() as connection:
            connection.execute("begin")
        assert app.enqueue("send", {}).id
        assert (await app.aenqueue("send", {})).id
    assert len(enqueued(app)) == 4
    await app.aclose()


def test_a_server_that_became_read_only_is_not_asked_twice(dsn: str) -> None:
    app = PgQueue(dsn, pool_size=2)
    with app.database.connection() as one, app.database.connection() as other:
        for connection in (one, other):
            connection.execute("set default_transaction_read_only = on")
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        app.enqueue("send", {})
    assert app.enqueue("send", {}).id
    app.close()


def test_a_connection_that_the_server_closed_while_it_was_idle_costs_no_enqueue(app: PgQueue, dsn: str) -> None:
    app.enqueue("send", {})
    with psycopg.connect(dsn, autocommit=True) as other:
        other.execute(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity "
            "where application_name = 'pgqueue' and datname = current_database()"
        )
    assert app.enqueue("send", {}).id


def test_a_server_that_closed_many_idle_connections_costs_no_seconds(dsn: str) -> None:
    app = PgQueue(dsn, pool_size=4)
    app.database._pools.patience = 5
    with ExitStack() as held:
        pids = [held.enter_context(app.database.connection()).info.backend_pid for _ in range(4)]
    with psycopg.connect(dsn, autocommit=True) as other:
        other.execute("select pg_terminate_backend(pid, 5000) from unnest(%s::int[]) pid", [pids])
    assert app.enqueue("send", {}).id
    app.close()


async def test_a_server_that_is_gone_is_waited_for_and_then_named(dsn: str, fresh_dsn: str) -> None:
    app = PgQueue(fresh_dsn)
    app.enqueue("send", {})
    await app.aenqueue("send", {})
    app.database._pools.patience = 0.1
    with gone(dsn, fresh_dsn):
        with pytest.raises(ConnectionFailed, match=r"cannot connect to .*not currently accepting connections"):
            app.enqueue("send", {})
        with pytest.raises(ConnectionFailed, match=r"cannot connect to .*not currently accepting connections"):
            await app.aenqueue("send", {})
    app.database._pools.patience = DEADLINE
    assert app.enqueue("send", {}).id
    assert (await app.aenqueue("send", {})).id
    await app.aclose()


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
async def test_a_server_that_comes_back_in_time_costs_no_enqueue(
    dsn: str, fresh_dsn: str, asynchronous: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "PATIENCE", 0.1)
    app = PgQueue(fresh_dsn)
    app.database._pools.patience = DEADLINE
    enqueue = partial(app.aenqueue, "send", {}) if asynchronous else partial(asyncio.to_thread, app.enqueue, "send", {})
    await enqueue()
    given_up = threading.Semaphore(0)

    class Seen(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "reconnection attempt" in record.getMessage():
                given_up.release()

    logger, handler = logging.getLogger("psycopg.pool"), Seen()
    logger.addHandler(handler)
    try:
        with gone(dsn, fresh_dsn):
            enqueuing = asyncio.create_task(enqueue())
            for _ in range(5):
                assert await asyncio.to_thread(given_up.acquire, timeout=DEADLINE)
    finally:
        logger.removeHandler(handler)
    assert (await enqueuing).id
    await app.aclose()


def test_an_app_that_nobody_closed_ends_in_silence(dsn: str) -> None:
    code = """
import asyncio, gc, os, sys
from pgqueue import PgQueue

def use():
    app = PgQueue(sys.argv[1])
    app.enqueue("send")
    asyncio.run(app.aenqueue("send"))
    return app

use()
gc.collect()
app = use()
if pid := os.fork() if hasattr(os, "fork") else 0:
    assert os.waitpid(pid, 0)[1] == 0
    app.enqueue("send")
"""
    ended = subprocess.run(
        [sys.executable, "-W", "default", "-W", "ignore::DeprecationWarning", "-c", code, dsn],
        capture_output=True,
        text=True,
    )
    assert (ended.returncode, ended.stderr) == (0, "")


def test_options_of_the_dsn_and_of_the_environment_stay(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: Statement[Any] = Statement("select current_setting('work_mem'), current_setting('transaction_isolation')")
    app = PgQueue(make_conninfo(dsn, options="-c work_mem=5MB"))
    assert app.database.fetch(shown) == [("5MB", "read committed")]
    monkeypatch.setenv("PGOPTIONS", "-c work_mem=6MB")
    other = PgQueue(dsn)
    assert other.database.fetch(shown) == [("6MB", "read committed")]
    app.close()
    other.close()


async def test_a_database_that_defaults_to_serializable_is_read_committed_for_pgqueue(fresh_dsn: str) -> None:
    default_to_serializable(fresh_dsn)
    shown: Statement[Any] = Statement("select current_setting('transaction_isolation')")
    app = PgQueue(fresh_dsn)
    connection = WorkerConnection(app.database, "test", lock_timeout="1s")
    assert await connection.fetch(shown) == [("read committed",)]
    assert app.database.fetch(shown) == await app.database.afetch(shown) == [("read committed",)]
    with app.database.transaction() as own:
        assert fetch(own, shown) == [("read committed",)]
    await connection.close()
    await app.aclose()


def test_enqueues_of_one_key_do_not_fail_where_the_database_defaults_to_serializable(fresh_dsn: str) -> None:
    default_to_serializable(fresh_dsn)
    app = PgQueue(fresh_dsn)
    barrier = threading.Barrier(4)
    failed: list[Exception] = []

    def enqueue() -> None:
        barrier.wait()
        try:
            for n in range(50):
                app.enqueue("send", {}, key=f"k{n}")
                app.enqueue_many([app.new_job("send", {}, key=f"l{n}"), app.new_job("send", {})])
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=enqueue) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert len(enqueued(app)) == 50 + 50 + 200
    app.close()


async def test_the_transaction_of_a_task_keeps_the_isolation_of_the_database(fresh_dsn: str) -> None:
    default_to_serializable(fresh_dsn)
    app = PgQueue(fresh_dsn)

    @app.task(name="show", bind=True, transactional=True)
    async def show(ctx: Context) -> str:
        [(level,)] = await (await ctx.connection.execute("show transaction_isolation")).fetchall()
        return str(level)

    job = await show.aenqueue()
    async with app.worker():
        assert await job.aresult(DEADLINE) == "serializable"
    await app.aclose()


@contextmanager
def gone(dsn: str, other_dsn: str) -> Iterator[None]:
    """While inside, the database of `other_dsn` has hung up and takes no connections."""
    name = conninfo_to_dict(other_dsn)["dbname"]
    allow = sql.SQL("alter database {} allow_connections {}")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(allow.format(sql.Identifier(str(name)), False))
        connection.execute("select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = %s", [name])
        try:
            yield
        finally:
            connection.execute(allow.format(sql.Identifier(str(name)), True))


def send_number(n: int) -> None: ...


async def test_a_transaction_that_stands_still_after_statements_sent_together_is_ended(dsn: str) -> None:
    options = "-c idle_in_transaction_session_timeout=300"
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True, options=options) as connection:

        def operation() -> Operation[None]:
            yield Together((Statement("select 1"), Statement("select 2")))

        async def stand_still() -> None:
            async with connection.transaction():
                await arun(connection, operation())
                with psycopg.connect(dsn, autocommit=True) as other:
                    backend = [connection.info.backend_pid]

                    async def is_gone() -> bool:
                        return not other.execute("select from pg_stat_activity where pid = %s", backend).fetchall()

                    await until(is_gone)
                await connection.execute("select 3")

        with pytest.raises(psycopg.errors.IdleInTransactionSessionTimeout):
            await stand_still()
