"""One call of a chunk task: what it gets, and what comes of each of its jobs."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from pgqueue.backoff import DEFAULT
from pgqueue.chunk import ChunkJob, JobRun, Mark, Result
from pgqueue.context import Context
from pgqueue.errors import ArgumentError, ConfigurationError, JobMarked
from pgqueue.outcome import Completed, Outcome, decide
from pgqueue.task.chunking import ChunkSignature
from pgqueue.task.task import ArgumentsDoNotFit, Task

logger = logging.getLogger("pgqueue.task")


class ChunkCall:
    """A call with these `runs`. Those whose arguments cannot be read end by themselves: the task does not get them.

    Ends with `returned` or `raised`; what a job was marked with before goes over both.
    """

    def __init__(self, task: Task[..., Any], runs: Sequence[JobRun]) -> None:
        self.task = task
        self.runs = runs
        self._passed: list[JobRun] = []

    def read(self, texts: Iterable[str]) -> list[ChunkJob[Any]]:
        """The jobs for the task, from the stored arguments of each run."""
        jobs = []
        for run, text in zip(self.runs, texts, strict=True):
            if run.outcome is not None:
                continue
            try:
                jobs.append(ChunkJob(_record(self.task, text), run))
                self._passed.append(run)
            except ArgumentsDoNotFit as error:
                run.set_mark(error)
        return jobs

    def contexts(self) -> list[Context]:
        """Of the jobs that the task gets."""
        return [run.context for run in self._passed]

    def returned(self, value: Any) -> None:
        """Give each job that is not marked its result, or its error. Raises ConfigurationError for what is neither."""
        results = _results(self.task, [run.context.job_id for run in self._passed], value)
        for run in self.unmarked():
            result = results.get(run.context.job_id)
            # A thread that the task has left behind may still mark some.
            with suppress(JobMarked):
                run.set_mark(result if isinstance(result, BaseException) else Result(result))

    def raised(self, error: BaseException) -> None:
        """Give each job that is not marked this error. Those that are alike in their attempts are retried together."""
        decided: dict[tuple[int, int, int], Outcome] = {}
        self.end()
        for run in self.unmarked():
            like = run.context.attempt, run.context.max_attempts, run.crashes
            if like not in decided:
                decided[like] = decided_by(self.task)(run, error)
            run.outcome = decided[like]

    def unmarked(self) -> list[JobRun]:
        """Those that have no outcome, and are not to be given back."""
        return [run for run in self.runs if run.outcome is None and not run.suspected]

    def roll_back(self) -> None:
        """What was completed in the call's transaction is not."""
        for run in self.runs:
            if isinstance(run.outcome, Completed):
                run.mark = run.outcome = None

    def end(self) -> None:
        """Take no more marks."""
        for run in self.runs:
            run.end()

    def stop(self) -> None:
        """Tell every job to stop, and take no more marks."""
        for run in self.runs:
            run.context.stop()
        self.end()

    def connect(self, connection: Any) -> None:
        """The transaction of the call."""
        for run in self.runs:
            run.context.connection = connection

    @property
    def stopped(self) -> bool:
        """Whether the call as a whole was told to stop."""
        return any(run.is_over for run in self.runs)


def decided_by(task: Task[..., Any]) -> Callable[[JobRun, Mark], Outcome]:
    """How the jobs of a task end."""

    def decided(run: JobRun, mark: Mark) -> Outcome:
        if isinstance(mark, Result):
            return task.completed(mark.value)
        context = run.context
        try:
            return task.decide(mark, context.attempt, context.max_attempts, run.crashes)
        except Exception:
            logger.exception("the backoff of task %s raised; the default one is used", task.name)
            return decide(
                mark,
                attempt=context.attempt,
                max_attempts=context.max_attempts,
                crashes=run.crashes,
                delay=DEFAULT.delay,
            )

    return decided


def alone(task: Task[..., Any], fields: dict[str, Any], context: Context) -> Any:
    """Call the function of a chunk task with one job, and return or raise what comes of it, as any task would.

    An awaitable where it is a coroutine function.
    """
    run = JobRun(context, decided_by(task))
    job = ChunkJob(_signature(task).record(fields), run)
    value = task.function([job])
    return _awaited(task, run, value) if inspect.isawaitable(value) else _alone(task, run, value)


async def _awaited(task: Task[..., Any], run: JobRun, value: Any) -> Any:
    return _alone(task, run, await value)


def _alone(task: Task[..., Any], run: JobRun, value: Any) -> Any:
    results = _results(task, [run.context.job_id], value)
    mark = run.mark
    given = results.get(run.context.job_id) if mark is None else mark.value if isinstance(mark, Result) else mark
    if isinstance(given, BaseException):
        raise given
    return given


def _results(task: Task[..., Any], ids: list[int], value: Any) -> Mapping[int, Any]:
    """What a task returned, by job."""
    if value is None:
        return {}
    if isinstance(value, list | tuple):
        if len(value) != len(ids):
            raise ConfigurationError(
                f"task {task.name} returned {len(value)} results for {len(ids)} jobs: return one for each, in "
                "their order, or a dict by job.id, or mark the jobs"
            )
        return dict(zip(ids, value, strict=True))
    if not isinstance(value, Mapping):
        raise ConfigurationError(
            f"task {task.name} returned {type(value).__name__}: return None, a list with a result for each job, or a "
            "dict by job.id"
        )
    known = {*ids}
    strange = [key for key in value if key not in known]
    if strange:
        raise ConfigurationError(
            f"task {task.name} returned a result for {strange[0]!r}, which is the id of none of its jobs"
        )
    return value


def _record(task: Task[..., Any], text: str) -> Any:
    signature = _signature(task)
    try:
        return signature.record(signature.load(text))
    except (ArgumentError, ConfigurationError) as error:
        raise ArgumentsDoNotFit(str(error)) from error


def _signature(task: Task[..., Any]) -> ChunkSignature:
    assert isinstance(task.signature, ChunkSignature)
    return task.signature
