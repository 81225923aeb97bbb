"""Running statements: one, or an operation of several, on whatever connection is given.

`fetch` and `afetch` run one statement, `run` and `arun` an operation of several. They accept a psycopg Connection or
AsyncConnection and a SQLAlchemy Connection, Session, AsyncConnection or AsyncSession, and never commit or roll back.

With `settings` (of a psycopg connection in autocommit) each statement has a transaction of its own, which begins with
them: behind a pooler they must not stay on the session.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

import psycopg
from psycopg import errors as pg_errors
from psycopg.rows import tuple_row

from pgqueue.database.using import async_sqlalchemy, sync_sqlalchemy
from pgqueue.errors import PgQueueError, SchemaOutOfDate
from pgqueue.queries.statement import Copy, Operation, Statement, Together

Row = TypeVar("Row")
Result = TypeVar("Result")


def fetch(conn: Any, statement: Statement[Row] | Copy, settings: Statement[Any] | None = None) -> list[Row]:
    """The rows of one statement on a sync connection, in its transaction. Raises SchemaOutOfDate without our tables."""
    if settings is not None and not _is_alone(statement):
        with began(conn, settings):
            return fetch(conn, statement)
    try:
        if isinstance(conn, psycopg.Connection):
            if isinstance(statement, Copy):
                with psycopg.Cursor(conn).copy(statement.text) as copy:
                    for chunk in statement.chunks:
                        copy.write(chunk)
                return []
            cursor = psycopg.Cursor(conn, row_factory=tuple_row)
            cursor.execute(statement.text, statement.params, binary=statement.binary)
            return statement.rows(cursor.fetchall() if _has_rows(cursor) else [])
        connection = sync_sqlalchemy(conn)
        if isinstance(statement, Copy):
            return fetch(connection.connection.driver_connection, statement)
        return _sqlalchemy_rows(statement, connection.exec_driver_sql(statement.text, dict(statement.params)))
    except Exception as error:
        _translate(error)
        raise


async def afetch(conn: Any, statement: Statement[Row] | Copy, settings: Statement[Any] | None = None) -> list[Row]:
    """As `fetch`, on an async connection."""
    if settings is not None and not _is_alone(statement):
        async with abegan(conn, settings):
            return await afetch(conn, statement)
    try:
        if isinstance(conn, psycopg.AsyncConnection):
            if isinstance(statement, Copy):
                async with psycopg.AsyncCursor(conn).copy(statement.text) as copy:
                    for chunk in statement.chunks:
                        await copy.write(chunk)
                return []
            cursor = psycopg.AsyncCursor(conn, row_factory=tuple_row)
            await cursor.execute(statement.text, statement.params, binary=statement.binary)
            return statement.rows(await cursor.fetchall() if _has_rows(cursor) else [])
        connection = await async_sqlalchemy(conn)
        if isinstance(statement, Copy):
            return await afetch((await connection.get_raw_connection()).driver_connection, statement)
        return _sqlalchemy_rows(statement, await connection.exec_driver_sql(statement.text, dict(statement.params)))
    except Exception as error:
        _translate(error)
        raise


def run(conn: Any, operation: Operation[Result]) -> Result:
    """What an operation returns, each of its statements run on `conn`. An error is raised where it was yielded."""
    advance: Callable[[Any], Statement[Any] | Copy | Together] = operation.send
    given: Any = None
    try:
        while True:
            statement = advance(given)
            try:
                if isinstance(statement, Together):
                    advance, given = operation.send, [fetch(conn, each) for each in statement.statements]
                else:
                    advance, given = operation.send, fetch(conn, statement)
            except Exception as error:
                advance, given = operation.throw, error
    except StopIteration as stop:
        result: Result = stop.value
        return result
    finally:
        given = None  # An error that goes on refers to this frame, and would not be freed with it.


async def arun(conn: Any, operation: Operation[Result], settings: Statement[Any] | None = None) -> Result:
    """As `run`, on an async connection."""
    advance: Callable[[Any], Statement[Any] | Copy | Together] = operation.send
    given: Any = None
    try:
        while True:
            statement = advance(given)
            try:
                if isinstance(statement, Together):
                    advance, given = operation.send, await _atogether(conn, statement, settings)
                else:
                    advance, given = operation.send, await afetch(conn, statement, settings)
            except Exception as error:
                advance, given = operation.throw, error
    except StopIteration as stop:
        result: Result = stop.value
        return result
    finally:
        given = None  # An error that goes on refers to this frame, and would not be freed with it.


async def _atogether(conn: Any, together: Together, settings: Statement[Any] | None) -> list[list[Any]]:
    if settings is not None or not isinstance(conn, psycopg.AsyncConnection):
        return [await afetch(conn, each, settings) for each in together.statements]
    try:
        async with conn.pipeline() as pipeline:
            _end_by_sync(pipeline)
            cursors = [psycopg.AsyncCursor(conn, row_factory=tuple_row) for _ in together.statements]
            for cursor, each in zip(cursors, together.statements, strict=True):
                await cursor.execute(each.text, each.params, binary=each.binary)
        return [
            each.rows(await cursor.fetchall() if _has_rows(cursor) else [])
            for cursor, each in zip(cursors, together.statements, strict=True)
        ]
    except Exception as error:
        _translate(error)
        raise


def _end_by_sync(pipeline: psycopg.AsyncPipeline) -> None:
    """Leave out the Flush that psycopg sends after the Sync at a pipeline's end.

    After it PostgreSQL does not count the time that a transaction stands idle, so a process that is stopped would keep
    its locks for as long as it is.
    """
    fetch = pipeline._fetch_gen
    pipeline._fetch_gen = lambda *, flush: fetch(flush=False)  # type: ignore[method-assign]


@contextmanager
def began(conn: psycopg.Connection[Any], settings: Statement[Any] | None) -> Iterator[None]:
    """A transaction at READ COMMITTED, in which `settings` hold."""
    if settings is not None:
        conn.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
    with conn.transaction():
        if settings is not None:
            fetch(conn, settings)
        yield


@asynccontextmanager
async def abegan(conn: psycopg.AsyncConnection[Any], settings: Statement[Any] | None) -> AsyncIterator[None]:
    """As `began`, async."""
    if settings is not None:
        await conn.set_isolation_level(psycopg.IsolationLevel.READ_COMMITTED)
    async with conn.transaction():
        if settings is not None:
            await afetch(conn, settings)
        yield


def _has_rows(cursor: psycopg.Cursor[Any] | psycopg.AsyncCursor[Any]) -> bool:
    # `description` would make an object for each column, which costs more than all else here.
    return cursor.pgresult is not None and cursor.pgresult.nfields > 0


def _sqlalchemy_rows(statement: Statement[Row], result: Any) -> list[Row]:
    return statement.rows([tuple(row) for row in result.all()] if result.returns_rows else [])


def _is_alone(statement: Statement[Any] | Copy) -> bool:
    return isinstance(statement, Statement) and statement.alone


def _translate(raised: Exception) -> None:
    """PostgreSQL's errors that have one fix for all, as ours; others stay as the driver raised them."""
    error = getattr(raised, "orig", raised)
    if isinstance(error, (pg_errors.UndefinedTable, pg_errors.UndefinedFunction, pg_errors.InvalidSchemaName)):
        raise SchemaOutOfDate(
            f"the tables of pgqueue are missing or of another version ({str(error).splitlines()[0]}): "
            "run `pgqueue migrate`, with --schema where they have another one than pgqueue"
        ) from raised
    if isinstance(error, pg_errors.InsufficientPrivilege) and not isinstance(error, NotPermitted):
        raise NotPermitted(
            f"PostgreSQL refused the role this ({str(error).splitlines()[0]}): give it the grants that "
            '"Roles" in the README names, or use the role that ran `pgqueue migrate`'
        ) from raised
    if isinstance(error, pg_errors.CheckViolation) and "no partition of relation" in str(error):
        raise NoPartition(str(error).splitlines()[0]) from raised


class NotPermitted(PgQueueError, pg_errors.InsufficientPrivilege):
    """The role may not do what was asked of PostgreSQL."""


class NoPartition(PgQueueError):
    """`completed_jobs` has no partition for today: it is made, and the statement run again."""
