"""Runs statements on whatever connection it is given, sync or async, and keeps the app's own pools.

`fetch` and `afetch` run one statement, `run` and `arun` an operation of several. They accept a psycopg Connection or
AsyncConnection and a SQLAlchemy Connection, Session, AsyncConnection or AsyncSession, and never commit or roll back.
"""

from __future__ import annotations

import asyncio
import os
import select
import threading
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg import errors as pg_errors
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import tuple_row

from pgqueue import config
from pgqueue.errors import ArgumentError, ConfigurationError, ConnectionFailed, PgQueueError, SchemaOutOfDate
from pgqueue.queries.statement import Copy, Operation, Statement

if TYPE_CHECKING:
    from psycopg_pool import AsyncConnectionPool, ConnectionPool
    from sqlalchemy import Connection as SAConnection
    from sqlalchemy import Engine
    from sqlalchemy.ext.asyncio import AsyncConnection as SAAsyncConnection
    from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_scoped_session
    from sqlalchemy.orm import Session, scoped_session

    SyncUsing = psycopg.Connection[Any] | SAConnection | Session | scoped_session[Any]
    AsyncUsing = psycopg.AsyncConnection[Any] | SAAsyncConnection | AsyncSession | async_scoped_session[Any]
    Using = SyncUsing | AsyncUsing

Row = TypeVar("Row")
Result = TypeVar("Result")

# Generic plans that walk the claim index, whatever the statistics say: a plan that flips stalls every worker.
PLANNER = {"enable_seqscan": "off", "enable_bitmapscan": "off", "plan_cache_mode": "force_generic_plan", "jit": "off"}
KEEPALIVES = {
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
    "connect_timeout": 10,
}
ACCEPTED = (
    "a psycopg Connection or AsyncConnection, or a SQLAlchemy Connection, Session, AsyncConnection or AsyncSession"
)


def fetch(conn: Any, statement: Statement[Row] | Copy) -> list[Row]:
    """The rows of one statement on a sync connection, in its transaction. Raises SchemaOutOfDate without our tables."""
    with translated():
        if isinstance(conn, psycopg.Connection):
            if isinstance(statement, Copy):
                with psycopg.Cursor(conn).copy(statement.text) as copy:
                    for chunk in statement.chunks:
                        copy.write(chunk)
                return []
            cursor = psycopg.Cursor(conn, row_factory=tuple_row)
            cursor.execute(statement.text, statement.params)
            return statement.rows(cursor.fetchall() if cursor.description else [])
        connection = _sqlalchemy(conn, asynchronous=False)
        if isinstance(statement, Copy):
            return fetch(connection.connection.driver_connection, statement)
        rows = connection.exec_driver_sql(statement.text, dict(statement.params)).all()
        return statement.rows([tuple(row) for row in rows])


async def afetch(conn: Any, statement: Statement[Row] | Copy) -> list[Row]:
    """As `fetch`, on an async connection."""
    with translated():
        if isinstance(conn, psycopg.AsyncConnection):
            if isinstance(statement, Copy):
                async with psycopg.AsyncCursor(conn).copy(statement.text) as copy:
                    for chunk in statement.chunks:
                        await copy.write(chunk)
                return []
            cursor = psycopg.AsyncCursor(conn, row_factory=tuple_row)
            await cursor.execute(statement.text, statement.params)
            return statement.rows(await cursor.fetchall() if cursor.description else [])
        connection = await _async_sqlalchemy(conn)
        if isinstance(statement, Copy):
            return await afetch((await connection.get_raw_connection()).driver_connection, statement)
        rows = (await connection.exec_driver_sql(statement.text, dict(statement.params))).all()
        return statement.rows([tuple(row) for row in rows])


def run(conn: Any, operation: Operation[Result]) -> Result:
    """What an operation returns, each of its statements run on `conn`."""
    try:
        statement = next(operation)
        while True:
            statement = operation.send(fetch(conn, statement))
    except StopIteration as stop:
        result: Result = stop.value
        return result


async def arun(conn: Any, operation: Operation[Result]) -> Result:
    """As `run`, on an async connection."""
    try:
        statement = next(operation)
        while True:
            statement = operation.send(await afetch(conn, statement))
    except StopIteration as stop:
        result: Result = stop.value
        return result


def is_async(conn: object) -> bool:
    """Whether `conn` is one of the async kinds."""
    return (
        isinstance(conn, psycopg.AsyncConnection)
        or type(conn).__name__
        in (
            "AsyncConnection",
            "AsyncSession",
            "async_scoped_session",
        )
        or any(base.__name__ in ("AsyncConnection", "AsyncSession") for base in type(conn).__mro__)
    )


