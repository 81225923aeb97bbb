"""What a task may know and do about the job that it runs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from pgqueue.effects import Effects, RunEffects, Unremembered
from pgqueue.errors import CancelJob
from pgqueue.job import ClaimedJob
from pgqueue.journal import Journal, Level, LogLine, Progress

if TYPE_CHECKING:
    from pgqueue.flow import Child

LOCAL = frozenset({"connection", "open_journal", "journal", "open_effects", "effects", "claimed", "stopped", "error"})
P = ParamSpec("P")
R = TypeVar("R")

_current: ContextVar[Context | ClaimedJob | None] = ContextVar("pgqueue_current_job", default=None)
_make: ContextVar[Callable[[ClaimedJob], Context]] = ContextVar("pgqueue_make_context")


@dataclass(slots=True)
class Context:
    """The running job: the first argument of a task declared with `bind=True`, and what `current_job()` returns.

    `attempt` counts from 1. `scheduled_for` is the nominal time of a schedule's job, else None. `connection` is set in
    a `transactional=True` task: the transaction in which the job completes, a psycopg connection, or SQLAlchemy's for
    PgQueue(engine=…), except in a coroutine beside a sync engine. Its end is the worker's: a commit by the task is
    refused, and a run that ended the transaction all the same, in SQL, fails; what it committed so is kept.
    `trace_id` is that of the run's trace, in hexadecimal digits, where pgqueue.tracing is in use, else None.

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
    found: tuple[Child, ...] = field(default=(), repr=False)
    claimed: ClaimedJob | None = field(default=None, repr=False)
    open_journal: Callable[[ClaimedJob], Journal] | None = field(default=None, repr=False)
    open_effects: Callable[[Context], RunEffects] | None = field(default=None, repr=False)
    connection: Any = None
    journal: Journal | None = field(default=None, repr=False)
    effects: RunEffects | None = field(default=None, repr=False)
    stopped: bool = field(default=False, repr=False)
    # What the run has raised: for middleware.
    error: BaseException | None = field(default=None, repr=False)
    trace_id: str | None = field(default=None, repr=False)

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

    def children(self) -> tuple[Child, ...]:
        """The jobs of its flow that this one has waited for, as they ended, in the order in which they were enqueued.

        Each has `job_id`, `task`, `name`, `state`, `error` and `result`, which raises ChildFailed where it did not
        complete. Empty for a job that waited for none. They are read before the run begins.

            total = sum(child.result for child in ctx.children())
        """
        return self.found

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
        if self.journal is None and self.open_journal is not None and self.claimed is not None:
            self.journal = self.open_journal(self.claimed)
        return self.journal

    def once(self, key: str, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call `function(*args, **kwargs)` once under `key`, whichever job and attempt asks; others get its result.

        The result is what JSON gives back, up to 64 KiB. It is stored when the function has returned: where the worker
        dies in between, the next attempt calls again, so give the other side the key too, as its idempotency key. In
        a transactional task, and with `ctx.using(connection)`, it commits with that transaction, exactly once. While
        another job's call is under way this waits for it, a minute at most. A call that raises is not remembered.
        Effects are kept for `PgQueue(keep_effects=…)`, 30 days by default.

        Raises EffectMismatch where the key was used with other arguments, EffectHeld, and ArgumentError for arguments
        or a result that JSON cannot hold; such a call has been made, and is not made again.

            receipt = ctx.once(f"charge:{order_id}", bank.charge, account, amount)
        """
        return self.using(None).once(key, function, *args, **kwargs)

    async def aonce(self, key: str, function: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """As `once`, for a coroutine function."""
        return await self.using(None).aonce(key, function, *args, **kwargs)

    def step(self, name: str, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call `function(*args, **kwargs)`, unless an earlier attempt of this job has: then return what that got.

        The result is what JSON gives back, up to 64 KiB. The step commits when the function has returned; where the
        worker dies in between, the next attempt makes the call again. With `ctx.using(connection)` the step commits
        with that transaction, in a transactional task with the job. Steps last as long as the job, in `failed_jobs`
        and through a redrive too. A run that has lost its job raises here, and stores nothing.

        Raises ArgumentError for a name that the run has used already, and for a result that JSON cannot hold: that
        step has not committed.

            pages = ctx.step("fetch", fetch_pages, url)
            for n, page in enumerate(pages):
                ctx.step(f"index {n}", index, page)
        """
        return self.using(None).step(name, function, *args, **kwargs)

    async def astep(self, name: str, function: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """As `step`, for a coroutine function."""
        return await self.using(None).astep(name, function, *args, **kwargs)

    def using(self, connection: Any) -> Effects:
        """`once` and `step` that commit with the transaction of `connection`, of any kind that `Task.using` takes.

        with Session(engine) as session, session.begin():
            ctx.using(session).step("reserve", partial(reserve, session), order_id)
        """
        if self.effects is None:
            self.effects = Unremembered() if self.open_effects is None else self.open_effects(self)
        return Effects(self.effects, connection)

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
    """The job that this code runs in. Raises LookupError outside of one, and in a chunk task, which has many.

    current_job().attempt
    """
    context = find_job()
    if context is None:
        raise LookupError(
            "current_job() was called outside of a running job, or in a chunk task, which has its jobs as its argument"
        )
    return context


def find_job() -> Context | None:
    """As `current_job`; None outside of one."""
    held = _current.get()
    if held is None or isinstance(held, Context):
        return held
    return held.context or _make.get()(held)


enter = _current.set
"""Makes a context the current job of this task or thread, or a job, whose context is made when somebody asks for it."""


def make_contexts_with(make: Callable[[ClaimedJob], Context]) -> None:
    """How those are made for jobs that are entered here. It sets `job.context` too."""
    _make.set(make)


__all__ = ["Context", "current_job", "enter", "find_job", "make_contexts_with"]
