"""Suspects run alone: a job that was with dying workers twice, or killed one, shares its next run with no other."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import TYPE_CHECKING

from pgqueue.job import ClaimedJob
from pgqueue.outcome import Snooze
from pgqueue.queries.finishing import Finished

if TYPE_CHECKING:
    from pgqueue.worker.worker import Worker

logger = logging.getLogger("pgqueue.worker")

WAIT_SECONDS = 10.0


class Quarantine:
    """Takes one suspect at a time: the worker ends what runs, holds nothing else, and runs it.

    A worker that dies while it holds one job tells the rescue whose fault it was. Where the others take too long to
    end, the suspect is snoozed, and tried again here or on another worker.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._task: asyncio.Task[None] | None = None

    def take(self, job: ClaimedJob) -> None:
        if self._task is not None and not self._task.done():
            self._give_back(job)
            return
        self._task = asyncio.create_task(self._run(job))

    async def close(self) -> None:
        """Let the run that is under way end."""
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    def _give_back(self, job: ClaimedJob) -> None:
        self._worker.finisher.add(Finished(job.id, job.fence, job.task, None))

    async def _run(self, job: ClaimedJob) -> None:
        worker = self._worker
        for slots in worker.serving.slots.values():
            slots.open = False
            slots.room.clear()
            worker.serving.release_unstarted(slots)
        try:
            if not await self._alone(WAIT_SECONDS):
                logger.info("job %d (%s) is to run alone, and this worker is busy: snoozed", job.id, job.task)
                delay = WAIT_SECONDS * random.uniform(0.5, 1.5)
                worker.finisher.add(Finished(job.id, job.fence, job.task, Snooze(delay)))
                return
            logger.warning("job %d (%s) runs alone: workers died while they ran it", job.id, job.task)
            slots = worker.serving.slots[job.queue]
            slots.running += 1
            worker.executor.start(slots, job)
            await self._quiet()
        finally:
            for slots in worker.serving.slots.values():
                slots.open = not worker.stopping
                slots.fill()

    async def _alone(self, within: float) -> bool:
        try:
            await asyncio.wait_for(self._quiet(), within)
            # A claim that was under way came in meanwhile.
            for slots in self._worker.serving.slots.values():
                self._worker.serving.release_unstarted(slots)
            await asyncio.wait_for(self._worker.finisher.flushed(), within)
        except TimeoutError:
            return False
        return not self._worker.stopping

    async def _quiet(self) -> None:
        while self._worker.executor.running:
            await self._worker.executor.changed()
