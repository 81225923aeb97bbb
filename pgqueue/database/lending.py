"""A transaction that is lent to a task: what the task does in it is its own business, its end is not.

The transaction is marked, and the mark looked for at the end: a setting that is local to a transaction goes with it,
however it ended, by a method or in SQL, and stays through savepoints. Setting it takes no snapshot, so that the task
can still choose the isolation level, and no transaction id, which would hold back the marks of the claimers.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import psycopg

from pgqueue.database.running import afetch, fetch
from pgqueue.errors import ConfigurationError, PgQueueError
from pgqueue.queries.statement import Statement

MARK: Statement[Any] = Statement("set local pgqueue.lent = 'yes'")
IS_MARKED: Statement[bool] = Statement(
    "select coalesce(current_setting('pgqueue.lent', true), '') = 'yes'", row=lambda row: row[0]
)


@contextmanager
def lent(conn: Any) -> Iterator[None]:
    """Lend the transaction of `conn`: a commit is refused. Raises PgQueueError at the end if it was ended all the same.

    Raises ConfigurationError for the connection of an engine that commits each statement.
    """
    fetch(conn, MARK)
    with _commit_refused(conn):
        yield
    if fetch(conn, IS_MARKED) != [True]:
        raise _ended()


@asynccontextmanager
async def alent(conn: Any) -> AsyncIterator[None]:
    """As `lent`, async."""
    await afetch(conn, MARK)
    with _commit_refused(conn):
        yield
    if await afetch(conn, IS_MARKED) != [True]:
        raise _ended()


@contextmanager
def _commit_refused(conn: Any) -> Iterator[None]:
    """Refuses the commit of SQLAlchemy; psycopg does so by itself, within its `transaction()`."""
    if isinstance(conn, (psycopg.Connection, psycopg.AsyncConnection)):
        yield
        if conn.closed:
            raise _ended()
        return
    from sqlalchemy import event

    core = getattr(conn, "sync_connection", conn)
    if core.connection.driver_connection.autocommit:
        raise ConfigurationError(
            "the engine commits each statement (AUTOCOMMIT), and a transactional task needs a transaction: "
            "give PgQueue an engine with another isolation_level"
        )

    def refuse(_: Any) -> None:
        raise _ended()

    event.listen(core, "commit", refuse)
    try:
        yield
    finally:
        event.remove(core, "commit", refuse)
    transaction = None if core.closed else core.get_transaction()
    if transaction is None or not transaction.is_active:
        raise _ended()


def _ended() -> PgQueueError:
    return PgQueueError(
        "the task ended the transaction in which its job completes (commit, rollback or close of ctx.connection): "
        "leave that to the worker; for a part that may fail use a savepoint, begin_nested() or psycopg's transaction()"
    )
