"""Looking at jobs and operating on them: by id, key and filter; sync and async."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from pgqueue import (
    ArgumentError,
    ConfigurationError,
    Job,
    JobCancelled,
    JobEnded,
    JobNotFound,
    PgQueue,
    ResultTimeout,
    Task,
)
from pgqueue.testing import adrain, drain, enqueued
from tests.integration.waiting import DEADLINE, Gate


@pytest.fixture
def send(app: PgQueue) -> Task[[int], int]:
    @app.task(name="send")
    def send(n: int) -> int:
        return n

    return send


def test_a_job_is_found_by_its_id_whatever_became_of_it(app: PgQueue, send: Task[[int], int]) -> None:
    live, done, gone = send.using(delay=60).enqueue(1), send.enqueue(2), send.using(delay=60).enqueue(3)
    gone.cancel()
    drain(app)
    assert [app.jobs.get(job.id).state for job in (live, done, gone)] == ["scheduled", "completed", "cancelled"]
    assert app.jobs.get(live.id) == live
    with pytest.raises(JobNotFound, match="id 4711: it never was, its transaction has not committed yet, or its"):
        app.jobs.get(4711)


def test_jobs_are_listed_newest_first_by_filter(app: PgQueue, send: Task[[int], int]) -> None:
    made = [send.using(queue=queue, tags=[f"t{n}"]).enqueue(n) for n, queue in enumerate(["a", "b", "a"])]
    app.enqueue("other", queue="a", key="k")
    assert [job.id for job in app.jobs.list(task="send")] == [job.id for job in reversed(made)]
    assert [job.args["n"] for job in app.jobs.list(task="send", queue="a")] == [2, 0]
    assert [job.args["n"] for job in app.jobs.list(tag="t1")] == [1]
    assert [job.task for job in app.jobs.list(key="k")] == ["other"]
    assert [job.id for job in app.jobs.list(ids=(made[0].id, made[1].id))] == [made[1].id, made[0].id]
    assert [job.id for job in app.jobs.list(before=made[1].id)] == [made[0].id]
    assert len(app.jobs.list(limit=2)) == 2
    assert (app.jobs.count(), app.jobs.count(queue="a"), app.jobs.count(state="running")) == (4, 3, 0)
    assert app.jobs.list(queue="a")[0].cancel()


def test_a_job_refreshes_to_what_it_is_now(app: PgQueue, send: Task[[int], int]) -> None:
    job = send.enqueue(5)
    assert repr(job) == f"<Job {job.id} send available>"
    drain(app)
    assert job.state == "available"
    assert (job.refresh().state, job.refresh().value) == ("completed", 5)


async def test_a_result_is_waited_for(app: PgQueue) -> None:
    gate = Gate(app, "wait")
    job = await gate.task.aenqueue(7)
    async with app.worker():
        waiting = asyncio.create_task(job.aresult(DEADLINE))
        other = asyncio.create_task(asyncio.to_thread(job.result, DEADLINE))
        await gate.enters()
        assert not waiting.done()
        gate.opened.set()
        assert (await waiting, await other) == (7, 7)


async def test_waiting_for_a_result_ends_after_its_timeout(app: PgQueue, send: Task[[int], int]) -> None:
    job = await send.aenqueue(1)
    with pytest.raises(ResultTimeout, match=rf"job {job.id} \(send\) is still available after 0.05 s"):
        await job.aresult(0.05)
    with pytest.raises(ResultTimeout):
        await asyncio.to_thread(job.result, 0)


async def test_waiting_for_a_result_inside_an_event_loop_names_the_other_form(
    app: PgQueue, send: Task[[int], int]
) -> None:
    job = await send.aenqueue(1)
    with pytest.raises(ConfigurationError, match=r"use `await job\.aresult\(…\)`"):
        job.result(0)


def test_a_cancelled_job_has_no_result(app: PgQueue, send: Task[[int], int]) -> None:
    job = send.enqueue(1)
    assert job.cancel()
    assert not job.cancel()
    with pytest.raises(JobCancelled, match=rf"job {job.id} \(send\) was cancelled: cancelled"):
        job.result(0)


def test_waiting_jobs_are_cancelled_by_id_and_by_key(app: PgQueue, send: Task[[int], int]) -> None:
    by_id = [send.enqueue(n) for n in range(3)]
    by_key = send.using(key="k").enqueue(3)
    assert sorted(app.jobs.cancel([job.id for job in by_id[:2]], why="not needed")) == [by_id[0].id, by_id[1].id]
    assert app.jobs.cancel(key="k") == [by_key.id]
    assert app.jobs.cancel(key="k") == []
    assert app.jobs.cancel(4711) == []
    assert by_id[0].refresh().reason == "not needed"
    assert send.using(key="k").enqueue(4).created
    with pytest.raises(ArgumentError, match="either an id or key="):
        app.jobs.cancel()
    with pytest.raises(ArgumentError, match="either an id or key="):
        app.jobs.cancel(1, key="k")


@pytest.mark.parametrize("wrong", ["12", "abc", b"12", True, 1.5, 2**70, [1, "2"], object()])
def test_what_is_no_id_is_refused_and_changes_nothing(app: PgQueue, send: Task[[int], int], wrong: Any) -> None:
    jobs = app.enqueue_many([send.job(n) for n in range(12)])
    for operation in (app.jobs.cancel, app.jobs.get, app.jobs.reschedule, app.failed.redrive, app.failed.purge):
        with pytest.raises(ArgumentError, match="is no job id: give a whole number"):
            operation(wrong)
    assert app.jobs.count(state="available") == len(jobs)
    assert app.jobs.cancel([jobs[0].id, jobs[1].id]) == [jobs[0].id, jobs[1].id]


def test_cancelling_a_scheduled_job_cancels_it_at_once(app: PgQueue, send: Task[[int], int]) -> None:
    job = send.using(delay=3600).enqueue(1)
    assert job.cancel()
    assert job.refresh().state == "cancelled"


def test_a_waiting_job_is_rescheduled_by_id_and_by_key(app: PgQueue, send: Task[[int], int]) -> None:
    job, keyed = send.enqueue(1), send.using(key="k", delay=60).enqueue(2)
    when = datetime(2100, 1, 1, tzinfo=UTC)
    assert app.jobs.reschedule(job.id, run_at=when)
    assert (job.refresh().state, job.refresh().run_at) == ("scheduled", when)
    assert app.jobs.reschedule(key="k", delay=timedelta())
    assert keyed.refresh().state == "available"
    assert not app.jobs.reschedule(key="unknown")
    assert not app.jobs.reschedule(4711)
    with pytest.raises(ArgumentError, match=r"run_at=.* must be an aware datetime"):
        app.jobs.reschedule(job.id, run_at=datetime(2100, 1, 1))
    with pytest.raises(ArgumentError, match="either an id or key="):
        app.jobs.reschedule()
    assert [each.args["n"] for each in enqueued(app)] == [1, 2]


async def test_a_running_job_is_not_rescheduled(app: PgQueue) -> None:
    gate = Gate(app, "wait")
    job = await gate.task.using(key="k").aenqueue()
    async with app.worker():
        await gate.enters()
        assert not await app.jobs.areschedule(job.id, delay=60)
        assert not await app.jobs.areschedule(key="k", delay=60)
        found = await app.jobs.afind("k")
        assert found is not None
        assert found.state == "running"
        gate.opened.set()


def test_a_job_is_found_by_its_key_while_it_lives(app: PgQueue, send: Task[[int], int]) -> None:
    job = send.using(key="k").enqueue(1)
    assert app.jobs.find("k") == job
    assert app.jobs.find("k", queue="elsewhere") is None
    drain(app)
    assert app.jobs.find("k") is None


async def test_every_verb_has_an_async_form(app: PgQueue, send: Task[[int], int]) -> None:
    job = await send.using(key="k", delay=60).aenqueue(1)
    assert (await app.jobs.aget(job.id)) == job
    assert (await app.jobs.afind("k")) == job
    assert await app.jobs.areschedule(key="k")
    await adrain(app)
    assert (await job.arefresh()).state == "completed"
    assert await job.aresult() == 1
    assert await app.jobs.acancel(key="k") == []
    assert not await job.acancel()
    with pytest.raises(JobNotFound):
        await app.jobs.aget(4711)


def test_queues_are_paused_resumed_and_counted(app: PgQueue, send: Task[[int], int], dsn: str) -> None:
    send.using(queue="email").enqueue(1)
    send.using(queue="email", delay=60).enqueue(2)
    app.queues["email"].pause()
    stats = app.queues["email"].stats()
    assert stats is not None
    assert (stats.paused, stats.available, stats.scheduled, stats.running) == (True, 1, 1, 0)
    app.queues["email"].resume()
    assert [(row.queue, row.paused) for row in app.queues.stats()] == [("email", False)]
    assert app.queues["unheard-of"].stats() is None
    with pytest.raises(ConfigurationError, match="queue name 'no spaces'"):
        app.queues["no spaces"]
    with psycopg.connect(dsn) as connection:
        assert connection.execute("select available from pgqueue.queue_stats").fetchall() == [(1,)]


def test_a_job_that_is_due_and_not_yet_promoted_counts_as_waiting(
    app: PgQueue, send: Task[[int], int], dsn: str
) -> None:
    for queue, run_at in (("due", timedelta(hours=-1)), ("later", timedelta(hours=1))):
        job = send.using(queue=queue, delay=60).enqueue(1)
        with psycopg.connect(dsn) as connection:
            connection.execute(
                "update pgqueue.jobs set run_at = clock_timestamp() + %s where id = %s", [run_at, job.id]
            )
    [due, later] = app.queues.stats()
    assert (due.scheduled, due.due, later.scheduled, later.due) == (1, 1, 1, 0)
    assert due.oldest_waiting is not None
    assert due.oldest_waiting > timedelta(minutes=59)
    assert later.oldest_waiting is None


def test_a_job_that_was_read_without_an_app_says_how_to_get_one_with(app: PgQueue) -> None:
    job = Job(7, "default", "send", {}, "available", 0, 0, 25, datetime.now(UTC))
    with pytest.raises(ConfigurationError, match=r"use app.jobs.get\(7\)"):
        job.refresh()


DEEP = "[" * 300 + "]" * 300


@pytest.mark.parametrize(
    ("column", "stored"),
    [
        ("args", f'{{"n": {DEEP}}}'),
        ("args", '{"n": 1' + "0" * 5000 + "}"),
        ("headers", "[1]"),
        ("headers", f'{{"trace": {DEEP}}}'),
        ("errors", '"text"'),
        ("errors", "[1]"),
    ],
    ids=["deep args", "huge number", "headers no object", "deep headers", "errors no list", "errors no objects"],
)
def test_a_row_that_cannot_be_read_is_listed_with_why_among_the_others(
    app: PgQueue, send: Task[[int], int], dsn: str, column: str, stored: str
) -> None:
    before, odd, after = (send.using(tags=["t"], key=str(n)).enqueue(n) for n in range(3))
    with psycopg.connect(dsn) as connection:
        connection.execute(f"update pgqueue.jobs set {column} = %s::jsonb where id = %s", [stored, odd.id])
    listed = {job.id: job for job in app.jobs.list(tag="t")}
    assert (listed[before.id].unreadable, listed[after.id].unreadable) == (None, None)
    for seen in (listed[odd.id], app.jobs.get(odd.id)):
        assert (seen.id, seen.state, seen.task, seen.queue) == (odd.id, "available", "send", "default")
        assert list(seen.unreadable or {}) == [column]
        assert not getattr(seen, column)
    assert [job.id for job in enqueued(app, send)] == [before.id, odd.id, after.id]
    assert send.using(key="1").enqueue(1).id == odd.id
    assert app.jobs.cancel(odd.id) == [odd.id]


@pytest.mark.parametrize("moment", ["infinity", "-infinity", "20000-01-01 00:00Z", "4000-01-01 00:00Z BC"])
def test_a_time_that_python_has_no_date_for_is_shown_as_the_end_of_time(
    app: PgQueue, send: Task[[int], int], dsn: str, moment: str
) -> None:
    job = send.using(delay=60, key="k").enqueue(1)
    with psycopg.connect(dsn) as connection:
        connection.execute("update pgqueue.jobs set run_at = %s::timestamptz where id = %s", [moment, job.id])
    [listed] = app.jobs.list()
    assert listed.run_at.astimezone(UTC).year in (1, 9999)
    found, held = app.jobs.find("k"), send.using(key="k").enqueue(2)
    assert found is not None
    assert (found.run_at, held.id, held.run_at) == (listed.run_at, job.id, listed.run_at)


def test_a_result_that_cannot_be_read_is_an_error_and_not_none(app: PgQueue, send: Task[[int], int], dsn: str) -> None:
    job = send.enqueue(1)
    drain(app)
    with psycopg.connect(dsn) as connection:
        connection.execute("update pgqueue.completed_jobs set result = %s::jsonb where id = %s", [DEEP, job.id])
    with pytest.raises(JobEnded, match=f"the result of job {job.id} .*nests deeper than 65 levels"):
        job.result(timeout=DEADLINE)


def test_the_deepest_arguments_that_are_accepted_are_read_back(app: PgQueue) -> None:
    @app.task(name="nested")
    def nested(value: object) -> None: ...

    deepest: list[object] = []
    for _ in range(63):
        deepest = [deepest]
    for job in (nested.enqueue(deepest), app.enqueue("unheard-of", {"value": deepest})):
        assert app.jobs.get(job.id).args == {"value": deepest}
        assert job.args == {"value": deepest}
    with pytest.raises(ArgumentError, match="nests deeper than"):
        nested.enqueue([deepest])
    with pytest.raises(ArgumentError, match="nests deeper than"):
        app.enqueue("unheard-of", {"value": [deepest]})
    assert app.jobs.count() == 2
