"""The app's own pools: they open at the first use, belong to their event loop, and survive a fork."""

from __future__ import annotations

import asyncio
import atexit
import os
import select
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeAlias

import psycopg
from psycopg_pool import AsyncConnectionPool, ConnectionPool, PoolTimeout

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

Connection: TypeAlias = psycopg.Connection[Any]
AsyncConnection: TypeAlias = psycopg.AsyncConnection[Any]
Pool: TypeAlias = ConnectionPool[Connection]
AsyncPool: TypeAlias = AsyncConnectionPool[AsyncConnection]


class Pools:
    """Up to `size` connections in autocommit, sync, and as many for each event loop.

    `dsn` and `options` are called for each connection that is made, so that a DSN is looked up at its first use. A
    server that does not answer is told at once at the first use; later it has `patience` seconds to come back, as
    others have to give back a connection. Transactions begin at `isolation`, at the database's default if that is None.
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
        self._pool: Pool | None = None
        self._loops: dict[asyncio.AbstractEventLoop, tuple[asyncio.Lock, AsyncPool]] = {}
        _all_pools.add(self)

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """A connection that is free again at the end. Raises ConnectionFailed."""
        pool = self._pool or self._open()
        try:
            conn = pool.getconn(self.patience)
        except PoolTimeout as error:
            with self._lock:
                self._probe()
            raise self._used_up() from error
        try:
            yield conn
        except psycopg.InternalError:
            # After a failover the old primary answers read-only: new connections find the new one.
            pool.drain()
            raise
        finally:
            pool.putconn(conn)

    @asynccontextmanager
    async def aconnection(self) -> AsyncIterator[AsyncConnection]:
        """As `connection`, async."""
        lock, pool = self._of_this_loop()
        if pool.closed:
            async with lock:
                if pool.closed:
                    await self._aprobe()
                    await pool.open()
        try:
            conn = await pool.getconn(self.patience)
        except PoolTimeout as error:
            async with lock:
                await self._aprobe()
            raise self._used_up() from error
        try:
            yield conn
        except psycopg.InternalError:
            await pool.drain()
            raise
        finally:
            await pool.putconn(conn)

    def close(self) -> None:
        """Close the sync connections; those in use when they come back. New ones are made when needed."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()

    async def aclose(self) -> None:
        """Close the sync connections and those of this event loop."""
        _, pool = self._loops.pop(asyncio.get_running_loop(), (None, None))
        if pool is not None:
            await pool.close()
        self.close()

    def _open(self) -> Pool:
        with self._lock:
            if self._pool is None:
                self._probe()
                pool: Pool = ConnectionPool(
                    self._dsn,
                    **self._settings(),
                    check=lambda conn: check(conn, pool),
                    reconnect_failed=ConnectionPool.check,
                )
                pool.open()
                self._pool = pool
            return self._pool

    def _of_this_loop(self) -> tuple[asyncio.Lock, AsyncPool]:
        loop = asyncio.get_running_loop()
        if loop not in self._loops:
            # An event loop that has ended takes its connections with it.
            for ended in [other for other in list(self._loops) if other.is_closed()]:
                self._loops.pop(ended, None)
            pool: AsyncPool = AsyncConnectionPool(
                self._dsn,
                **self._settings(),
                check=lambda conn: acheck(conn, pool),
                reconnect_failed=AsyncConnectionPool.check,
            )
            self._loops[loop] = asyncio.Lock(), pool
        return self._loops[loop]

    def _settings(self) -> dict[str, Any]:
        # A pool pauses ever longer between tries to connect, and gives up: `check` begins anew, so that those who
        # wait see a server that is back.
        return {
            "kwargs": self._parameters,
            "configure": lambda conn: conn.set_isolation_level(self._isolation),
            "min_size": 0,
            "max_size": self._size,
            "max_idle": 60,
            "reconnect_timeout": PATIENCE,
            "num_workers": 1,
            "open": False,
        }

    def _parameters(self) -> dict[str, Any]:
        return {"autocommit": True, **KEEPALIVES, **self._options()}

    def _probe(self) -> None:
        """Raises ConnectionFailed with what a pool keeps to itself: why it cannot connect."""
        with self._reachable():
            psycopg.Connection.connect(self._dsn(), **self._parameters()).close()

    async def _aprobe(self) -> None:
        with self._reachable():
            await (await psycopg.AsyncConnection.connect(self._dsn(), **self._parameters())).close()

    def _begin_anew(self) -> None:
        """In the child of a fork: the parent's sockets are not ours to use or to close, nor is its lock to wait for."""
        _inherited.append((self._pool, self._loops))
        self._lock, self._pool, self._loops = threading.Lock(), None, {}

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


def cannot_connect(where: str, error: Exception) -> ConnectionFailed:
    """What libpq said, on one line, and what to do."""
    said = " ".join(str(error).split()) or type(error).__name__
    if "unsupported startup parameter" in said:
        fix = "this is a pooler: say PgQueue(…, pooler=True)"
    else:
        fix = "start PostgreSQL there, or correct the DSN"
    return ConnectionFailed(f"cannot connect to {where}: {said.removesuffix('.')}: {fix}")


_all_pools: weakref.WeakSet[Pools] = weakref.WeakSet()
# Kept, since a connection that is collected is closed, and the parent may be using it.
_inherited: list[Any] = []


def _after_fork() -> None:
    for pools in list(_all_pools):
        pools._begin_anew()


# A pool that outlives the exit waits for its threads, which are gone by then.
@atexit.register
def _at_exit() -> None:
    for pools in list(_all_pools):
        pools.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def check(conn: Connection, pool: Pool) -> None:
    """Raises OperationalError if the server has hung up; costs a round trip only where something arrived meanwhile."""
    if _has_news(conn):
        try:
            conn.execute("")
        except psycopg.OperationalError:
            # On the others too, most likely: the pool would pause for seconds between them.
            pool.drain()
            raise


async def acheck(conn: AsyncConnection, pool: AsyncPool) -> None:
    """As `check`."""
    if _has_news(conn):
        try:
            await conn.execute("")
        except psycopg.OperationalError:
            await pool.drain()
            raise


def _has_news(conn: Connection | AsyncConnection) -> bool:
    """Whether its socket can be read: a server that hung up says why, or ends the stream."""
    if not hasattr(select, "poll"):
        return bool(select.select([conn.pgconn.socket], [], [], 0)[0])
    # select() fails in a process with more than a thousand open files.
    poll = select.poll()
    poll.register(conn.pgconn.socket, select.POLLIN)
    return bool(poll.poll(0))
