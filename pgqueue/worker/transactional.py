"""Tasks that run in the transaction of their own completion: both commit, or neither does."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg

from pgqueue.chunk import ChunkJob
from pgqueue.context import Context
from pgqueue.database import Database, alent, arun, lent, run
from pgqueue.errors import PgQueueError, RetryJob
from pgqueue.job import ClaimedJob
from pgqueue.outcome import Completed
from pgqueue.queries import claiming
from pgqueue.queries.finishing import Finished, Written, finish
from pgqueue.queries.statement import Operation
from pgqueue.task import Task
from pgqueue.task.chunkcall import ChunkCall

if TYPE_CHECKING:
    from pgqueue.worker.serving import RuleBook


class StaleClaim(PgQueueError):
    """The job belongs to another worker now: nothing that this run wrote may commit."""


class Around:
    """Tells what fails around a task from what the task raises: the former is no error that a task could give up on."""

    def __init__(self) -> None:
        self._in_task = False

    @contextmanager
    def task(self) -> Iterator[None]:
        self._in_task = True
        yield
        self._in_task = False

    @contextmanager
    def retried(self) -> Iterator[None]:
        """Raises RetryJob from what fails outside of `task`; a constraint that a commit finds broken is the task's."""
        try:
            yield
        except Exception as error:
            if self._in_task or _is_of_a_constraint(error):
                raise
            raise RetryJob from error


@contextmanager
def _lasting(context: Context, connection: Any) -> Iterator[None]:
    """The run has the connection as long as the transaction lasts: then it is another's."""
    context.connection = connection
    try:
        yield
    finally:
        context.connection = None


def _is_of_a_constraint(error: Exception) -> bool:
    # SQLAlchemy has the driver's error in `orig`.
    return isinstance(getattr(error, "orig", error), psycopg.IntegrityError)


class Transactions:
    """Runs a task with `ctx.connection`, and completes its job there. StaleClaim rolls everything back."""

    def __init__(
        self,
        database: Database,
        schema: str,
        worker: Callable[[], UUID],
        rules: RuleBook,
        on_flows: Callable[[], Any],
    ) -> None:
        self.database = database
        self._rules = rules
        self._on_flows = on_flows
        self._schema = schema
        self._worker = worker

    def run(self, task: Task[..., Any], job: ClaimedJob, context: Context, kwargs: dict[str, Any]) -> Completed:
        around = Around()
        with around.retried(), self.database.transaction() as connection, _lasting(context, connection):
            began = time.monotonic()
            with lent(connection), around.task():
                outcome = task.completed(task.function(**kwargs))
            written = run(connection, self._finish(task, job, outcome, time.monotonic() - began))
            self._check(_shown(task, [job]), written.stale, context.stopped)
        self._tell(written)
        return outcome

    async def arun(self, task: Task[..., Any], job: ClaimedJob, context: Context, kwargs: dict[str, Any]) -> Completed:
        around = Around()
        with around.retried():
            async with self.database.atransaction() as connection:
                with _lasting(context, connection):
                    began = time.monotonic()
                    async with alent(connection):
                        with around.task():
                            outcome = task.completed(await task.function(**kwargs))
                    written = await arun(connection, self._finish(task, job, outcome, time.monotonic() - began))
                    self._check(_shown(task, [job]), written.stale, context.stopped)
        self._tell(written)
        return outcome

    def run_chunk(self, call: ChunkCall, jobs: list[ChunkJob[Any]], held: Sequence[ClaimedJob]) -> None:
        """As `run`, for the jobs of a chunk: those that the task completes are completed there, all or none."""
        around = Around()
        with around.retried(), self.database.transaction() as connection:
            call.connect(connection)
            began = time.monotonic()
            with lent(connection), around.task():
                call.returned(call.task.function(jobs))
            written = run(connection, self._finish_chunk(call, held, time.monotonic() - began))
            self._check(_shown(call.task, held), written.stale, call.stopped)
        self._tell(written)

    async def arun_chunk(self, call: ChunkCall, jobs: list[ChunkJob[Any]], held: Sequence[ClaimedJob]) -> None:
        """As `run_chunk`."""
        around = Around()
        with around.retried():
            async with self.database.atransaction() as connection:
                call.connect(connection)
                began = time.monotonic()
                async with alent(connection):
                    with around.task():
                        call.returned(await call.task.function(jobs))
                written = await arun(connection, self._finish_chunk(call, held, time.monotonic() - began))
                self._check(_shown(call.task, held), written.stale, call.stopped)
        self._tell(written)

    def _finish_chunk(self, call: ChunkCall, held: Sequence[ClaimedJob], seconds: float) -> Operation[Written]:
        """Complete what the task completed; `stale` counts all its jobs that this worker holds no longer."""
        completed = [
            self._finished(call.task, job, one.outcome, seconds)
            for job, one in zip(held, call.runs, strict=True)
            if isinstance(one.outcome, Completed)
        ]
        ids = {one.id for one in completed}
        others = [(job.id, job.fence) for job in held if job.id not in ids]
        written = Written(0, 0)
        if others:
            # What the task wrote for these commits too.
            still: list[Any] = yield claiming.lock_held(self._schema, *zip(*others, strict=True))
            written = Written(len(others) - len(still), 0)
        if completed:
            ended = yield from finish(self._schema, self._worker(), completed)
            written = Written(written.stale + ended.stale, ended.in_flows)
        return written

    def _tell(self, written: Written) -> None:
        # Parents are to be told: perhaps from a thread.
        if written.in_flows:
            self._on_flows()

    def _finish(self, task: Task[..., Any], job: ClaimedJob, outcome: Completed, seconds: float) -> Any:
        return finish(self._schema, self._worker(), [self._finished(task, job, outcome, seconds)])

    def _finished(self, task: Task[..., Any], job: ClaimedJob, outcome: Completed, seconds: float) -> Finished:
        _, kept, own_retention = self._rules[task.name, job.queue]
        return Finished(
            job.id,
            job.fence,
            job.task,
            outcome,
            seconds,
            kept,
            job.limited,
            tried=job.limited,
            own_retention=own_retention,
            plain=job.plain,
        )

    @staticmethod
    def _check(what: str, stale: int, stopped: bool) -> None:
        if stale or stopped:
            raise StaleClaim(f"{what} is no longer held by this worker: its transaction is rolled back")


def _shown(task: Task[..., Any], held: Sequence[ClaimedJob]) -> str:
    more = f", or one of the {len(held) - 1} others of its chunk," if len(held) > 1 else ""
    return f"job {held[0].id} ({task.name}){more}"
