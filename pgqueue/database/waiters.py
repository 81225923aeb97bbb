"""Who waits for the end of jobs in this process: threads and event loops, each with a listener."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from pgqueue.database.hearing import Event, ResultListener, Waiter

JOIN_SECONDS = 5.0

Make = Callable[[asyncio.AbstractEventLoop], ResultListener]


class ListeningThread:
    """A listener for all that wait in threads, in an event loop of its own."""

    def __init__(self, make: Make) -> None:
        # Not one of a policy: psycopg cannot wait in every kind.
        self._loop = asyncio.SelectorEventLoop()
        self.listener = make(self._loop)
        self._thread = threading.Thread(target=self._loop.run_forever, name="pgqueue-results", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        with suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(self.listener.stop(), self._loop).result(JOIN_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(JOIN_SECONDS)
        if not self._thread.is_alive():
            self._loop.close()


class Waiters:
    """A listener for each event loop that waits, and one in a thread for everybody else; none behind a pooler."""

    def __init__(self, make: Make | None) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._thread: ListeningThread | None = None
        self._loops: dict[asyncio.AbstractEventLoop, ResultListener] = {}
        _all_waiters.add(self)

    @contextmanager
    def waiting(self, job_id: int) -> Iterator[Waiter[threading.Event]]:
        """For a thread."""
        listener = self._of_threads()
        with _added(Waiter(job_id, threading.Event(), listener), listener) as waiter:
            yield waiter

    @contextmanager
    def awaiting(self, job_id: int) -> Iterator[Waiter[asyncio.Event]]:
        """For a coroutine."""
        listener = self._of_this_loop()
        with _added(Waiter(job_id, asyncio.Event(), listener), listener) as waiter:
            yield waiter

    def close(self) -> None:
        """End the thread; it comes back when it is needed."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.stop()

    async def aclose(self) -> None:
        """As `close`, and end the listener of this event loop."""
        listener = self._loops.pop(asyncio.get_running_loop(), None)
        if listener is not None:
            await listener.stop()
        self.close()

    def _of_this_loop(self) -> ResultListener | None:
        if self._make is None:
            return None
        loop = asyncio.get_running_loop()
        if loop not in self._loops:
            for ended in [other for other in list(self._loops) if other.is_closed()]:
                self._loops.pop(ended, None)
            self._loops[loop] = self._make(loop)
        return self._loops[loop]

    def _of_threads(self) -> ResultListener | None:
        if self._make is None:
            return None
        with self._lock:
            if self._thread is None:
                self._thread = ListeningThread(self._make)
            return self._thread.listener

    def _begin_anew(self) -> None:
        """In the child of a fork, which has neither the parent's thread nor its loops."""
        _inherited.append((self._thread, self._loops))
        self._lock, self._thread, self._loops = threading.Lock(), None, {}


@contextmanager
def _added(waiter: Waiter[Event], listener: ResultListener | None) -> Iterator[Waiter[Event]]:
    if listener is None:
        yield waiter
        return
    listener.add(waiter)
    try:
        yield waiter
    finally:
        listener.remove(waiter)


_all_waiters: weakref.WeakSet[Waiters] = weakref.WeakSet()
# Kept, since a connection that is collected is closed, and the parent may be using it.
_inherited: list[Any] = []


def _after_fork() -> None:
    for waiters in list(_all_waiters):
        waiters._begin_anew()


@atexit.register
def _at_exit() -> None:
    for waiters in list(_all_waiters):
        waiters.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
