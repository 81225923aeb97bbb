"""Tells other processes what happens in this worker: one notification for many events, a few times a second."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from contextlib import suppress

import psycopg

from pgqueue.errors import PgQueueError
from pgqueue.events import Event
from pgqueue.queries import watching
from pgqueue.worker.connection import WorkerConnection

logger = logging.getLogger("pgqueue.worker")

INTERVAL = 0.25
KEPT = 100
LAST_SECONDS = 1.0


class Publisher:
    """`take` events; `run` sends them, or some of them where there are many: they are hints, and nothing waits."""

    def __init__(self, connection: WorkerConnection, schema: str, worker: str) -> None:
        self._connection = connection
        self._schema = schema
        self._worker = worker
        self._events: list[Event] = []
        self._counts: defaultdict[str, int] = defaultdict(int)
        self._arrived = asyncio.Event()

    def take(self, event: Event) -> None:
        self._counts[event.name] += 1
        if self._counts[event.name] <= KEPT:
            self._events.append(event)
            self._arrived.set()

    async def run(self) -> None:
        """Send for ever, and what is left at the end."""
        try:
            while True:
                await self._arrived.wait()
                await self.flush()
                await asyncio.sleep(INTERVAL)
        finally:
            with suppress(TimeoutError):
                async with asyncio.timeout(LAST_SECONDS):
                    await self.flush()

    async def flush(self) -> None:
        """Send what was taken since the last time; what cannot be sent is lost."""
        events, self._events = self._events, []
        self._counts.clear()
        self._arrived.clear()
        if not events:
            return
        payload = watching.pack(self._worker, events)
        try:
            await self._connection.fetch(watching.publish(self._schema, payload))
        except (psycopg.Error, PgQueueError) as error:
            logger.info("events were not published: %s", str(error).strip() or type(error).__name__)
