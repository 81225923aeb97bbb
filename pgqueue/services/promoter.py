"""`scheduled` → `available` when due. Sleeps until the next `run_at`."""

from __future__ import annotations

import math
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

from pgqueue.queries import claiming
from pgqueue.queries.claiming import Promotion
from pgqueue.services.service import Runner, Service

BATCH = 500
GATHER_SECONDS = 0.005
# A statement reads the clock a little before it takes its transaction id, and a locked row is skipped.
SLACK = timedelta(seconds=10)
SWEEP_INTERVAL = 30.0


class DueMark:
    """Up to which `run_at` everything of one queue was promoted, so that no turn walks over those index entries again.

    While an old snapshot is held they cannot be removed. As with the claimers' marks (see worker/lanes.py), what was
    seen to be done at a time is proven once every transaction has ended that was under way then. What a rolled-back
    lock or a hand-written update leaves below is found by a sweep.
    """

    def __init__(self) -> None:
        self._proven: datetime | None = None
        self._pending: Promotion | None = None
        self._sweep_at = -math.inf

    def since(self, now: float) -> datetime | None:
        """Where the next turn begins; None: everywhere. `now` is monotonic."""
        return self._proven if now < self._sweep_at else None

    def observe(self, seen: Promotion, now: float, *, full: bool) -> None:
        """Learn from a turn that began at `now`; a `full` one has left something."""
        if full:
            return
        if now >= self._sweep_at:
            self._sweep_at = now + SWEEP_INTERVAL * random.uniform(0.8, 1.2)
        if self._proven is not None and seen.now < self._proven:
            # The clock of a server that took over is behind: what it times lies below the mark.
            self._proven = self._pending = None
        pending = self._pending
        if pending is not None and pending.xact_id is not None and seen.xmin >= pending.xact_id:
            self._proven = pending.now - SLACK
            self._pending = pending = None
        if pending is None and seen.xact_id is not None:
            self._pending = seen


class Promoter(Service):
    """Promotes the jobs of the queues that this worker serves. `on_promoted(queue)` wakes its claimer.

    It looks every `poll_interval` seconds, and when the next job is due that it knows of.
    """

    name = "promoter"

    def __init__(
        self,
        runner: Runner,
        schema: str,
        queues: Callable[[], Iterable[str]],
        on_promoted: Callable[[str], None],
        poll_interval: float,
    ) -> None:
        super().__init__(runner, schema)
        self._queues = queues
        self._on_promoted = on_promoted
        self._poll_interval = poll_interval
        self._marks: defaultdict[str, DueMark] = defaultdict(DueMark)

    async def run_once(self) -> float:
        pause = self._poll_interval
        for queue in list(self._queues()):
            began, mark = time.monotonic(), self._marks[queue]
            turn = claiming.promote(self.schema, queue=queue, count=BATCH, since=mark.since(began))
            [seen] = await self.runner.fetch(turn)
            mark.observe(seen, began, full=seen.promoted == BATCH)
            if seen.promoted:
                self._on_promoted(queue)
            if seen.promoted == BATCH:
                pause = 0.0
            elif seen.due_in is not None:
                # Where jobs come due one after the other, a turn of one costs what a turn of ten does.
                pause = min(pause, max(seen.due_in, GATHER_SECONDS if seen.promoted else 0.0))
        return pause
