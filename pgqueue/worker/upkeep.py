"""What a worker keeps straight: the settings of its queues, and claims that it does not know it has."""

from __future__ import annotations

import logging
import random
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg

from pgqueue.queries import claiming, fleet, limits
from pgqueue.queries.finishing import Finished, finish
from pgqueue.services.service import Runner, Service

if TYPE_CHECKING:
    from pgqueue.worker.lanes import Lanes

logger = logging.getLogger("pgqueue.worker")

CANCEL_INTERVAL = 1.0
ASKED_INTERVAL = 2.0
MARKS_INTERVAL = 1.0
KEEP_AFTER = 10_000
KEEP_INTERVAL = 60.0
WHOLE_INTERVAL = 600.0
WHOLE_SHARE = 500
NAMED = 5
UNKNOWN_INTERVAL = 60.0


@dataclass(frozen=True, slots=True)
class QueueSettings:
    """What the table `queues` says of one queue. `timeout` is in seconds; `keeps_history` None: as the app says."""

    paused: bool = False
    lifo: bool = False
    timeout: float | None = None
    keeps_history: bool | None = None
    ageing: timedelta | None = None
    ageing_floor: int | None = None


class SettingsReader(Service):
    """Reads the settings of queues, and which queues there are."""

    name = "settings"

    def __init__(
        self,
        runner: Runner,
        schema: str,
        *,
        globs: bool,
        interval: float,
        on_read: Callable[[dict[str, QueueSettings], set[str], limits.Templates], Any],
    ) -> None:
        super().__init__(runner, schema)
        self._globs = globs
        self._interval = interval
        self._on_read = on_read

    async def run_once(self) -> float:
        rows = await self.runner.fetch(fleet.queue_settings(self.schema))
        settings = {name: QueueSettings(*values) for name, *values in rows}
        names = set(settings)
        if self._globs:
            names |= set(await self.runner.fetch(fleet.queue_names(self.schema)))
        templates = await self.runner.fetch(limits.templates(self.schema))
        self._on_read(settings, names, limits.by_name(templates))
        return self._interval


class Cancellations(Service):
    """Finds the running jobs that were asked to stop, where the notification did not arrive."""

    name = "cancellations"

    def __init__(
        self,
        runner: Runner,
        schema: str,
        *,
        running: Callable[[], Collection[int]],
        on_cancelled: Callable[[int], None],
    ) -> None:
        super().__init__(runner, schema)
        self._running = running
        self._on_cancelled = on_cancelled

    async def run_once(self) -> float:
        ids = sorted(self._running())
        if ids:
            for job_id in await self.runner.fetch(claiming.cancelled_among(self.schema, ids)):
                self._on_cancelled(job_id)
        return CANCEL_INTERVAL


class Asked(Service):
    """Does what somebody has asked of this worker in the table `workers`: to drain, or to stop."""

    name = "asked"

    def __init__(
        self, runner: Runner, schema: str, *, worker: Callable[[], UUID], on_asked: Callable[[fleet.Leaving], None]
    ) -> None:
        super().__init__(runner, schema)
        self._worker = worker
        self._on_asked = on_asked

    async def run_once(self) -> float:
        for state in await self.runner.fetch(fleet.asked_of(self.schema, self._worker())):
            if state != "running":
                self._on_asked(state)
        return ASKED_INTERVAL


class Reconciler(Service):
    """Gives back the jobs of claims whose answer never arrived: they are in the table, but nobody here holds them."""

    name = "reconciler"

    def __init__(
        self,
        runner: Runner,
        schema: str,
        *,
        worker: Callable[[], UUID],
        known: Callable[[], Collection[int]],
        interval: float,
    ) -> None:
        super().__init__(runner, schema)
        self._worker = worker
        self._known = known
        self._interval = interval

    async def run_once(self) -> float:
        before = set(self._known())
        rows = await self.runner.fetch(claiming.claims_of(self.schema, self._worker()))
        # A claim that was made or ended while this read was under way is none of its business.
        known = before | set(self._known())
        lost = [(fence, job_ids) for fence, job_ids in rows if fence not in known]
        if lost:
            unstarted = [
                Finished(job_id, fence, "", None, limited=True) for fence, job_ids in lost for job_id in job_ids
            ]
            await self.runner.run(finish(self.schema, self._worker(), unstarted), atomic=True)
            await self.runner.fetch(claiming.drop_claims(self.schema, [fence for fence, _ in lost]))
        return self._interval


