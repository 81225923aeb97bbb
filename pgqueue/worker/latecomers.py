"""Enqueues that were under way when the worker went idle, and commit later: nobody sends a notification for them."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable

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
        self._since = 0.0
        self._under_way: set[str] = set()

    def expect(self, under_way: Iterable[str]) -> None:
        """These transactions had written to `jobs` when the worker had just said that a queue is idle."""
        self._under_way.update(under_way)
        if self._under_way:
            self._since = time.monotonic()
            self.wake()

    async def run_once(self) -> float:
        asked = sorted(self._under_way)
        if asked:
            left: list[str] = []
            try:
                left = await self.runner.fetch(claiming.still_under_way(asked))
            finally:
                # Where nobody can tell, as after a failover, all count as ended.
                self._under_way.difference_update(set(asked) - set(left))
                if len(left) < len(asked):
                    self._on_ended()
        if not self._under_way:
            return UNTIL_WOKEN
        lasted = time.monotonic() - self._since
        return max(FIRST, lasted * SHARE) * random.uniform(0.8, 1.2)
