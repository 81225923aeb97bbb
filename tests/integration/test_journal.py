"""What tasks tell while they run: progress and log lines, in every kind of task."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

import psycopg
import pytest

from pgqueue import ArgumentError, Backoff, Context, JobLogHandler, PgQueue, Task, current_job
from pgqueue.journal import LINE_LENGTH, LINES, Journal, Progress
from pgqueue.queries import retaining
from pgqueue.testing import adrain
from tests.integration import process_app
from tests.integration.waiting import DEADLINE, until

KINDS = ["coroutine", "thread", "process", "transactional"]


@pytest.fixture(params=KINDS)
def telling(request: pytest.FixtureRequest, app: PgQueue, dsn: str) -> tuple[PgQueue, Task[..., Any]]:
    """A task that tells so many times how far it is, and logs so many lines, in each kind."""
    match request.param:
        case "process":
            process_app.app.database.point_at(dsn)
            return process_app.app, process_app.process_tells
        case "coroutine":

            async def tell(ctx: Context, times: int) -> None:
                process_app.tell(ctx, times)

            return app, app.task(name="tell", bind=True)(tell)
    transactional = request.param == "transactional"
    return app, app.task(name="tell", bind=True, transactional=transactional)(process_app.tell)


async def test_the_last_progress_and_every_line_are_there_when_the_job_has_ended(telling: Any) -> None:
    app, task = telling
    job = await task.aenqueue(3)
    await adrain(app)
    assert app.jobs.progress(job.id) == Progress(100, "3 of 3")
    lines = app.jobs.logs(job.id)
    assert [(line.attempt, line.level, line.message) for line in lines] == [(1, "info", f"step {n}") for n in (1, 2, 3)]
    assert (await job.arefresh()).state == "completed"
    await app.aclose()


async def test_ten_thousand_calls_keep_the_bounds_and_say_what_they_left_out(telling: Any, dsn: str) -> None:
    app, task = telling
    job = await task.aenqueue(10_000)
    await adrain(app)
    assert app.jobs.progress(job.id) == Progress(100, "10000 of 10000")
    lines = app.jobs.logs(job.id)
    assert len(lines) == LINES + 1
    assert lines[-1].message == f"{10_000 - LINES} more lines were not kept: a run keeps {LINES}"
    with psycopg.connect(dsn) as conn:
        row = conn.execute(
            "select n_tup_ins + n_tup_upd from pg_stat_user_tables where relname = 'job_progress'"
        ).fetchone()
    assert row
    await app.aclose()


async def test_progress_can_be_read_while_the_job_runs(app: PgQueue) -> None:
    go_on = asyncio.Event()

    @app.task(name="tell", bind=True)
    async def tell(ctx: Context) -> None:
        ctx.progress(40, "half way")
        await go_on.wait()

    job = await tell.aenqueue()
    async with app.worker({"default": 1}):

        async def told() -> bool:
            return await app.jobs.aprogress(job.id) == Progress(40, "half way")

        await until(told)
        assert (await job.arefresh()).state == "running"
        go_on.set()


async def test_each_attempt_adds_its_lines(app: PgQueue) -> None:
    @app.task(name="tell", bind=True, max_attempts=2, backoff=Backoff.fixed(0))
    async def tell(ctx: Context) -> None:
        ctx.log(f"attempt {ctx.attempt}", "warning")
        raise ValueError

    job = await tell.aenqueue()
    await adrain(app, with_scheduled=True)
    assert [(line.attempt, line.level, line.message) for line in await app.jobs.alogs(job.id)] == [
        (1, "warning", "attempt 1"),
        (2, "warning", "attempt 2"),
    ]


@pytest.mark.parametrize("kind", ["coroutine", "thread"])
async def test_a_handler_files_what_a_task_logs_itself(app: PgQueue, kind: str) -> None:
    logger = logging.getLogger("tests.shop")
    handler = JobLogHandler()
    logger.addHandler(handler)

    def body() -> None:
        logger.error("card %s declined", 7)
        logging.getLogger("pgqueue.worker").info("not this")

    async def abody() -> None:
        body()

    task: Task[..., Any] = app.task(name="tell")(abody if kind == "coroutine" else body)
    try:
        logger.error("outside of a job")
        job = await task.aenqueue()
        await adrain(app)
    finally:
        logger.removeHandler(handler)
    assert [(line.level, line.message) for line in app.jobs.logs(job.id)] == [("error", "card 7 declined")]


async def test_a_worker_that_lost_its_claim_writes_nothing(app: PgQueue, dsn: str) -> None:
    refused: list[Any] = []

    @app.task(name="tell", bind=True)
    async def tell(ctx: Context) -> None:
        with psycopg.connect(dsn, autocommit=True) as conn:
            refused.extend(conn.execute("delete from pgqueue.claims returning id").fetchall())
        ctx.progress(50)
        ctx.log("too late")

    job = await tell.aenqueue()
    await adrain(app)
    assert len(refused) == 1
    assert (app.jobs.progress(job.id), app.jobs.logs(job.id)) == (None, [])


async def is_completed(app: PgQueue, job_id: int) -> bool:
    return (await app.jobs.aget(job_id)).state == "completed"


async def test_what_a_run_leaves_behind_opens_no_journal_anew(app: PgQueue) -> None:
    ended = asyncio.Event()
    left: list[asyncio.Task[None]] = []

    @app.task(name="tell")
    async def tell() -> None:
        async def later() -> None:
            await ended.wait()
            current_job().log("too late")

        current_job().log("in time")
        left.append(asyncio.create_task(later()))

    job = await tell.aenqueue()
    async with app.worker(name="w") as worker:
        await until(lambda: is_completed(app, job.id))
        ended.set()
        await left[0]
        assert worker.journals.count == 0
    assert [line.message for line in app.jobs.logs(job.id)] == ["in time"]


@pytest.mark.parametrize("wrong", [-1, 101, float("nan"), "40", True])
async def test_a_progress_that_cannot_be_is_the_tasks_error(app: PgQueue, wrong: Any) -> None:
    @app.task(name="tell", max_attempts=1)
    async def tell() -> None:
        with pytest.raises(ArgumentError, match="must be a number from 0 to 100"):
            current_job().progress(wrong)
        with pytest.raises(ArgumentError, match="must be one of debug, info, warning, error"):
            current_job().log("x", "loud")  # type: ignore[arg-type]

    job = await tell.aenqueue()
    await adrain(app)
    assert (await job.arefresh()).state == "completed"


def test_long_and_odd_lines_are_stored_cut_and_readable() -> None:
    journal = Journal(1, lambda _: None)
    journal.log("x" * 2 * LINE_LENGTH)
    journal.log("NUL \x00 and \ud800")
    _, (long, odd) = journal.take()
    assert len(long.message) < LINE_LENGTH + 100
    assert odd.message == "NUL \\x00 and \\ud800"


def test_what_could_not_be_written_comes_before_what_was_told_since() -> None:
    told: list[Journal] = []
    journal = Journal(1, told.append)
    journal.log("first")
    journal.progress(10)
    taken = journal.take()
    journal.log("second")
    journal.give_back(*taken)
    progress, lines = journal.take()
    assert [line.message for line in lines] == ["first", "second"]
    assert progress == Progress(10)
    assert told == [journal, journal]


async def test_what_ended_jobs_told_is_forgotten_with_their_history(app: PgQueue, dsn: str) -> None:
    @app.task(name="tell", bind=True)
    async def tell(ctx: Context) -> None:
        ctx.progress(1)
        ctx.log("x")

    ended = await tell.aenqueue()
    await adrain(app)
    live = await tell.using(delay=3600).aenqueue()
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(
            "insert into pgqueue.job_logs (job_id, attempt, logged_at, level, message) "
            "values (%s, 1, now(), 'info', 'y')",
            [live.id],
        )
        conn.execute("delete from pgqueue.completed_jobs")
    for table in ("job_logs", "job_progress"):
        assert [swept.gone for swept in app.database.fetch(retaining.sweep("pgqueue", table, 0, 10))] == [1]
        assert [swept.gone for swept in app.database.fetch(retaining.sweep("pgqueue", table, 0, 10))] == [0]
    assert app.jobs.logs(ended.id) == []
    assert [line.message for line in app.jobs.logs(live.id)] == ["y"]


def test_what_logs_while_it_becomes_text_does_not_stand_in_its_own_way() -> None:
    journal = Journal(1, lambda _: None)

    class Talkative:
        def __str__(self) -> str:
            journal.log("becoming text")
            return "text"

    def talk() -> None:
        message: Any = Talkative()
        journal.log(message)
        journal.progress(1, message)

    talking = threading.Thread(target=talk, daemon=True)
    talking.start()
    talking.join(DEADLINE)
    assert not talking.is_alive()
    progress, lines = journal.take()
    assert progress is not None
    assert (progress.message, [line.message for line in lines]) == ("text", ["becoming text", "text", "becoming text"])
