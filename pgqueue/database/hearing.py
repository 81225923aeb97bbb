"""One connection on which a process hears of the end of jobs that it waits for, and those that wait.

A job's end notifies the processes that are recorded as waiting for it. That is a hint: whoever waits looks for itself,
and looks again every two seconds, or more often while nothing is heard.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Generic, TypeVar

import psycopg
from psycopg import sql

logger = logging.getLogger("pgqueue.database")

EXPIRES = timedelta(minutes=10)
RENEW_AFTER = EXPIRES.total_seconds() / 2
# The first pause between two looks in seconds, how the next ones grow, and the longest.
UNHEARD = (0.01, 1.5, 0.5)
HEARD = (0.02, 2.0, 2.0)
PING_AFTER = 15.0
PING_SECONDS = 15.0
LINGER = 60.0
RETRY = (1.0, 30.0)
CANCEL_SECONDS = 0.2

Event = TypeVar("Event", asyncio.Event, threading.Event)


class Waiter(Generic[Event]):
    """One that waits for one job: `event` is set when there is reason to look."""

    def __init__(self, job_id: int, event: Event, listener: ResultListener | None) -> None:
        self.job_id = job_id
        self.event: Event = event
        self._listener = listener
        self._pause = 0.0
        self._recorded_at = 0.0
        self._recorded_in = 0

    @property
    def channel(self) -> str | None:
        """Where it is to be notified: None when that is recorded already, or nothing would be heard."""
        if self._listener is None or not self._listener.session:
            return None
        fresh = time.monotonic() - self._recorded_at < RENEW_AFTER
        return None if fresh and self._recorded_in == self._listener.session else self._listener.channel

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Around the statement that records it. Where that fails, it polls: for want of a privilege, say."""
        session = 0 if self._listener is None else self._listener.session
        try:
            yield
        except Exception as error:
            logger.info("job %d is polled for: %s", self.job_id, str(error).strip() or type(error).__name__)
            self._listener = None
            return
        self._recorded_in, self._recorded_at = session, time.monotonic()
        # An end that is being written at this moment does not see the record: it is looked for a few times.
        self._pause = 0.0

    def wake(self, *, told: bool) -> None:
        """Look again; `told`: by a notification, and the record is gone."""
        if told:
            self._recorded_in = 0
        self.event.set()

    def pause(self) -> float:
        """Seconds until the next look, if nothing is heard."""
        heard = self._listener is not None and self._recorded_in == self._listener.session != 0
        first, growth, longest = HEARD if heard else UNHEARD
        self._pause = min(max(first, self._pause * growth), longest)
        return self._pause


class ResultListener:
    """Listens in one event loop, from the first waiter until a minute after the last one; waiters are of any thread."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, dsn: Callable[[], str], options: Callable[[], Mapping[str, Any]]
    ) -> None:
        self.channel = f"pgqueue_{secrets.token_hex(8)}"
        # Which connection it is, counted from 1; 0 while there is none.
        self.session = 0
        self._sessions = 0
        self._loop = loop
        self._dsn = dsn
        self._options = options
        self._lock = threading.Lock()
        self._waiters: dict[int, set[Waiter[Any]]] = {}
        self._left_at = time.monotonic()
        self._task: asyncio.Task[None] | None = None

    def add(self, waiter: Waiter[Any]) -> None:
        with self._lock:
            self._waiters.setdefault(waiter.job_id, set()).add(waiter)
        self._loop.call_soon_threadsafe(self._start)

    def remove(self, waiter: Waiter[Any]) -> None:
        with self._lock:
            left = self._waiters[waiter.job_id]
            left.discard(waiter)
            if not left:
                del self._waiters[waiter.job_id]
            self._left_at = time.monotonic()

    async def stop(self) -> None:
        """In its event loop: who still waits polls."""
        while self._task is not None and not self._task.done():
            # Again and again: a library may swallow a cancellation.
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=CANCEL_SECONDS)

    def _start(self) -> None:
        if self._task is None or self._task.done():
            self._task = self._loop.create_task(self._run())

    async def _run(self) -> None:
        pause, longest = RETRY
        while not self._unused():
            try:
                conn = await psycopg.AsyncConnection.connect(self._dsn(), autocommit=True, **self._options())
                async with conn:
                    await conn.execute(sql.SQL("listen {}").format(sql.Identifier(self.channel)))
                    pause = RETRY[0]
                    await self._hear(conn)
            except Exception as error:
                logger.info("results are polled for: %s", str(error).strip() or type(error).__name__)
                await asyncio.sleep(random.uniform(pause / 2, pause))
                pause = min(pause * 2, longest)

    async def _hear(self, conn: psycopg.AsyncConnection[Any]) -> None:
        self._sessions += 1
        self.session = self._sessions
        self._wake_all()
        try:
            while not self._unused():
                async for notification in conn.notifies(timeout=PING_AFTER):
                    # Whoever may connect may notify.
                    if notification.payload.isdecimal():
                        self._wake(int(notification.payload))
                # A half-open socket shows itself here.
                async with asyncio.timeout(PING_SECONDS):
                    await conn.execute("select 1")
        finally:
            self.session = 0
            self._wake_all()

    def _unused(self) -> bool:
        return not self._waiters and time.monotonic() - self._left_at >= LINGER

    def _wake(self, job_id: int) -> None:
        with self._lock:
            waiters = list(self._waiters.get(job_id, ()))
        for waiter in waiters:
            waiter.wake(told=True)

    def _wake_all(self) -> None:
        with self._lock:
            waiters = [waiter for some in self._waiters.values() for waiter in some]
        for waiter in waiters:
            waiter.wake(told=False)
