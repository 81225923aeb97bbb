"""The app's own pools: they open at the first use, belong to their event loop, and survive a fork."""

from __future__ import annotations

import asyncio
import os
import select
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

import psycopg

from pgqueue import config
from pgqueue.errors import ConnectionFailed

if TYPE_CHECKING:
    from psycopg_pool import AsyncConnectionPool, ConnectionPool

KEEPALIVES = {
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
    "connect_timeout": 10,
}


class Pools:
    """Up to `size` connections in autocommit, sync, and as many for each event loop.

    `dsn` is called when a pool opens, so that a DSN is looked up at its first use.
    """

    def __init__(self, dsn: Callable[[], str], size: int, *, prepare_threshold: int | None) -> None:
        self._dsn = dsn
        self._size = size
        self._prepare_threshold = prepare_threshold
        self._lock = threading.Lock()
        self._pool: ConnectionPool[psycopg.Connection[Any]] | None = None
        self._apools: dict[asyncio.AbstractEventLoop, AsyncConnectionPool[psycopg.AsyncConnection[Any]]] = {}
        _all_pools.add(self)

    @contextmanager
    def connection(self) -> Iterator[psycopg.Connection[Any]]:
        """A connection that is free again at the end. Raises ConnectionFailed."""
        from psycopg_pool import PoolTimeout

        try:
            with self._sync_pool().connection() as conn:
                yield conn
        except PoolTimeout as error:
            raise self._unreachable() from error

    @asynccontextmanager
    async def aconnection(self) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        """As `connection`, async."""
        from psycopg_pool import PoolTimeout

        try:
            async with (await self._async_pool()).connection() as conn:
                yield conn
        except PoolTimeout as error:
            raise self._unreachable() from error

    def close(self) -> None:
        """Close the sync pool."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()

    async def aclose(self) -> None:
        """Close the sync pool and the one of this event loop."""
        pool = self._apools.pop(asyncio.get_running_loop(), None)
        if pool is not None:
            await pool.close()
        self.close()

    def _sync_pool(self) -> ConnectionPool[psycopg.Connection[Any]]:
        from psycopg_pool import ConnectionPool

        with self._lock:
            if self._pool is None:
                self._pool = ConnectionPool(
                    self._dsn(),
                    kwargs=self._pool_kwargs(),
                    min_size=0,
                    max_size=self._size,
                    open=True,
                    num_workers=1,
                    max_idle=60,
                    timeout=10,
                    check=check_socket,
                )
            return self._pool

    async def _async_pool(self) -> AsyncConnectionPool[psycopg.AsyncConnection[Any]]:
        from psycopg_pool import AsyncConnectionPool

        loop = asyncio.get_running_loop()
        with self._lock:
            if loop not in self._apools:
                # A pool belongs to its event loop: one that has ended takes its connections with it.
                self._apools = {other: pool for other, pool in self._apools.items() if not other.is_closed()}
                self._apools[loop] = AsyncConnectionPool(
                    self._dsn(),
                    kwargs=self._pool_kwargs(),
                    min_size=0,
                    max_size=self._size,
                    open=False,
                    num_workers=1,
                    max_idle=60,
                    timeout=10,
                    check=acheck_socket,
                )
            pool = self._apools[loop]
        if pool.closed:
            await pool.open()
        return pool

    def _pool_kwargs(self) -> dict[str, Any]:
        return {
            **KEEPALIVES,
            "autocommit": True,
            "prepare_threshold": self._prepare_threshold,
            "application_name": "pgqueue",
        }

    def _begin_anew(self) -> None:
        """In the child of a fork: the parent's sockets are not ours to use or to close, nor is its lock to wait for."""
        _inherited.append((self._pool, self._apools))
        self._lock, self._pool, self._apools = threading.Lock(), None, {}

    def _unreachable(self) -> ConnectionFailed:
        try:
            psycopg.connect(self._dsn(), connect_timeout=3).close()
        except psycopg.Error as error:
            return ConnectionFailed(f"cannot connect to {config.masked(self._dsn())}: {str(error).strip()}")
        return ConnectionFailed(
            f"no connection to {config.masked(self._dsn())} came free within 10 s: all {self._size} are in use"
        )


_all_pools: weakref.WeakSet[Pools] = weakref.WeakSet()
# Kept, since a pool that is collected tries to end its threads, which a fork does not have.
_inherited: list[Any] = []


def _after_fork() -> None:
    for pools in list(_all_pools):
        pools._begin_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def check_socket(conn: psycopg.Connection[Any]) -> None:
    """Raises OperationalError if the server has hung up; costs a round trip only where something arrived meanwhile."""
    if _has_news(conn):
        conn.execute("")


async def acheck_socket(conn: psycopg.AsyncConnection[Any]) -> None:
    """As `check_socket`."""
    if _has_news(conn):
        await conn.execute("")


def _has_news(conn: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> bool:
    """Whether its socket can be read: a server that hung up says why, or ends the stream."""
    if not hasattr(select, "poll"):
        return bool(select.select([conn.pgconn.socket], [], [], 0)[0])
    # select() fails in a process with more than a thousand open files.
    poll = select.poll()
    poll.register(conn.pgconn.socket, select.POLLIN)
    return bool(poll.poll(0))
