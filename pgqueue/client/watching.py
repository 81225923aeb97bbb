"""What happens in other processes, as their workers tell it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from contextlib import AsyncExitStack, ExitStack
from typing import Any, Self

import psycopg

from pgqueue.database import Database, alistening, listening
from pgqueue.errors import ConfigurationError, PgQueueError, seconds
from pgqueue.events import Event, known
from pgqueue.queries import watching


class Watch:
    """`app.watch()`: `with` and `for`, or `async with` and `async for`. It hears from its `with` on."""

    def __init__(self, database: Database, schema: str, names: Iterable[str], timeout: float | None) -> None:
        self._database = database
        self._channel = watching.channel(schema)
        self._names = frozenset(known(name) for name in names)
        if "enqueued" in self._names:
            raise ConfigurationError(
                "watch('enqueued'): an enqueue tells no other process; watch 'started', or subscribe by app.on() "
                "where jobs are enqueued"
            )
        self._timeout = None if timeout is None else seconds(timeout, "timeout")
        self._deadline: float | None = None
        self._connection: Any = None
        self._heard: deque[Event] = deque()
        self._open = ExitStack()
        self._aopen = AsyncExitStack()

    def __enter__(self) -> Self:
        self._begin(self._open.enter_context(listening(self._database, self._channel)))
        return self

    def __exit__(self, *raised: Any) -> bool | None:
        self._connection = None
        return self._open.__exit__(*raised)

    async def __aenter__(self) -> Self:
        self._begin(await self._aopen.enter_async_context(alistening(self._database, self._channel)))
        return self

    async def __aexit__(self, *raised: Any) -> bool | None:
        self._connection = None
        return await self._aopen.__aexit__(*raised)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        if self._is_over():
            raise StopIteration
        while not self._heard:
            told = list(self._opened(psycopg.Connection).notifies(timeout=self._left(), stop_after=1))
            if not self._take(told):
                raise StopIteration
        return self._heard.popleft()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        if self._is_over():
            raise StopAsyncIteration
        while not self._heard:
            connection = self._opened(psycopg.AsyncConnection)
            told = [one async for one in connection.notifies(timeout=self._left(), stop_after=1)]
            if not self._take(told):
                raise StopAsyncIteration
        return self._heard.popleft()

    def _begin(self, connection: Any) -> None:
        self._connection = connection
        self._deadline = None if self._timeout is None else time.monotonic() + self._timeout

    def _is_over(self) -> bool:
        """Also where more is there than can be read in its time."""
        return self._left() == 0

    def _left(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def _take(self, told: list[psycopg.Notify]) -> bool:
        """Whether there was anything: else its time is over."""
        for notification in told:
            for event in watching.unpack(notification.payload):
                if not self._names or event.name in self._names:
                    self._heard.append(event)
        return bool(told)

    def _opened(self, kind: type[Any]) -> Any:
        if not isinstance(self._connection, kind):
            asynchronous = "async " if kind is psycopg.AsyncConnection else ""
            raise PgQueueError(f"watch() is not open: use `{asynchronous}with app.watch() as events` around the loop")
        return self._connection
