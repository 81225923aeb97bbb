"""The loop that every service runs in."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import psycopg

from pgqueue.database import Database
from pgqueue.errors import ConnectionFailed, SchemaOutOfDate
from pgqueue.queries.statement import Operation, Statement

logger = logging.getLogger("pgqueue.services")

Result = TypeVar("Result")
RETRY_AFTER = 1.0


class Runner:
    """What a service runs its statements on: two functions, so that a test can bring its own connection."""

    def __init__(
        self, fetch: Callable[[Statement[Any]], Awaitable[list[Any]]], run: Callable[..., Awaitable[Any]]
    ) -> None:
        self.fetch = fetch
        self._run = run

    async def run(self, operation: Operation[Result], *, atomic: bool = False) -> Result:
        result: Result = await self._run(operation, atomic=atomic)
        return result


class Service(ABC):
    """One background duty. `wake()` cuts the pause short."""

    name: str
    starts_after = 0.0
    """How many seconds, at most, its first turn leaves to others."""

    def __init__(self, runner: Runner, schema: str) -> None:
        self.runner = runner
        self.schema = schema
        self._woken = asyncio.Event()
        # When the last turn began, and when the last one succeeded, on the monotonic clock.
        self.tried_at = time.monotonic()
        self.turned_at: float | None = None

    @abstractmethod
    async def run_once(self) -> float:
        """One turn. Returns the seconds until the next."""

    def wake(self) -> None:
        self._woken.set()

    async def run(self) -> None:
        """Turns for ever: an error is logged, and the next turn comes."""
        failing = False
        if self.starts_after:
            await asyncio.sleep(self.starts_after * random.uniform(0.5, 1.0))
        while True:
            self._woken.clear()
            self.tried_at = time.monotonic()
            try:
                pause = await self.run_once()
                self.turned_at = time.monotonic()
                failing = False
            except SchemaOutOfDate:
                raise
            except Exception as error:
                is_known = isinstance(error, psycopg.Error) or is_everyones(error)
                log = logger.warning if is_known else logger.exception
                if not failing:
                    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                    log("%s: %s; trying again", self.name, reason)
                failing = True
                pause = RETRY_AFTER * random.uniform(0.5, 1.5)
            try:
                # Not wait_for: before Python 3.12 it loses a cancellation that comes together with the event.
                async with asyncio.timeout(pause):
                    await self._woken.wait()
            except TimeoutError:
                continue


def runner_of(database: Database) -> Runner:
    """One on the pool of an app."""
    return Runner(database.afetch, database.arun)


def is_everyones(error: Exception) -> bool:
    """Whether the next statement would meet the same: no connection, no tables."""
    cause = getattr(error, "orig", None) or error
    lost = isinstance(cause, psycopg.OperationalError | psycopg.InterfaceError) and cause.sqlstate is None
    return lost or isinstance(error, ConnectionFailed | SchemaOutOfDate)
