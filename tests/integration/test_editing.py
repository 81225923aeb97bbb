"""Jobs that are changed while they wait, and what an edit must not break."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from pgqueue import (
    ArgumentError,
    ConfigurationError,
    Context,
    JobNotEditable,
    JobNotFound,
    Limit,
    PgQueue,
    RetryJob,
    Task,
    Unique,
)
from pgqueue.testing import adrain, drain
from tests.integration.waiting import DEADLINE, Gate


@pytest.fixture
def ran() -> list[Any]:
    return []


@pytest.fixture
def send(app: PgQueue, ran: list[Any]) -> Task[..., None]:
    @app.task(name="send", queue="mail")
    def send(to: str, copies: int = 1, at: datetime | None = None) -> None:
        ran.append((to, copies) if at is None else (to, copies, at))

    return send


def test_an_edited_job_runs_with_its_new_arguments(app: PgQueue, send: Task[..., None], ran: list[Any]) -> None:
    job = send.enqueue("a", copies=2)
    edited = app.jobs.edit(job.id, {"to": "b"}, unset=["copies"], max_attempts=3, priority=5)
    assert (dict(edited.args), edited.max_attempts, edited.priority) == ({"to": "b"}, 3, 5)
    later = send.using(delay=60).enqueue("c")
    time = datetime(2026, 1, 2, tzinfo=UTC)
    assert app.jobs.edit(later.id, {"at": time}, delay=0).state == "available"
    drain(app)
    assert sorted(ran) == [("b", 1), ("c", 1, time)]


def test_what_is_not_given_stays(app: PgQueue, send: Task[..., None]) -> None:
    job = send.using(delay=60, priority=3, max_attempts=7, tags=["a"]).enqueue("a")
    before = app.jobs.get(job.id)
    after = app.jobs.edit(job.id, {"to": "b"})
    assert after.state == "scheduled"
    for name in ("queue", "priority", "max_attempts", "run_at", "created_at", "tags", "attempt"):
        assert getattr(after, name) == getattr(before, name), name
    # And what is given as it is changes nothing.
    assert app.jobs.edit(job.id, {"to": "b"}, queue="mail", priority=3) == after


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"args": {"copies": "x"}}, "copies"),
        ({"args": {"cc": "x"}}, "cc"),
        ({"unset": ["to"]}, "to"),
        ({"unset": "to"}, "must be a list of names"),
        ({"args": {"to": object()}}, "to"),
        ({}, "nothing is to change"),
        ({"priority": 10**6}, "priority=1000000 must be"),
        ({"max_attempts": 0}, "max_attempts=0 must be"),
        ({"queue": "no such name"}, "no such name"),
        ({"run_at": datetime(2026, 1, 1)}, "aware"),
        ({"run_at": datetime.now(UTC), "delay": 1}, "give one of the two"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(
    app: PgQueue, send: Task[..., None], change: dict[str, Any], message: str
) -> None:
    job = app.jobs.get(send.enqueue("a").id)
    with pytest.raises((ArgumentError, ConfigurationError), match=message):
        app.jobs.edit(job.id, **change)
    assert app.jobs.get(job.id) == job


def test_arguments_of_a_task_that_this_app_does_not_have_are_json_and_no_more(app: PgQueue) -> None:
    job = app.enqueue("elsewhere", {"a": True, "b": 2})
    assert dict(app.jobs.edit(job.id, {"a": 1}, unset=["b"]).args) == {"a": 1}
    with pytest.raises(JobNotEditable, match="has no argument 'b' to leave out: it has a"):
        app.jobs.edit(job.id, unset=["b"])


async def test_a_job_that_runs_or_has_ended_is_refused(app: PgQueue) -> None:
    gate = Gate(app, "gate")
    job = await gate.task.aenqueue()
    async with app.worker():
        await gate.enters()
        with pytest.raises(JobNotEditable, match=f"job {job.id} runs: a worker has read it"):
            await app.jobs.aedit(job.id, {"n": 2})
        gate.opened.set()
        assert await job.aresult(DEADLINE) == 0
    with pytest.raises(JobNotEditable, match=rf"job {job.id} has ended \(completed\)"):
        await app.jobs.aedit(job.id, {"n": 2})
    with pytest.raises(JobNotFound):
        await app.jobs.aedit(10**9, {"n": 2})


async def test_a_job_that_is_claimed_while_an_edit_waits_for_it_is_refused(
    app: PgQueue, send: Task[..., None], dsn: str
) -> None:
    job = await send.aenqueue("a")
    async with await psycopg.AsyncConnection.connect(dsn) as claimer:
        await claimer.execute("update pgqueue.jobs set state = 'running', claim_id = 1")
        edit = asyncio.create_task(app.jobs.aedit(job.id, {"to": "b"}))
        async with asyncio.timeout(DEADLINE), await psycopg.AsyncConnection.connect(dsn, autocommit=True) as looking:
            waits = "select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
            while not await (await looking.execute(waits)).fetchall():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await claimer.commit()
        with pytest.raises(JobNotEditable, match="runs"):
            await edit
    assert dict(app.jobs.get(job.id).args) == {"to": "a"}


def test_an_edit_is_part_of_the_callers_transaction(app: PgQueue, send: Task[..., None], dsn: str) -> None:
    job = send.enqueue("a")
    with psycopg.connect(dsn) as conn:
        app.jobs.edit(job.id, {"to": "b"}, using=conn)
        conn.rollback()
    assert dict(app.jobs.get(job.id).args) == {"to": "a"}


async def test_a_worker_finds_a_job_whose_priority_or_queue_was_changed(
    app: PgQueue, send: Task[..., None], ran: list[Any]
) -> None:
    app.queues["mail"].pause()
    jobs = [await send.aenqueue(str(n)) for n in range(4)]
    async with app.worker({"mail": 1, "other": 1}):
        await app.jobs.aedit(jobs[3].id, priority=-1)
        await app.jobs.aedit(jobs[1].id, priority=9)
        await app.jobs.aedit(jobs[2].id, queue="other")
        await app.jobs.await_(jobs[2].id, DEADLINE)
        app.queues["mail"].resume()
        for job in jobs:
            await app.jobs.await_(job.id, DEADLINE)
    assert [to for to, _ in ran] == ["2", "3", "0", "1"]


def test_attempts_that_are_used_bound_max_attempts(app: PgQueue, dsn: str) -> None:
    @app.task(name="fails")
    def fails() -> None:
        raise RetryJob(delay=3600)

    job = fails.enqueue()
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(
            "update pgqueue.jobs set attempt = 2, state = 'scheduled', position = null, run_at = now() + interval '1 h'"
        )
    with pytest.raises(JobNotEditable, match="has used 2 of its attempts: max_attempts=2 leaves none; give 3 or more"):
        app.jobs.edit(job.id, max_attempts=2)
    assert app.jobs.edit(job.id, max_attempts=3).max_attempts == 3


@pytest.mark.parametrize("has_code", [True, False])
def test_arguments_that_a_key_is_made_of_are_refused_and_others_are_not(app: PgQueue, has_code: bool) -> None:
    @app.task(name="thumb", unique=Unique("thumb:{image}"), serial_key="{owner}")
    def thumb(image: int, owner: str, size: int = 1) -> None: ...

    job = thumb.enqueue(1, "ann")
    if not has_code:
        # Its worker has said what its keys are made of.
        drain(app, ["none"])
        app = PgQueue(app.database.dsn)
    with pytest.raises(
        JobNotEditable, match=r"holds the unique key 'thumb:1', which is made of image \(thumb:\{image\}\)"
    ):
        app.jobs.edit(job.id, {"image": 2})
    with pytest.raises(JobNotEditable, match="holds the serial key 'ann', which is made of owner"):
        app.jobs.edit(job.id, {"owner": "bob"})
    with pytest.raises(JobNotEditable, match="has the unique key 'thumb:1', which holds within queue default"):
        app.jobs.edit(job.id, queue="other")
    edited = app.jobs.edit(job.id, {"image": 1, "owner": "ann", "size": 2}, priority=1)
    assert (edited.args["size"], edited.key, edited.serial_key) == (2, "thumb:1", "ann")
    assert not thumb.enqueue(1, "ann").created


async def test_a_job_that_has_done_steps_keeps_its_arguments(app: PgQueue) -> None:
    @app.task(name="steps", bind=True, max_attempts=2)
    def steps(ctx: Context, n: int) -> None:
        ctx.step("one", lambda: n)
        raise RetryJob(delay=3600)

    job = await steps.aenqueue(1)
    async with app.worker():
        async with asyncio.timeout(DEADLINE):
            while (await app.jobs.aget(job.id)).state != "scheduled":  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    with pytest.raises(JobNotEditable, match="has done steps with the arguments that it has"):
        await app.jobs.aedit(job.id, {"n": 2})
    assert (await app.jobs.aedit(job.id, {"n": 1}, max_attempts=9)).max_attempts == 9


async def test_a_job_at_a_limit_of_its_old_arguments_passes_that_of_its_new_ones(app: PgQueue) -> None:
    gate = Gate(app, "gate", limit=Limit(concurrency=1, key="{n}"))
    first, second = [await gate.task.aenqueue(1) for _ in range(2)]
    async with app.worker():
        assert await gate.enters() == 1
        await blocked(app, second.id)
        assert (await app.jobs.aedit(second.id, priority=4)).state == "blocked"
        await app.jobs.aedit(second.id, {"n": 2})
        assert await gate.enters() == 2
        gate.opened.set()
        assert [await first.aresult(DEADLINE), await second.aresult(DEADLINE)] == [1, 2]


async def test_a_job_that_waits_for_its_serial_key_keeps_its_turn(app: PgQueue) -> None:
    gate = Gate(app, "gate", serial_key="s")
    jobs = [await gate.task.aenqueue(n) for n in range(3)]
    async with app.worker():
        assert await gate.enters() == 0
        await blocked(app, jobs[1].id)
        await blocked(app, jobs[2].id)
        assert (await app.jobs.aedit(jobs[1].id, {"n": 11})).state == "blocked"
        gate.opened.set()
        assert [await gate.enters(), await gate.enters()] == [11, 2]
        assert await jobs[2].aresult(DEADLINE) == 2


async def test_a_parent_is_edited_and_goes_on_to_wait(app: PgQueue, send: Task[..., None], ran: list[Any]) -> None:
    child = await send.using(delay=timedelta(hours=1)).aenqueue("child")
    parent = await send.using(after=[child.id]).aenqueue("parent")
    edited = await app.jobs.aedit(parent.id, {"to": "other"}, queue="elsewhere", priority=3, delay=0)
    assert (edited.state, edited.queue) == ("blocked", "elsewhere")
    assert (await app.jobs.aedit(child.id, {"to": "first"}, run_at=datetime.now(UTC))).state == "available"
    await adrain(app, ["mail", "elsewhere"])
    assert ran == [("first", 1), ("other", 1)]
    flow = app.flows.list(limit=1)[0]
    assert {one.queue for one in app.flows.jobs(flow.id)} == {"mail", "elsewhere"}


async def blocked(app: PgQueue, job_id: int) -> None:
    async with asyncio.timeout(DEADLINE):
        while (await app.jobs.aget(job_id)).state != "blocked":  # noqa: ASYNC110
            await asyncio.sleep(0.01)
