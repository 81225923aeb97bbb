"""`ctx.once`: a call under a key is made once, whichever job and attempt asks for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator
from datetime import timedelta
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
    EffectHeld,
    EffectMismatch,
    Job,
    JobFailed,
    Middleware,
    PgQueue,
    PgQueueError,
    current_job,
)
from pgqueue.config import sqlalchemy_url
from pgqueue.outcome import Outcome
from pgqueue.queries.effects import Begun, Holder
from pgqueue.testing import adrain
from pgqueue.worker import dialogue
from pgqueue.worker.effects import WorkerEffects
from tests.integration import process_app
from tests.integration.test_steps import done, execute, lose_the_claim, run_until_refused
from tests.integration.waiting import DEADLINE, until

KINDS = ["coroutine", "thread", "process"]


@pytest.fixture
def path(tmp_path: Path) -> str:
    """The ledger of what was done outside of the database."""
    return str(tmp_path / "ledger")


@pytest.fixture(params=KINDS)
async def bank(request: pytest.FixtureRequest, app: PgQueue, dsn: str) -> AsyncIterator[Any]:
    """The task that charges once, `charge(path, key, amount)`, in each kind."""
    if request.param == "process":
        process_app.app.database.point_at(dsn)
        yield process_app.process_charges
        await process_app.app.aclose()
        return

    async def charge(ctx: Context, path: str, key: str, amount: int) -> Any:
        async def append(path: str, what: str) -> Any:
            return process_app.append(path, what)

        return await ctx.aonce(key, append, path, f"charge {amount}")

    body: Any = charge if request.param == "coroutine" else process_app.charge_once
    declare: Any = app.task
    yield declare(name="charge", bind=True, max_attempts=1)(body)


def effects(dsn: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn, autocommit=True) as conn:
        return conn.execute("select key, result, done_at is not null from pgqueue.effects order by key").fetchall()


def noticing_who_waits(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set when a call under a key that another holds waits for it."""
    waits = threading.Event()

    def noticed(*begun: Any) -> Begun:
        if begun[0] == "held":
            waits.set()
        return Begun(*begun)

    monkeypatch.setattr(dialogue, "Begun", noticed)
    return waits


async def test_the_second_job_gets_what_the_first_one_did(bank: Any, path: str, dsn: str) -> None:
    first = await bank.aenqueue(path, "order-7", 10)
    await adrain(bank.app)
    second = await bank.aenqueue(path, "order-7", 10)
    other = await bank.aenqueue(path, "order-8", 10)
    await adrain(bank.app)
    assert (await first.arefresh()).value == (await second.arefresh()).value == ["charge 10", 1]
    assert (await other.arefresh()).value == ["charge 10", 2]
    assert done(path) == ["charge 10", "charge 10"]
    assert effects(dsn) == [("order-7", ["charge 10", 1], True), ("order-8", ["charge 10", 2], True)]


async def test_the_same_key_with_another_request_is_an_error(bank: Any, path: str) -> None:
    await bank.aenqueue(path, "order-7", 10)
    await adrain(bank.app)
    other = await bank.aenqueue(path, "order-7", 11)
    await adrain(bank.app)
    with pytest.raises(JobFailed, match=r"once\('order-7'\) was called with other arguments before") as caught:
        await other.aresult()
    assert caught.value.error_type == "pgqueue.errors.EffectMismatch"
    assert done(path) == ["charge 10"]


async def test_of_jobs_that_run_at_once_one_calls_and_the_others_wait_for_it(bank: Any, path: str) -> None:
    jobs = await bank.app.aenqueue_many([bank.job(path, "order-7", 10) for _ in range(8)])
    await adrain(bank.app, slots=8)
    assert [(await job.arefresh()).value for job in jobs] == [["charge 10", 1]] * 8
    assert done(path) == ["charge 10"]