class MarkKeeper(Service):
    """Keeps the marks of this worker's lanes for sweeps and for workers to come: they need not walk there again.

    A mark that has moved far is kept at once, any other within a minute. Once in a while it looks below the kept mark
    too, for jobs that were changed by hand.
    """

    name = "marks"

    def __init__(
        self,
        runner: Runner,
        schema: str,
        lanes: Callable[[], Mapping[str, Lanes]],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(runner, schema)
        self._lanes = lanes
        self._clock = clock
        self._keep_at: defaultdict[tuple[str, int], float] = defaultdict(lambda: self._in(KEEP_INTERVAL))
        # Of workers that live for minutes, some look too.
        self._whole_at: defaultdict[tuple[str, int], float] = defaultdict(
            lambda: self._clock() + random.uniform(0.0, WHOLE_INTERVAL)
        )

    async def run_once(self) -> float:
        for queue, lanes in list(self._lanes().items()):
            # A lane that this worker does not know, since nothing waits there above its mark, has its kept mark.
            proven = lanes.kept | {priority: lane.proven for priority, lane in lanes.ordered()}
            for priority in sorted(proven):
                await self._keep(queue, priority, proven[priority], lanes)
        return MARKS_INTERVAL

    async def _keep(self, queue: str, priority: int, proven: int, lanes: Lanes) -> None:
        place, began = (queue, priority), self._clock()
        moved = proven - lanes.kept.get(priority, 0)
        whole = began >= self._whole_at[place]
        soon = began >= self._keep_at[place]
        if not (whole or moved >= KEEP_AFTER or (soon and moved > 0)):
            return
        # Before anything can fail: one lane must not hold up the others, nor be tried again at once.
        self._keep_at[place] = self._in(KEEP_INTERVAL)
        if whole:
            self._whole_at[place] = self._in(WHOLE_INTERVAL)
        least = 1 if soon else KEEP_AFTER
        statement = claiming.keep_mark(
            self.schema, queue=queue, priority=priority, proven=proven, least=least, whole=whole
        )
        try:
            [lanes.kept[priority]] = await self.runner.fetch(statement)
        except psycopg.Error as error:
            logger.info("the mark of queue %s, priority %d, was not kept: %s", queue, priority, str(error).strip())
        if whole:
            cost = (self._clock() - began) * WHOLE_SHARE
            self._whole_at[place] = self._in(max(WHOLE_INTERVAL, cost))

    def _in(self, seconds: float) -> float:
        return self._clock() + seconds * random.uniform(0.8, 1.2)


class UnknownTasks(Service):
    """Warns, once for each name, of tasks among the next jobs of a queue that no running worker has.

    The task was renamed, its name was mistyped, or its app has no worker.
    """

    name = "unknown tasks"

    def __init__(self, runner: Runner, schema: str, queues: Callable[[], Iterable[str]]) -> None:
        super().__init__(runner, schema)
        self._queues = queues
        self._told: dict[str, set[str]] = {}

    async def run_once(self) -> float:
        for queue in sorted(self._queues()):
            found = await self.runner.fetch(fleet.unknown_tasks(self.schema, queue))
            new = [name for name in found if name not in self._told.get(queue, ())]
            self._told[queue] = set(found)
            if new:
                names = ", ".join(new[:NAMED]) + (f" and {len(new) - NAMED} more" if len(new) > NAMED else "")
                logger.warning(
                    "queue %s holds jobs of tasks that no running worker has: %s. They wait until one has them: start "
                    "it, say aliases=[…] at the task that has another name now, or cancel them "
                    "(`pgqueue jobs cancel --task NAME`)",
                    queue,
                    names,
                )
        return UNKNOWN_INTERVAL * random.uniform(0.8, 1.2)
