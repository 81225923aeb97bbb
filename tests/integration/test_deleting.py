"""Jobs that are deleted by id, also where flows, keys and limits have to do with them."""

from __future__ import annotations

import asyncio
from typing import Any

import psycopg
import pytest

from pgqueue import Context, FailJob, JobNotFound, Limit, PgQueue, chain
from pgqueue.flow import OnFailure
from pgqueue.testing import adrain, aenqueued, drain, enqueued
from tests.integration.waiting import DEADLINE, Gate


def left(app: PgQueue) -> list[int]:
    return sorted(job.id for job in enqueued(app))


def test_waiting_and_ended_jobs_are_deleted_with_what_they_have_told(app: PgQueue, dsn: str) -> None:
    @app.task(name="t", bind=True)
    def t(ctx: Context, n: int) -> None:
        ctx.log("hello")
        ctx.progress(50)
        if n < 0:
            raise FailJob("no")

    ended, failed, kept = (t.enqueue(n).id for n in (1, -1, 2))
    drain(app)
    available, later, cancelled = t.enqueue(3).id, t.using(delay=60).enqueue(4).id, t.enqueue(5).id
    app.jobs.cancel(cancelled)
    assert app.jobs.delete([ended, failed, available, later, cancelled, 10**9]) == sorted(
        [ended, failed, available, later, cancelled]
    )
    assert left(app) == [kept]
    assert app.jobs.delete(ended) == []
    with psycopg.connect(dsn) as conn:
        for table in ("job_logs", "job_progress"):
            assert conn.execute(f"select distinct job_id from pgqueue.{table}").fetchall() == [(kept,)]
    with pytest.raises(JobNotFound):
        app.jobs.get(ended)


async def test_a_running_job_stays_and_is_not_asked_to_stop(app: PgQueue) -> None:
    gate = Gate(app, "gate")
    job = await gate.task.aenqueue()
    async with app.worker():
        await gate.enters()
        assert await app.jobs.adelete(job.id) == []
        gate.opened.set()
        assert await job.aresult(DEADLINE) == 0


def test_a_deleted_job_frees_its_key_and_its_place(app: PgQueue) -> None:
    ran: list[int] = []

    @app.task(name="t", serial_key="s")
    def t(n: int) -> None:
        ran.append(n)
        if n < 2:
            raise FailJob("no")

    held = t.using(key="k", delay=60).enqueue(0)
    assert app.jobs.delete(held.id) == [held.id]
    assert t.using(key="k").enqueue(5).created
    drain(app)
    assert ran == [5]


def test_a_deleted_failed_job_lets_the_serial_key_go_that_it_halts(app: PgQueue) -> None:
    ran: list[int] = []

    @app.task(name="t", serial_key="s", halt_on_failed=True)
    def t(n: int) -> None:
        ran.append(n)
        if n == 0:
            raise FailJob("no")

    halts = t.enqueue(0)
    drain(app)
    t.enqueue(1)
    drain(app)
    assert ran == [0]
    assert app.jobs.delete(halts.id) == [halts.id]
    drain(app)
    assert ran == [0, 1]


async def test_a_job_that_is_parked_at_a_limit_is_deleted(app: PgQueue) -> None:
    gate = Gate(app, "gate", limit=Limit(concurrency=1))
    jobs = [await gate.task.aenqueue(n) for n in range(3)]
    async with app.worker():
        assert await gate.enters() == 0
        async with asyncio.timeout(DEADLINE):
            while (await app.jobs.aget(jobs[1].id)).state != "blocked":  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert await app.jobs.adelete(jobs[1].id) == [jobs[1].id]
        gate.opened.set()
        assert await gate.enters() == 2
        assert await jobs[2].aresult(DEADLINE) == 2


def family(app: PgQueue, on_failure: OnFailure) -> tuple[Any, Any]:
    """A parent that waits for a child that is to run later."""

    @app.task(name="child")
    def child() -> None: ...

    @app.task(name="parent")
    def parent() -> None: ...

    first = child.using(delay=60).enqueue()
    return first, parent.using(after=[first.id], on_failure=on_failure).enqueue()


@pytest.mark.parametrize(("on_failure", "state"), [("fail_parent", "failed"), ("ignore", "completed")])
async def test_a_waiting_child_that_is_deleted_counts_as_cancelled(
    app: PgQueue, on_failure: OnFailure, state: str
) -> None:
    child, parent = family(app, on_failure)
    assert await app.jobs.adelete(child.id) == [child.id]
    await adrain(app)
    assert (await app.jobs.aget(parent.id)).state == state


async def test_a_parent_that_is_deleted_leaves_its_children_to_run(app: PgQueue) -> None:
    child, parent = family(app, "fail_parent")
    assert await app.jobs.adelete(parent.id) == [parent.id]
    app.jobs.reschedule(child.id)
    await adrain(app)
    assert [(job.id, job.state) for job in await aenqueued(app)] == [(child.id, "completed")]


async def test_a_parent_has_the_result_of_a_completed_child_that_was_deleted(app: PgQueue) -> None:
    @app.task(name="child")
    def child() -> int:
        return 7

    @app.task(name="parent", bind=True)
    def parent(ctx: Context) -> list[Any]:
        return [one.result for one in ctx.children()]

    first, second = child.enqueue(), child.using(delay=60).enqueue()
    last = parent.using(after=[first.id, second.id]).enqueue()
    await adrain(app)
    assert await app.jobs.adelete(first.id) == [first.id]
    app.jobs.reschedule(second.id)
    await adrain(app)
    assert (await app.jobs.aget(last.id)).value == [7, 7]


async def test_a_parent_that_waits_for_a_redrive_fails_when_the_failed_child_is_deleted(app: PgQueue) -> None:
    @app.task(name="child")
    def child() -> None:
        raise FailJob("no")

    @app.task(name="parent")
    def parent() -> None: ...

    first, second = app.flows.enqueue(chain(child.job(), parent.job(), on_failure="wait")).jobs
    await adrain(app)
    assert (await app.jobs.aget(second.id)).state == "blocked"
    assert await app.jobs.adelete(first.id) == [first.id]
    await adrain(app)
    [last] = await aenqueued(app)
    assert (last.id, last.state) == (second.id, "failed")


async def test_a_job_that_is_being_redriven_stays_and_nobody_waits_for_it(app: PgQueue, dsn: str) -> None:
    @app.task(name="fails", max_attempts=1)
    def fails() -> None:
        raise FailJob("no")

    failed = fails.using(key="k").enqueue()
    await adrain(app)
    # A redrive holds the failed job, and waits for the key of the waiting one.
    waiting = fails.using(key="k", delay=60).enqueue()
    with psycopg.connect(dsn) as conn:
        conn.execute("set lock_timeout = '10s'")
        conn.execute("select from pgqueue.failed_jobs where id = %s for update", [failed.id])
        assert await app.jobs.adelete([failed.id, waiting.id]) == [waiting.id]
    assert await app.jobs.adelete([failed.id]) == [failed.id]
