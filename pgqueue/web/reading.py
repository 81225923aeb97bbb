"""How the dashboard reads: on connections of its own, read-only, and for two seconds at most."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from psycopg import errors as pg_errors

from pgqueue.database import Database, afetch, arun
from pgqueue.queries.statement import Operation, Statement

Row = TypeVar("Row")
Result = TypeVar("Result")

CONNECTIONS = 4
# Whoever looks must not keep waiting who acts.
ACTING = 2
READ_SECONDS = 2
# The pages that tick together ask within it; and no page is shown what is older than itself by more.
SHARED_SECONDS = 1.0
# Figures of minutes do not change faster.
FIGURES_SECONDS = 10.0
# Rows of a list are whole jobs.
MOST_SHARED = 100
# An action may meet a lock: longer than any statement of a worker holds one.
ACT_SECONDS = 10


class Reader:
    """Reads for the pages of one dashboard, and acts for them. `spent` is the time that it has taken, in seconds."""

    def __init__(self, database: Database, schema: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._database = database.for_tasks(CONNECTIONS, READ_SECONDS)
        self._acting = database.for_tasks(ACTING)
        self.schema = schema
        self.spent = 0.0
        # By key, the oldest first: when it was asked for, for how long it is shared, and what is found.
        self._found: dict[Any, tuple[float, float, asyncio.Task[Any]]] = {}
        self._clock = clock

    async def fetch(self, statement: Statement[Row]) -> list[Row]:
        """The rows of one statement."""
        async with self._reading() as conn:
            return await afetch(conn, statement)

    async def run(self, operation: Operation[Result]) -> Result:
        """What an operation returns, read in one transaction."""
        async with self._reading() as conn:
            return await arun(conn, operation)

    async def shared(self, key: Any, read: Callable[[], Awaitable[Result]], seconds: float = SHARED_SECONDS) -> Result:
        """What `read` finds, for all who ask for `key` while it reads, and for so many seconds since it began.

        What was acted on here is read anew.
        """
        now = self._clock()
        for other in [key for key, (at, lasts, task) in self._found.items() if task.done() and now - at >= lasts]:
            del self._found[other]
        _, _, task = self._found.get(key, (0.0, 0.0, None))
        if task is None or _went_wrong(task):
            task = asyncio.ensure_future(_awaited(read))
            self._found.pop(key, None)
            self._found[key] = now, seconds, task
            if len(self._found) > MOST_SHARED:
                del self._found[next(iter(self._found))]
        # Whose tab closes does not take it from the others.
        return await asyncio.shield(task)

    @asynccontextmanager
    async def acting(self) -> AsyncIterator[Any]:
        """A connection in a transaction, for what changes something."""
        async with self._acting.atransaction() as conn:
            await afetch(conn, _settings(ACT_SECONDS, "off"))
            yield conn
        self._found.clear()

    async def close(self) -> None:
        await self._database.aclose()
        await self._acting.aclose()

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[Any]:
        async with self._database.atransaction() as conn:
            began = time.monotonic()
            try:
                await afetch(conn, _settings(READ_SECONDS, "on"))
                yield conn
            finally:
                self.spent += time.monotonic() - began


def _went_wrong(task: asyncio.Task[Any]) -> bool:
    """Whether to try again at once. What took too long would do so again."""
    if not task.done():
        return False
    return task.cancelled() or not isinstance(task.exception(), pg_errors.QueryCanceled | None)


async def _awaited(read: Callable[[], Awaitable[Result]]) -> Result:
    return await read()


def _settings(seconds: int, read_only: str) -> Statement[Any]:
    return Statement(
        "select set_config('statement_timeout', %(timeout)s, true), "
        "set_config('transaction_read_only', %(read_only)s, true)",
        {"timeout": f"{seconds}s", "read_only": read_only},
    )
