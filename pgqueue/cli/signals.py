"""SIGINT and SIGTERM: the first asks to stop, the second, a second later, insists."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Coroutine
from typing import Any

from pgqueue.worker import loop
from pgqueue.worker.supervisor import LIFELINE

# Ctrl-C in a terminal, docker and supervisors may deliver one wish as two signals.
SAME_WISH_SECONDS = 1.0
STOPPING = (signal.SIGINT, signal.SIGTERM)


class Signals:
    """Calls `stop` at the first signal and `insist` at the second; `exit_code` is what the process should end with."""

    def __init__(self, stop: Callable[[], None], insist: Callable[[], None]) -> None:
        self._stop = stop
        self._insist = insist
        self._stopped_at: float | None = None
        self.exit_code = 0

    @property
    def stopped(self) -> bool:
        """Whether a signal came."""
        return self._stopped_at is not None

    def listen(self) -> None:
        """From now on, on the running loop. Also stops when the supervisor that started this process is gone."""
        running = asyncio.get_running_loop()
        for number in STOPPING:
            running.add_signal_handler(number, self.receive, number)
        lifeline = os.environ.pop(LIFELINE, None)
        if lifeline is not None:
            descriptor = int(lifeline)
            os.set_inheritable(descriptor, False)
            running.add_reader(descriptor, self._orphaned, descriptor)

    def receive(self, number: int) -> None:
        now = time.monotonic()
        if self._stopped_at is None:
            self._stopped_at = now
            self._stop()
        elif now - self._stopped_at >= SAME_WISH_SECONDS:
            self.exit_code = 128 + number
            self._insist()

    def _orphaned(self, descriptor: int) -> None:
        asyncio.get_running_loop().remove_reader(descriptor)
        if not self.stopped:
            self.receive(signal.SIGTERM)


def run(main: Coroutine[Any, Any, int]) -> int:
    """Run to the end; then no signal turns the exit code into a death."""
    code = loop.run(main)
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
    return code
