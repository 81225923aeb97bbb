"""One of the jobs that a chunk task gets in a call: its arguments, and the outcome that the task gives it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pgqueue.context import Context
from pgqueue.errors import ArgumentError, CancelJob, FailJob, JobMarked, RetryJob, SnoozeJob
from pgqueue.journal import Level
from pgqueue.outcome import Outcome

if TYPE_CHECKING:
    from pgqueue.flow import Child

Args = TypeVar("Args")


@dataclass(frozen=True, slots=True)
class Result:
    """What a job returned."""

    value: Any = None


Mark = Result | BaseException
"""What a job came to, as the task says it: a result, or what it would have raised alone."""


@dataclass(slots=True, eq=False)
class JobRun:
    """The run of one job of a chunk, as whoever makes the call keeps it.

    `outcome` is what `decide` makes of its mark; `heard` is called with each run that has one. `asks` tells whether it
    was told to stop, where that must be asked for. Marks come from any thread, but after its end.
    """

    context: Context
    decide: Callable[[JobRun, Mark], Outcome]
    crashes: int = 0
    heard: Callable[[JobRun], None] | None = None
    asks: Callable[[], bool] | None = None
    mark: Mark | None = None
    outcome: Outcome | None = None
    cancelled: bool = False
    suspected: bool = False
    is_over: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def set_mark(self, mark: Mark) -> None:
        """Raises JobMarked."""
        with self._lock:
            if self.is_over:
                raise JobMarked(f"job {self.context.job_id} ({self.context.task}): the call that ran it has ended")
            if self.mark is not None:
                raise JobMarked(
                    f"job {self.context.job_id} ({self.context.task}) is marked already, as {_shown(self.mark)}: "
                    f"it cannot be marked as {_shown(mark)} too"
                )
            outcome = self.decide(self, mark)
            self.mark, self.outcome = mark, outcome
            if self.heard is not None:
                self.heard(self)

    def is_stopped(self) -> bool:
        """Whether it was told to stop, or the call has ended, of which nothing more is heard then."""
        if self.context.stopped or self.asks is None:
            return self.context.stopped
        with self._lock:
            return self.is_over or self.asks()

    def end(self) -> None:
        """Take no more marks, and ask no more."""
        with self._lock:
            self.is_over = True


class ChunkJob(Generic[Args]):
    """A job of a chunk. `args` are its arguments, as the annotation of the task's parameter says.

    The task may mark each job with an outcome of its own, once, from any thread; a second mark raises JobMarked. What
    it has not marked when it returns is completed, and what it has not marked when it raises has that error.

        @app.task(queue="index", chunk=100, wait=1.0)
        async def index(jobs: list[ChunkJob[Document]]) -> None:
            answers = await search.bulk([job.args for job in jobs])
            for job, answer in zip(jobs, answers, strict=True):
                if answer.status == 429:
                    job.retry(delay=60)
    """

    __slots__ = ("_run", "args")

    def __init__(self, args: Args, run: JobRun) -> None:
        self.args = args
        self._run = run

    def __repr__(self) -> str:
        return f"<ChunkJob {self.id} {self._run.context.task} {self.args!r}>"

    @property
    def id(self) -> int:
        return self._run.context.job_id

    @property
    def attempt(self) -> int:
        """Counts from 1."""
        return self._run.context.attempt

    @property
    def max_attempts(self) -> int:
        return self._run.context.max_attempts

    @property
    def headers(self) -> Mapping[str, Any]:
        return self._run.context.headers

    def children(self) -> tuple[Child, ...]:
        """The jobs of its flow that it has waited for, as `Context.children`."""
        return self._run.context.found

    @property
    def connection(self) -> Any:
        """In a `transactional=True` task: the transaction in which the jobs of the call complete, one for all."""
        return self._run.context.connection

    @property
    def marked(self) -> bool:
        """Whether it has its outcome."""
        return self._run.mark is not None

    @property
    def stopped(self) -> bool:
        """Whether its cancel was asked for, or the whole call was told to stop. Its outcome is of no use then."""
        return self._run.is_stopped()

    def progress(self, percent: float, message: str | None = None) -> None:
        """As `Context.progress`. Raises ArgumentError."""
        self._run.context.progress(percent, message)

    def log(self, message: str, level: Level = "info") -> None:
        """As `Context.log`. Raises ArgumentError."""
        self._run.context.log(message, level)

    def complete(self, result: Any = None) -> None:
        """It is completed, with this result. Raises JobMarked."""
        self._run.set_mark(Result(result))

    def retry(self, delay: float | timedelta | None = None, reason: str | BaseException = "") -> None:
        """Again after `delay` (seconds or timedelta; without one the backoff decides); uses an attempt.

        Raises JobMarked, and ArgumentError for a delay that cannot be.

        job.retry(delay=60, reason="the index is busy")
        """
        self._run.set_mark(_because(RetryJob(str(reason), delay=delay), reason))

    def snooze(self, delay: float | timedelta) -> None:
        """Again after `delay` (seconds or timedelta); uses no attempt. Raises as `retry` does."""
        self._run.set_mark(SnoozeJob(delay))

    def cancel(self, reason: str = "") -> None:
        """End it as `cancelled`, without a failure. Raises JobMarked."""
        self._run.set_mark(CancelJob(reason))

    def fail(self, reason: str | BaseException = "") -> None:
        """Straight to `failed_jobs`, whatever attempts are left. Raises JobMarked."""
        self._run.set_mark(_because(FailJob(str(reason)), reason))

    def raised(self, error: BaseException) -> None:
        """What it would come to if a run of this job alone had raised `error`: mostly a retry. Raises JobMarked.

        except Exception as error:
            job.raised(error)
        """
        given: object = error
        if not isinstance(given, BaseException):
            raise ArgumentError(f"job.raised({given!r}) must be given an exception; job.fail takes a text")
        self._run.set_mark(error)


def _because(signal: BaseException, reason: str | BaseException) -> BaseException:
    if isinstance(reason, BaseException):
        signal.__cause__ = reason
    return signal


def _shown(mark: Mark) -> str:
    match mark:
        case Result():
            return "completed"
        case RetryJob():
            return "to be retried"
        case SnoozeJob():
            return "snoozed"
        case CancelJob():
            return "cancelled"
        case FailJob():
            return "failed"
    return f"raised {type(mark).__name__}"
