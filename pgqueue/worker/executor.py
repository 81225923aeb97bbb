"""Runs claimed jobs in their queues' slots: coroutines on the loop, functions in threads, CPU work in processes."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from pgqueue import arguments
from pgqueue.backoff import DEFAULT
from pgqueue.context import Context, enter, make_contexts_with
from pgqueue.job import ClaimedJob
from pgqueue.middleware import Middleware
from pgqueue.outcome import AttemptError, Cancelled, Completed, Failed, Outcome, decide
from pgqueue.task import Task
from pgqueue.worker.call import Call
from pgqueue.worker.chunkruns import ChunkRuns, Ended, Interruption
from pgqueue.worker.effects import WorkerEffects
from pgqueue.worker.journals import GIVEN_BACK, Journals
from pgqueue.worker.slots import Slots
from pgqueue.worker.threads import in_thread
from pgqueue.worker.timeouts import bounded
from pgqueue.worker.transactional import Transactions
from pgqueue.worker.wrapping import Wrapped

if TYPE_CHECKING:
    from pgqueue.worker.serving import RuleBook

logger = logging.getLogger("pgqueue.worker")


COMPLETED = Completed()


class Finish(Protocol):
    """Takes what an attempt came to, after so many seconds; `suspected` jobs may have crashed their process."""

    def __call__(
        self, task: Task[..., Any], job: ClaimedJob, outcome: Outcome | None, seconds: float, *, suspected: bool = False
    ) -> None: ...


class Executor:
    """Runs one job after the other in each slot, and hands each outcome on."""

    def __init__(
        self,
        tasks: dict[str, Task[..., Any]],
        transactions: Transactions,
        journals: Journals,
        effects: WorkerEffects,
        rules: RuleBook,
        on_start: Callable[[ClaimedJob], None] | None,
        on_finish: Finish,
        layers: Sequence[Middleware] = (),
        around_chunks: Sequence[Middleware] = (),
    ) -> None:
        self._tasks = tasks
        self._transactions = transactions
        self._journals = journals
        self._effects = effects
        self._open_journal, self._open_effects = journals.open, effects.open
        self._rules = rules
        self._on_start = on_start
        self._on_finish = on_finish
        self._layers = tuple(layers)
        self._chunks = ChunkRuns(transactions, journals, self._timeout_of, self._layers, tuple(around_chunks))
        # A run starts inside the run that freed its slot: what that one set in its context is none of its business.
        self._context = contextvars.copy_context()
        self._context.run(make_contexts_with, self._make_context)
        self._loop = asyncio.get_running_loop()
        self._runs: dict[ClaimedJob, asyncio.Task[None]] = {}
        self._interrupted: dict[ClaimedJob, Interruption] = {}
        # How many jobs more than calls are under way: a chunk has many in one.
        self._beside = 0
        self._changed: asyncio.Future[None] | None = None

    async def changed(self) -> None:
        """Until a run ends."""
        if self._changed is None:
            self._changed = self._loop.create_future()
        await asyncio.shield(self._changed)

    @property
    def running(self) -> int:
        return len(self._runs)

    @property
    def jobs_running(self) -> int:
        """Jobs that run, with all of a chunk; from any thread."""
        return len(self._runs) + self._beside

    @property
    def job_ids(self) -> Collection[int]:
        """Of the jobs that run."""
        return [*(job.id for job in self._runs), *self._chunks.job_ids]

    def start(self, slots: Slots, job: ClaimedJob) -> None:
        # With a loop and a name at hand, a task costs half of what `create_task` asks for.
        self._runs[job] = asyncio.Task(
            self._run(slots, job), loop=self._loop, name=job.task, context=self._context.copy()
        )

    def start_chunk(self, slots: Slots, jobs: Sequence[ClaimedJob]) -> None:
        """Run these jobs in one call and one slot."""
        self._beside += len(jobs) - 1
        run = self._run_chunk(slots, jobs)
        self._runs[jobs[0]] = asyncio.Task(run, loop=self._loop, name=jobs[0].task, context=self._context.copy())

    def start_alone(self, slots: Slots, job: ClaimedJob) -> None:
        """Run it, where its task takes chunks as the only one of its chunk."""
        if self._tasks[job.task].chunk is None:
            self.start(slots, job)
        else:
            self.start_chunk(slots, [job])

    def interrupt(self, why: Interruption, job_id: int | None = None) -> None:
        """Stop a run, or all: coroutines are cancelled, processes killed, threads told.

        A job that runs in a chunk is told; the call is stopped when none is left in it.
        """
        if job_id is not None and (job_id := self._chunks.cancel(job_id)) is None:
            return
        for job, run in list(self._runs.items()):
            if (job_id is None or job.id == job_id) and self._interrupted.get(job) != why:
                # One that was cancelled and goes on all the same is stopped again with the rest, and stays cancelled.
                self._interrupted.setdefault(job, why)
                # A run that has not begun would never enter its coroutine, and nobody would hear of its end.
                if job.began is not None:
                    run.cancel()

    async def _run(self, slots: Slots, job: ClaimedJob) -> None:
        outcome: Outcome | None
        task = self._tasks[job.task]
        if self._interrupted and job in self._interrupted:
            self._end(slots, task, job, None)
            return
        if self._on_start is not None:
            self._on_start(job)
        job.began = time.perf_counter()
        try:
            # Most jobs have no timeout of their own: what is the same for all is looked up without a call.
            timeout = self._timeout_of(task, job) if job.options else self._rules[task.name, job.queue].timeout
            if timeout is None and task.is_plain and not self._layers and not job.headers:
                # Its context costs as much as to load its arguments, and most tasks never ask for it.
                enter(job)
                value = await task.function(**task.load(job.args))
                outcome = COMPLETED if value is None else task.completed(value)
            elif self._layers:
                outcome = await self._wrapped(slots, task, job, self._make_context(job), timeout)
            else:
                outcome = await self._execute(slots, task, job, self._make_context(job), timeout)
        except asyncio.CancelledError as error:
            match self._interrupted.get(job):
                case None:
                    outcome = self._decide(task, job, error)
                case "cancelled":
                    outcome = Cancelled("cancelled while it ran")
                case _ if job.max_attempts == 1:
                    # It had begun, and must not run twice.
                    outcome = Failed("interrupted", AttemptError.of(error))
                case _:
                    outcome = None
                    (job.context or self._make_context(job)).log(GIVEN_BACK, "warning")
        except BaseException as error:
            outcome = self._decide(task, job, error)
        if job.context is not None:
            await self._close(job, outcome)
        self._end(slots, task, job, outcome)

    def _timeout_of(self, task: Task[..., Any], job: ClaimedJob) -> float | None:
        """Seconds that this run may take: the job's own, else what its rules say."""
        own = job.option("timeout")
        return self._rules[task.name, job.queue].timeout if own is None else float(own)

    def _make_context(self, job: ClaimedJob) -> Context:
        job.context = context = Context(
            job.id,
            job.task,
            job.queue,
            job.attempt,
            job.max_attempts,
            arguments.loads(job.headers) if job.headers else {},
            job.children,
            job,
            self._open_journal,
            self._open_effects,
        )
        return context

    async def _close(self, job: ClaimedJob, outcome: Outcome | None) -> None:
        context = job.context
        if context.journal is None:
            # It holds the job: each would keep the other.
            job.context = None
        else:
            # What the run has left behind finds it closed, and opens no other.
            await self._journals.close(context.journal)
        if context.effects is not None:
            self._effects.ended(job.id, outcome)

    async def _run_chunk(self, slots: Slots, jobs: Sequence[ClaimedJob]) -> None:
        first, seconds = jobs[0], 0.0
        task = self._tasks[first.task]
        ended = [Ended(None)] * len(jobs)
        try:
            if first not in self._interrupted:
                if self._on_start is not None:
                    for job in jobs:
                        self._on_start(job)
                began = time.perf_counter()
                for job in jobs:
                    job.began = began
                ended = await self._chunks.run(slots, task, jobs, lambda: self._interrupted.get(first))
                seconds = time.perf_counter() - began
        finally:
            del self._runs[first]
            self._beside -= len(jobs) - 1
            self._interrupted.pop(first, None)
            slots.ended()
            for job, (outcome, suspected) in zip(jobs, ended, strict=True):
                self._on_finish(task, job, outcome, seconds, suspected=suspected)
            self._tell_changed()

    def end_unstarted(self, job: ClaimedJob, outcome: Outcome) -> None:
        """What a job came to that had not begun."""
        self._on_finish(self._tasks[job.task], job, outcome, 0.0)

    def _end(self, slots: Slots, task: Task[..., Any], job: ClaimedJob, outcome: Outcome | None) -> None:
        seconds = 0.0 if job.began is None else time.perf_counter() - job.began
        del self._runs[job]
        if self._interrupted:
            self._interrupted.pop(job, None)
        slots.ended()
        self._on_finish(task, job, outcome, seconds)
        if self._changed is not None:
            self._tell_changed()

    def _tell_changed(self) -> None:
        if self._changed is not None:
            changed, self._changed = self._changed, None
            changed.set_result(None)

    def _decide(self, task: Task[..., Any], job: ClaimedJob, error: BaseException) -> Outcome:
        try:
            return task.decide(error, job.attempt, job.max_attempts, job.crashes)
        except Exception:
            logger.exception("the backoff of task %s raised; the default one is used", task.name)
            return decide(
                error, attempt=job.attempt, max_attempts=job.max_attempts, crashes=job.crashes, delay=DEFAULT.delay
            )

    async def _wrapped(
        self, slots: Slots, task: Task[..., Any], job: ClaimedJob, context: Context, timeout: float | None
    ) -> Outcome:
        enter(context)
        call = partial(self._execute, slots, task, job, context, timeout)
        run = Wrapped(context, call, partial(self._decide, task, job), commits=task.options.transactional)
        try:
            return await run.within(self._layers)
        finally:
            job.trace_id = context.trace_id
            # Its frames hold the context.
            context.error = None

    async def _execute(
        self, slots: Slots, task: Task[..., Any], job: ClaimedJob, context: Context, timeout: float | None
    ) -> Outcome:
        if task.run_in == "process":
            call = _call(task, context, job, self._effects.schema)
            return await slots.processes.run(call, timeout, context.tell, partial(self._effects.asked, context))
        enter(context)
        kwargs = task.load(job.args, context)
        if task.run_in == "thread":
            return await self._in_thread(slots, task, job, context, kwargs, timeout)
        if task.options.transactional:
            return await bounded(self._transactions.arun(task, job, context, kwargs), timeout, task.name)
        value = await bounded(task.function(**kwargs), timeout, task.name)
        return COMPLETED if value is None else task.completed(value)

    async def _in_thread(
        self,
        slots: Slots,
        task: Task[..., Any],
        job: ClaimedJob,
        context: Context,
        kwargs: dict[str, Any],
        timeout: float | None,
    ) -> Outcome:
        def call() -> Outcome:
            if task.options.transactional:
                return self._transactions.run(task, job, context, kwargs)
            value = task.function(**kwargs)
            return COMPLETED if value is None else task.completed(value)

        def outlasts() -> bool:
            return job.limited and self._interrupted.get(job) != "released"

        return await in_thread(slots, task.name, call, context.stop, timeout, outlasts)


def _call(task: Task[..., Any], context: Context, job: ClaimedJob, schema: str) -> Call:
    fields = {**context.portable(), "crashes": job.crashes}
    return Call(task.function.__module__, task.function.__qualname__, fields, job.args, schema, job.fence)
