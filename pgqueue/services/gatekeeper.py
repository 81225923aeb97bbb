"""`blocked` → `available` by time: what waits for a rate, for a gate that opens, or for a limit that was raised."""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable

from pgqueue.queries import gates
from pgqueue.services.service import Runner, Service

logger = logging.getLogger("pgqueue.services")

LONGEST = 1.0
STUCK = 0.8
RECOUNT = 60.0


class Gatekeeper(Service):
    """Lets parked jobs go when it is time, and where the end of a job has freed a place.

    `needed()`: whether this worker has met limits; else it looks at its start, once a minute, and when it is told to.
    """

    name = "gatekeeper"

    def __init__(
        self, runner: Runner, schema: str, needed: Callable[[], bool], clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(runner, schema)
        self._needed = needed
        self._clock = clock
        # What was resumed, or freed, while no worker ran told nobody.
        self._told = True
        self._freed = False
        self._stuck: dict[str, float] = {}
        self._tick_at = clock()
        self._recount_at = clock() + RECOUNT * random.uniform(0.0, 1.0)

    def open(self) -> None:
        """A limit was changed."""
        self._told = True
        self.wake()

    def freed(self) -> None:
        """Places have been freed."""
        self._freed = True
        self.wake()

    async def run_once(self) -> float:
        told, self._told = self._told, False
        freed, self._freed = self._freed, False
        recount = self._clock() >= self._recount_at
        if recount:
            self._recount_at = self._clock() + RECOUNT * random.uniform(0.8, 1.2)
            await self._recount()
        due = self._clock() >= self._tick_at
        if told or recount or freed or (due and self._needed()):
            await self.runner.run(gates.hand_over(self.schema, all_gates=recount), atomic=True)
        if told or recount or due:
            pause = LONGEST * random.uniform(0.8, 1.0)
            if told or recount or self._needed():
                if told or freed:
                    self._stuck.clear()
                pause = min(pause, await self._tick())
            self._tick_at = self._clock() + pause
        return max(0.0, self._tick_at - self._clock())

    async def _tick(self) -> float:
        """Over all gates, some at a time; the seconds until something may begin."""
        now = self._clock()
        self._stuck = {name: until for name, until in self._stuck.items() if until > now}
        after: str | None = ""
        opens_in = math.inf
        while after is not None:
            ticked = await self.runner.run(gates.tick(self.schema, after, self._stuck), atomic=True)
            opens_in = min(opens_in, math.inf if ticked.opens_in is None else ticked.opens_in)
            # Their queue is paused, or has no worker: a long backlog is not looked through each time.
            self._stuck |= dict.fromkeys(ticked.stuck, self._clock() + STUCK)
            after = ticked.after
        return opens_in

    async def _recount(self) -> None:
        for count in await self.runner.run(gates.recount(self.schema), atomic=True):
            if (count.taken, count.loose) == (count.held, count.let_go) and count.waiting > count.parked:
                # Some that were parked have been cancelled.
                continue
            logger.warning(
                "limit %s counted %d places and %d + %d blocked jobs where there were %d and %d + %d: jobs were "
                "changed by hand; it is right again",
                count.gate,
                count.taken,
                count.waiting,
                count.loose,
                count.held,
                count.parked,
                count.let_go,
            )
        while len(await self.runner.fetch(gates.forget(self.schema))) == gates.FORGET:
            pass
