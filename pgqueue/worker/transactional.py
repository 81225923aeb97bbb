"""Tasks that run in the transaction of their own completion: both commit, or neither does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

from pgqueue.context import Context
from pgqueue.database import Database, alent, arun, lent, run
from pgqueue.errors import PgQueueError
from pgqueue.job import ClaimedJob
from pgqueue.outcome import Completed
from pgqueue.queries.finishing import Finished, finish
from pgqueue.task import Task


class StaleClaim(PgQueueError):
    """The job belongs to another worker now: nothing that this run wrote may commit."""


class Transactions:
    """Runs a task with `ctx.connection`, and completes its job there. StaleClaim rolls everything back."""

    def __init__(
        self, database: Database, schema: str, worker: Callable[[], UUID], keeps_history: Callable[[str], bool]
    ) -> None:
        self.database = database
        self._keeps_history = keeps_history
        self._schema = schema
        self._worker = worker

    def run(self, task: Task[..., Any], job: ClaimedJob, context: Context, kwargs: dict[str, Any]) -> Completed:
        with self.database.transaction() as connection:
            context.connection = connection
            began = time.monotonic()
            with lent(connection):
                outcome = Completed(task.dump_result(task.function(**kwargs)))
            self._check(job, context, run(connection, self._finish(task, job, outcome, time.monotonic() - began)))
        return outcome

    async def arun(self, task: Task[..., Any], job: ClaimedJob, context: Context, kwargs: dict[str, Any]) -> Completed:
        async with self.database.atransaction() as connection:
            context.connection = connection
            began = time.monotonic()
            async with alent(connection):
                outcome = Completed(task.dump_result(await task.function(**kwargs)))
            self._check(
                job, context, await arun(connection, self._finish(task, job, outcome, time.monotonic() - began))
            )
        return outcome

    def _finish(self, task: Task[..., Any], job: ClaimedJob, outcome: Completed, seconds: float) -> Any:
        kept = task.options.keep_completed and self._keeps_history(job.queue)
        finished = Finished(job.id, job.fence, job.task, outcome, seconds, kept, job.limited, tried=job.limited)
        return finish(self._schema, self._worker(), [finished])

    @staticmethod
    def _check(job: ClaimedJob, context: Context, stale: int) -> None:
        if stale or context.stopped:
            raise StaleClaim(
                f"job {job.id} ({job.task}) is no longer held by this worker: its transaction is rolled back"
            )
