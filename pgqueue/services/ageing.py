"""Ageing: moves what has waited to a sooner priority, so that nothing starves."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from datetime import timedelta

from pgqueue.queries import ageing
from pgqueue.services.service import Runner, Service

BATCH = 500
SHARE = 10
SHORTEST, LONGEST = 1.0, 30.0
IDLE = 2.0


class Ageing(Service):
    """Looks at each queue that ages ten times in the time of one priority, within a second and half a minute.

    `queues()` gives that time and the floor by queue; `on_moved(queue, priority, position)` tells its claimer.
    """

    name = "ageing"

    def __init__(
        self,
        runner: Runner,
        schema: str,
        queues: Callable[[], Mapping[str, tuple[timedelta, int | None]]],
        on_moved: Callable[[str, int, int], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(runner, schema)
        self._queues = queues
        self._on_moved = on_moved
        self._clock = clock
        self._turn_at: dict[str, float] = {}

    async def run_once(self) -> float:
        queues = self._queues()
        self._turn_at = {queue: at for queue, at in self._turn_at.items() if queue in queues}
        for queue, (every, floor) in queues.items():
            if self._clock() < self._turn_at.get(queue, 0.0):
                continue
            turn = ageing.age(self.schema, queue=queue, every=every, floor=floor, count=BATCH)
            lanes = await self.runner.fetch(turn)
            for lane in lanes:
                self._on_moved(queue, lane.priority, lane.position)
            pause = min(max(every.total_seconds() / SHARE, SHORTEST), LONGEST) * random.uniform(0.8, 1.0)
            self._turn_at[queue] = self._clock() + (pause if sum(lane.jobs for lane in lanes) < BATCH else 0.0)
        soonest = min(self._turn_at.values(), default=float("inf"))
        return min(max(0.0, soonest - self._clock()), IDLE)
