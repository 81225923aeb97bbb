"""What the runs of a worker come to, counted in memory, and added every few seconds to the minutes of their tasks."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable

from pgqueue.outcome import Cancelled, Completed, Failed, Retry, Snooze, Wait
from pgqueue.queries import figures
from pgqueue.queries.figures import Lane, Tally
from pgqueue.queries.finishing import Finished
from pgqueue.services.service import Runner, Service

INTERVAL = 5.0
SPREAD = 0.5
# Names of queues are data, which a caller may make up: what comes after so many pairs is `other` until the next turn.
MOST_LANES = 500
OTHER = "other"
# Of more of one lane that end together every second, third, … is timed, and stands for as many.
TIMED = 50
NAMES = {
    Completed: "completed",
    Failed: "failed",
    Retry: "retried",
    Snooze: "snoozed",
    Wait: "snoozed",
    Cancelled: "cancelled",
}


class Minutes:
    """Counts by queue and task since it was last asked."""

    def __init__(self) -> None:
        self._tallies: dict[Lane, Tally] = {}

    def count(self, written: Iterable[Finished]) -> None:
        """Count outcomes that are in the database; those that gave a job back are none."""
        ended = [one for one in written if one.outcome is not None]
        if not ended:
            return
        # Most batches are of one lane. Every job comes through here: what can be done for all at once is.
        if len({one.task for one in ended}) == len({one.queue for one in ended}) == 1:
            self._count((ended[0].queue, ended[0].task), ended)
            return
        lanes: dict[Lane, list[Finished]] = {}
        for one in ended:
            lanes.setdefault((one.queue, one.task), []).append(one)
        for lane, of_lane in lanes.items():
            self._count(lane, of_lane)

    def _count(self, lane: Lane, ended: list[Finished]) -> None:
        tally = self._tally(lane)
        for kind, count in Counter([type(one.outcome) for one in ended]).items():
            tally.outcomes[NAMES[kind]] += count
        step = 1 + len(ended) // TIMED
        for one in ended[random.randrange(step) :: step]:
            if one.waited is not None:
                tally.time(one.duration, one.waited, step)

    def take(self) -> dict[Lane, Tally]:
        """What has been counted since the last time."""
        taken, self._tallies = self._tallies, {}
        return taken

    def put_back(self, taken: dict[Lane, Tally]) -> None:
        """It could not be written."""
        for lane, tally in taken.items():
            self._tally(lane).add(tally)

    def _tally(self, lane: Lane) -> Tally:
        if (found := self._tallies.get(lane)) is None:
            if len(self._tallies) >= MOST_LANES:
                lane = (OTHER, OTHER)
            found = self._tallies.setdefault(lane, Tally())
        return found


class MinuteKeeper(Service):
    """Adds what was counted to the table; where nothing was, it asks nothing of the database.

    It comes about when a minute of the database ends, so that what was counted in one belongs to one.
    """

    name = "minutes"

    def __init__(
        self, runner: Runner, schema: str, minutes: Minutes, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(runner, schema)
        self._minutes = minutes
        self._clock = clock
        self._since = clock()
        self._turn = asyncio.Lock()

    async def run_once(self) -> float:
        # At the worker's end there is a turn beside that of `run`: it ends when all is written.
        async with self._turn:
            taken, since = self._minutes.take(), self._since
            self._since = self._clock()
            pause = INTERVAL * random.uniform(0.8, 1.0)
            if not taken:
                return pause
            try:
                statement = figures.add(self.schema, taken, (self._since - since) / 2)
                left: list[float] = await self.runner.fetch(statement)
            except BaseException:
                self._minutes.put_back(taken)
                self._since = since
                raise
            return max(SPREAD, min(pause, left[0] + random.uniform(-SPREAD, SPREAD)))
