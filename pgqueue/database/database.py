"""The database of an app: a DSN with own pools, or the engine that it shares."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg.conninfo import conninfo_to_dict

from pgqueue import config
from pgqueue.database.pools import KEEPALIVES, Pools
from pgqueue.database.running import afetch, arun, fetch, run
from pgqueue.database.using import awhole, whole
from pgqueue.errors import ConfigurationError, ConnectionFailed
from pgqueue.queries.statement import Operation, Statement

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

Row = TypeVar("Row")
Result = TypeVar("Result")

# Generic plans that walk the claim index, whatever the statistics say: a plan that flips stalls every worker.
PLANNER = {"enable_seqscan": "off", "enable_bitmapscan": "off", "plan_cache_mode": "force_generic_plan", "jit": "off"}


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
        self._pools = Pools(lambda: self.dsn, pool_size, prepare_threshold=None if pooler else 1)
        self._sync_engine: tuple[int, Engine] | None = None

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

    @contextmanager
    def connection(self) -> Iterator[Any]:
        """A sync connection: of the engine, in a transaction; or of the own pool, in autocommit."""
        engine = self._engine_for_sync()
        if engine is None:
            with self._pools.connection() as own:
                yield own
            return
        with connecting(), engine.connect() as conn:
            yield conn
            conn.commit()

    @asynccontextmanager
    async def aconnection(self) -> AsyncIterator[Any]:
        """As `connection`, async. Beside a sync engine the own pool serves: greenlet may not be there."""
        if self._engine is None or not is_async_engine(self._engine):
            async with self._pools.aconnection() as own:
                yield own
            return
        engine: Any = self._engine
        with connecting():
            async with engine.connect() as conn:
                yield conn
                await conn.commit()

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
        """The same database, or engine, with an own pool of `size` connections."""
        return Database(self._given, engine=self._engine, pool_size=size, pooler=self.pooler)

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
        self._pools.close()

    async def aclose(self) -> None:
        """Close the sync pool and the one of this event loop."""
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
