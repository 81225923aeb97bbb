"""The database of an app: a DSN with own pools, or the engine that it shares."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Generator, Iterator, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg.conninfo import conninfo_to_dict

from pgqueue import config
from pgqueue.database.hearing import ResultListener
from pgqueue.database.pools import KEEPALIVES, Pools
from pgqueue.database.running import afetch, arun, fetch, run
from pgqueue.database.using import awhole, whole
from pgqueue.database.waiters import Waiters
from pgqueue.errors import ConfigurationError, ConnectionFailed
from pgqueue.queries.statement import Operation, Statement

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

Row = TypeVar("Row")
Result = TypeVar("Result")

# Generic plans that walk the claim index, whatever the statistics say: a plan that flips stalls every worker.
PLANNER = {"enable_seqscan": "off", "enable_bitmapscan": "off", "plan_cache_mode": "force_generic_plan", "jit": "off"}
# Above this level, claims that meet fail with 40001; a database or role may default to it.
ISOLATION = {"default_transaction_isolation": "read committed"}


class Database:
    """The DSN or engine of an app, and pools that open at the first use and survive a fork."""

    def __init__(
        self,
        dsn: str | None = None,
        *,
        engine: Engine | AsyncEngine | None = None,
        pool_size: int = 4,
        pooler: bool = False,
        isolated: bool = True,
    ) -> None:
        wrong: object = dsn
        if wrong is not None and not isinstance(wrong, str):
            raise ConfigurationError(
                f"PgQueue was given {wrong!r} as its DSN: give text such as 'postgresql:///shop', or engine=…"
            )
        wrong = engine
        if wrong is not None and not hasattr(wrong, "url"):
            raise ConfigurationError(
                f"PgQueue was given {wrong!r} as its engine: give one that create_engine or create_async_engine made, "
                "or a DSN without engine="
            )
        if type(pool_size) is not int or pool_size < 1:
            raise ConfigurationError(f"pool_size={pool_size!r} must be a whole number of connections, at least 1")
        if dsn is not None and engine is not None:
            raise ConfigurationError("PgQueue was given both a DSN and an engine: give one of the two")
        self._given = dsn
        self._engine = engine
        self._size = pool_size
        self.pooler = pooler
        self._isolated = isolated
        self._pools = Pools(
            lambda: self.dsn, self._pool_options, pool_size, psycopg.IsolationLevel.READ_COMMITTED if isolated else None
        )
        self._sync_engine: tuple[int, Engine] | None = None
        self.waiters = Waiters(None if pooler else self._result_listener)

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

    def connection(self) -> AbstractContextManager[Any]:
        """A sync connection: of the engine, in a transaction; or of the own pool, in autocommit."""
        engine = self._engine_for_sync()
        return self._pools.connection() if engine is None else connected(engine)

    def aconnection(self) -> AbstractAsyncContextManager[Any]:
        """As `connection`, async. Beside a sync engine the own pool serves: greenlet may not be there."""
        engine = self._engine
        return self._pools.aconnection() if engine is None or not is_async_engine(engine) else aconnected(engine)

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
            with whole(using) if atomic else nullcontext():
                return run(using, operation)
        with self.transaction() if atomic else self.connection() as conn:
            return run(conn, operation)

    async def arun(self, operation: Operation[Result], using: Any = None, *, atomic: bool = False) -> Result:
        """As `run`, async."""
        if using is not None:
            async with awhole(using) if atomic else nullcontext():
                return await arun(using, operation)
        async with self.atransaction() if atomic else self.aconnection() as conn:
            return await arun(conn, operation)

    def run_each(self, steps: Generator[Operation[Any], Any, Result]) -> Result:
        """Run operations in turn, each in a transaction of its own, and send its result."""
        sent = None
        while True:
            try:
                step = steps.send(sent)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            sent = self.run(step, atomic=True)

    async def arun_each(self, steps: Generator[Operation[Any], Any, Result]) -> Result:
        """As `run_each`, async."""
        sent = None
        while True:
            try:
                step = steps.send(sent)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            sent = await self.arun(step, atomic=True)

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

    def for_tasks(self, size: int, patience: float | None = None) -> Database:
        """The same database, or engine, with an own pool of `size` connections, on which nothing of ours is set.

        `patience`: so many seconds that pool is waited for, where it is not the usual time.
        """
        made = Database(self._given, engine=self._engine, pool_size=size, pooler=self.pooler, isolated=False)
        if patience is not None:
            made._pools.patience = patience
        return made

    def session_options(self, application: str, **settings: str) -> dict[str, Any]:
        """Connection parameters of a worker: pinned plans and keepalives, on the connection itself.

        Behind a pooler nothing rides on the session: `local_settings` go into each transaction.
        """
        common = {**KEEPALIVES, "application_name": application, "target_session_attrs": "read-write"}
        if self.pooler:
            return {**common, "prepare_threshold": None}
        return {**common, "options": self._options({**PLANNER, **ISOLATION, **settings}), "prepare_threshold": 1}

    def local_settings(self, **settings: str) -> Statement[Any] | None:
        """Behind a pooler, the first statement of every transaction of a worker; None where `session_options` do."""
        if not self.pooler:
            return None
        own = {**PLANNER, **settings}
        return Statement(
            "select set_config(name, value, true) from unnest(%(names)s::text[], %(values)s::text[]) s (name, value)",
            {"names": list(own), "values": list(own.values())},
        )

    def _result_listener(self, loop: asyncio.AbstractEventLoop) -> ResultListener:
        return ResultListener(loop, lambda: self.dsn, lambda: self.session_options("pgqueue results"))

    def _pool_options(self) -> dict[str, Any]:
        common = {"application_name": "pgqueue"}
        if self.pooler:
            return {**common, "prepare_threshold": None}
        own = {"options": self._options(ISOLATION)} if self._isolated else {}
        return {**common, **own, "prepare_threshold": 1}

    def _options(self, settings: Mapping[str, str]) -> str:
        given = conninfo_to_dict(self.dsn).get("options") or os.environ.get("PGOPTIONS", "")
        return " ".join([str(given), *(_option(name, value) for name, value in settings.items())]).strip()

    def close(self) -> None:
        """Close the sync pool, and the connection on which threads wait for results."""
        self.waiters.close()
        self._pools.close()

    async def aclose(self) -> None:
        """As `close`, and for this event loop."""
        await self.waiters.aclose()
        await self._pools.aclose()

    def _engine_for_sync(self) -> Engine | None:
        if self._engine is None:
            return None
        if not is_async_engine(self._engine):
            return self._engine  # type: ignore[return-value]
        if self._sync_engine is None or self._sync_engine[0] != os.getpid():
            from sqlalchemy import create_engine

            # Not the parent's, in the child of a fork.
            url = self._engine.url.set(drivername="postgresql+psycopg")
            self._sync_engine = os.getpid(), create_engine(url, pool_size=self._size)
        return self._sync_engine[1]


def _option(name: str, value: str) -> str:
    escaped = value.replace(" ", r"\ ")
    return f"-c {name}={escaped}"


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


@contextmanager
def connected(engine: Any) -> Iterator[Any]:
    """A connection of an engine, which commits at the end."""
    with connecting(), engine.connect() as conn:
        yield conn
        conn.commit()


@asynccontextmanager
async def aconnected(engine: Any) -> AsyncIterator[Any]:
    """As `connected`, async."""
    with connecting():
        async with engine.connect() as conn:
            yield conn
            await conn.commit()


def is_async_engine(engine: object) -> bool:
    return any(base.__name__ == "AsyncEngine" for base in type(engine).__mro__)
