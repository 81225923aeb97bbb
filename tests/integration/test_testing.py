"""`pgqueue.testing`, as a user's tests see it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from pgqueue import ArgumentError, Backoff, ConfigurationError, Context, FailJob, PgQueue, SnoozeJob, Task, current_job
from pgqueue.config import sqlalchemy_url
from pgqueue.testing import DrainReport, aassert_enqueued, adrain, assert_enqueued, drain, enqueued, run_inline
from tests.integration import process_app


@dataclass
class Address:
    street: str
    since: datetime


HOME = Address("High Street", datetime(2024, 1, 1, tzinfo=UTC))


@pytest.fixture
def send(app: PgQueue) -> Task[..., str]:
    @app.task(name="send", queue="email")
    def send(to: str, subject: str = "hi", home: Address | None = None) -> str:
        return f"{subject} {to}"

    return send


def test_drain_runs_what_waits_and_counts_it(app: PgQueue, send: Task[..., str]) -> None:
    def fail() -> None:
        raise FailJob("no")

    app.task(name="fail")(fail)
    app.enqueue_many([send.job("a"), send.job("b"), app.new_job("fail")])
    report = drain(app)
    assert (report.attempts, report.completed, report.failed, report.retried) == (3, 2, 1, 0)
    assert repr(report) == "<DrainReport completed=2 failed=1>"
    assert drain(app) == DrainReport(())


def test_drain_runs_the_queues_that_it_is_told(app: PgQueue, send: Task[..., str]) -> None:
    app.enqueue_many([send.using(queue=queue).job("x") for queue in ("email.a", "email.b", "slow")])
    assert drain(app, ["email.*"]).completed == 2
    assert [job.queue for job in enqueued(app, state="available")] == ["slow"]


def test_drain_leaves_what_is_scheduled_unless_it_is_told(app: PgQueue, send: Task[..., str]) -> None:
    runs: list[int] = []

    def flaky(ctx: Context) -> None:
        runs.append(ctx.attempt)
        if len(runs) == 2:
            raise SnoozeJob(3600)
        if ctx.attempt < 3:
            raise ValueError

    app.task(name="flaky", bind=True, backoff=Backoff.fixed(3600))(flaky)
    app.enqueue("flaky")
    send.using(delay=timedelta(days=1)).enqueue("x")
    first = drain(app)
    assert (first.retried, first.completed) == (1, 0)
    rest = drain(app, with_scheduled=True)
    assert (rest.snoozed, rest.retried, rest.completed) == (1, 1, 2)
    assert runs == [1, 2, 2, 3]


def test_drain_leaves_paused_queues_and_unknown_tasks(app: PgQueue, send: Task[..., str]) -> None:
    send.enqueue("x")
    app.enqueue("unknown")
    app.queues["email"].pause()
    assert drain(app).attempts == 0
    assert [job.state for job in enqueued(app)] == ["available"] * 2


def test_drain_runs_what_jobs_enqueue(app: PgQueue) -> None:
    async def count(n: int) -> None:
        if n:
            await app.aenqueue("count", {"n": n - 1}, queue=f"queue-{n % 2}")

    app.task(name="count")(count)
    app.enqueue("count", {"n": 3}, queue="queue-0")
    app.enqueue("count", {"n": 0}, queue="queue-1")
    assert drain(app).completed == 5


def test_drain_with_one_slot_runs_in_order(app: PgQueue) -> None:
    order: list[int] = []

    async def note(n: int) -> None:
        await asyncio.sleep(0)
        order.append(n)

    app.task(name="note")(note)
    app.enqueue_many([app.new_job("note", {"n": n}) for n in range(50)])
    drain(app, slots=1)
    assert order == list(range(50))


def test_drain_gives_up_after_its_timeout(app: PgQueue) -> None:
    async def forever() -> None:
        await asyncio.Event().wait()

    app.task(name="forever")(forever)
    job = app.enqueue("forever")
    with pytest.raises(TimeoutError):
        drain(app, timeout=0.3)
    assert job.refresh().state == "available"


async def test_drain_inside_an_event_loop_names_the_other(app: PgQueue, send: Task[..., str]) -> None:
    with pytest.raises(ConfigurationError, match=r"use `await adrain\(…\)`"):
        drain(app)
    await send.aenqueue("x")
    assert (await adrain(app)).completed == 1


def test_assert_enqueued_returns_the_jobs_that_match(app: PgQueue, send: Task[..., str]) -> None:
    send.using(key="k", tags=["t"], priority=2, delay=60).enqueue("a@b.c", home=HOME)
    other = send.enqueue("x@y.z", subject="hello")
    [job] = assert_enqueued(app, send, to="a@b.c", queue="email", key="k", tag="t", priority=2, delay=60)
    assert job.args["to"] == "a@b.c"
    assert assert_enqueued(app, send, home=HOME) == [job]
    assert assert_enqueued(app, "send", {"subject": "hello"}) == [other]
    assert assert_enqueued(app, send, times=2) == [job, other]
    assert assert_enqueued(app, send, times=None) == [job, other]
    assert assert_enqueued(app, send, times=0, to="nobody") == []
    assert other.cancel()


def test_assert_enqueued_counts_jobs_that_ran_already(app: PgQueue, send: Task[..., str]) -> None:
    send.enqueue("a@b.c")
    drain(app)
    [job] = assert_enqueued(app, send, to="a@b.c")
    assert job.value == "hi a@b.c"


def test_assert_enqueued_lists_what_there_is_when_it_fails(app: PgQueue, send: Task[..., str]) -> None:
    with pytest.raises(AssertionError, match="expected 1 job of send, found 0; enqueued were:\n  nothing"):
        assert_enqueued(app, send)
    job = send.using(key="k", tags=["t"]).enqueue("x@y.z")
    with pytest.raises(AssertionError) as caught:
        assert_enqueued(app, send, to="a@b.c", queue="email")
    first, line = str(caught.value).splitlines()
    assert first == "expected 1 job of send with to='a@b.c', queue='email', found 0; enqueued were:"
    assert line.startswith(f"  {job.id} send(to='x@y.z') available queue=email run_at=")
    assert line.endswith(" key=k tags=t")
    for options in ({"times": 2}, {"delay": 60}, {"priority": 1}, {"key": "other"}, {"tag": "other"}, {"queue": "q"}):
        with pytest.raises(AssertionError, match="found"):
            assert_enqueued(app, send, **options)


def test_assert_enqueued_refuses_an_argument_that_the_task_does_not_have(app: PgQueue, send: Task[..., str]) -> None:
    with pytest.raises(
        ArgumentError, match=r"'too' of task send: there is no such argument, only \(to, subject, home\)"
    ):
        assert_enqueued(app, send, too="a@b.c")
    with pytest.raises(ArgumentError, match="argument 'to' of task send must be str, not int 5: no job can have it"):
        assert_enqueued(app, send, to=5)


async def test_assert_enqueued_sees_the_callers_transaction(app: PgQueue, send: Task[..., str], dsn: str) -> None:
    with Session(create_engine(sqlalchemy_url(dsn), poolclass=NullPool)) as session, session.begin():
        send.using(session).enqueue("a@b.c")
        assert_enqueued(app, send, to="a@b.c", using=session)
        assert_enqueued(app, send, times=0)
        assert len(enqueued(app, send, using=session)) == 1
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        await send.using(connection).aenqueue("d@e.f")
        await aassert_enqueued(app, send, to="d@e.f", using=connection)
        await aassert_enqueued(app, send, to="d@e.f", times=0)


def test_run_inline_runs_a_task_with_its_arguments_written_and_read(send: Task[..., str], app: PgQueue) -> None:
    def look(ctx: Context, home: Address, many: list[Address]) -> tuple[Any, ...]:
        assert current_job() is ctx
        return home, many, ctx

    task: Task[..., Any] = app.task(name="look", bind=True, queue="q")(look)
    home, many, ctx = run_inline(task.using(headers={"x": 1}, max_attempts=1), HOME, many=[HOME])
    assert (home, many) == (HOME, [HOME])
    assert home is not HOME
    assert (ctx.task, ctx.queue, ctx.attempt, ctx.is_last_attempt, ctx.headers) == ("look", "q", 1, True, {"x": 1})
    assert run_inline(send, "a@b.c") == "hi a@b.c"
    with pytest.raises(LookupError):
        current_job()
    assert enqueued(app) == []


async def test_run_inline_of_a_coroutine_task_is_awaited(app: PgQueue) -> None:
    @app.task(name="double")
    async def double(n: int) -> int:
        assert current_job().task == "double"
        return 2 * n

    assert await run_inline(double, 4) == 8
    with pytest.raises(LookupError):
        current_job()


def test_run_inline_needs_no_database() -> None:
    app = PgQueue("postgresql://nobody@localhost:1/nothing")

    @app.task(name="add")
    def add(a: int, b: int) -> int:
        return a + b

    assert run_inline(add, 2, b=3) == 5
    with pytest.raises(ArgumentError, match="argument 'b' of task add must be int"):
        run_inline(add, 2, "3")  # type: ignore[arg-type]


def test_run_inline_lets_errors_and_signals_through() -> None:
    app = PgQueue("postgresql://nobody@localhost:1/nothing")

    @app.task(name="snooze")
    def snooze() -> None:
        raise SnoozeJob(5)

    with pytest.raises(SnoozeJob):
        run_inline(snooze)


def test_run_inline_runs_a_process_task_here() -> None:
    import os

    assert run_inline(process_app.process_pid) == os.getpid()


def test_run_inline_gives_a_transactional_task_its_connection(app: PgQueue, dsn: str) -> None:
    @app.task(name="charge", bind=True, transactional=True)
    def charge(ctx: Context, order: int) -> int:
        [[value]] = ctx.connection.execute("select %s + 1", [order])
        return int(value)

    with psycopg.connect(dsn) as connection:
        assert run_inline(charge.using(connection), order=7) == 8
    with pytest.raises(
        ConfigurationError, match=r"transactional: give it a connection, as in run_inline\(charge.using"
    ):
        run_inline(charge, order=7)
