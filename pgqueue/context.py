"""What a task may know and do about the job that it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any

from pgqueue.errors import CancelJob
from pgqueue.journal import Journal, Level, LogLine, Progress

LOCAL = frozenset({"connection", "open_journal", "journal", "stopped", "error"})
_current: ContextVar[Context | None] = ContextVar("pgqueue_current_job", default=None)


@dataclass(slots=True)
class Context:
    """The running job: the first argument of a task declared with `bind=True`, and what `current_job()` returns.

    `attempt` counts from 1. `scheduled_for` is the nominal time of a schedule's job, else None. `connection` is set in
    a `transactional=True` task: the transaction in which the job completes, a psycopg connection, or SQLAlchemy's for
    PgQueue(engine=…), except in a coroutine beside a sync engine. Its end is the worker's: a commit by the task is
    refused, and a run that ended the transaction all the same, in SQL, fails; what it committed so is kept.

        @app.task(bind=True)
        def report(ctx: Context) -> str:
            return f"{ctx.scheduled_for:%Y-%m-%d}"
    """

    job_id: int
    task: str
    queue: str
    attempt: int
    max_attempts: int
    headers: Mapping[str, Any] = field(default_factory=dict)
    connection: Any = None
    open_journal: Callable[[], Journal] | None = field(default=None, repr=False)
    journal: Journal | None = field(default=None, repr=False)
    stopped: bool = field(default=False, repr=False)
    # What the run has raised: for middleware.
    error: BaseException | None = field(default=None, repr=False)

    @property
    def scheduled_for(self) -> datetime | None:
        nominal = self.headers.get("scheduled_for")
        return datetime.fromisoformat(nominal) if nominal else None

    @property
    def schedule(self) -> str | None:
        """Name of the schedule that made the job, else None."""
        return self.headers.get("schedule")

    @property
    def is_last_attempt(self) -> bool:
        return self.attempt >= self.max_attempts

    def progress(self, percent: float, message: str | None = None) -> None:
        """Tell how far the job is, from 0 to 100 percent. Cheap: the last one counts, and is written a few times a
        second. Raises ArgumentError.

            for n, page in enumerate(pages):
                ctx.progress(100 * n / len(pages), f"page {n}")
        """
        if (journal := self._journal()) is not None:
            journal.progress(percent, message)

    def log(self, message: str, level: Level = "info") -> None:
        """File a line with the job: `pgqueue jobs show` prints it. A run keeps 500. Raises ArgumentError.

        `level` is debug, info, warning or error. JobLogHandler files a task's own logging so.

            ctx.log("fetched 40 of 300 rows")
        """
        if (journal := self._journal()) is not None:
            journal.log(message, level)

    def tell(self, progress: Progress | None, lines: list[LogLine]) -> None:
        """What a process of its own has told of this run."""
        if (journal := self._journal()) is not None:
            journal.put(progress, lines)

    def _journal(self) -> Journal | None:
        # Made when it is needed: most jobs tell nothing.
        if self.journal is None and self.open_journal is not None:
            self.journal = self.open_journal()
        return self.journal

    def check_cancelled(self) -> None:
        """Raises CancelJob once the run was told to stop: its timeout passed, or its worker lost the job.

        A thread cannot be stopped from outside: a long one calls this between its steps.
        """
        if self.stopped:
            raise CancelJob("the run was told to stop")

    def stop(self) -> None:
        """Tell the run to stop: `check_cancelled` raises from now on."""
        self.stopped = True

    def portable(self) -> dict[str, Any]:
        """What a child process needs to build its own."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in LOCAL}


def current_job() -> Context:
    """The job that this code runs in. Raises LookupError outside of one.

    current_job().attempt
    """
    context = find_job()
    if context is None:
        raise LookupError("current_job() was called outside of a running job")
    return context


def find_job() -> Context | None:
    """As `current_job`; None outside of one."""
    return _current.get()


def enter(context: Context) -> None:
    """Make `context` the current job of this task or thread."""
    _current.set(context)


__all__ = ["Context", "current_job", "enter", "find_job"]
