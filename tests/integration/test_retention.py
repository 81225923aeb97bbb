"""How long ended jobs are kept, as the code declares it and workers see to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from pgqueue import CancelJob, Context, JobNotFound, PgQueue
from pgqueue.services.pruner import Pruner
from pgqueue.services.service import runner_of
from pgqueue.testing import adrain

AGE = timedelta(hours=1)


@pytest.fixture
async def opened() -> AsyncIterator[list[PgQueue]]:
    """Apps that are closed at the end."""
    apps: list[PgQueue] = []
    yield apps
    for app in apps:
        await app.aclose()


def noop() -> None: ...


async def prune(app: PgQueue) -> None:
    await Pruner(runner_of(app.database), app.schema, app.keep_completed, app.keep_failed).run_once()


@pytest.mark.parametrize(
    ("task", "queue", "app", "kept", "own"),
    [
        (None, None, None, True, None),
        (None, None, 0, False, None),
        (None, AGE, 0, True, None),
        (None, 10, False, True, None),
        (None, 0, AGE, False, None),
        (AGE, 0, 0, True, True),
        (10, None, None, True, True),
        (False, AGE, AGE, False, None),
    ],
)
@pytest.mark.parametrize("transactional", [False, True])
async def test_a_worker_keeps_the_history_of_a_job_where_its_task_its_queue_or_the_app_says(
    dsn: str, opened: list[PgQueue], task: Any, queue: Any, app: Any, kept: bool, own: bool | None, transactional: bool
) -> None:
    made = PgQueue(dsn, keep_completed=app)
    opened.append(made)
    made.queue("mail", keep_completed=queue)
    declare: Any = made.task(name="noop", queue="mail", keep_completed=task, transactional=transactional)
    job = await declare(noop).aenqueue()
    assert (await adrain(made)).completed == 1
    if kept:
        assert (await job.arefresh()).state == "completed"
    else:
        with pytest.raises(JobNotFound):
            await job.arefresh()
    async with await psycopg.AsyncConnection.connect(dsn) as conn:
        found = await (await conn.execute("select own_retention from pgqueue.completed_jobs")).fetchall()
    assert found == ([(own,)] if kept else [])


async def test_what_is_not_kept_is_gone_after_a_turn_of_the_pruner(dsn: str, opened: list[PgQueue]) -> None:
    app = PgQueue(dsn, keep_failed=2)
    opened.append(app)

    @app.task(name="ends", bind=True, keep_completed=1, max_attempts=1)
    async def ends(ctx: Context, how: str) -> None:
        ctx.log(how)
        if how == "cancelled":
            raise CancelJob("enough")
        if how == "failed":
            raise ValueError(how)

    jobs: dict[str, list[int]] = {}
    for how in ("completed", "failed", "cancelled"):
        jobs[how] = [(await ends.aenqueue(how)).id for _ in range(4)]
        # What ends together is written together, each kind by a statement of its own: none of it came last.
        await adrain(app, slots=1)
    await prune(app)
    assert sorted(job.id for job in app.failed.list()) == jobs["failed"][2:]
    left = [job.id for job in app.jobs.list() if job.state != "failed"]
    assert left == [jobs["cancelled"][3]]
    for id_ in [one for ids in jobs.values() for one in ids]:
        assert len(app.jobs.logs(id_)) == (id_ in left or id_ in jobs["failed"][2:])


async def test_a_rule_that_the_code_no_longer_declares_of_a_task_is_forgotten(dsn: str, opened: list[PgQueue]) -> None:
    for keep in (1, None):
        app = PgQueue(dsn, keep_failed=keep)
        opened.append(app)
        declare: Any = app.task(name="fails", keep_failed=keep, max_attempts=1)

        def fails() -> None:
            raise ValueError

        await app.aenqueue_many([declare(fails).job()] * 3)
        await adrain(app)
        await prune(app)
        assert app.failed.count() == (1 if keep else 4)