def _sqlalchemy(conn: Any, *, asynchronous: bool) -> Any:
    _refuse_strangers(conn, asynchronous)
    if hasattr(conn, "exec_driver_sql"):
        _refuse_other_drivers(conn)
        return conn
    if not hasattr(conn, "execute"):
        raise ArgumentError(f"using= takes {ACCEPTED}, not {type(conn).__name__!r}")
    if asynchronous:
        return conn
    connection = conn.connection()
    _refuse_other_drivers(connection)
    return connection


def _refuse_strangers(conn: Any, asynchronous: bool) -> None:
    psycopgs = isinstance(conn, (psycopg.Connection, psycopg.AsyncConnection))
    if not psycopgs and not any(base.__module__.startswith("sqlalchemy.") for base in type(conn).__mro__):
        raise ArgumentError(f"using= takes {ACCEPTED}, not {type(conn).__name__!r}")
    if is_async(conn) is not asynchronous:
        kind, call, other = ("async", "aenqueue", "enqueue") if is_async(conn) else ("sync", "enqueue", "aenqueue")
        raise ArgumentError(
            f"using= was given {type(conn).__name__!r}, which is {kind}: "
            f"call the {kind} form of the method with it ({call} instead of {other})"
        )


def _refuse_other_drivers(connection: Any) -> None:
    dialect = connection.dialect
    if dialect.driver not in ("psycopg", "psycopg_async"):
        raise ArgumentError(
            f"using= needs an engine on psycopg 3 (postgresql+psycopg://…), not {dialect.name}+{dialect.driver}"
        )


@contextmanager
def _whole(conn: Any) -> Iterator[None]:
    """A transaction on a connection in autocommit; any other is in one."""
    if not isinstance(conn, psycopg.Connection):
        conn = _sqlalchemy(conn, asynchronous=False).connection.driver_connection
    with conn.transaction() if _commits_each(conn) else nullcontext():
        yield


@asynccontextmanager
async def _awhole(conn: Any) -> AsyncIterator[None]:
    """As `_whole`, async."""
    if not isinstance(conn, psycopg.AsyncConnection):
        connection = await _async_sqlalchemy(conn)
        conn = (await connection.get_raw_connection()).driver_connection
    async with conn.transaction() if _commits_each(conn) else nullcontext():
        yield


