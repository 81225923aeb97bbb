"""What a task may know and do about the job that it runs."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any

from pgqueue.errors import CancelJob

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
    stopped: bool = field(default=False, repr=False)

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
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("connection", "stopped")}


def current_job() -> Context:
    """The job that this code runs in. Raises LookupError outside of one.

    current_job().attempt
    """
    context = _current.get()
    if context is None:
        raise LookupError("current_job() was called outside of a running job")
    return context


def enter(context: Context) -> None:
    """Make `context` the current job of this task or thread."""
    _current.set(context)


__all__ = ["Context", "current_job", "enter"]
