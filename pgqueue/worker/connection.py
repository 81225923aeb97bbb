"""A connection of a worker that comes back: for ever, with jitter, and never with the state of the one before."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Iterator
from typing import Any, TypeVar

import psycopg
from psycopg import errors as pg_errors

from pgqueue import config
from pgqueue.database import Database, abegan, afetch, arun
from pgqueue.queries.statement import Operation, Statement

logger = logging.getLogger("pgqueue.worker")

Result = TypeVar("Result")
Row = TypeVar("Row")

TRANSIENT = (psycopg.OperationalError, psycopg.InterfaceError, psycopg.InternalError)


def pauses(first: float = 0.1, longest: float = 10.0) -> Iterator[float]:
    """Seconds between tries: doubling, with full jitter, so that a fleet does not come back in step."""
    pause = first
    while True:
        yield random.uniform(pause / 2, pause)
        pause = min(pause * 2, longest)


class WorkerConnection:
    """One psycopg connection in autocommit, made when it is needed and again when it broke."""

    def __init__(
        self,
        database: Database,
        purpose: str,
        **settings: str,
    ) -> None:
        self._database = database
        self._purpose = purpose
        self._settings = settings
        self._local_settings = database.local_settings(**settings)
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._lock = asyncio.Lock()
        self._turn = asyncio.Lock()
        # Seconds that the last `fetch` took, without the wait for its turn.
        self.took = 0.0

    async def get(self) -> psycopg.AsyncConnection[Any]:
        """The connection; waits for PostgreSQL as long as it takes."""
        async with self._lock:
            if self._connection is not None and not self._connection.closed:
                return self._connection
            failed = False
            for pause in pauses():
                try:
                    self._connection = await psycopg.AsyncConnection.connect(
                        self._database.dsn,
                        autocommit=True,
                        **self._database.session_options(f"pgqueue {self._purpose}", **self._settings),
                    )
                    if failed:
                        logger.info("connected to %s again", config.masked(self._database.dsn))
                    return self._connection
                except TRANSIENT as error:
                    if not failed:
                        logger.warning(
                            "cannot connect to %s (%s): %s; trying again until it answers",
                            config.masked(self._database.dsn),
                            self._purpose,
                            str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__,
                        )
                    failed = True
                    await asyncio.sleep(pause)
            raise AssertionError("unreachable")

    async def fetch(self, statement: Statement[Row]) -> list[Row]:
        """One statement. Raises what PostgreSQL raises; a broken connection is dropped first."""
        async with self._turn:
            conn = await self.get()
            began = time.monotonic()
            try:
                rows = await afetch(conn, statement, self._local_settings)
            except BaseException as error:
                await self._drop_if_broken(conn, error)
                raise
            self.took = time.monotonic() - began
            return rows

    async def insist(self, statement: Statement[Row]) -> list[Row]:
        """As `fetch`, again and again while the connection breaks: for statements that may run twice."""
        for pause in pauses():
            try:
                return await self.fetch(statement)
            except TRANSIENT as error:
                logger.info("%s: %s; trying again", self._purpose, str(error).strip() or type(error).__name__)
                await asyncio.sleep(pause)
        raise AssertionError("unreachable")

    async def run(self, operation: Operation[Result], *, atomic: bool = False) -> Result:
        """An operation, in one transaction when `atomic`."""
        async with self._turn:  # Nobody else's statement slips into the transaction.
            conn = await self.get()
            try:
                if not atomic:
                    return await arun(conn, operation, self._local_settings)
                async with abegan(conn, self._local_settings):
                    return await arun(conn, operation)
            except BaseException as error:
                await self._drop_if_broken(conn, error)
                raise

    async def _drop_if_broken(self, conn: psycopg.AsyncConnection[Any], error: BaseException) -> None:
        # After a failover the old primary answers read-only: a new connection finds the new one.
        stale = isinstance(error, pg_errors.ReadOnlySqlTransaction | asyncio.CancelledError)
        if (conn.closed or stale) and self._connection is conn:
            await self.close()

    async def close(self) -> None:
        conn, self._connection = self._connection, None
        if conn is not None:
            await conn.close()
