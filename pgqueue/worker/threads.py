"""Threads for tasks that are plain functions: daemons, so that one that hangs does not keep its process from ending."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from pgqueue.worker.timeouts import timed_out

if TYPE_CHECKING:
    from pgqueue.worker.slots import Slots

logger = logging.getLogger("pgqueue.worker")

Result = TypeVar("Result")


class Threads:
    """Up to `size` threads, started when they are needed and used again.

    The pool of `concurrent.futures` would wait at the end of the process for whatever still runs.
    """

    def __init__(self, size: int, name: str) -> None:
        self._size = size
        self._name = name
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._started = 0
        self._busy = 0

    def run(self, function: Callable[[], Result]) -> asyncio.Future[Result]:
        """Call it in a thread, with the context variables of the caller; what it returns or raises ends the future."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        context = contextvars.copy_context()

        def call() -> None:
            try:
                outcome, error = context.run(function), None
            except BaseException as raised:
                outcome, error = None, raised
            # A loop that has ended has given the job back.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._end, future, outcome, error)

        self._busy += 1
        if self._busy > self._started and self._started < self._size:
            self._started += 1
            threading.Thread(target=self._work, name=f"{self._name}-{self._started}", daemon=True).start()
        self._calls.put(call)
        return future

    def close(self) -> None:
        """Threads that are free end; one that runs ends after its call."""
        for _ in range(self._started):
            self._calls.put(None)

    def _end(self, future: asyncio.Future[Any], outcome: Any, error: BaseException | None) -> None:
        self._busy -= 1
        if future.cancelled():
            return
        if error is None:
            future.set_result(outcome)
        else:
            future.set_exception(error)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call()


async def in_thread(
    slots: Slots,
    task: str,
    call: Callable[[], Result],
    stop: Callable[[], None],
    timeout: float | None,
    outlasts: Callable[[], bool],
) -> Result:
    """Run `call` in a thread of the slots. Raises what it raises, and TaskTimeout after `timeout` seconds.

    A thread cannot be stopped: `stop` tells it, what it returns is refused, and its slot is taken until it does. Where
    the run `outlasts` its interruption, it is over when the thread has returned: it holds places of limits.
    """

    def guarded() -> Result:
        try:
            return call()
        except StopIteration as error:
            # A future cannot hold one: the run would never end.
            raise RuntimeError("the task raised StopIteration") from error

    future = slots.threads.run(guarded)
    try:
        done, _ = await asyncio.wait({future}, timeout=timeout)
        if not done:
            raise timed_out(task, timeout)
    except BaseException:
        stop()
        if not future.done() and outlasts():
            logger.warning("a thread of %s still runs, and its job keeps its places at limits until it returns", task)
            # What interrupts it again is the end of the worker, and of the thread.
            with suppress(asyncio.CancelledError):
                await asyncio.wait({future})
        if not future.done():
            slots.running += 1
            slots.lost += 1
            logger.warning(
                "a thread of %s still runs and cannot be stopped: %d of %d slots of queue %s are left; "
                "a task with run_in='process' can be killed",
                task,
                slots.count - slots.lost,
                slots.count,
                slots.queue,
            )
            future.add_done_callback(lambda ended: _freed(slots, ended))
        raise
    return future.result()


def _freed(slots: Slots, ended: asyncio.Future[Any]) -> None:
    if not ended.cancelled():
        ended.exception()
    slots.running -= 1
    slots.lost -= 1
    slots.fill()
