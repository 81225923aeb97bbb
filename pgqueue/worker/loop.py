"""The event loop of a process that does nothing but run jobs."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")

COLLECT_AFTER = 10_000
CPYTHON = (700, 2_000)
"""What CPython comes with, by version."""


def run(main: Coroutine[Any, Any, Result]) -> Result:
    """Run to the end on uvloop, where that is installed, else on asyncio's own loop.

    The garbage collector is told that what has been imported stays, and to look at new objects after `COLLECT_AFTER`
    of them: as CPython sets it, it walks again and again over the jobs that are under way, a tenth of a worker's time.
    A threshold that the app has set for itself stays.
    """
    gc.collect()
    gc.freeze()
    youngest, *older = gc.get_threshold()
    if youngest in CPYTHON:
        gc.set_threshold(COLLECT_AFTER, *older)
    with asyncio.Runner(loop_factory=_factory()) as runner:
        return runner.run(main)


def _factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        from uvloop import new_event_loop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = new_event_loop
    return factory
