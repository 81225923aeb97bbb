"""The kinds of connection that a caller may bring, and what is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import psycopg

from pgqueue.errors import ArgumentError

if TYPE_CHECKING:
    from sqlalchemy import Connection as SAConnection
    from sqlalchemy.ext.asyncio import AsyncConnection as SAAsyncConnection
    from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session
    from sqlalchemy.orm import Session, scoped_session

    SyncUsing = psycopg.Connection[Any] | SAConnection | Session | scoped_session[Any]
    AsyncUsing = psycopg.AsyncConnection[Any] | SAAsyncConnection | AsyncSession | async_scoped_session[Any]
    Using = SyncUsing | AsyncUsing

ACCEPTED = (
    "a psycopg Connection or AsyncConnection, or a SQLAlchemy Connection, Session, AsyncConnection or AsyncSession"
)


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


def sync_sqlalchemy(conn: Any) -> Any:
    """The SQLAlchemy Connection of a sync Connection or Session. Raises ArgumentError for anything else."""
    return _sqlalchemy(conn, asynchronous=False)


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
def whole(conn: Any) -> Iterator[None]:
    """A transaction on a connection in autocommit; any other is in one."""
    if not isinstance(conn, psycopg.Connection):
        conn = sync_sqlalchemy(conn).connection.driver_connection
    with conn.transaction() if _commits_each(conn) else nullcontext():
        yield


@asynccontextmanager
async def awhole(conn: Any) -> AsyncIterator[None]:
    """As `whole`, async."""
    if not isinstance(conn, psycopg.AsyncConnection):
        connection = await async_sqlalchemy(conn)
        conn = (await connection.get_raw_connection()).driver_connection
    async with conn.transaction() if _commits_each(conn) else nullcontext():
        yield


def _commits_each(conn: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> bool:
    return conn.autocommit and conn.info.transaction_status is psycopg.pq.TransactionStatus.IDLE


async def async_sqlalchemy(conn: Any) -> Any:
    """As `sync_sqlalchemy`, async."""
    connection = _sqlalchemy(conn, asynchronous=True)
    if not hasattr(connection, "exec_driver_sql"):
        connection = await connection.connection()
        _refuse_other_drivers(connection)
    return connection
