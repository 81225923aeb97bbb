"""`blocked` → `available` where the children of a job have ended, or to `failed_jobs` where one has not completed."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

from pgqueue.queries import settling
from pgqueue.services.service import Runner, Service

INTERVAL = 1.0
# Where no flow was seen to move for a while, it is looked for less often: who moves one says so.
QUIET_AFTER = 60.0
QUIET_INTERVAL = 5.0
GATHER_SECONDS = 0.025
SWEEP_INTERVAL = 60.0
SWEEP = 5_000


class FlowKeeper(Service):
    """Has parents count their children that have ended, and lets those go that wait for none any more.

    Workers wake it when a job of a flow ends. All of them may do it at once: each takes what no other has locked.
    """

    name = "flows"

    def __init__(self, runner: Runner, schema: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(runner, schema)
        self._clock = clock
        self._moved_at = clock()
        self._sweep_at = clock() + SWEEP_INTERVAL * random.uniform(0.0, 1.0)
        self._swept = 0

    async def run_once(self) -> float:
        began = self._clock()
        done = await self.runner.run(settling.turn(self.schema))
        if done:
            self._moved_at = self._clock()
            if done < settling.SETTLE:
                # Where many end, those of a moment are counted together: it looks no more than half of its time.
                await asyncio.sleep(min(self._moved_at - began, GATHER_SECONDS))
            # What has gone on may have ended something else.
            return 0.0
        if self._clock() >= self._sweep_at:
            await self._sweep()
        quiet = self._clock() - self._moved_at > QUIET_AFTER
        return (QUIET_INTERVAL if quiet else INTERVAL) * random.uniform(0.8, 1.0)

    async def _sweep(self) -> None:
        """Jobs that were deleted have told nobody: their parents hear of it here."""
        [(last, _)] = await self.runner.fetch(settling.sweep(self.schema, self._swept, SWEEP))
        self._swept = last or 0
        self._sweep_at = self._clock() + (0.0 if last else SWEEP_INTERVAL * random.uniform(0.8, 1.2))