def _commits_each(conn: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> bool:
    return conn.autocommit and conn.info.transaction_status is psycopg.pq.TransactionStatus.IDLE


async def _async_sqlalchemy(conn: Any) -> Any:
    connection = _sqlalchemy(conn, asynchronous=True)
    if not hasattr(connection, "exec_driver_sql"):
        connection = await connection.connection()
        _refuse_other_drivers(connection)
    return connection


@contextmanager
def translated() -> Iterator[None]:
    """PostgreSQL's errors that have one fix for all, as ours; others stay as the driver raised them."""
    try:
        yield
    except psycopg.Error as error:
        _translate(error, error)
        raise
    except Exception as error:
        original = getattr(error, "orig", None)
        if isinstance(original, psycopg.Error):
            _translate(original, error)
        raise


def _translate(error: psycopg.Error, cause: Exception) -> None:
    if isinstance(error, (pg_errors.UndefinedTable, pg_errors.UndefinedFunction, pg_errors.InvalidSchemaName)):
        raise SchemaOutOfDate(
            f"the tables of pgqueue are missing or of another version ({str(error).splitlines()[0]}): "
            "run `pgqueue migrate`"
        ) from cause
    if isinstance(error, pg_errors.CheckViolation) and "no partition of relation" in str(error):
        raise NoPartition(str(error).splitlines()[0]) from cause


class NoPartition(PgQueueError):
    """`completed_jobs` has no partition for today: it is made, and the statement run again."""


class Database:
    """The DSN or engine of an app, and pools that open at the first use and survive a fork."""

    def __init__(
        self,
        dsn: str | None = None,
        *,
        engine: Engine | AsyncEngine | None = None,
        pool_size: int = 4,
        pooler: bool = False,
    ) -> None:
        if dsn is not None and engine is not None:
            raise ConfigurationError("PgQueue was given both a DSN and an engine: give one of the two")
        self._given = dsn
        self._engine = engine
        self._size = pool_size
        self.pooler = pooler
        self._lock = threading.Lock()
        self._pool: ConnectionPool[psycopg.Connection[Any]] | None = None
        self._apools: dict[asyncio.AbstractEventLoop, AsyncConnectionPool[psycopg.AsyncConnection[Any]]] = {}
        self._other_engine: Any = None
        _databases.add(self)

    @property
    def dsn(self) -> str:
        """The DSN as libpq reads it. Raises ConfigurationError when none is set."""
        if self._engine is not None:
            return config.libpq_dsn(self._engine.url.set(drivername="postgresql").render_as_string(hide_password=False))
        return config.required_dsn(self._given)

    def point_at(self, dsn: str) -> None:
        """Use `dsn` from now on, whatever the code said: for a flag. Pools that are open are closed."""
        self.close()
        self._given, self._engine = dsn, None

    @property
    def uses_engine(self) -> bool:
        return self._engine is not None

    @contextmanager
    def connection(self) -> Iterator[Any]:
        """A sync connection: of the engine, in a transaction; or of the own pool, in autocommit."""
        engine = self._sqlalchemy_engine(asynchronous=False)
        if engine is not None:
            with connecting(), engine.connect() as conn:
                yield conn
                conn.commit()
            return
        from psycopg_pool import PoolTimeout

        try:
            with self._sync_pool().connection() as conn:
                yield conn
        except PoolTimeout as error:
            raise self._unreachable() from error

    @asynccontextmanager
    async def aconnection(self) -> AsyncIterator[Any]:
        """As `connection`, async."""
        engine = self._sqlalchemy_engine(asynchronous=True)
        if engine is not None:
            with connecting():
                async with engine.connect() as conn:
                    yield conn
                    await conn.commit()
            return
        from psycopg_pool import PoolTimeout

        try:
            async with (await self._async_pool()).connection() as conn:
                yield conn
        except PoolTimeout as error:
            raise self._unreachable() from error

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        """A sync connection in a transaction that commits at the end."""
        with self.connection() as conn:
            if isinstance(conn, psycopg.Connection):
                with conn.transaction():
                    yield conn
            else:
                # Begun here: a Session that finds no transaction begins its own, and its commit would be a real one.
                with conn.begin():
                    yield conn

    @asynccontextmanager
    async def atransaction(self) -> AsyncIterator[Any]:
        """As `transaction`, async."""
        async with self.aconnection() as conn:
            if isinstance(conn, psycopg.AsyncConnection):
                async with conn.transaction():
                    yield conn
            else:
                async with conn.begin():
                    yield conn

    def run(self, operation: Operation[Result], using: Any = None, *, atomic: bool = False) -> Result:
        """Run an operation on `using`, or on an own connection; when `atomic`, in one transaction."""
        if using is not None:
            with _whole(using) if atomic else nullcontext():
                return run(using, operation)
        with self.transaction() if atomic else self.connection() as conn:
            return run(conn, operation)

    async def arun(self, operation: Operation[Result], using: Any = None, *, atomic: bool = False) -> Result:
        """As `run`, async."""
        if using is not None:
            async with _awhole(using) if atomic else nullcontext():
                return await arun(using, operation)
        async with self.atransaction() if atomic else self.aconnection() as conn:
            return await arun(conn, operation)

    def fetch(self, statement: Statement[Row], using: Any = None) -> list[Row]:
        """The rows of one statement on `using`, or on an own connection."""
        if using is not None:
            return fetch(using, statement)
        with self.connection() as conn:
            return fetch(conn, statement)

    async def afetch(self, statement: Statement[Row], using: Any = None) -> list[Row]:
        """As `fetch`, async."""
        if using is not None:
            return await afetch(using, statement)
        async with self.aconnection() as conn:
            return await afetch(conn, statement)

    def with_pool(self, size: int) -> Database:
        """The same database with a pool of its own, of `size` connections."""
        return Database(self.dsn, pool_size=size, pooler=self.pooler)

    def session_options(self, application: str, **settings: str) -> dict[str, Any]:
        """Connection parameters of a worker: pinned plans and keepalives, on the connection itself.

        Behind a pooler nothing rides on the session: the settings belong to the role there (`ALTER ROLE … SET`).
        """
        common = {**KEEPALIVES, "application_name": application, "target_session_attrs": "read-write"}
        if self.pooler:
            return {**common, "prepare_threshold": None}
        own = " ".join(f"-c {name}={value}" for name, value in {**PLANNER, **settings}.items())
        given = conninfo_to_dict(self.dsn).get("options") or ""
        return {**common, "options": f"{given} {own}".strip(), "prepare_threshold": 1}

    def close(self) -> None:
        """Close the sync pool."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()

    async def aclose(self) -> None:
        """Close the sync pool and the one of this event loop."""
        pool = self._apools.pop(asyncio.get_running_loop(), None)
        if pool is not None:
            await pool.close()
        self.close()

    def _sync_pool(self) -> ConnectionPool[psycopg.Connection[Any]]:
        from psycopg_pool import ConnectionPool

        with self._lock:
            if self._pool is None:
                self._pool = ConnectionPool(
                    self.dsn,
                    kwargs=self._pool_kwargs(),
                    min_size=0,
                    max_size=self._size,
                    open=True,
                    num_workers=1,
                    max_idle=60,
                    timeout=10,
                    check=check_socket,
                )
            return self._pool

    async def _async_pool(self) -> AsyncConnectionPool[psycopg.AsyncConnection[Any]]:
        from psycopg_pool import AsyncConnectionPool

        loop = asyncio.get_running_loop()
        with self._lock:
            if loop not in self._apools:
                # A pool belongs to its event loop: one that has ended takes its connections with it.
                self._apools = {other: pool for other, pool in self._apools.items() if not other.is_closed()}
                self._apools[loop] = AsyncConnectionPool(
                    self.dsn,
                    kwargs=self._pool_kwargs(),
                    min_size=0,
                    max_size=self._size,
                    open=False,
                    num_workers=1,
                    max_idle=60,
                    timeout=10,
                    check=acheck_socket,
                )
            pool = self._apools[loop]
        if pool.closed:
            await pool.open()
        return pool

    def _pool_kwargs(self) -> dict[str, Any]:
        threshold = None if self.pooler else 1
        return {**KEEPALIVES, "autocommit": True, "prepare_threshold": threshold, "application_name": "pgqueue"}

    def _begin_anew(self) -> None:
        """In the child of a fork: the parent's sockets are not ours to use or to close, nor is its lock to wait for."""
        _inherited.append((self._pool, self._apools, self._other_engine))
        self._lock, self._pool, self._apools, self._other_engine = threading.Lock(), None, {}, None

    def _sqlalchemy_engine(self, *, asynchronous: bool) -> Any:
        if self._engine is None:
            return None
        if is_async_engine(self._engine) is asynchronous:
            return self._engine
        if asynchronous:
            # The scheduler must do without greenlet, which SQLAlchemy's asyncio needs: the own pool serves.
            return None
        with self._lock:
            if self._other_engine is None:
                from sqlalchemy import create_engine

                url = self._engine.url.set(drivername="postgresql+psycopg")
                self._other_engine = create_engine(url, pool_size=self._size)
            return self._other_engine

    def _unreachable(self) -> ConnectionFailed:
        try:
            psycopg.connect(self.dsn, connect_timeout=3).close()
        except psycopg.Error as error:
            return ConnectionFailed(f"cannot connect to {config.masked(self.dsn)}: {str(error).strip()}")
        return ConnectionFailed(
            f"no connection to {config.masked(self.dsn)} came free within 10 s: all {self._size} are in use"
        )


_databases: weakref.WeakSet[Database] = weakref.WeakSet()
# Kept, since a pool that is collected tries to end its threads, which a fork does not have.
_inherited: list[Any] = []


def _after_fork() -> None:
    for database in list(_databases):
        database._begin_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def check_socket(conn: psycopg.Connection[Any]) -> None:
    """Raises OperationalError if the server has hung up; costs a round trip only where something arrived meanwhile."""
    if _has_news(conn):
        conn.execute("")


async def acheck_socket(conn: psycopg.AsyncConnection[Any]) -> None:
    """As `check_socket`."""
    if _has_news(conn):
        await conn.execute("")


def _has_news(conn: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> bool:
    """Whether its socket can be read: a server that hung up says why, or ends the stream."""
    if not hasattr(select, "poll"):
        return bool(select.select([conn.pgconn.socket], [], [], 0)[0])
    # select() fails in a process with more than a thousand open files.
    poll = select.poll()
    poll.register(conn.pgconn.socket, select.POLLIN)
    return bool(poll.poll(0))


@contextmanager
def connecting() -> Iterator[None]:
    """Errors of connecting through SQLAlchemy, as ours."""
    from sqlalchemy.exc import OperationalError

    try:
        yield
    except OperationalError as error:
        if error.statement is None:
            raise ConnectionFailed(f"cannot connect to PostgreSQL: {str(error.orig).strip()}") from error
        raise


def is_async_engine(engine: object) -> bool:
    return any(base.__name__ == "AsyncEngine" for base in type(engine).__mro__)
