"""Middleware on real jobs: around runs of every kind, and on every road of an enqueue."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from io import StringIO
from typing import Any

import psycopg
import pytest

from pgqueue import (
    Backoff,
    CancelJob,
    Context,
    FailJob,
    Job,
    JobLogFilter,
    JsonLines,
    Middleware,
    NewJob,
    PgQueue,
    RetryJob,
    SnoozeJob,
    Task,
    current_job,
    with_headers,
    with_tags,
)
from pgqueue.outcome import Completed, Outcome, Retry
from pgqueue.queries.copying import COPY_FROM
from pgqueue.services.scheduler import Scheduler
from pgqueue.testing import adrain, aenqueued, drain, enqueued
from tests.integration import process_app
from tests.integration.conftest import AJoined, Joined
from tests.integration.waiting import Gate, until

KINDS = ["coroutine", "coroutine with a timeout", "thread", "process", "transactional", "transactional thread"]
request_id: ContextVar[str | None] = ContextVar("request_id", default=None)


@contextmanager
def bound(value: str | None) -> Iterator[None]:
    token = request_id.set(value)
    try:
        yield
    finally:
        request_id.reset(token)


class RequestId(Middleware):
    """From the request that enqueues to the job, and on to what the job enqueues."""

    async def run(self, context: Context) -> AsyncGenerator[None, Outcome]:
        with bound(context.headers.get("request_id")):
            yield

    def enqueue(self, jobs: Sequence[NewJob]) -> Generator[Sequence[NewJob], Sequence[Job]]:
        yield with_headers(jobs, {"request_id": request_id.get()})


class Recorder(Middleware):
    """Writes down what passes; `before` and `after` may raise."""

    def __init__(self, before: Any = None, after: Any = None) -> None:
        self.contexts: list[Context] = []
        self.outcomes: list[Outcome] = []
        self.errors: list[BaseException | None] = []
        self.made: list[Sequence[Job]] = []
        self.threads: set[int] = set()
        self.before, self.after = before, after

    async def run(self, context: Context) -> AsyncGenerator[None, Outcome]:
        assert current_job() is context
        self.contexts.append(context)
        self.threads.add(threading.get_ident())
        if self.before is not None:
            raise self.before
        outcome = yield
        self.outcomes.append(outcome)
        self.errors.append(context.error)
        if self.after is not None:
            raise self.after

    def enqueue(self, jobs: Sequence[NewJob]) -> Generator[Sequence[NewJob], Sequence[Job]]:
        self.made.append((yield with_tags(jobs, "recorded")))


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def declare(app: PgQueue, dsn: str) -> Iterator[Callable[..., tuple[PgQueue, Task[..., Any]]]]:
    """A task of a kind that does `act(ctx)` and returns what that returned, and its app with some middleware."""

    def make(kind: str, *middleware: Middleware, act: Any = None) -> tuple[PgQueue, Task[..., Any]]:
        if kind == "process":
            process_app.app.database.point_at(dsn)
            for one in middleware:
                process_app.app.add_middleware(one)
            return process_app.app, process_app.process_wrapped
        for one in middleware:
            app.add_middleware(one)
        body: Any = process_app.wrapped if act is None else act

        async def coroutine(ctx: Context, then: str = "return") -> Any:
            return body(ctx, then)

        def function(ctx: Context, then: str = "return") -> Any:
            return body(ctx, then)

        options: dict[str, Any] = {
            "timeout": 60 if "timeout" in kind else None,
            "transactional": "transactional" in kind,
            "max_attempts": 2,
            "backoff": Backoff.fixed(0),
        }
        made = app.task(name="wrapped", bind=True, **options)(function if "thread" in kind else coroutine)
        return app, made

    yield make
    process_app.app.middleware.runs.clear()
    process_app.app.middleware.enqueues.clear()


async def test_a_run_of_every_kind_is_wrapped_on_the_loop_and_tells_its_outcome(declare: Any, kind: str) -> None:
    recorder = Recorder()
    app, task = declare(kind, recorder)
    job = await task.using(headers={"a": 1}).aenqueue()
    await adrain(app)
    [context] = recorder.contexts
    assert (context.job_id, context.task, context.queue, context.attempt) == (job.id, task.name, "default", 1)
    assert context.headers == {"a": 1}
    assert recorder.outcomes == [Completed('{"a":1}')]
    assert recorder.errors == [None]
    assert recorder.threads == {threading.get_ident()}
    assert await job.aresult() == {"a": 1}
    await app.aclose()


async def test_a_run_that_raises_tells_its_error_and_whether_it_is_retried(declare: Any, kind: str) -> None:
    recorder = Recorder()
    app, task = declare(kind, recorder)
    job = await task.aenqueue("raise")
    await adrain(app)
    names = [type(outcome).__name__ for outcome in recorder.outcomes]
    assert names == ["Retry", "Failed"]
    assert [context.attempt for context in recorder.contexts] == [1, 2]
    retry = recorder.outcomes[0]
    assert isinstance(retry, Retry)
    assert retry.error.type == "ZeroDivisionError"
    # An error in a process of its own is told as text alone.
    assert [type(error).__name__ for error in recorder.errors] == [
        "NoneType" if kind == "process" else "ZeroDivisionError"
    ] * 2
    assert (await job.arefresh()).state == "failed"
    assert [context.error for context in recorder.contexts] == [None, None]
    await app.aclose()


async def test_headers_that_a_middleware_changes_are_what_the_task_sees(declare: Any, kind: str) -> None:
    class Tenant(Middleware):
        async def run(self, context: Context) -> AsyncGenerator[None, Outcome]:
            context.headers = {**context.headers, "tenant": "eu"}
            yield

    app, task = declare(kind, Tenant())
    job = await task.using(headers={"a": 1}).aenqueue()
    await adrain(app)
    assert await job.aresult() == {"a": 1, "tenant": "eu"}
    assert (await job.arefresh()).headers == {"a": 1}
    await app.aclose()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "process"])
async def test_a_request_id_goes_from_the_request_to_its_job_and_to_what_that_enqueues(declare: Any, kind: str) -> None:
    def pass_on(ctx: Context, then: str) -> str | None:
        if then == "pass on" and "thread" in kind:
            app.enqueue("wrapped")
        return request_id.get()

    app, task = declare(kind, RequestId(), act=pass_on)
    with bound("r-1"):
        job = await task.aenqueue("pass on")
    other = await task.aenqueue()
    await adrain(app, slots=1)
    assert (await job.aresult(), await other.aresult()) == ("r-1", None)
    assert (job.headers, other.headers) == ({"request_id": "r-1"}, {})
    if "thread" in kind:
        [later] = [one for one in await aenqueued(app) if one.id not in (job.id, other.id)]
        assert (later.headers, later.value) == ({"request_id": "r-1"}, "r-1")
    assert request_id.get() is None


@pytest.mark.parametrize(
    ("raised", "state", "names"),
    [
        (ValueError("broken"), "failed", ["retried", "failed"]),
        (RetryJob(delay=0), "failed", ["retried", "failed"]),
        (FailJob("no"), "failed", ["failed"]),
        (CancelJob("no"), "cancelled", ["cancelled"]),
        (SnoozeJob(3600), "scheduled", ["snoozed"]),
    ],
    ids=["error", "retry", "fail", "cancel", "snooze"],
)
async def test_what_is_raised_before_the_task_is_the_outcome_and_the_task_does_not_run(
    declare: Any, kind: str, raised: BaseException, state: str, names: list[str]
) -> None:
    outer = Recorder()
    app, task = declare(kind, outer, Recorder(before=raised))
    job = await task.aenqueue()
    report = await adrain(app)
    assert [event.name for event in report.events] == names
    found = await job.arefresh()
    assert found.state == state
    assert [type(outcome).__name__.lower() for outcome in outer.outcomes] == [
        {"retried": "retry", "snoozed": "snooze"}.get(name, name) for name in names
    ]
    if state == "failed":
        assert "process_app.py" not in found.errors[-1]["traceback"]
    await app.aclose()


async def test_a_broken_middleware_is_logged_by_its_name_and_its_own_frames_are_kept(
    declare: Any, caplog: pytest.LogCaptureFixture
) -> None:
    app, task = declare("coroutine", Recorder(before=ValueError("broken")))
    job = await task.aenqueue()
    with caplog.at_level(logging.ERROR, "pgqueue.worker"):
        await adrain(app)
    assert f"middleware Recorder raised around job {job.id} (wrapped), before the task" in caplog.text
    error = (await job.arefresh()).errors[0]
    assert (error["type"], error["message"]) == ("ValueError", "broken")
    assert "pgqueue/worker" not in error["traceback"]
    assert "test_middleware.py" in error["traceback"]


@pytest.mark.parametrize("raised", [ValueError("broken"), SnoozeJob(3600)], ids=["error", "signal"])
async def test_what_is_raised_after_the_task_replaces_its_outcome_unless_it_has_committed(
    declare: Any, kind: str, raised: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    app, task = declare(kind, Recorder(after=raised))
    job = await task.aenqueue()
    with caplog.at_level(logging.WARNING, "pgqueue.worker"):
        await adrain(app)
    expected = "completed" if "transactional" in kind else "failed" if isinstance(raised, ValueError) else "scheduled"
    assert (await job.arefresh()).state == expected
    assert "outcomes were refused" not in caplog.text
    await app.aclose()


async def test_a_timeout_is_told_as_the_tasks_error(app: PgQueue) -> None:
    recorder = Recorder()
    app.add_middleware(recorder)

    @app.task(name="hangs", timeout=0.05, max_attempts=1)
    async def hangs() -> None:
        await asyncio.Event().wait()

    await hangs.aenqueue()
    await adrain(app)
    assert [type(error).__name__ for error in recorder.errors] == ["TaskTimeout"]


async def test_a_run_that_is_cancelled_or_given_back_cleans_up_and_stays_so(app: PgQueue) -> None:
    told: list[str] = []

    class Cleanup(Middleware):
        async def run(self, context: Context) -> AsyncGenerator[None, Outcome]:
            try:
                yield
            except asyncio.CancelledError:
                told.append("interrupted")

    app.add_middleware(Cleanup())
    gate = Gate(app, "wait")
    cancelled, given_back = await gate.task.aenqueue(), await gate.task.aenqueue()
    async with app.worker() as worker:
        await gate.enters()
        await gate.enters()
        await cancelled.acancel()

        async def ended() -> bool:
            return (await cancelled.arefresh()).state == "cancelled"

        await until(ended)
        worker.give_back()
    assert told == ["interrupted", "interrupted"]
    found = await given_back.arefresh()
    assert (found.state, found.attempt) == ("available", 0)


async def test_a_middleware_that_was_added_to_a_running_worker_waits_for_the_next(app: PgQueue) -> None:
    @app.task(name="nothing")
    async def nothing() -> None: ...

    recorder = Recorder()
    async with app.worker(["default"]):
        app.add_middleware(recorder)
        job = await nothing.aenqueue()
        await job.aresult(timeout=20)
    assert recorder.contexts == []
    assert job.tags == ("recorded",)


def test_an_enqueue_is_told_what_was_made(app: PgQueue, joined: Joined) -> None:
    recorder = Recorder()
    app.add_middleware(recorder)
    with joined() as connection:
        job = app.enqueue("send", using=connection, tags=["own"], key="a")
        again = app.enqueue("send", using=connection, key="a")
    assert [[one.id for one in made] for made in recorder.made] == [[job.id], [job.id]]
    assert (job.tags, again.created) == (("own", "recorded"), False)
    assert [one.tags for one in enqueued(app)] == [("own", "recorded")]


async def test_an_async_enqueue_is_told_what_was_made(app: PgQueue, ajoined: AJoined) -> None:
    recorder = Recorder()
    app.add_middleware(recorder)
    async with ajoined() as connection:
        job = await app.aenqueue("send", using=connection)
        many = await app.aenqueue_many([app.new_job("send"), app.new_job("send")], using=connection)
    assert [[one.id for one in made] for made in recorder.made] == [[job.id], [one.id for one in many]]
    assert {one.tags for one in await aenqueued(app)} == {("recorded",)}


@pytest.mark.parametrize("count", [3, COPY_FROM], ids=["unnest", "COPY"])
def test_a_bulk_is_one_enqueue(app: PgQueue, count: int) -> None:
    recorder = Recorder()
    app.add_middleware(recorder)
    app.add_middleware(RequestId())
    jobs = [app.new_job("send", {"n": n}, queue="bulk", headers={"n": n % 2} if n else None) for n in range(count)]
    with bound("r-1"):
        made = app.enqueue_many(jobs)
    assert [len(one) for one in recorder.made] == [count]
    assert [job.args["n"] for job in made] == list(range(count))
    found = enqueued(app)
    assert [job.headers for job in found[:3]] == [
        {"request_id": "r-1"},
        {"request_id": "r-1", "n": 1},
        {"request_id": "r-1", "n": 0},
    ]
    assert {job.tags for job in found} == {("recorded",)}


async def test_the_schedulers_jobs_come_by_and_keep_their_own_headers(app: PgQueue, dsn: str) -> None:
    class Claims(Middleware):
        def enqueue(self, jobs: Sequence[NewJob]) -> Generator[Sequence[NewJob], Sequence[Job]]:
            yield with_headers(jobs, {"schedule": "mine", "tenant": "eu"})

    recorder = Recorder()
    app.add_middleware(recorder)
    app.add_middleware(Claims())
    await make_due(app, dsn)
    schedulers = [Scheduler.of(app), Scheduler.of(app)]
    await asyncio.gather(*(scheduler.run_once() for scheduler in schedulers))
    [job] = await aenqueued(app)
    assert {**job.headers, "scheduled_for": ""} == {"schedule": "hourly", "scheduled_for": "", "tenant": "eu"}
    assert [[one.id for one in made] for made in recorder.made] == [[job.id]]


async def test_a_schedule_whose_enqueue_is_refused_stays_due_and_says_by_whom(
    app: PgQueue, dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Refuses(Middleware):
        open = False

        def enqueue(self, jobs: Sequence[NewJob]) -> Generator[Sequence[NewJob], Sequence[Job]]:
            if not self.open:
                raise ValueError("not now")
            yield jobs

    refuses = Refuses()
    app.add_middleware(refuses)
    await make_due(app, dsn)
    scheduler = Scheduler.of(app)
    await scheduler.run_once()
    assert "not now Raised by middleware" in caplog.text
    assert await aenqueued(app) == []
    refuses.open = True
    await scheduler.run_once()
    assert len(await aenqueued(app)) == 1


def test_a_middleware_that_refuses_an_enqueue_leaves_the_callers_transaction_whole(app: PgQueue, dsn: str) -> None:
    class Refuses(Middleware):
        def enqueue(self, jobs: Sequence[NewJob]) -> Generator[Sequence[NewJob], Sequence[Job]]:
            if any(job.task == "bad" for job in jobs):
                raise ValueError("no")
            yield jobs

    app.add_middleware(Refuses())
    with psycopg.connect(dsn) as connection:
        with pytest.raises(ValueError, match="no"):
            app.enqueue_many([app.new_job("good"), app.new_job("bad")], using=connection)
        app.enqueue("good", using=connection)
    assert [job.task for job in enqueued(app)] == ["good"]


@pytest.mark.parametrize("kind", ["coroutine", "thread", "transactional"])
async def test_what_a_task_and_its_middleware_log_says_of_which_job_it_is(declare: Any, kind: str) -> None:
    logger = logging.getLogger("tests.logs")

    class Logs(Middleware):
        async def run(self, context: Context) -> AsyncGenerator[None, Outcome]:
            yield
            logger.error("after")

    def log(ctx: Context, then: str) -> None:
        logger.error("inside")

    stream = StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(JobLogFilter(headers=["request_id"]))
    handler.setFormatter(JsonLines())
    logger.addHandler(handler)
    try:
        app, task = declare(kind, RequestId(), Logs(), act=log)
        with bound("r-1"):
            jobs = await app.aenqueue_many([task.job() for _ in range(20)])
        await adrain(app)
        logger.error("outside")
    finally:
        logger.removeHandler(handler)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert "job_id" not in lines.pop()
    for message in ("inside", "after"):
        said = [line for line in lines if line["message"] == message]
        assert sorted(line["job_id"] for line in said) == [job.id for job in jobs]
        assert {(line["task"], line["queue"], line["attempt"], line["request_id"]) for line in said} == {
            ("wrapped", "default", 1, "r-1")
        }


async def make_due(app: PgQueue, dsn: str) -> None:
    """A schedule `hourly` whose time has come."""
    app.every(timedelta(hours=1), name="hourly")(app.task(name="report")(process_app.nothing))
    await Scheduler.of(app).run_once()
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        await connection.execute(
            "update pgqueue.schedules set next_run_at = clock_timestamp() - interval '1 hour', last_run_at = null"
        )


def test_drain_wraps_too(app: PgQueue) -> None:
    recorder = Recorder()
    app.add_middleware(recorder)
    app.task(name="nothing")(process_app.nothing)
    app.enqueue("nothing")
    assert drain(app).completed == 1
    assert recorder.outcomes == [Completed()]
