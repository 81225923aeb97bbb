"""Timeouts: a coroutine is cancelled, a thread is told and its result refused, a process is killed."""

from __future__ import annotations

import asyncio
import threading

import pytest

from pgqueue import Context, JobFailed, PgQueue, current_job
from pgqueue.testing import adrain
from tests.integration import process_app
from tests.integration.waiting import DEADLINE, states

SHORT = 0.05


async def test_a_coroutine_is_cancelled(app: PgQueue) -> None:
    ended = asyncio.Event()

    @app.task(name="slow", timeout=SHORT, max_attempts=1)
    async def slow() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    job = await slow.aenqueue()
    await adrain(app)
    assert ended.is_set()
    after = await job.arefresh()
    assert (after.state, after.reason) == ("failed", "attempts_used")
    assert after.errors[0]["type"] == "pgqueue.errors.TaskTimeout"
    assert after.errors[0]["message"] == "task slow ran longer than its timeout of 0.05 s"


async def test_a_timeout_uses_an_attempt_and_is_retried(app: PgQueue) -> None:
    @app.task(name="slow_once", bind=True, timeout=SHORT)
    async def slow_once(ctx: Context) -> int:
        if ctx.attempt == 1:
            await asyncio.Event().wait()
        return ctx.attempt

    job = await slow_once.aenqueue()
    report = await adrain(app, with_scheduled=True)
    assert (report.retried, report.completed) == (1, 1)
    assert await job.aresult() == 2


async def test_a_timeout_error_of_the_task_itself_is_its_own(app: PgQueue) -> None:
    @app.task(name="inner", timeout=60, max_attempts=1)
    async def inner() -> None:
        async with asyncio.timeout(0):
            await asyncio.Event().wait()

    job = await inner.aenqueue()
    await adrain(app)
    assert (await job.arefresh()).errors[0]["type"] == "TimeoutError"


async def test_a_thread_is_told_and_its_result_is_refused(app: PgQueue) -> None:
    go, told = threading.Event(), threading.Event()

    @app.task(name="slow", timeout=SHORT, max_attempts=1)
    def slow() -> str:
        assert go.wait(DEADLINE)
        if current_job().stopped:
            told.set()
        return "too late"

    job = await slow.aenqueue()
    async with app.worker():
        with pytest.raises(JobFailed, match=r"slow ran longer than its timeout of 0.05 s"):
            await job.aresult(DEADLINE)
        go.set()
        assert await asyncio.to_thread(told.wait, DEADLINE)
    assert (await job.arefresh()).value is None


async def test_a_thread_that_checks_ends_by_itself(app: PgQueue) -> None:
    ended = threading.Event()

    @app.task(name="polite", bind=True, timeout=SHORT, max_attempts=1)
    def polite(ctx: Context) -> None:
        try:
            while True:
                ctx.check_cancelled()
        finally:
            ended.set()

    job = await polite.aenqueue()
    async with app.worker():
        with pytest.raises(JobFailed):
            await job.aresult(DEADLINE)
        assert await asyncio.to_thread(ended.wait, DEADLINE)


async def test_the_slot_of_a_thread_that_timed_out_is_taken_until_it_returns(app: PgQueue) -> None:
    go = threading.Event()

    @app.task(name="slow", timeout=SHORT, max_attempts=1)
    def slow() -> None:
        assert go.wait(DEADLINE)

    @app.task(name="next")
    def following() -> None: ...

    first, second = await slow.aenqueue(), await following.aenqueue()
    async with app.worker({"default": 1}):
        with pytest.raises(JobFailed):
            await first.aresult(DEADLINE)
        assert (await states(app))["completed"] == 0
        go.set()
        await second.aresult(DEADLINE)


async def test_a_process_is_killed(dsn: str) -> None:
    app = process_app.app
    app.database.point_at(dsn)
    job = await process_app.process_waits.using(timeout=0.2).aenqueue()
    await adrain(app)
    after = await job.arefresh()
    assert (after.state, after.errors[0]["type"]) == ("failed", "pgqueue.errors.TaskTimeout")
    assert "0.2 s" in after.errors[0]["message"]
    await app.aclose()


@pytest.mark.parametrize("level", ["job", "task", "queue", "app"])
async def test_the_timeout_of_the_job_goes_over_the_tasks_the_queues_and_the_apps(dsn: str, level: str) -> None:
    """Each level in turn is the first that has the short one; those above it have none, those below a long one."""
    levels = ["job", "task", "queue", "app"]
    timeouts: dict[str, float | None] = dict.fromkeys(levels[levels.index(level) + 1 :], 3600.0)
    timeouts[level] = SHORT
    app = PgQueue(dsn, timeout=timeouts.get("app"))
    app.queue("limited", timeout=timeouts.get("queue"))

    @app.task(name="slow", timeout=timeouts.get("task"), max_attempts=1)
    async def slow() -> None:
        await asyncio.Event().wait()

    job = await slow.using(queue="limited", timeout=timeouts.get("job")).aenqueue()
    await adrain(app)
    assert (await job.arefresh()).errors[0]["type"] == "pgqueue.errors.TaskTimeout"
    await app.aclose()
