"""`ctx.step`: a retried job skips the steps that have committed, and gets what they returned."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from pgqueue import (
    ArgumentError,
    Backoff,
    ConfigurationError,
    Context,
    Middleware,
    PgQueue,
    SnoozeJob,
    Task,
    Unique,
    current_job,
)
from pgqueue.config import sqlalchemy_url
from pgqueue.outcome import Outcome
from pgqueue.queries.steps import Stored
from pgqueue.testing import adrain, run_inline
from pgqueue.worker import dialogue
from tests.integration import process_app
from tests.integration.test_chunks import declare, enqueue
from tests.integration.waiting import DEADLINE, until

KINDS = ["coroutine", "thread", "process"]


@pytest.fixture
def path(tmp_path: Path) -> str:
    """The ledger of what steps did outside of the database."""
    return str(tmp_path / "ledger")


@pytest.fixture(params=KINDS)
async def shop(request: pytest.FixtureRequest, app: PgQueue, dsn: str) -> AsyncIterator[dict[str, Any]]:
    """An app with the same tasks in each kind."""
    if request.param == "process":
        process_app.app.database.point_at(dsn)
        tasks = process_app.app.tasks
        yield {"app": process_app.app, **{name: tasks[name] for name in ("ship", "twice")}}
        await process_app.app.aclose()
        return

    async def ship(ctx: Context, path: str) -> list[Any]:
        async def append(what: str) -> Any:
            return process_app.append(path, what)

        done = [await ctx.astep(name, append, name) for name in ("reserve", "charge")]
        if ctx.attempt == 1:
            raise ConnectionError("the bank is closed")
        return [*done, await ctx.astep("send", append, "send")]

    async def twice(ctx: Context) -> None:
        await ctx.astep("a", asyncio.sleep, 0)
        with pytest.raises(ArgumentError, match="was called twice in one run"):
            await ctx.astep("a", asyncio.sleep, 0)

    bodies: dict[str, Any] = {"ship": process_app.ship, "twice": process_app.twice}
    if request.param == "coroutine":
        bodies = {"ship": ship, "twice": twice}
    options: dict[str, Any] = {"bind": True, "backoff": Backoff.fixed(0), "max_attempts": 2}
    declare: Any = app.task
    yield {"app": app, **{name: declare(name=name, **options)(body) for name, body in bodies.items()}}


def done(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def stored(dsn: str) -> dict[str, Any]:
    with psycopg.connect(dsn, autocommit=True) as conn:
        return dict(conn.execute("select name, result from pgqueue.job_steps order by name").fetchall())


def execute(dsn: str, query: str, *params: object) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(query, params)


def lose_the_claim(dsn: str) -> None:
    execute(dsn, "update pgqueue.jobs set claim_id = 1 where state = 'running'")


async def run_until_refused(app: PgQueue) -> None:
    """Until the run of a job whose claim was lost has ended."""
    refused = asyncio.Event()
    app.on("retried", lambda event: refused.set())
    async with app.worker():
        await asyncio.wait_for(refused.wait(), DEADLINE)


async def test_a_retried_job_skips_the_steps_that_committed(shop: dict[str, Any], path: str) -> None:
    job = await shop["ship"].aenqueue(path)
    report = await adrain(shop["app"], with_scheduled=True)
    assert (report.retried, report.completed) == (1, 1)
    assert done(path) == ["reserve", "charge", "send"]
    assert (await job.arefresh()).value == [["reserve", 1], ["charge", 2], ["send", 3]]


async def test_two_jobs_have_steps_of_their_own(shop: dict[str, Any], path: str) -> None:
    await shop["ship"].aenqueue(path)
    await shop["ship"].aenqueue(path)
    await adrain(shop["app"], with_scheduled=True)
    assert sorted(done(path)) == ["charge", "charge", "reserve", "reserve", "send", "send"]


async def test_a_name_is_used_once_in_a_run(shop: dict[str, Any]) -> None:
    job = await shop["twice"].aenqueue()
    await adrain(shop["app"])
    assert (await job.arefresh()).state == "completed"


async def test_the_steps_of_a_job_go_when_it_has_completed_and_stay_while_it_waits(
    shop: dict[str, Any], path: str, dsn: str
) -> None:
    await shop["ship"].aenqueue(path)
    async with shop["app"].worker() as worker:

        async def forgotten() -> bool:
            return worker.ended == 2 and not await asyncio.to_thread(stored, dsn)

        await until(forgotten)
    await shop["ship"].using(max_attempts=1).aenqueue(path)
    await adrain(shop["app"])
    assert stored(dsn).keys() == {"reserve", "charge"}


async def test_a_worker_that_stops_forgets_the_steps_of_what_it_has_ended(app: PgQueue, path: str, dsn: str) -> None:
    @app.task(name="ship", bind=True)
    def ship(ctx: Context) -> None:
        ctx.step("reserve", process_app.append, path, "reserve")

    await ship.aenqueue()
    await app.worker(drain=True).run()
    assert (done(path), stored(dsn)) == (["reserve"], {})


async def test_a_job_that_is_redriven_skips_them_too(shop: dict[str, Any], path: str) -> None:
    app = shop["app"]
    job = await shop["ship"].using(max_attempts=1).aenqueue(path)
    await adrain(app)
    assert (await job.arefresh()).state == "failed"
    execute(app.database.dsn, "update pgqueue.failed_jobs set max_attempts = 2")
    assert app.failed.redrive([job.id]) == [job.id]
    await adrain(app, with_scheduled=True)
    assert (await job.arefresh()).state == "completed"
    assert done(path) == ["reserve", "charge", "send"]


async def test_a_snoozed_job_skips_them_too(app: PgQueue, path: str) -> None:
    snoozed: list[int] = []

    @app.task(name="ship", bind=True)
    def ship(ctx: Context) -> None:
        ctx.step("reserve", process_app.append, path, "reserve")
        if not snoozed:
            snoozed.append(ctx.attempt)
            raise SnoozeJob(0)

    await ship.aenqueue()
    await adrain(app, with_scheduled=True)
    assert (snoozed, done(path)) == ([1], ["reserve"])


async def test_a_step_that_raised_runs_again_in_the_next_attempt_or_the_same(app: PgQueue) -> None:
    calls: list[int] = []

    def call() -> int:
        calls.append(1)
        if len(calls) < 3:
            raise ValueError(len(calls))
        return len(calls)

    @app.task(name="ship", bind=True, backoff=Backoff.fixed(0))
    def ship(ctx: Context) -> int:
        try:
            return ctx.step("reserve", call)
        except ValueError:
            return ctx.step("reserve", call)

    job = await ship.aenqueue()
    await adrain(app, with_scheduled=True)
    assert (await job.arefresh()).value == 3


async def test_every_attempt_sees_a_result_as_json_gives_it_back(app: PgQueue) -> None:
    at = datetime(2030, 1, 1, tzinfo=UTC)
    seen: list[Any] = []

    @app.task(name="ship", bind=True, backoff=Backoff.fixed(0))
    async def ship(ctx: Context) -> None:
        async def give() -> Any:
            return {"b": (1, 2), "a": at, "n": 1e16, "none": None}

        async def give_none() -> Any:
            return None

        seen.append((await ctx.astep("give", give), await ctx.astep("nothing", give_none)))
        if ctx.attempt == 1:
            raise ValueError

    await ship.aenqueue()
    await adrain(app, with_scheduled=True)
    first, second = seen
    assert first == second == ({"a": at.isoformat(), "b": [1, 2], "n": 10**16, "none": None}, None)
    assert list(map(type, first[0].values())) == list(map(type, second[0].values()))


@pytest.mark.parametrize("value", [object(), {1, 2}, "x" * 70_000, float("nan")])
async def test_a_step_whose_result_cannot_be_stored_has_not_committed(app: PgQueue, dsn: str, value: Any) -> None:
    @app.task(name="ship", bind=True, max_attempts=1)
    def ship(ctx: Context) -> None:
        with pytest.raises(ArgumentError, match=f"the result of step 'give' of job {ctx.job_id}"):
            ctx.step("give", lambda: value)
        assert stored(dsn) == {}

    job = await ship.aenqueue()
    await adrain(app)
    assert (await job.arefresh()).state == "completed"


@pytest.mark.parametrize("name", ["", "x" * 501, "a\nb"])
async def test_a_name_that_cannot_be_is_refused(app: PgQueue, name: str) -> None:
    @app.task(name="ship", bind=True)
    def ship(ctx: Context) -> None:
        with pytest.raises(ArgumentError, match="the name of a step"):
            ctx.step(name, pytest.fail, "called")

    job = await ship.aenqueue()
    await adrain(app)
    assert (await job.arefresh()).state == "completed"


async def test_a_run_that_lost_its_claim_stores_nothing(app: PgQueue, dsn: str) -> None:
    @app.task(name="ship", bind=True)
    def ship(ctx: Context) -> None:
        ctx.step("first", int)
        ctx.step("second", lose_the_claim, dsn)
        pytest.fail("it goes on")

    await ship.aenqueue()
    await run_until_refused(app)
    assert stored(dsn) == {"first": 0}


async def test_a_run_that_lost_its_claim_does_not_begin_with_steps(app: PgQueue, dsn: str) -> None:
    @app.task(name="ship", bind=True)
    async def ship(ctx: Context) -> None:
        lose_the_claim(dsn)
        await ctx.astep("first", asyncio.to_thread, pytest.fail, "called")

    await ship.aenqueue()
    await run_until_refused(app)
    assert stored(dsn) == {}


@pytest.mark.parametrize("kind", ["coroutine", "thread"])
async def test_a_step_waits_for_who_has_the_job_locked(
    app: PgQueue, dsn: str, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    locked, waits = threading.Event(), threading.Event()

    def noticed(verdict: str, result: str | None) -> Stored:
        if verdict == "locked":
            waits.set()
        return Stored(verdict, result)

    def hold_the_row() -> None:
        with psycopg.connect(dsn) as conn:
            conn.execute("update pgqueue.jobs set cancel_requested = cancel_requested")
            locked.set()
            assert waits.wait(DEADLINE)

    def lock() -> int:
        holder.start()
        assert locked.wait(DEADLINE)
        return 7

    def ship(ctx: Context) -> int:
        return ctx.step("reserve", lock)

    async def aship(ctx: Context) -> int:
        return await ctx.astep("reserve", asyncio.to_thread, lock)

    monkeypatch.setattr(dialogue, "Stored", noticed)
    holder = threading.Thread(target=hold_the_row)
    task: Task[..., Any] = app.task(name="ship", bind=True)(ship if kind == "thread" else aship)
    job = await task.aenqueue()
    await adrain(app)
    holder.join()
    assert (waits.is_set(), (await job.arefresh()).value) == (True, 7)


async def test_a_step_survives_the_loss_of_the_connection_while_it_runs(app: PgQueue, dsn: str) -> None:
    cut = (
        "select pg_terminate_backend(pid) from pg_stat_activity "
        "where datname = current_database() and application_name = 'pgqueue effects'"
    )

    @app.task(name="ship", bind=True, max_attempts=1)
    def ship(ctx: Context) -> list[Any]:
        return [ctx.step("first", int), ctx.step("second", execute, dsn, cut), ctx.step("third", int)]

    job = await ship.aenqueue()
    await adrain(app)
    assert (await job.arefresh()).value == [0, None, 0]


async def test_many_steps_may_run_side_by_side(app: PgQueue) -> None:
    @app.task(name="ship", bind=True)
    async def ship(ctx: Context) -> int:
        return len(await asyncio.gather(*(ctx.astep(f"step {n}", asyncio.sleep, 0, n) for n in range(100))))

    @app.task(name="thread", bind=True)
    def in_threads(ctx: Context) -> int:
        got: list[Any] = []
        threads = [threading.Thread(target=lambda n=n: got.append(ctx.step(f"step {n}", lambda: n))) for n in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return len(set(got))

    jobs = [await ship.aenqueue(), await in_threads.aenqueue()]
    await adrain(app)
    assert [(await job.arefresh()).value for job in jobs] == [100, 20]


async def test_a_process_may_take_its_steps_in_threads_and_tell_beside_them(dsn: str, path: str) -> None:
    app = process_app.app
    app.database.point_at(dsn)
    job = await process_app.process_steps_together.aenqueue(path, 50)
    await adrain(app)
    assert (await job.arefresh()).value == [str(n) for n in range(50)]
    assert sorted(done(path)) == sorted(str(n) for n in range(50))
    await app.aclose()


async def test_a_process_may_have_a_step_commit_with_a_transaction_of_its_own(dsn: str, path: str) -> None:
    app = process_app.app
    app.database.point_at(dsn)
    job = await process_app.process_uses_a_connection.aenqueue(dsn, path)
    await adrain(app)
    assert (await job.arefresh()).value == ["reserve", 1]
    assert stored(dsn) == {"reserve": ["reserve", 1]}
    await app.aclose()


async def test_a_coroutine_is_told_which_form_it_needs(app: PgQueue) -> None:
    @app.task(name="ship", bind=True)
    async def ship(ctx: Context) -> None:
        with pytest.raises(ConfigurationError, match=r"inside the event loop.*use `await ctx\.aonce"):
            ctx.step("reserve", pytest.fail, "called")
        assert await asyncio.to_thread(ctx.step, "reserve", lambda: 1) == 1

    sleep: Callable[..., Any] = asyncio.sleep

    @app.task(name="thread", bind=True)
    def in_a_thread(ctx: Context) -> None:
        with pytest.raises(ConfigurationError, match=r"sleep is a coroutine function: use `await"):
            ctx.step("reserve", sleep, 0)
        assert asyncio.run(ctx.astep("charge", asyncio.sleep, 0, 2)) == 2

    jobs = [await ship.aenqueue(), await in_a_thread.aenqueue()]
    await adrain(app)
    assert [(await job.arefresh()).state for job in jobs] == ["completed", "completed"]


async def test_a_thread_that_was_told_to_stop_begins_no_step(app: PgQueue) -> None:
    timed_out, ended = threading.Event(), threading.Event()
    raised: list[BaseException] = []

    @app.task(name="slow", bind=True, timeout=0.2, max_attempts=1)
    def slow(ctx: Context) -> None:
        assert timed_out.wait(DEADLINE)
        try:
            ctx.step("reserve", pytest.fail, "called")
        except BaseException as error:
            raised.append(error)
        ended.set()

    await slow.aenqueue()
    app.on("failed", lambda event: timed_out.set())
    async with app.worker():
        assert await asyncio.to_thread(ended.wait, DEADLINE)
    assert "told to stop" in str(raised[0])


@pytest.mark.parametrize("kind", ["coroutine", "thread"])
async def test_in_a_transactional_task_a_step_commits_with_the_job(app: PgQueue, dsn: str, kind: str) -> None:
    seen: list[int] = []

    def ship(ctx: Context) -> None:
        ctx.step("reserve", seen.append, ctx.attempt)
        if ctx.attempt == 1:
            raise ValueError

    async def aship(ctx: Context) -> None:
        async def see() -> None:
            seen.append(ctx.attempt)

        await ctx.astep("reserve", see)
        with pytest.raises(ConfigurationError, match="is async: use await aonce and astep with it"):
            ctx.step("charge", pytest.fail, "called")
        if ctx.attempt == 1:
            raise ValueError

    body = ship if kind == "thread" else aship
    task: Task[..., Any] = app.task(name="ship", bind=True, transactional=True, backoff=Backoff.fixed(0))(body)
    job = await task.aenqueue()
    await adrain(app, with_scheduled=True)
    assert (await job.arefresh()).state == "completed"
    # It was rolled back with the first attempt.
    assert seen == [1, 2]


@pytest.mark.parametrize("outcome", ["commit", "rollback"])
async def test_a_step_commits_with_the_transaction_that_it_is_given(app: PgQueue, dsn: str, outcome: str) -> None:
    engine = create_engine(sqlalchemy_url(dsn), poolclass=NullPool)
    seen: dict[str, Any] = {}

    @app.task(name="ship", bind=True)
    def ship(ctx: Context) -> None:
        with Session(engine) as session:
            reserve: Callable[[], Any] = partial(session.scalar, text("select 7"))
            assert ctx.using(session).step("reserve", reserve) == 7
            getattr(session, outcome)()
        seen.update(stored(dsn))

    await ship.aenqueue()
    await adrain(app)
    assert seen == ({"reserve": 7} if outcome == "commit" else {})


async def test_a_job_that_is_replaced_begins_anew(app: PgQueue, path: str) -> None:
    @app.task(name="ship", bind=True, unique=Unique("ship", on_conflict="replace"), backoff=Backoff.fixed(3600))
    def ship(ctx: Context, what: str) -> None:
        ctx.step("reserve", process_app.append, path, what)
        if what == "old":
            raise ValueError

    job = await ship.aenqueue("old")
    await adrain(app)
    again = await ship.aenqueue("new")
    assert (again.id, again.created) == (job.id, False)
    await adrain(app, with_scheduled=True)
    assert done(path) == ["old", "new"]


@pytest.mark.parametrize("kind", ["coroutine", "thread", "process"])
async def test_the_jobs_of_a_chunk_have_no_steps(dsn: str, kind: str) -> None:
    told: list[int] = []

    class Steps(Middleware):
        async def run(self, context: Context) -> AsyncGenerator[None, Outcome]:
            with pytest.raises(ConfigurationError, match=r"is one of a chunk: .*mark each job .* as soon as its part"):
                await context.astep("reserve", asyncio.sleep, 0)
            told.append(context.job_id)
            yield

    app = process_app.app if kind == "process" else PgQueue(dsn)
    app.database.point_at(dsn)
    task: Task[..., Any] = process_app.process_chunk if kind == "process" else declare(app, kind)
    app.add_middleware(Steps())
    jobs = await enqueue(app, task, "no current job", "no current job")
    await adrain(app)
    assert [(await job.arefresh()).value for job in jobs] == ["none", "none"]
    assert sorted(told) == [job.id for job in jobs]
    app.middleware.runs.clear()
    await app.aclose()


def test_outside_of_a_worker_a_step_is_a_call(app: PgQueue) -> None:
    @app.task(name="ship")
    def ship() -> list[int]:
        return [current_job().step("a", lambda: 1), current_job().once("k", lambda: 2)]

    assert run_inline(ship) == [1, 2]
