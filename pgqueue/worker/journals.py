"""Writes what running tasks tell, in batches, on the connection of the services."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from uuid import UUID

import psycopg

from pgqueue.errors import PgQueueError
from pgqueue.job import ClaimedJob
from pgqueue.journal import Journal, Progress
from pgqueue.queries import journaling
from pgqueue.queries.journaling import Told
from pgqueue.worker.connection import WorkerConnection

logger = logging.getLogger("pgqueue.worker")

INTERVAL = 0.2
LAST_SECONDS = 1.0
GIVEN_BACK = (
    "given back while it ran, since its worker stopped or may have lost its lease: it runs again as the same attempt"
)
"""A line of pgqueue's own: else nobody would see that a job has begun before."""


class Journals:
    """The journals of runs that tell something: written a few times a second, and before the run's outcome."""

    def __init__(
        self,
        connection: WorkerConnection,
        schema: str,
        worker: Callable[[], UUID],
        on_progress: Callable[[ClaimedJob, Progress], None],
    ) -> None:
        self._connection = connection
        self._schema = schema
        self._worker = worker
        self._on_progress = on_progress
        self._loop = asyncio.get_running_loop()
        self._jobs: dict[Journal, ClaimedJob] = {}
        self._told: set[Journal] = set()
        self._arrived = asyncio.Event()
        self._turn = asyncio.Lock()

    @property
    def count(self) -> int:
        """How many are open."""
        return len(self._jobs)

    def open(self, job: ClaimedJob) -> Journal:
        """The journal of a run; the task may write into it from any thread."""
        journal = Journal(job.attempt, self._hear)
        self._jobs[journal] = job
        return journal

    def _hear(self, journal: Journal) -> None:
        self._loop.call_soon_threadsafe(self._wake, journal)

    def _wake(self, journal: Journal) -> None:
        self._told.add(journal)
        self._arrived.set()

    async def run(self) -> None:
        """Write for ever."""
        while True:
            await self._arrived.wait()
            await asyncio.sleep(INTERVAL)
            self._arrived.clear()
            await self._write(list(self._told))

    async def close(self, *journals: Journal) -> None:
        """Write what the run has told last. Waits for a second at most: its outcome matters more."""
        try:
            async with asyncio.timeout(LAST_SECONDS):
                await self._write(journals, last=True)
        except TimeoutError:
            job = self._jobs[journals[0]]
            logger.warning("the last progress and log lines of job %d (%s) were not written in time", job.id, job.task)
        finally:
            self._told.difference_update(journals)
            for journal in journals:
                del self._jobs[journal]

    async def _write(self, journals: Collection[Journal], *, last: bool = False) -> None:
        async with self._turn:
            taken = [
                (journal, self._jobs[journal], *journal.take(last=last))
                for journal in journals
                if journal in self._jobs
            ]
            self._told.difference_update(journals)
            told = [Told(job.id, job.fence, progress, lines) for _, job, progress, lines in taken if progress or lines]
            if not told:
                return
            try:
                await self._connection.fetch(journaling.write(self._schema, self._worker(), told))
            except (psycopg.Error, PgQueueError) as error:
                reason = str(error).strip() or type(error).__name__
                logger.info("progress and log lines wait for PostgreSQL: %s", reason)
                for journal, _, progress, lines in taken:
                    journal.give_back(progress, lines)
                    self._told.add(journal)
                self._arrived.set()
                return
            for _, job, progress, _ in taken:
                if progress:
                    self._on_progress(job, progress)
