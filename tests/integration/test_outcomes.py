"""What an attempt comes to: completed, again later, cancelled or failed; and what is kept of it."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg
import pytest

from pgqueue import (
    Backoff,
    CancelJob,
    ChildFailed,
    ConfigurationError,
    Context,
    FailJob,
    Job,
    JobCancelled,
    JobEnded,
    JobFailed,
    JobNotFound,
    PgQueue,
    RetryJob,
    SnoozeJob,
    Task,
)
from pgqueue.flow import chain
from pgqueue.testing import adrain, aenqueued
from pgqueue.worker import finisher
from tests.integration import process_app
from tests.integration.waiting import DEADLINE, Gate, until

KINDS = ["coroutine", "thread"]


def make(app: PgQueue, kind: str, body: Any, **options: Any) -> Task[..., Any]:
    """A task of that kind whose body is a plain function of the Context."""

    async def acall(ctx: Context) -> Any:
        return body(ctx)

    def call(ctx: Context) -> Any:
        return body(ctx)

    made: Task[..., Any] = app.task(name="task", bind=True, **options)(acall if kind == "coroutine" else call)
    return made


async def one(app: PgQueue) -> Job:
    [job] = await aenqueued(app)
    return job


def raising(error: BaseException) -> Any:
    def body(ctx: Context) -> None:
        raise error

    return body


@pytest.mark.parametrize("kind", KINDS)
async def test_a_result_is_stored(app: PgQueue, kind: str) -> None:
    value = {"list": [1, 2.5, None, True], "text": "é 😀"}
    job = await make(app, kind, lambda ctx: value).aenqueue()
    await adrain(app)
    after = await job.arefresh()
    assert (after.state, after.value, after.attempt, after.errors) == ("completed", value, 1, ())
    assert await job.aresult() == value
    assert after.started_at is not None
    assert after.ended_at is not None
    assert after.ended_at >= after.started_at


async def test_a_result_may_hold_what_has_a_json_form(app: PgQueue) -> None:
    value = {"id": UUID(int=1), "at": datetime(2024, 1, 1, tzinfo=UTC), "price": Decimal("1.10")}
    job = await make(app, "coroutine", lambda ctx: value).aenqueue()
    await adrain(app)
    assert await job.aresult() == {"id": str(UUID(int=1)), "at": "2024-01-01T00:00:00+00:00", "price": "1.10"}


@pytest.mark.parametrize(
    "value",
    ["x" * 70_000, object(), float("nan"), "\x00", {1: 2}],
    ids=["large", "object", "NaN", "NUL", "number as key"],
)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_job_whose_result_cannot_be_stored_completes_and_who_asks_for_it_is_told(
    app: PgQueue, kind: str, value: Any, caplog: pytest.LogCaptureFixture
) -> None:
    job = await make(app, kind, lambda ctx: value).aenqueue()
    with caplog.at_level(logging.WARNING, "pgqueue.task"):
        await adrain(app)
    assert (await job.arefresh()).state == "completed"
    lost = rf"^job {job.id} \(task\) completed, and its result is not stored: the result of task task"
    with pytest.raises(JobEnded, match=lost) as told:
        await job.aresult()
    assert (told.value.job, type(told.value)) == (await job.arefresh(), JobEnded)
    assert "the job completes without it" in caplog.text
    for text in (str(told.value), caplog.text):
        assert "pass" not in text
        assert "annotate" not in text


async def test_who_asks_for_a_large_result_is_told_its_size_the_limit_and_what_to_return(app: PgQueue) -> None:
    job = await make(app, "coroutine", lambda ctx: "x" * 70_000).aenqueue()
    await adrain(app)
    with pytest.raises(JobEnded, match=r"is 70,002 bytes as JSON, more than 64 KiB: store it, return its key$"):
        await job.aresult()


async def test_who_asks_for_a_result_that_postgresql_refused_is_told(fresh_dsn: str) -> None:
    app = PgQueue(fresh_dsn)
    with psycopg.connect(fresh_dsn, autocommit=True) as connection:
        connection.execute("alter table pgqueue.completed_jobs add constraint nothing check (result is null)")
    task = make(app, "coroutine", lambda ctx: ctx.attempt)
    job = await task.aenqueue()
    await adrain(app)
    with pytest.raises(JobEnded, match=r"PostgreSQL refused the result of task task: .* violates check constraint"):
        await job.aresult()
    await app.aclose()


async def test_a_parent_that_asks_for_a_result_that_was_not_stored_is_told(app: PgQueue) -> None:
    @app.task(name="child", keep_completed=False)
    async def child() -> str:
        return "x" * 70_000

    @app.task(name="parent", bind=True)
    async def parent(ctx: Context) -> str:
        [found] = ctx.children()
        with pytest.raises(ChildFailed, match="completed, and its result is not stored: the result of task child is"):
            found.result  # noqa: B018
        return str(found.state)

    await app.flows.aenqueue(chain(child.job(), parent.job()))
    await adrain(app)
    assert (await one(app)).value == "completed"


async def test_a_task_can_keep_no_history(app: PgQueue) -> None:
    kept = await make(app, "coroutine", lambda ctx: 1, keep_completed=False).aenqueue()
    assert (await adrain(app)).completed == 1
    assert await aenqueued(app) == []
    with pytest.raises(JobNotFound, match=f"no job with id {kept.id}.*pruned"):
        await kept.aresult(DEADLINE)


async def test_a_queue_can_keep_no_history(app: PgQueue) -> None:
    app.queue("brief", keep_completed=timedelta())
    await make(app, "coroutine", lambda ctx: 1).using(queue="brief").aenqueue()
    await adrain(app)
    assert await aenqueued(app) == []


@pytest.mark.parametrize("kind", KINDS)
async def test_every_attempts_error_is_kept_until_the_last_fails_the_job(app: PgQueue, kind: str) -> None:
    def body(ctx: Context) -> None:
        raise KeyError(f"no {ctx.attempt}")

    job = await make(app, kind, body, max_attempts=3, backoff=Backoff.fixed(0)).aenqueue()
    report = await adrain(app, with_scheduled=True)
    assert (report.retried, report.failed) == (2, 1)
    after = await job.arefresh()
    assert (after.state, after.attempt, after.reason) == ("failed", 3, "attempts_used")
    assert [error["attempt"] for error in after.errors] == [1, 2, 3]
    assert [error["type"] for error in after.errors] == ["KeyError"] * 3
    assert [error["message"] for error in after.errors] == ["'no 1'", "'no 2'", "'no 3'"]
    assert all("in body" in error["traceback"] and error["at"] and error["worker"] for error in after.errors)
    with pytest.raises(JobFailed, match=rf"job {job.id} \(task\) failed after 3 attempts: KeyError: 'no 3'"):
        await job.aresult()


async def test_a_retry_waits_for_its_backoff(app: PgQueue) -> None:
    job = await make(app, "coroutine", raising(ValueError("x")), backoff=Backoff.fixed(500)).aenqueue()
    assert (await adrain(app)).retried == 1
    after = await job.arefresh()
    assert (after.state, after.attempt, len(after.errors)) == ("scheduled", 1, 1)
    failed_at = datetime.fromisoformat(after.errors[0]["at"])
    assert timedelta(seconds=490) < after.run_at - failed_at < timedelta(seconds=510)


async def test_a_worker_runs_a_retry_when_its_backoff_has_passed(app: PgQueue) -> None:
    def body(ctx: Context) -> int:
        if ctx.attempt < 3:
            raise ValueError(ctx.attempt)
        return ctx.attempt

    job = await make(app, "coroutine", body, backoff=Backoff.fixed(0.1)).aenqueue()
    async with app.worker(poll_interval=60):
        assert await job.aresult(DEADLINE) == 3
    assert [error["message"] for error in (await job.arefresh()).errors] == ["1", "2"]


@pytest.mark.parametrize("kind", KINDS)
async def test_retry_job_chooses_its_delay_and_uses_an_attempt(app: PgQueue, kind: str) -> None:
    job = await make(app, kind, raising(RetryJob("busy", delay=500))).aenqueue()
    await adrain(app)
    after = await job.arefresh()
    assert (after.state, after.attempt, after.errors[0]["message"]) == ("scheduled", 1, "busy")
    failed_at = datetime.fromisoformat(after.errors[0]["at"])
    assert timedelta(seconds=490) < after.run_at - failed_at < timedelta(seconds=510)


async def test_retry_job_on_the_last_attempt_fails(app: PgQueue) -> None:
    job = await make(app, "coroutine", raising(RetryJob(delay=0)), max_attempts=1).aenqueue()
    await adrain(app)
    assert (await job.arefresh()).reason == "attempts_used"


@pytest.mark.parametrize("kind", KINDS)
async def test_snooze_job_uses_no_attempt(app: PgQueue, kind: str) -> None:
    def body(ctx: Context) -> int:
        seen.append(ctx.attempt)
        if len(seen) < 4:
            raise SnoozeJob(timedelta(hours=1))
        return ctx.attempt

    seen: list[int] = []
    job = await make(app, kind, body, max_attempts=2).aenqueue()
    assert (await adrain(app)).snoozed == 1
    after = await job.arefresh()
    assert (after.state, after.attempt, after.errors) == ("scheduled", 0, ())
    assert (await adrain(app, with_scheduled=True)).completed == 1
    assert seen == [1, 1, 1, 1]
    assert await job.aresult() == 1


@pytest.mark.parametrize("kind", KINDS)
async def test_cancel_job_ends_it_without_a_failure(app: PgQueue, kind: str) -> None:
    job = await make(app, kind, raising(CancelJob("not needed"))).aenqueue()
    assert (await adrain(app)).cancelled == 1
    after = await job.arefresh()
    assert (after.state, after.reason, after.errors) == ("cancelled", "not needed", ())
    with pytest.raises(JobCancelled, match="not needed"):
        await job.aresult()


@pytest.mark.parametrize("kind", KINDS)
async def test_fail_job_fails_it_at_once(app: PgQueue, kind: str) -> None:
    def body(ctx: Context) -> None:
        try:
            raise LookupError("no such card")
        except LookupError as error:
            raise FailJob("declined") from error

    job = await make(app, kind, body).aenqueue()
    await adrain(app)
    after = await job.arefresh()
    assert (after.state, after.reason, after.attempt) == ("failed", "fail_job", 1)
    assert (after.errors[0]["type"], after.errors[0]["message"]) == ("LookupError", "no such card")


@pytest.mark.parametrize(
    "error",
    [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError(), GeneratorExit(), StopIteration()],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("kind", KINDS)
async def test_nothing_that_a_task_raises_kills_its_worker(app: PgQueue, kind: str, error: BaseException) -> None:
    bad = await make(app, kind, raising(error), max_attempts=1).aenqueue()

    @app.task(name="good")
    async def good() -> int:
        return 1

    good_job = await good.aenqueue()
    async with app.worker({"default": 1}):
        with pytest.raises(JobFailed, match=f"{type(error).__name__}|StopIteration"):
            await bad.aresult(DEADLINE)
        assert await good_job.aresult(DEADLINE) == 1
        after = await good.aenqueue()
        assert await after.aresult(DEADLINE) == 1


@pytest.mark.parametrize(
    ("signal", "state", "reason", "attempt"),
    [
        ("none", "completed", None, 1),
        ("retry", "completed", None, 2),
        ("snooze", "scheduled", None, 0),
        ("fail", "failed", "fail_job", 1),
        ("cancel", "cancelled", "not needed", 1),
        ("exit", "failed", "attempts_used", 2),
    ],
)
async def test_a_process_task_chooses_its_outcome_too(
    dsn: str, signal: str, state: str, reason: str | None, attempt: int
) -> None:
    app = process_app.app
    app.database.point_at(dsn)
    job = await process_app.process_signals.aenqueue(signal)
    await adrain(app)
    after = await job.arefresh()
    assert (after.state, after.reason, after.attempt) == (state, reason, attempt)
    await app.aclose()


async def test_a_process_that_crashes_loses_only_its_own_job(dsn: str) -> None:
    app = process_app.app
    app.database.point_at(dsn)
    bad = await process_app.process_crashes.aenqueue()
    good = await process_app.process_pid.aenqueue()
    await adrain(app, with_scheduled=True)
    after = await bad.arefresh()
    assert (after.state, after.reason, after.attempt) == ("failed", "crashed", 2)
    assert [error["type"] for error in after.errors] == ["pgqueue.errors.ProcessCrashed"] * 2
    assert "SIGSEGV" in after.errors[0]["message"]
    assert (await good.arefresh()).state == "completed"
    await app.aclose()


@pytest.mark.parametrize(
    "stored",
    ['{"n": "1"}', "{}", '{"n": 1, "more": 2}', '{"n": null}', '{"n": 1.5}'],
    ids=["type", "missing", "more", "null", "number"],
)
async def test_stored_arguments_that_do_not_fit_fail_their_job_alone(app: PgQueue, dsn: str, stored: str) -> None:
    @app.task(name="typed")
    async def typed(n: int) -> int:
        return n

    jobs = [await typed.aenqueue(n) for n in range(3)]
    with psycopg.connect(dsn) as connection:
        connection.execute("update pgqueue.jobs set args = %s where id = %s", [stored, jobs[1].id])
    await adrain(app)
    bad = app.failed.get(jobs[1].id)
    assert (bad.reason, bad.attempt) == ("bad_arguments", 1)
    assert "typed" in bad.errors[0]["message"]
    assert [await jobs[n].aresult() for n in (0, 2)] == [0, 2]


async def test_a_job_that_has_begun_is_not_given_back_while_its_end_cannot_be_stored(
    fresh_dsn: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finisher, "REFUSED_SECONDS", 0.1)
    app = PgQueue(fresh_dsn)
    runs: list[int] = []

    def body(ctx: Context) -> None:
        runs.append(ctx.attempt)
        raise ValueError("x")

    task = make(app, "coroutine", body, max_attempts=1)

    async def refused() -> bool:
        return caplog.text.count("could not be stored\n") >= 2

    async def failed() -> bool:
        return (await one(app)).state == "failed"

    with psycopg.connect(fresh_dsn, autocommit=True) as connection:
        connection.execute("alter table pgqueue.failed_jobs add constraint nothing check (task <> 'task')")
        await task.aenqueue()
        async with app.worker({"default": 1}, poll_interval=0.1) as worker:
            await until(refused)
            await worker.duties.reconciler.run_once()
            await worker.duties.reconciler.run_once()
            assert ((await one(app)).state, (await one(app)).attempt) == ("running", 1)
            connection.execute("alter table pgqueue.failed_jobs drop constraint nothing")
            await until(failed)
    assert runs == [1]
    await app.aclose()


async def test_an_error_with_unstorable_text_is_stored_readable(app: PgQueue) -> None:
    job = await make(app, "coroutine", raising(ValueError("NUL \x00 and \ud800")), max_attempts=1).aenqueue()
    await adrain(app)
    assert (await job.arefresh()).errors[0]["message"] == "NUL \\x00 and \\ud800"


async def test_an_exception_that_cannot_be_shown_fails_its_attempt_alone(app: PgQueue) -> None:
    class Awkward(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    job = await make(app, "coroutine", raising(Awkward()), max_attempts=1).aenqueue()
    await adrain(app)
    assert (await job.arefresh()).state == "failed"


async def test_a_backoff_that_raises_does_not_lose_the_job(app: PgQueue, caplog: pytest.LogCaptureFixture) -> None:
    def broken(attempt: int) -> float:
        raise ZeroDivisionError

    job = await make(app, "coroutine", raising(ValueError()), backoff=Backoff.of(broken)).aenqueue()
    await adrain(app)
    assert (await job.arefresh()).state == "scheduled"
    assert "backoff" in caplog.text


async def test_cancelling_a_running_coroutine_stops_it(app: PgQueue) -> None:
    gate = Gate(app, "wait")
    job = await gate.task.aenqueue()
    async with app.worker():
        await gate.enters()
        assert await job.acancel()
        with pytest.raises(JobCancelled, match="cancelled while it ran"):
            await job.aresult(DEADLINE)
    assert gate.inside == 0


async def test_a_job_that_goes_on_after_its_cancellation_is_stopped_with_its_worker(app: PgQueue) -> None:
    cancelled = asyncio.Event()

    @app.task(name="stubborn")
    async def stubborn() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
        await asyncio.Event().wait()

    job = await stubborn.aenqueue()
    async with app.worker(shutdown_timeout=0.0):
        while (await job.arefresh()).state != "running":  # noqa: ASYNC110 - what ends the wait is in the database
            await asyncio.sleep(0.01)
        assert await job.acancel()
        async with asyncio.timeout(DEADLINE):
            await cancelled.wait()
    assert (await job.arefresh()).state == "cancelled"


async def test_cancelling_a_running_process_kills_it(dsn: str) -> None:
    app = process_app.app
    app.database.point_at(dsn)
    started = asyncio.Event()
    app.on("started", lambda event: started.set())
    job = await process_app.process_waits.aenqueue()
    async with app.worker():
        await asyncio.wait_for(started.wait(), DEADLINE)
        assert await job.acancel()
        with pytest.raises(JobCancelled):
            await job.aresult(DEADLINE)
    await app.aclose()


async def test_cancelling_a_running_thread_tells_it(app: PgQueue) -> None:
    entered = asyncio.Event()
    loop = asyncio.get_running_loop()

    @app.task(name="thread", bind=True)
    def thread(ctx: Context) -> None:
        loop.call_soon_threadsafe(entered.set)
        while True:
            ctx.check_cancelled()

    job = await thread.aenqueue()
    async with app.worker():
        await asyncio.wait_for(entered.wait(), DEADLINE)
        await job.acancel()
        with pytest.raises(JobCancelled):
            await job.aresult(DEADLINE)


async def test_a_cancelled_job_is_not_retried_when_its_run_fails(app: PgQueue) -> None:
    entered, go = asyncio.Event(), asyncio.Event()

    @app.task(name="stubborn")
    async def stubborn() -> None:
        entered.set()
        try:
            await go.wait()
        finally:
            raise ValueError("while it was being stopped")

    job = await stubborn.aenqueue()
    async with app.worker():
        await asyncio.wait_for(entered.wait(), DEADLINE)
        await job.acancel()
        with pytest.raises(JobCancelled):
            await job.aresult(DEADLINE)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("options", "error", "retried"),
    [
        ({"give_up_on": LookupError}, KeyError("x"), False),
        ({"give_up_on": LookupError}, ValueError("x"), True),
        ({"retry_on": (ConnectionError, TimeoutError)}, ConnectionResetError("x"), True),
        ({"retry_on": (ConnectionError, TimeoutError)}, ValueError("x"), False),
        ({"retry_on": OSError, "give_up_on": FileNotFoundError}, FileNotFoundError("x"), False),
        ({"retry_on": OSError}, RetryJob("again", delay=60), True),
        ({"give_up_on": Exception}, SnoozeJob(60), True),
    ],
)
async def test_a_task_says_which_errors_are_retried(
    app: PgQueue, kind: str, options: Any, error: BaseException, retried: bool
) -> None:
    job = await make(app, kind, raising(error), backoff=Backoff.fixed(60), **options).aenqueue()
    await adrain(app)
    after = await job.arefresh()
    assert (after.state, after.reason) == (("scheduled", None) if retried else ("failed", "gave_up"))


async def test_a_task_in_a_process_says_which_errors_are_retried(dsn: str) -> None:
    app = process_app.app
    app.database.point_at(dsn)
    job = await process_app.process_gives_up.aenqueue()
    await adrain(app)
    assert (await job.arefresh()).reason == "gave_up"
    await app.aclose()


async def test_a_timeout_is_an_error_like_others(app: PgQueue) -> None:
    @app.task(name="slow", timeout=0.01, give_up_on=TimeoutError)
    async def slow() -> None:
        await asyncio.sleep(DEADLINE)

    job = await slow.aenqueue()
    await adrain(app)
    assert (await job.arefresh()).reason == "gave_up"


@pytest.mark.parametrize("option", ["retry_on", "give_up_on"])
@pytest.mark.parametrize("wrong", ["KeyError", KeyError("x"), (KeyError, "x"), ()])
def test_only_exception_classes_can_be_retried_or_given_up(app: PgQueue, option: str, wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"{option}=.* must be an exception class"):
        make(app, "thread", raising(KeyError()), **{option: wrong})
