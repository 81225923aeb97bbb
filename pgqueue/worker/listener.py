"""Notifications as hints. Whatever they miss, polling finds; so every reconnect is followed by a sweep."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg import sql

from pgqueue.worker.connection import TRANSIENT, WorkerConnection, pauses

logger = logging.getLogger("pgqueue.worker")

PING_AFTER = 15.0


class Listener:
    """Calls `on_hint(kind, words)` for each notification, and `on_reconnect()` each time it listens anew."""

    def __init__(
        self,
        connection: WorkerConnection,
        channel: str,
        on_hint: Callable[[str, list[str]], None],
        on_reconnect: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._channel = channel
        self._on_hint = on_hint
        self._on_reconnect = on_reconnect

    async def run(self) -> None:
        """Listen for ever."""
        pause = pauses()
        while True:
            try:
                conn = await self._connection.get()
                await conn.execute(sql.SQL("listen {}").format(sql.Identifier(self._channel)))
                pause = pauses()
                await self._hear(conn)
            except (TimeoutError, *TRANSIENT) as error:
                logger.info("listening stopped: %s; polling goes on", str(error).strip() or type(error).__name__)
                await self._connection.close()
            await asyncio.sleep(next(pause))

    async def _hear(self, conn: psycopg.AsyncConnection[Any]) -> None:
        self._on_reconnect()
        while True:
            async for notification in conn.notifies(timeout=PING_AFTER):
                kind, *words = notification.payload.split(" ")
                try:
                    self._on_hint(kind, words)
                except ValueError:
                    # Whoever may connect may notify: what they say must not stop a worker.
                    logger.info("a notification that is none of pgqueue's: %.100r", notification.payload)
            # A half-open socket shows itself here, within the keepalive's bounds.
            async with asyncio.timeout(PING_AFTER):
                await conn.execute("select 1")
