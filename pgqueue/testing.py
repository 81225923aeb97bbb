"""For the tests of an app: run its jobs here and now, and say what was enqueued. On the real database.

- `drain(app)` runs what waits, through a real worker in this process, and returns when nothing is left
- `enqueued(app)` lists jobs; `assert_enqueued(app, task, …)` fails with a list of those that there are
- `run_inline(task, …)` runs one task without a database, its arguments written and read as for a job

`drain` is for committed jobs. `enqueued` and `assert_enqueued` take `using=` to look inside an open transaction.

    def test_an_order_sends_an_email() -> None:
        place_order(customer="a@b.c")
        assert_enqueued(app, send_email, to="a@b.c")
        assert drain(app).completed == 1
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

from pgqueue import arguments
from pgqueue.app import PgQueue
from pgqueue.context import Context, enter
from pgqueue.errors import ArgumentError, ConfigurationError, seconds
from pgqueue.events import Event, EventName
from pgqueue.job import Job
from pgqueue.queries import inspecting
from pgqueue.queries.inspecting import JobFilter
from pgqueue.queries.statement import Statement, inline
from pgqueue.task import BoundTask, Task
from pgqueue.typed import Refusal
from pgqueue.worker import Worker

if TYPE_CHECKING:
    from pgqueue.database import AsyncUsing, SyncUsing

P = ParamSpec("P")
R = TypeVar("R")

__all__ = [
    "DrainReport",
    "aassert_enqueued",
    "adrain",
    "aenqueued",
    "assert_enqueued",
    "drain",
    "enqueued",
    "run_inline",
]

ENDINGS: tuple[EventName, ...] = ("completed", "retried", "snoozed", "cancelled", "failed")
LISTED = 10_000
SHOWN = 20
POLL = 0.01
DELAY_TOLERANCE = 1.0


@dataclass(frozen=True, slots=True)
class DrainReport:
    """What a drain ran: an event for each attempt, in the order in which they ended.

    report = drain(app)
    assert (report.completed, report.retried) == (2, 1)
    """

    events: tuple[Event, ...] = ()

    def count(self, name: EventName) -> int:
        return sum(event.name == name for event in self.events)

    @property
    def attempts(self) -> int:
        return len(self.events)

    @property
    def completed(self) -> int:
        return self.count("completed")

    @property
    def retried(self) -> int:
        return self.count("retried")

    @property
    def snoozed(self) -> int:
        return self.count("snoozed")

    @property
    def cancelled(self) -> int:
        return self.count("cancelled")

    @property
    def failed(self) -> int:
        return self.count("failed")


def drain(
    app: PgQueue,
    queues: Sequence[str] | None = None,
    *,
    with_scheduled: bool = False,
    slots: int = 10,
    timeout: float = 60.0,
) -> DrainReport:
    """Run what waits in `queues` (names or globs; None is every queue) until nothing that this app can run is left.

    Jobs that the jobs enqueue are run too. What is scheduled for later (a delay, a retry, a snooze) stays, unless
    `with_scheduled`: then its time is taken to have come, again and again, until nothing is left. Jobs of paused queues
    and of tasks that the app does not have stay. `slots` of each queue run side by side: 1 runs them in their order.

    Raises TimeoutError after `timeout` seconds, ConfigurationError inside a running event loop, SchemaOutOfDate.

        send_email.enqueue("a@b.c")
        assert drain(app).completed == 1
    """
    if _inside_a_loop():
        raise ConfigurationError("drain() was called inside a running event loop: use `await adrain(…)` there")
    return asyncio.run(_drain_and_close(app, queues, with_scheduled, slots, timeout))


async def adrain(
    app: PgQueue,
    queues: Sequence[str] | None = None,
    *,
    with_scheduled: bool = False,
    slots: int = 10,
    timeout: float = 60.0,
) -> DrainReport:
    """As `drain`, in the running event loop."""
    events: list[Event] = []
    async with asyncio.timeout(timeout):
        with _recorded(app, events):
            async with Worker(app, list(queues or ["*"]), slots=slots, poll_interval=0.1) as worker:
                while True:
                    await _until_quiet(app, worker)
                    if not (with_scheduled and await _bring_forward(app, worker)):
                        break
    return DrainReport(tuple(events))


async def _drain_and_close(
    app: PgQueue, queues: Sequence[str] | None, with_scheduled: bool, slots: int, timeout: float
) -> DrainReport:
    try:
        return await adrain(app, queues, with_scheduled=with_scheduled, slots=slots, timeout=timeout)
    finally:
        # What the tasks opened belongs to this event loop, which ends here.
        await app.database.aclose()


def _inside_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


@contextmanager
def _recorded(app: PgQueue, events: list[Event]) -> Iterator[None]:
    for name in ENDINGS:
        app.subscribers.add(name, events.append)
    try:
        yield
    finally:
        for name in ENDINGS:
            app.subscribers.remove(name, events.append)


async def _until_quiet(app: PgQueue, worker: Worker) -> None:
    while not worker.idle or await _waits(app, worker):  # noqa: ASYNC110 - what ends the wait is in the database
        await asyncio.sleep(POLL)


async def _waits(app: PgQueue, worker: Worker) -> bool:
    """Whether a job is available or runs that this worker can end."""
    statement: Statement[Any] = Statement(
        inline(
            "select exists (select from {schema}.jobs j where j.task = any (%(tasks)s) and j.queue = any (%(queues)s) "
            "and (j.position is not null or (j.state = 'scheduled' and j.run_at <= clock_timestamp())) "
            "and not exists (select from {schema}.queues q where q.name = j.queue and q.paused))",
            app.schema,
        ),
        {"tasks": sorted(app.tasks), "queues": sorted(worker.queues)},
    )
    [(waits,)] = await worker.services.fetch(statement)
    return bool(waits)


async def _bring_forward(app: PgQueue, worker: Worker) -> bool:
    """Make available what is scheduled for later, in the order of its times; False when there was nothing."""
    scheduled: Statement[Any] = Statement(
        inline(
            "select id from {schema}.jobs where state = 'scheduled' and task = any (%(tasks)s) "
            "and queue = any (%(queues)s) order by run_at, id",
            app.schema,
        ),
        {"tasks": sorted(app.tasks), "queues": sorted(worker.queues)},
    )
    found = await worker.services.fetch(scheduled)
    for (job_id,) in found:
        await worker.services.fetch(inspecting.reschedule(app.schema, [job_id], None, 0.0))
    return bool(found)


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


def run_inline(task: Task[P, R] | BoundTask[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """Run a task here, without a database, and return what it returns: an awaitable for a coroutine task.

    The arguments are checked, written as JSON and read back typed, as a job's are; `current_job()` and the Context are
    those of a first attempt. What the task raises comes through, RetryJob and the like too. Options of `task.using`
    show in the Context: `headers`, `queue`, `max_attempts`; its connection is `ctx.connection`, which a transactional
    task needs. A process task runs in this process.

    Raises ArgumentError, and ConfigurationError for a transactional task without a connection.

        assert run_inline(add, 2, 3) == 5
        assert await run_inline(send_email, "a@b.c") == "sent"
        run_inline(charge.using(session), order_id=7)
    """
    bound: BoundTask[P, R] = task.using() if isinstance(task, Task) else task
    job = bound.job(*args, **kwargs)
    ran = bound.task
    if ran.options.transactional and bound.connection is None:
        raise ConfigurationError(
            f"task {ran.name} is transactional: give it a connection, as in run_inline({ran.__name__}.using(session))"
        )
    headers = arguments.loads(job.headers) if job.headers else {}
    queue, attempts = job.queue or ran.options.queue, job.max_attempts or _attempts(ran)
    context = Context(0, ran.name, queue, 1, attempts, headers, bound.connection)
    call: dict[str, Any] = ran.load(job.args, context)
    inside = contextvars.copy_context()
    inside.run(enter, context)
    if ran.run_in == "coroutine":
        return cast(R, _awaited(ran, call, inside))
    result: R = inside.run(cast(Callable[..., Any], ran.function), **call)
    return result


async def _awaited(task: Task[..., Any], call: dict[str, Any], inside: contextvars.Context) -> Any:
    return await asyncio.create_task(task.function(**call), context=inside)


def _attempts(task: Task[..., Any]) -> int:
    return task.app.max_attempts if isinstance(task.app, PgQueue) else 1


def _filter(task: Task[..., Any] | str | None, where: dict[str, Any]) -> JobFilter:
    return JobFilter(task=task.name if isinstance(task, Task) else task, **where)


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
        known = self.app.tasks.get(name)
        stored = {arg: _as_stored(name, known, arg, value) for arg, value in self.args.items()}
        found = [job for job in jobs if job.task == name and self._matches(job, stored)]
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
    return any(one.kind is one.VAR_KEYWORD for one in inspect.signature(task.function).parameters.values())


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
