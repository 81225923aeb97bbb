"""Waiting for what a worker does: for an event where there is one, else for a condition in the database."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
from psycopg import sql

from pgqueue import PgQueue, Task
from pgqueue.testing import aenqueued

DEADLINE = 20


async def until(holds: Callable[[], Awaitable[Any]]) -> None:
    """Raises TimeoutError when it does not come to hold."""
    async with asyncio.timeout(DEADLINE):
        while not await holds():  # noqa: ASYNC110 - what ends the wait is in the database
            await asyncio.sleep(0.01)


async def states(app: PgQueue) -> Counter[str]:
    """How many jobs there are by state."""
    return Counter(job.state for job in await aenqueued(app))


class Gate:
    """A coroutine task that waits inside until the test opens it."""

    def __init__(self, app: PgQueue, name: str, **options: Any) -> None:
        self.entered: asyncio.Queue[int] = asyncio.Queue()
        self.opened = asyncio.Event()
        self.most = self.inside = 0
        self.fails = False

        @app.task(name=name, **options)
        async def wait(n: int = 0) -> int:
            self.inside += 1
            self.most = max(self.most, self.inside)
            self.entered.put_nowait(n)
            try:
                await self.opened.wait()
            finally:
                self.inside -= 1
            if self.fails:
                raise ValueError(n)
            return n

        self.task: Task[..., Any] = wait

    async def enters(self) -> int:
        """The argument of the next job that enters."""
        async with asyncio.timeout(DEADLINE):
            return await self.entered.get()


def default_to_serializable(dsn: str) -> None:
    """Every connection that is made from now on to this database begins its transactions at that level."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        name = sql.Identifier(connection.info.dbname)
        connection.execute(sql.SQL("alter database {} set default_transaction_isolation = serializable").format(name))
