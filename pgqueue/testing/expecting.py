"""Saying what was enqueued."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from pgqueue import arguments
from pgqueue.app import PgQueue
from pgqueue.errors import ArgumentError, seconds
from pgqueue.job import Job
from pgqueue.queries import inspecting
from pgqueue.queries.inspecting import JobFilter
from pgqueue.task import Task
from pgqueue.typed import Refusal

if TYPE_CHECKING:
    from pgqueue.database import AsyncUsing, SyncUsing

LISTED = 10_000
SHOWN = 20
DELAY_TOLERANCE = 1.0


def enqueued(
    app: PgQueue, task: Task[..., Any] | str | None = None, *, using: SyncUsing | None = None, **where: Any
) -> list[Job]:
    """The jobs that there are, in every state, oldest first; of one task, or of all.

    Further filters are those of `app.jobs.list`: queue, state, key, tag. `using` sees what its transaction enqueued.

        assert [job.args["to"] for job in enqueued(app, send_email)] == ["a@b.c"]
    """
    found = app.database.fetch(inspecting.list_jobs(app.schema, _filter(task, where), LISTED), using)
    return [replace(job, operations=app.jobs) for job in reversed(found)]


async def aenqueued(
    app: PgQueue, task: Task[..., Any] | str | None = None, *, using: AsyncUsing | None = None, **where: Any
) -> list[Job]:
    """As `enqueued`."""
    found = await app.database.afetch(inspecting.list_jobs(app.schema, _filter(task, where), LISTED), using)
    return [replace(job, operations=app.jobs) for job in reversed(found)]


def assert_enqueued(
    app: PgQueue,
    task: Task[..., Any] | str,
    args: Mapping[str, Any] | None = None,
    *,
    times: int | None = 1,
    queue: str | None = None,
    key: str | None = None,
    tag: str | None = None,
    priority: int | None = None,
    delay: float | timedelta | None = None,
    using: SyncUsing | None = None,
    **partial_args: Any,
) -> list[Job]:
    """Assert that the task has `times` jobs (None: at least one; 0: none) that match, and return them, oldest first.

    `args`, or keyword arguments, are those of the job that matter, as they were passed; others may be anything. `delay`
    (seconds or timedelta) counts from the enqueue. Jobs that have run already count too.

    Raises AssertionError, which lists what was enqueued, and ArgumentError for an argument that the task does not have.

        [job] = assert_enqueued(app, send_email, to="a@b.c", queue="email", delay=60)
        assert_enqueued(app, send_email, times=0, using=session)
    """
    expected = _Expected(app, task, {**(args or {}), **partial_args}, times, queue, key, tag, priority, delay)
    return expected.check(enqueued(app, using=using))


async def aassert_enqueued(
    app: PgQueue,
    task: Task[..., Any] | str,
    args: Mapping[str, Any] | None = None,
    *,
    times: int | None = 1,
    queue: str | None = None,
    key: str | None = None,
    tag: str | None = None,
    priority: int | None = None,
    delay: float | timedelta | None = None,
    using: AsyncUsing | None = None,
    **partial_args: Any,
) -> list[Job]:
    """As `assert_enqueued`."""
    expected = _Expected(app, task, {**(args or {}), **partial_args}, times, queue, key, tag, priority, delay)
    return expected.check(await aenqueued(app, using=using))


def _filter(task: Task[..., Any] | str | None, where: dict[str, Any]) -> JobFilter:
    return JobFilter(task=[task.name, *task.aliases] if isinstance(task, Task) else task, **where)


@dataclass(frozen=True, slots=True)
class _Expected:
    app: PgQueue
    task: Task[..., Any] | str
    args: Mapping[str, Any]
    times: int | None
    queue: str | None
    key: str | None
    tag: str | None
    priority: int | None
    delay: float | timedelta | None

    def check(self, jobs: list[Job]) -> list[Job]:
        name = self.task.name if isinstance(self.task, Task) else self.task
        known = self.app.tasks.named(name)
        names = {name} if known is None else {known.name, *known.aliases}
        stored = {arg: _as_stored(name, known, arg, value) for arg, value in self.args.items()}
        found = [job for job in jobs if job.task in names and self._matches(job, stored)]
        if len(found) == self.times or (self.times is None and found):
            return found
        wanted = "at least 1 job" if self.times is None else f"{self.times} job{'' if self.times == 1 else 's'}"
        there = "\n".join(_line(job) for job in jobs[-SHOWN:]) or "  nothing"
        if len(jobs) > SHOWN:
            there = f"  … {len(jobs) - SHOWN} older ones\n{there}"
        what = f"{wanted} of {name}{self._conditions()}"
        raise AssertionError(f"expected {what}, found {len(found)}; enqueued were:\n{there}")

    def _matches(self, job: Job, stored: Mapping[str, Any]) -> bool:
        return (
            all(arg in job.args and job.args[arg] == value for arg, value in stored.items())
            and self.queue in (None, job.queue)
            and self.key in (None, job.key)
            and (self.tag is None or self.tag in job.tags)
            and self.priority in (None, job.priority)
            and (self.delay is None or _is_delayed(job, seconds(self.delay)))
        )

    def _conditions(self) -> str:
        options = {name: getattr(self, name) for name in ("queue", "key", "tag", "priority", "delay")}
        given = {**self.args, **{name: value for name, value in options.items() if value is not None}}
        return " with " + ", ".join(f"{name}={value!r}" for name, value in given.items()) if given else ""


def _as_stored(name: str, task: Task[..., Any] | None, arg: str, value: Any) -> Any:
    """A value as a job's `args` give it back: what the test passed is typed, what is stored is JSON."""
    what = f"argument {arg!r} of task {name}"
    if task is not None:
        fields = task.signature.resolve()
        if arg not in fields and not _takes_any(task):
            raise ArgumentError(f"{what}: there is no such argument, only ({', '.join(fields) or 'none'})")
        if arg in fields:
            try:
                value = fields[arg].dump(value)
            except Refusal as refusal:
                raise ArgumentError(refusal.message(what, arg, "no job can have it")) from None
    return arguments.loads(arguments.dumps(value, what=what, limit=arguments.ARGUMENTS_LIMIT))


def _takes_any(task: Task[..., Any]) -> bool:
    return task.signature.names is None


def _is_delayed(job: Job, delay: float) -> bool:
    if job.created_at is None:
        return False
    return abs((job.run_at - job.created_at).total_seconds() - delay) <= DELAY_TOLERANCE


def _line(job: Job) -> str:
    args = ", ".join(f"{name}={value!r}" for name, value in job.args.items())
    parts = [f"  {job.id} {job.task}({args}) {job.state}", f"queue={job.queue}", f"run_at={job.run_at.isoformat()}"]
    parts += [f"key={job.key}"] if job.key else []
    parts += [f"tags={','.join(job.tags)}"] if job.tags else []
    parts += [f"priority={job.priority}"] if job.priority else []
    return " ".join(parts)
