"""How the dashboard reads: on connections of its own, read-only, and for two seconds at most."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from pgqueue.database import Database, afetch, arun
from pgqueue.queries.statement import Operation, Statement

Row = TypeVar("Row")
Result = TypeVar("Result")

CONNECTIONS = 4
READ_SECONDS = 2
# An action may meet a lock: longer than any statement of a worker holds one.
ACT_SECONDS = 10


class Reader:
    """Reads for the pages of one dashboard, and acts for them. `spent` is the time that it has taken, in seconds."""

    def __init__(self, database: Database, schema: str) -> None:
        self._database = database.for_tasks(CONNECTIONS)
        self.schema = schema
        self.spent = 0.0
        self._shared: dict[Any, asyncio.Task[Any]] = {}
        self._beat = -1

    async def fetch(self, statement: Statement[Row]) -> list[Row]:
        """The rows of one statement."""
        async with self._reading() as conn:
            return await afetch(conn, statement)

    async def run(self, operation: Operation[Result]) -> Result:
        """What an operation returns, read in one transaction."""
        async with self._reading() as conn:
            return await arun(conn, operation)

    async def shared(self, beat: int, key: Any, read: Callable[[], Awaitable[Result]]) -> Result:
        """What `read` finds, once for all who ask for `key` at the same beat."""
        if beat != self._beat:
            self._beat, self._shared = beat, {}
        task = self._shared.get(key)
        if task is None:
            task = self._shared[key] = asyncio.ensure_future(_awaited(read))
        # Whose tab closes does not take it from the others.
        return await asyncio.shield(task)

    @asynccontextmanager
    async def acting(self) -> AsyncIterator[Any]:
        """A connection in a transaction, for what changes something."""
        async with self._database.atransaction() as conn:
            await afetch(conn, _settings(ACT_SECONDS, "off"))
            yield conn

    async def close(self) -> None:
        await self._database.aclose()

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[Any]:
        async with self._database.atransaction() as conn:
            began = time.monotonic()
            try:
                await afetch(conn, _settings(READ_SECONDS, "on"))
                yield conn
            finally:
                self.spent += time.monotonic() - began


async def _awaited(read: Callable[[], Awaitable[Result]]) -> Result:
    return await read()


def _settings(seconds: int, read_only: str) -> Statement[Any]:
    return Statement(
        "select set_config('statement_timeout', %(timeout)s, true), "
        "set_config('transaction_read_only', %(read_only)s, true)",
        {"timeout": f"{seconds}s", "read_only": read_only},
    )
