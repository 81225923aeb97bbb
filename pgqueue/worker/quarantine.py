"""Suspects run alone: a job that was with dying workers twice, or killed one, shares its next run with no other.

A worker that dies while it holds one job tells the rescue whose fault it was. Being alone stops the other queues, and
most suspects are innocent; so it is limited in three ways. A worker waits for its running jobs to end, and leaves the
suspect alone, for PATIENCE seconds each at most, doubled with every further death. After a standstill it works at
least SHARE times as long before the next. And a suspect that was put off for SHARE times its patience runs beside
others: if that kills the worker once more, it will be waited for longer.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING

from pgqueue.job import ClaimedJob
from pgqueue.outcome import Snooze
from pgqueue.queries.finishing import Finished

if TYPE_CHECKING:
    from pgqueue.worker.worker import Worker

logger = logging.getLogger("pgqueue.worker")

PATIENCE = 10.0
DOUBLINGS = 6
SHARE = 20
LEAST_DELAY = 0.5


class Quarantine:
    """Takes one suspect at a time: the worker ends what runs, holds nothing else, and runs it."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._standstill: asyncio.Task[None] | None = None
        self._waiting: ClaimedJob | None = None
        self._rested_at = 0.0
        self._met: dict[int, float] = {}

    def take(self, job: ClaimedJob) -> None:
        """Run it alone, now or later; where that cannot be had for long, among others."""
        now = time.monotonic()
        patience = patience_with(job)
        put_off = now - self._first_met(job, now, patience)
        if self._standing:
            self._give_back(job)
        elif self._is_explained(job):
            self._worker.serving.slots[job.queue].take([job])
        elif put_off >= patience * SHARE:
            logger.warning("job %d (%s) runs beside others: it waited %.0f s to be alone", job.id, job.task, put_off)
            self._worker.serving.slots[job.queue].take([job])
        elif now < self._rested_at:
            self._put_off(job, patience)
        else:
            self._waiting = job
            self._standstill = asyncio.create_task(self._stand_still(job, patience))

    def runs_alone(self, job: ClaimedJob) -> bool:
        """Whether it shares its chunk with no other; in a process of its own a first suspicion is enough for that."""
        by_itself = self._worker.app.tasks[job.task].run_in == "process"
        return is_suspect(job) or (by_itself and job.suspicions > 0)

    def release(self) -> None:
        """Give back the suspect that waits to be alone."""
        job, self._waiting = self._waiting, None
        if job is not None and self._standstill is not None:
            self._standstill.cancel()
            self._give_back(job)

    async def close(self) -> None:
        """Let the run that is under way end."""
        if self._standstill is not None:
            await asyncio.gather(self._standstill, return_exceptions=True)

    @property
    def _standing(self) -> bool:
        return self._standstill is not None and not self._standstill.done()

    def _is_explained(self, job: ClaimedJob) -> bool:
        """Whether its crashes can have been those of its own process, which its worker survives."""
        return job.suspicions < 2 and self._worker.app.tasks[job.task].run_in == "process"

    def _first_met(self, job: ClaimedJob, now: float, patience: float) -> float:
        for job_id, met in list(islice(self._met.items(), 2)):
            # Oldest first: they ended long ago, here or elsewhere.
            if met < now - 2 * SHARE * PATIENCE * 2**DOUBLINGS:
                del self._met[job_id]
        if self._met.get(job.id, now) < now - 2 * SHARE * patience:
            # It has run since then, and comes back for another reason.
            del self._met[job.id]
        return self._met.setdefault(job.id, now)

    def _give_back(self, job: ClaimedJob) -> None:
        self._worker.finisher.add(Finished(job.id, job.fence, job.task, None, limited=job.limited))

    def _put_off(self, job: ClaimedJob, patience: float) -> None:
        """When this worker has rested, and sooner the first times: another may have less to do."""
        now = time.monotonic()
        so_far = now - self._met[job.id]
        delay = min(max(self._rested_at - now, LEAST_DELAY), patience + so_far, max(patience * SHARE - so_far, 0.0))
        logger.info("job %d (%s) is to run alone, and this worker is busy: snoozed", job.id, job.task)
        later = Snooze(delay * random.uniform(1.0, 1.2))
        self._worker.finisher.add(Finished(job.id, job.fence, job.task, later, limited=job.limited))

    async def _stand_still(self, job: ClaimedJob, patience: float) -> None:
        worker = self._worker
        began = time.monotonic()
        for slots in worker.serving.slots.values():
            slots.open = False
            slots.room.clear()
        self._release_others()
        try:
            alone = await self._alone(patience)
            if worker.leaving:
                return
            self._waiting = None
            if alone:
                await self._run(job, patience)
        finally:
            self._rested_at = time.monotonic() + SHARE * (time.monotonic() - began)
            for slots in worker.serving.slots.values():
                slots.open = not worker.leaving
                slots.fill()
        if not alone:
            self._put_off(job, patience)

    async def _run(self, job: ClaimedJob, patience: float) -> None:
        self._met.pop(job.id, None)
        logger.warning("job %d (%s) runs alone: workers died while they ran it", job.id, job.task)
        slots = self._worker.serving.slots[job.queue]
        slots.running += 1
        self._worker.executor.start_alone(slots, job)
        if not await self._quiet(patience):
            logger.info("job %d (%s) has been alone for %g s: others run beside it now", job.id, job.task, patience)

    async def _alone(self, within: float) -> bool:
        if not await self._quiet(within):
            return False
        # A claim that was under way came in meanwhile.
        self._release_others()
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._worker.finisher.flushed()
                return True
        return False

    async def _quiet(self, within: float) -> bool:
        """Until nothing runs; whether that was soon enough."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                while self._worker.executor.running:
                    await self._worker.executor.changed()
        return not self._worker.executor.running

    def _release_others(self) -> None:
        for slots in self._worker.serving.slots.values():
            self._worker.serving.release_unstarted(slots)


def is_suspect(job: ClaimedJob) -> bool:
    """Whether it has been with two dying workers, or killed one: it runs alone, so that the blame can be told."""
    return bool(job.suspicions >= 2 or job.crashes >= 1)


def patience_with(job: ClaimedJob) -> float:
    """Seconds for which this job may stop the others, twice: until it is alone, and while it is."""
    return math.ldexp(PATIENCE, min(max(job.suspicions - 2, 0), DOUBLINGS))
