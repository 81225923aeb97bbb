"""Running statements: one, or an operation of several, on whatever connection is given.

`fetch` and `afetch` run one statement, `run` and `arun` an operation of several. They accept a psycopg Connection or
AsyncConnection and a SQLAlchemy Connection, Session, AsyncConnection or AsyncSession, and never commit or roll back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import psycopg
from psycopg import errors as pg_errors
from psycopg.rows import tuple_row

from pgqueue.database.using import async_sqlalchemy, sync_sqlalchemy
from pgqueue.errors import PgQueueError, SchemaOutOfDate
from pgqueue.queries.statement import Copy, Operation, Statement

Row = TypeVar("Row")
Result = TypeVar("Result")


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
        connection = sync_sqlalchemy(conn)
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
        connection = await async_sqlalchemy(conn)
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