async def test_a_call_that_is_under_way_is_waited_for(app: PgQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = noticing_who_waits(monkeypatch)
    calls: list[int] = []

    def call(n: int) -> str:
        calls.append(n)
        assert waits.wait(DEADLINE)
        return "charged"

    @app.task(name="charge")
    def charge() -> str:
        return current_job().once("k", call, 7)

    jobs = [await charge.aenqueue(), await charge.aenqueue()]
    await adrain(app)
    assert [(await job.arefresh()).value for job in jobs] == ["charged", "charged"]
    assert calls == [7]


async def test_a_call_that_raised_is_made_again(app: PgQueue, dsn: str) -> None:
    calls: list[int] = []

    def call() -> int:
        calls.append(1)
        if len(calls) < 3:
            raise ConnectionError("the bank is closed")
        return len(calls)

    @app.task(name="charge", bind=True, backoff=Backoff.fixed(0))
    def charge(ctx: Context) -> int:
        try:
            return ctx.once("k", call)
        except ConnectionError:
            # In the same run, while nobody else has taken the key.
            return ctx.once("k", call)

    job = await charge.aenqueue()
    await adrain(app, with_scheduled=True)
    assert (await job.arefresh()).value == 3
    assert effects(dsn) == [("k", 3, True)]


async def test_a_key_whose_holder_died_is_free_and_one_whose_holder_lives_is_not(
    app: PgQueue, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialogue, "HELD_SECONDS", 0.0)
    live = await app.task(name="live")(lambda: None).using(delay=3600).aenqueue()
    execute(dsn, "update pgqueue.jobs set state = 'running', claim_id = 5")
    execute(
        dsn,
        "insert into pgqueue.effects (key, request, job_id, fence) values ('dead', 'x', %s, 4), ('live', 'x', %s, 5)",
        live.id,
        live.id,
    )

    @app.task(name="charge", bind=True, max_attempts=1)
    def charge(ctx: Context, key: str) -> int:
        return ctx.once(key, int, 7)

    free, held = await charge.aenqueue("dead"), await charge.aenqueue("live")
    async with app.worker():
        assert await free.aresult(DEADLINE) == 7
        with pytest.raises(JobFailed, match=rf"job {live.id} has been calling once\('live'\)") as caught:
            await held.aresult(DEADLINE)
    assert caught.value.error_type == "pgqueue.errors.EffectHeld"


async def test_in_a_transactional_task_the_effect_commits_with_the_job(app: PgQueue, dsn: str) -> None:
    execute(dsn, "create table if not exists charges (amount int)")
    execute(dsn, "truncate charges")

    @app.task(name="charge", bind=True, transactional=True, backoff=Backoff.fixed(0))
    def charge(ctx: Context) -> int:
        def insert(amount: int) -> int:
            ctx.connection.execute("insert into charges values (%s)", [amount])
            return amount

        charged = ctx.once("order-7", insert, 10)
        if ctx.attempt == 1:
            raise ConnectionError("rolled back")
        return charged + ctx.once("order-7", insert, 10)

    first = await charge.aenqueue()
    await adrain(app, with_scheduled=True)
    second = await charge.aenqueue()
    await adrain(app, with_scheduled=True)
    assert [(await job.arefresh()).value for job in (first, second)] == [20, 20]
    with psycopg.connect(dsn) as conn:
        assert conn.execute("select amount from charges").fetchall() == [(10,)]
        conn.execute("drop table charges")


@pytest.mark.parametrize("outcome", ["commit", "rollback"])
async def test_a_call_in_a_transaction_under_way_is_waited_for_and_counts_if_that_commits(
    app: PgQueue, dsn: str, monkeypatch: pytest.MonkeyPatch, outcome: str
) -> None:
    waits = noticing_who_waits(monkeypatch)
    called = asyncio.Event()
    calls: list[str] = []

    async def call() -> str:
        calls.append(current_job().task)
        called.set()
        return "charged"

    @app.task(name="transactional", bind=True, transactional=True, max_attempts=1)
    async def transactional(ctx: Context) -> None:
        await ctx.aonce("k", call)
        assert await asyncio.to_thread(waits.wait, DEADLINE)
        if outcome == "rollback":
            raise ConnectionError

    @app.task(name="other", bind=True, max_attempts=1)
    async def other(ctx: Context) -> str:
        await called.wait()
        return await ctx.aonce("k", call)

    await transactional.aenqueue()
    job = await other.aenqueue()
    await adrain(app)
    assert (await job.arefresh()).value == "charged"
    assert calls == (["transactional"] if outcome == "commit" else ["transactional", "other"])


@pytest.mark.parametrize("outcome", ["commit", "rollback"])
async def test_an_effect_commits_with_the_transaction_that_it_is_given(app: PgQueue, dsn: str, outcome: str) -> None:
    engine = create_engine(sqlalchemy_url(dsn), poolclass=NullPool)

    @app.task(name="charge", bind=True)
    def charge(ctx: Context) -> None:
        with Session(engine) as session:
            assert ctx.using(session).once("k", partial(session.scalar, text("select 7"))) == 7
            assert ctx.using(session).once("k", partial(session.scalar, text("select 8"))) == 7
            getattr(session, outcome)()

    await charge.aenqueue()
    await adrain(app)
    assert effects(dsn) == ([("k", 7, True)] if outcome == "commit" else [])


async def test_what_made_a_transaction_fail_is_what_the_task_is_told(app: PgQueue, dsn: str) -> None:
    def call(conn: psycopg.Connection[Any]) -> None:
        conn.execute("select 1 / 0")

    @app.task(name="charge", bind=True)
    def charge(ctx: Context) -> None:
        with psycopg.connect(dsn) as conn:
            with pytest.raises(psycopg.errors.DivisionByZero):
                ctx.using(conn).once("k", partial(call, conn))
            conn.rollback()
            assert ctx.using(conn).once("k", int, 7) == 7

    job = await charge.aenqueue()
    await adrain(app)
    assert (await job.arefresh()).state == "completed"
    assert effects(dsn) == [("k", 7, True)]


@pytest.mark.parametrize("kind", ["coroutine", "thread"])
async def test_once_its_transaction_has_ended_a_run_takes_no_key(app: PgQueue, dsn: str, kind: str) -> None:
    refused: list[str] = []

    class After(Middleware):
        async def run(self, context: Context) -> AsyncGenerator[None, Outcome]:
            yield
            assert context.connection is None
            with pytest.raises(PgQueueError, match="is no longer held by this worker") as caught:
                await context.aonce("k", asyncio.sleep, 0)
            refused.append(str(caught.value))

    def charge(ctx: Context) -> None:
        assert ctx.connection is not None

    async def acharge(ctx: Context) -> None:
        assert ctx.connection is not None

    app.add_middleware(After())
    declare: Any = app.task(name="charge", bind=True, transactional=True)
    job = await declare(charge if kind == "thread" else acharge).aenqueue()
    await adrain(app)
    assert (await job.arefresh()).state == "completed"
    assert len(refused) == 1
    assert effects(dsn) == []


async def test_async_transactions_can_be_given_too_and_the_wrong_form_is_refused(app: PgQueue, dsn: str) -> None:
    async def call() -> int:
        return 7

    @app.task(name="charge", bind=True)
    async def charge(ctx: Context) -> int:
        with psycopg.connect(dsn) as sync, pytest.raises(ConfigurationError, match="Connection is sync: use once"):
            await ctx.using(sync).aonce("k", call)
        with pytest.raises(ArgumentError, match="using= takes a psycopg Connection"):
            await asyncio.to_thread(ctx.using("postgresql://").once, "k", int)
        async with await psycopg.AsyncConnection.connect(dsn) as conn:
            return await ctx.using(conn).aonce("k", call)

    job = await charge.aenqueue()
    await adrain(app)
    assert (await job.arefresh()).value == 7
    assert effects(dsn) == [("k", 7, True)]


@pytest.mark.parametrize("value", [object(), "x" * 70_000])
async def test_a_call_whose_result_cannot_be_stored_is_not_made_again(app: PgQueue, value: Any) -> None:
    calls: list[int] = []

    def call() -> Any:
        calls.append(1)
        return value

    @app.task(name="charge", bind=True)
    def charge(ctx: Context) -> None:
        for _ in range(2):
            with pytest.raises(ArgumentError, match=r"the result of once\('k'\).*is not made again"):
                ctx.once("k", call)

    jobs = [await charge.aenqueue() for _ in range(2)]
    await adrain(app, slots=1)
    assert [(await job.arefresh()).state for job in jobs] == ["completed", "completed"]
    assert calls == [1]


async def test_arguments_that_are_no_request_are_refused_before_the_call(app: PgQueue, dsn: str) -> None:
    calls: list[object] = []

    @app.task(name="charge", bind=True)
    def charge(ctx: Context) -> None:
        client = object()
        with pytest.raises(ArgumentError, match=r"the arguments of once\('k'\).*is bound with functools\.partial"):
            ctx.once("k", calls.append, client)
        assert ctx.once("k", partial(calls.append, client)) is None
        for wrong in ("", "x" * 501, "a\n"):
            with pytest.raises(ArgumentError, match="the key of once"):
                ctx.once(wrong, pytest.fail, "called")

    job = await charge.aenqueue()
    await adrain(app)
    assert (await job.arefresh()).state == "completed"
    assert len(calls) == 1


async def test_the_order_of_named_arguments_is_no_other_request(app: PgQueue) -> None:
    def call(**given: Any) -> Any:
        return given

    @app.task(name="charge", bind=True)
    def charge(ctx: Context) -> None:
        assert ctx.once("k", call, a=1, b={"c": 1, "d": 2}) == {"a": 1, "b": {"c": 1, "d": 2}}
        ctx.once("k", call, b={"d": 2, "c": 1}, a=1)
        with pytest.raises(EffectMismatch):
            ctx.once("k", call, a=1)

    job = await charge.aenqueue()
    await adrain(app)
    assert (await job.arefresh()).state == "completed"


async def test_a_call_within_its_own_call_is_an_error_and_no_deadlock(app: PgQueue) -> None:
    @app.task(name="charge", bind=True)
    async def charge(ctx: Context) -> None:
        async def call() -> None:
            with pytest.raises(EffectHeld, match="while its own call under that key is under way"):
                await ctx.aonce("k", call)

        await ctx.aonce("k", call)

    job = await charge.aenqueue()
    await adrain(app)
    assert (await job.arefresh()).state == "completed"


async def test_a_run_that_lost_its_claim_begins_no_call_and_tells_what_it_did_while_nobody_else_calls(
    app: PgQueue, dsn: str
) -> None:
    @app.task(name="charge", bind=True)
    def charge(ctx: Context) -> None:
        ctx.once("done", lose_the_claim, dsn)
        ctx.once("begun", pytest.fail, "called")

    await charge.aenqueue()
    await run_until_refused(app)
    assert effects(dsn) == [("done", None, True)]


@pytest.mark.parametrize("kind", ["coroutine", "process"])
async def test_a_run_that_is_stopped_while_its_call_is_recorded_is_remembered(
    dsn: str, path: str, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    app = process_app.app if kind == "process" else PgQueue(dsn)
    app.database.point_at(dsn)
    recording = asyncio.Event()
    answer = WorkerEffects._answer

    async def noticed(effects: WorkerEffects, question: dialogue.Ask, me: Holder) -> Any:
        if question.verb == "record":
            recording.set()
        return await answer(effects, question, me)

    async def charge(ctx: Context, path: str) -> None:
        await ctx.aonce("k", partial(asyncio.to_thread, process_app.charge_and_wait, path))

    monkeypatch.setattr(WorkerEffects, "_answer", noticed)
    declare: Any = app.task
    task: Any = process_app.process_charges_slowly
    if kind == "coroutine":
        task = declare(name="charge", bind=True)(charge)
    job: Job = await task.aenqueue(path)

    async def stopped() -> bool:
        return (await job.arefresh()).state == "cancelled"

    async with app.worker():
        async with asyncio.timeout(DEADLINE):
            while not done(path):  # noqa: ASYNC110 - it may be a process that writes it
                await asyncio.sleep(0.01)
            with psycopg.connect(dsn) as conn:
                conn.execute("select from pgqueue.effects for update")
                await asyncio.to_thread(Path(f"{path}.locked").touch)
                await recording.wait()
                await job.acancel()
                await until(stopped)
                assert effects(dsn) == [("k", None, False)]

        async def recorded() -> bool:
            return await asyncio.to_thread(effects, dsn) == [("k", "charged", True)]

        await until(recorded)
    await app.aclose()


async def test_a_call_that_another_has_taken_over_is_not_told(app: PgQueue, dsn: str) -> None:
    def take_over() -> None:
        lose_the_claim(dsn)
        execute(dsn, "update pgqueue.effects set fence = 1, job_id = job_id + 1")

    @app.task(name="charge", bind=True)
    def charge(ctx: Context) -> None:
        ctx.once("k", take_over)

    await charge.aenqueue()
    await run_until_refused(app)
    assert effects(dsn) == [("k", None, False)]


async def test_effects_are_forgotten_when_they_are_old(dsn: str, path: str) -> None:
    app = PgQueue(dsn, keep_effects=timedelta(hours=1))

    @app.task(name="charge", bind=True)
    def charge(ctx: Context, key: str) -> None:
        ctx.once(key, process_app.append, path, key)

    for key in ("old", "new"):
        await charge.aenqueue(key)
    await adrain(app)
    execute(dsn, "update pgqueue.effects set begun_at = now() - interval '61 minutes' where key = 'old'")
    async with app.worker():

        async def forgotten() -> bool:
            return [key for key, _, _ in await asyncio.to_thread(effects, dsn)] == ["new"]

        await until(forgotten)
    await app.aclose()


@pytest.mark.parametrize("wrong", [-1, "a day", float("inf")])
def test_a_time_to_keep_effects_that_cannot_be_is_refused(wrong: Any) -> None:
    with pytest.raises(ArgumentError, match="keep_effects must be"):
        PgQueue("postgresql:///shop", keep_effects=wrong)


async def test_behind_a_pooler_effects_and_steps_are_stored_as_well(dsn: str) -> None:
    app = PgQueue(dsn, pooler=True)

    @app.task(name="charge", bind=True)
    def charge(ctx: Context) -> list[int]:
        return [ctx.once("k", int, 7), ctx.step("a", int, 8)]

    job = await charge.aenqueue()
    await adrain(app)
    assert (await job.arefresh()).value == [7, 8]
    assert effects(dsn) == [("k", 7, True)]
    await app.aclose()
