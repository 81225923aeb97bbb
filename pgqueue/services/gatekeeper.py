"""`blocked` → `available` by time: what waits for a rate, for a gate that opens, or for a limit that was raised."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from pgqueue.queries import limiting
from pgqueue.services.service import Runner, Service

LONGEST = 1.0


class Gatekeeper(Service):
    """Lets parked jobs go when it is time. Where the end of a job frees a place, its finish does so at once.

    `needed()`: whether this worker has met limits; else it does nothing.
    """

    name = "gatekeeper"

    def __init__(self, runner: Runner, schema: str, needed: Callable[[], bool]) -> None:
        super().__init__(runner, schema)
        self._needed = needed

    async def run_once(self) -> float:
        pause = LONGEST * random.uniform(0.8, 1.0)
        if self._needed():
            opens_in = await self.runner.run(limiting.tick(self.schema), atomic=True)
            if opens_in is not None and math.isfinite(opens_in):
                pause = min(pause, opens_in)
        return pause
