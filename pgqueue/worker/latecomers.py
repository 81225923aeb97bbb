"""Enqueues that were under way when the worker went idle, and commit later: nobody sends a notification for them."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from pgqueue.queries import claiming
from pgqueue.services.service import Runner, Service

FIRST = 0.025
SHARE = 0.0005
UNTIL_WOKEN = 3600.0


class Latecomers(Service):
    """Watches the transactions that had written to `jobs` when a queue went idle, and tells when one has ended.

    An enqueue notifies only if it sees an idle worker. One that ran just before, in a transaction that goes on for a
    while, would wait for the next poll after its commit. So these transactions, seldom any, are asked after every
    25 ms, and less often the longer they last: some ten thousand times in an hour, by each worker.
    """

    name = "latecomers"

    def __init__(self, runner: Runner, schema: str, on_ended: Callable[[], None]) -> None:
        super().__init__(runner, schema)
        self._on_ended = on_ended
        self._look = False
        self._since = 0.0
        self._under_way: list[str] = []

    def expect(self) -> None:
        """The worker has just said that a queue is idle."""
        self._look = True
        self.wake()

    async def run_once(self) -> float:
        if self._look:
            self._look = False
            self._since = time.monotonic()
            self._under_way = await self.runner.fetch(claiming.writers_of_jobs(self.schema))
        elif self._under_way:
            left = await self.runner.fetch(claiming.still_under_way(self._under_way))
            if len(left) < len(self._under_way):
                self._under_way = left
                self._on_ended()
        if not self._under_way:
            return UNTIL_WOKEN
        lasted = time.monotonic() - self._since
        return max(FIRST, lasted * SHARE) * random.uniform(0.8, 1.2)
