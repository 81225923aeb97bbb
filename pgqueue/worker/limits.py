"""When a worker stops by itself: drained, idle for long, or due for recycling."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pgqueue.errors import ConfigurationError
from pgqueue.queries import claiming
from pgqueue.worker.connection import TRANSIENT

if TYPE_CHECKING:
    from pgqueue.worker.worker import Worker

logger = logging.getLogger("pgqueue.worker")


class Limits:
    """`max_memory` is in bytes, `idle_timeout` in seconds; None is no limit. Raises ConfigurationError."""

    def __init__(
        self, *, drain: bool, idle_timeout: float | None, max_jobs: int | None, max_memory: int | None
    ) -> None:
        check("idle_timeout", idle_timeout, SECONDS, 0, optional=True)
        check("max_jobs", max_jobs, WHOLE, 1, optional=True)
        check("max_memory", max_memory, BYTES, 1, optional=True)
        self._drain = drain
        self._idle_timeout = idle_timeout
        self.max_jobs = max_jobs
        self._max_memory = max_memory
        self._seen = 0
        self._busy_at = time.monotonic()

    async def reached(self, worker: Worker) -> bool:
        """Whether to stop now."""
        if self._max_memory is not None and memory_in_use() > self._max_memory:
            return True
        if not worker.idle or worker.ended != self._seen:
            self._seen = worker.ended
            self._busy_at = time.monotonic()
            return False
        if self._idle_timeout is not None and time.monotonic() - self._busy_at >= self._idle_timeout:
            return True
        return self._drain and await self._is_drained(worker)

    async def _is_drained(self, worker: Worker) -> bool:
        """A paused queue counts as done: whoever paused it may want it so for days."""
        queues = set(worker.queues)
        paused = worker.serving.paused() & queues
        try:
            if await self._is_held(worker, queues - paused):
                return False
            left = [queue for queue in sorted(paused) if await self._is_held(worker, {queue})]
        except TRANSIENT:
            return False
        if left:
            logger.warning("drained, but for the paused queue%s %s", "s" * (len(left) > 1), ", ".join(left))
        return True

    async def _is_held(self, worker: Worker, queues: set[str]) -> bool:
        [(held,)] = await worker.services.fetch(
            claiming.holds_drain(worker.app.schema, sorted(queues), worker.app.tasks.names)
        )
        return bool(held)


WHOLE, BYTES, SECONDS = "a whole number", "a whole number of bytes", "a number of seconds"


def check(name: str, value: Any, kind: str, least: float, *, optional: bool = False) -> None:
    """Raises ConfigurationError for a setting that is no such number, or below `least`."""
    if optional and value is None:
        return
    numbers = float | int if kind is SECONDS else int
    if isinstance(value, bool) or not isinstance(value, numbers) or not value >= least:
        none = ", or None for no limit" if optional else ""
        raise ConfigurationError(f"{name}={value!r} must be {kind}, at least {least:g}{none}")


def memory_in_use() -> int:
    """Resident bytes of this process."""
    try:
        import resource
    except ImportError:
        return 0
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    # Elsewhere only the peak is known: in bytes on macOS, in KiB on the other systems.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
