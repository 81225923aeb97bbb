"""The app's own pools: whoever needs a connection makes it; they belong to their event loop, and survive a fork."""

from __future__ import annotations

import asyncio
import os
import select
import threading
import time
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

import psycopg
from psycopg.pq import TransactionStatus

from pgqueue import config
from pgqueue.errors import ConnectionFailed

KEEPALIVES: dict[str, Any] = {
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
    "connect_timeout": 10,
}
PATIENCE = 10.0
IDLE_LIMIT = 60.0

Conn = TypeVar("Conn", bound="psycopg.Connection[Any] | psycopg.AsyncConnection[Any]")


class Pools:
    """Up to `size` connections in autocommit, sync, and as many for each event loop.

    `dsn` and `options` are called for each connection that is made, so that a DSN is looked up at its first use. A
    server that does not answer is told at once; only a connection that others use is waited for, `patience` seconds.
    Transactions begin at `isolation`, at the database's default if that is None.
    """

    def __init__(
        self,
        dsn: Callable[[], str],
        options: Callable[[], dict[str, Any]],
        size: int,
        isolation: psycopg.IsolationLevel | None,
    ) -> None:
        self._dsn = dsn
        self._options = options
        self._size = size
        self._isolation = isolation
        self.patience = PATIENCE
        self._lock = threading.Lock()
        self._slots = _tokens(size)
        self._idle: Idle[psycopg.Connection[Any]] = Idle()
        self._loops: dict[asyncio.AbstractEventLoop, tuple[asyncio.Semaphore, Idle[psycopg.AsyncConnection[Any]]]] = {}
        _all_pools.add(self)

    @contextmanager
    def connection(self) -> Iterator[psycopg.Connection[Any]]:
        """A connection that is free again at the end. Raises ConnectionFailed."""
        slots, idle = self._slots, self._idle
        try:
            slots.get(timeout=self.patience)
        except Empty:
            raise self._used_up() from None
        try:
            conn = idle.take() or self._connect()
            try:
                yield conn
            except psycopg.InternalError:
                idle.discard(conn)
                raise
            finally:
                idle.keep(conn)
        finally:
            slots.put(None)

    @asynccontextmanager
    async def aconnection(self) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        """As `connection`, async."""
        slots, idle = self._of_this_loop()
        try:
            async with asyncio.timeout(self.patience):
                await slots.acquire()
        except TimeoutError:
            raise self._used_up() from None
        try:
            conn = idle.take() or await self._aconnect()
            try:
                yield conn
            except psycopg.InternalError:
                idle.discard(conn)
                raise
            finally:
                idle.keep(conn)
        finally:
            slots.release()

    def close(self) -> None:
        """Close the sync connections; those in use when they come back. New ones are made when needed."""
        self._idle.close()
        self._idle = Idle()

    async def aclose(self) -> None:
        """Close the sync connections and those of this event loop."""
        _, idle = self._loops.pop(asyncio.get_running_loop(), (None, None))
        if idle is not None:
            idle.close()
        self.close()

    def _connect(self) -> psycopg.Connection[Any]:
        with self._reachable():
            conn = Connection.connect(self._dsn(), autocommit=True, **KEEPALIVES, **self._options())
        conn.isolation_level = self._isolation
        return conn

    async def _aconnect(self) -> psycopg.AsyncConnection[Any]:
        with self._reachable():
            conn = await AsyncConnection.connect(self._dsn(), autocommit=True, **KEEPALIVES, **self._options())
        await conn.set_isolation_level(self._isolation)
        return conn

    def _of_this_loop(self) -> tuple[asyncio.Semaphore, Idle[psycopg.AsyncConnection[Any]]]:
        loop = asyncio.get_running_loop()
        with self._lock:
            if loop not in self._loops:
                # An event loop that has ended takes its connections with it.
                self._loops = {other: pool for other, pool in self._loops.items() if not other.is_closed()}
                self._loops[loop] = asyncio.Semaphore(self._size), Idle()
            return self._loops[loop]

    def _begin_anew(self) -> None:
        """In the child of a fork: the parent's sockets are not ours to use or to close, nor is its lock to wait for."""
        _inherited.append((self._idle, self._loops))
        self._lock, self._slots = threading.Lock(), _tokens(self._size)
        self._idle, self._loops = Idle(), {}

    @contextmanager
    def _reachable(self) -> Iterator[None]:
        try:
            yield
        except psycopg.OperationalError as error:
            raise cannot_connect(config.masked(self._dsn()), error) from error

    def _used_up(self) -> ConnectionFailed:
        return ConnectionFailed(
            f"no connection to {config.masked(self._dsn())} came free within {self.patience:g} s: all {self._size} are "
            "in use. Give back those that wait, or allow more with PgQueue(…, pool_size=…)"
        )


class Idle(Generic[Conn]):
    """The connections of a pool that nobody uses; the one that came back last goes first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[tuple[float, Conn]] = deque()
        self._closed = False

    def take(self) -> Conn | None:
        """One that the server has not closed meanwhile."""
        with self._lock:
            while self._waiting:
                _, conn = self._waiting.pop()
                if not _has_news(conn):
                    return conn
                conn.pgconn.finish()
        return None

    def discard(self, conn: Conn) -> None:
        """After a failover the old primary answers read-only: a new connection finds the new one."""
        conn.pgconn.finish()

    def keep(self, conn: Conn) -> None:
        """Take it back, if it can be used again."""
        now = time.monotonic()
        with self._lock:
            if self._closed or conn.pgconn.transaction_status != TransactionStatus.IDLE:
                conn.pgconn.finish()
            else:
                self._waiting.append((now, conn))
            while self._waiting and self._waiting[0][0] < now - IDLE_LIMIT:
                self._waiting.popleft()[1].pgconn.finish()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            for _, conn in self._waiting:
                conn.pgconn.finish()
            self._waiting.clear()


class Connection(psycopg.Connection[Any]):
    """Ends with its process without a warning: nobody has to close an app."""

    def __del__(self, *_: Any) -> None:
        pass


class AsyncConnection(psycopg.AsyncConnection[Any]):
    """As `Connection`; it ends with its event loop too."""

    def __del__(self, *_: Any) -> None:
        pass


def cannot_connect(where: str, error: Exception) -> ConnectionFailed:
    """What libpq said, on one line, and what to do."""
    said = " ".join(str(error).split()) or type(error).__name__
    if "unsupported startup parameter" in said:
        fix = "this is a pooler: say PgQueue(…, pooler=True)"
    else:
        fix = "start PostgreSQL there, or correct the DSN"
    return ConnectionFailed(f"cannot connect to {where}: {said.removesuffix('.')}: {fix}")


def _tokens(count: int) -> SimpleQueue[None]:
    """A semaphore in C."""
    tokens: SimpleQueue[None] = SimpleQueue()
    for _ in range(count):
        tokens.put(None)
    return tokens


_all_pools: weakref.WeakSet[Pools] = weakref.WeakSet()
# Kept, since a connection that is collected is closed, and the parent may be using it.
_inherited: list[Any] = []


def _after_fork() -> None:
    for pools in list(_all_pools):
        pools._begin_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _has_news(conn: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> bool:
    """Whether its socket can be read: a server that hung up says why, or ends the stream."""
    if not hasattr(select, "poll"):
        return bool(select.select([conn.pgconn.socket], [], [], 0)[0])
    # select() fails in a process with more than a thousand open files.
    poll = select.poll()
    poll.register(conn.pgconn.socket, select.POLLIN)
    return bool(poll.poll(0))
