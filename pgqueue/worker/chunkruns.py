"""Runs a chunk: one call of its task, and the outcome of each of its jobs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Literal, NamedTuple

from pgqueue import arguments
from pgqueue.chunk import ChunkJob, JobRun
from pgqueue.context import Context
from pgqueue.effects import refuse_in_a_chunk
from pgqueue.errors import ArgumentError, ProcessCrashed
from pgqueue.job import ClaimedJob
from pgqueue.middleware import Middleware, around_call
from pgqueue.outcome import AttemptError, Cancelled, Completed, Failed, Outcome
from pgqueue.task import Task
from pgqueue.task.chunkcall import ChunkCall, decided_by
from pgqueue.worker.call import ChunkMessage, pack, read_outcome, read_told
from pgqueue.worker.chunklayers import JobLayers
from pgqueue.worker.journals import GIVEN_BACK, Journals
from pgqueue.worker.slots import Slots
from pgqueue.worker.threads import in_thread
from pgqueue.worker.timeouts import bounded
from pgqueue.worker.transactional import Transactions

logger = logging.getLogger("pgqueue.worker")

Interruption = Literal["released", "cancelled"]


class Ended(NamedTuple):
    """What a job came to; None gives it back, `suspected` of having crashed its process."""

    outcome: Outcome | None
    suspected: bool = False


class ChunkRuns:
    """The chunks that run in this worker."""

    def __init__(
        self,
        transactions: Transactions,
        journals: Journals,
        timeout_of: Callable[[Task[..., Any], ClaimedJob], float | None],
        layers: Sequence[Middleware] = (),
        around_calls: Sequence[Middleware] = (),
    ) -> None:
        self._transactions = transactions
        self._journals = journals
        self._timeout_of = timeout_of
        self._layers = layers
        self._around_calls = around_calls
        self._running: dict[int, ChunkRun] = {}

    @property
    def job_ids(self) -> Collection[int]:
        return self._running

    def cancel(self, job_id: int) -> int | None:
        """Tell a job of a chunk that it was cancelled. Returns the job by whose id its run is to be stopped now.

        That is itself where it runs in no chunk, none while others of its chunk go on, then the first of them.
        """
        run = self._running.get(job_id)
        return job_id if run is None else run.cancel(job_id)

    async def run(
        self,
        slots: Slots,
        task: Task[..., Any],
        jobs: Sequence[ClaimedJob],
        interruption: Callable[[], Interruption | None],
    ) -> list[Ended]:
        """Call the task with these jobs; `interruption` tells why the call was cancelled, if it was."""
        run = ChunkRun(task, jobs, self._journals)
        self._running.update(dict.fromkeys(run.by_id, run))
        around = run.wrapped(self._layers)
        try:
            for one in around:
                await one.entered()
            run.leave_out_cancelled()
            await self._call(slots, run, interruption)
        except asyncio.CancelledError as error:
            run.interrupted(error, interruption())
        except BaseException as error:
            run.raised(error)
        if around:
            run.tell(around)
            if await JobLayers.left(around):
                run.give_up_unmarked(asyncio.CancelledError())
        for job_id in run.by_id:
            # Its claim may have been lost, and another call of this worker have the job by now.
            if self._running.get(job_id) is run:
                del self._running[job_id]
        journals = [one.context.journal for one in run.call.runs if one.context.journal is not None]
        if journals:
            # What it came to is known: there is nothing left to interrupt.
            with suppress(asyncio.CancelledError):
                await self._journals.close(*journals)
        return run.ended()

    async def _call(self, slots: Slots, run: ChunkRun, interruption: Callable[[], Interruption | None]) -> None:
        task = run.task
        # One call has one timeout: the shortest that a job of it has.
        timeouts = [timeout for job in run.jobs if (timeout := self._timeout_of(task, job)) is not None]
        timeout = min(timeouts, default=None)
        if task.run_in == "process":
            if (message := run.message()).jobs:
                await slots.processes.run_chunk(message, timeout, run.hear, run.speak_by)
            return
        call, jobs = run.call, run.call.read(job.args for job in run.jobs)
        if not jobs:
            return
        with around_call(self._around_calls, call.contexts()):
            await self._call_here(slots, run, jobs, timeout, interruption)

    async def _call_here(
        self,
        slots: Slots,
        run: ChunkRun,
        jobs: list[ChunkJob[Any]],
        timeout: float | None,
        interruption: Callable[[], Interruption | None],
    ) -> None:
        task, call = run.task, run.call
        if task.run_in == "thread":

            def called() -> None:
                if task.options.transactional:
                    self._transactions.run_chunk(call, jobs, run.jobs)
                else:
                    call.returned(task.function(jobs))

            def outlasts() -> bool:
                return any(job.limited for job in run.jobs) and interruption() != "released"

            await in_thread(slots, task.name, called, call.stop, timeout, outlasts)
        elif task.options.transactional:
            await bounded(self._transactions.arun_chunk(call, jobs, run.jobs), timeout, task.name)
        else:
            call.returned(await bounded(task.function(jobs), timeout, task.name))


class ChunkRun:
    """One of them."""

    def __init__(self, task: Task[..., Any], jobs: Sequence[ClaimedJob], journals: Journals) -> None:
        self.task = task
        self.jobs = jobs
        decide = decided_by(task)
        self.call = ChunkCall(task, [JobRun(_context(job, journals), decide, job.crashes) for job in jobs])
        self.by_id = dict(zip((job.id for job in jobs), self.call.runs, strict=True))
        self._speak: Callable[[bytes], None] | None = None
        self._error: BaseException | None = None
        self._interrupted = False
        for job, run in zip(jobs, self.call.runs, strict=True):
            try:
                run.context.headers = arguments.loads(job.headers) if job.headers else {}
            except ArgumentError as error:
                run.set_mark(error)

    def cancel(self, job_id: int) -> int | None:
        """Tell the job; the first of the jobs once all are cancelled, else None."""
        run = self.by_id[job_id]
        if not run.cancelled:
            run.cancelled = True
            run.context.stop()
            if self._speak is not None:
                self._speak(pack({"stop": job_id}))
        final = not self.task.options.transactional
        over = all(one.cancelled or (final and one.outcome is not None) for one in self.call.runs)
        return self.jobs[0].id if over else None

    def leave_out_cancelled(self) -> None:
        """What was cancelled before the call is not in it."""
        for run in self.call.unmarked():
            if run.cancelled:
                run.outcome = Cancelled("cancelled before it ran")

    def raised(self, error: BaseException) -> None:
        """The call came to an end with this error: that of every job which has no outcome yet."""
        if self.task.options.transactional:
            self.call.end()
            self.call.roll_back()
        if isinstance(error, ProcessCrashed):
            self._crashed()
        self._error = error
        self.call.raised(error)

    def interrupted(self, error: BaseException, why: Interruption | None) -> None:
        if why is None:
            self.raised(error)
            return
        self._interrupted = True
        self.call.stop()
        if self.task.options.transactional:
            self.call.roll_back()
        self.give_up_unmarked(error)
        for run in self.call.unmarked():
            if run.outcome is None and not run.cancelled:
                run.context.log(GIVEN_BACK, "warning")

    def give_up_unmarked(self, error: BaseException) -> None:
        """End those that had begun, and must not run twice."""
        for run in self.call.unmarked():
            if run.context.max_attempts == 1 and not run.cancelled:
                run.outcome = Failed("interrupted", AttemptError.of(error))

    def wrapped(self, layers: Sequence[Middleware]) -> list[JobLayers]:
        """Each job that is to be called within these layers, which begin now."""
        if not layers:
            return []
        decide, commits = decided_by(self.task), self.task.options.transactional
        return [
            JobLayers(layers, run, partial(decide, run), commits=commits)
            for run in self.call.runs
            if run.outcome is None
        ]

    def tell(self, around: Sequence[JobLayers]) -> None:
        """Tell the layers of each job what it came to."""
        for one in around:
            run = one.run
            marked = run.mark if isinstance(run.mark, BaseException) else None
            outcome = None if run.mark is None and self._interrupted else self._outcome(run)
            one.tell(outcome, marked or (self._error if run.mark is None else None))

    def ended(self) -> list[Ended]:
        return [Ended(self._outcome(run), run.suspected) for run in self.call.runs]

    def _outcome(self, run: JobRun) -> Outcome | None:
        # What a transaction has completed is in the database.
        has_committed = self.task.options.transactional and isinstance(run.outcome, Completed)
        return Cancelled("cancelled while it ran") if run.cancelled and not has_committed else run.outcome

    def _crashed(self) -> None:
        """Nobody can tell whose fault it was: the jobs are given back, and each runs alone. See docs/decisions/003."""
        left = self.call.unmarked()
        if len(left) <= 1:
            return
        for run in left:
            # One that must not run twice has the error.
            run.suspected = run.context.max_attempts > 1
        logger.warning("the process that ran %d jobs of %s crashed: each runs alone next", len(left), self.task.name)

    def message(self) -> ChunkMessage:
        """What the process needs that is to run it."""
        jobs = [
            {"context": {**run.context.portable(), "crashes": run.crashes}, "args": job.args}
            for job, run in zip(self.jobs, self.call.runs, strict=True)
            if run.outcome is None
        ]
        return ChunkMessage(self.task.function.__module__, self.task.function.__qualname__, jobs)

    def hear(self, answer: dict[str, Any]) -> None:
        """What the process says of one of its jobs: what it has told, or what it has come to."""
        run = self.by_id[answer["job"]]
        if "told" in answer:
            run.context.tell(*read_told(answer))
        else:
            run.outcome = read_outcome(answer)

    def speak_by(self, send: Callable[[bytes], None]) -> None:
        """The process can be told by this."""
        self._speak = send
        for job_id, run in self.by_id.items():
            if run.cancelled:
                send(pack({"stop": job_id}))


def _context(job: ClaimedJob, journals: Journals) -> Context:
    context = Context(job.id, job.task, job.queue, job.attempt, job.max_attempts)
    context.claimed, context.open_journal, context.open_effects = job, journals.open, refuse_in_a_chunk
    context.found = job.children
    return context
