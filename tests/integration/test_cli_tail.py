"""`pgqueue tail` hears workers of other processes, as a person or a program reads it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pgqueue import PgQueue
from tests.integration.test_cli import Invoke, app, invoke, records
from tests.integration.waiting import until

__all__ = ["app", "invoke"]


async def heard(app: PgQueue, invoke: Invoke, *args: str) -> Any:
    @app.task(name="shop.work", queue="mail", max_attempts=1)
    async def work(name: str) -> None:
        if name == "bad":
            raise ValueError("no such card")

    @app.task(name="shop.other", queue="rest")
    async def other() -> None: ...

    # What is told before it listens is lost, so the worker starts after.
    running = asyncio.create_task(asyncio.to_thread(invoke, "tail", "--timeout", "3s", *args))
    await until(lambda: _listens(app))
    async with app.worker({"mail": 1, "rest": 1}, name="w1", publish_events=True):
        for job in (work.job("good"), work.job("bad"), other.job()):
            await app.aenqueue_many([job])
        return await running


async def _listens(app: PgQueue) -> bool:
    from pgqueue.queries.statement import Statement

    query = "select count(*) from pg_stat_activity where query ilike 'listen%%' and datname = current_database()"
    return (await app.database.afetch(Statement(query, {})))[0][0] > 0


async def test_what_happens_is_a_line_each(app: PgQueue, invoke: Invoke) -> None:
    shown = await heard(app, invoke, "failed", "completed")
    assert "Listening to workers" in shown.stderr
    lines = shown.stdout.splitlines()
    assert any(
        "✗ failed" in line and "shop.work" in line and "ValueError" in line and "in w1" in line for line in lines
    )
    assert any("✓ completed" in line and "shop.other" in line for line in lines)
    assert not any("started" in line for line in lines)


async def test_a_queue_is_picked_and_programs_get_json(app: PgQueue, invoke: Invoke) -> None:
    app.enqueue("shop.other", queue="rest", delay=3600)
    found = records(await heard(app, invoke, "-q", "rest", "completed", "--json"))
    assert [(one["name"], one["task"], one["queue"], one["worker"]) for one in found] == [
        ("completed", "shop.other", "rest", "w1")
    ]
    assert {"at", "job_id", "attempt", "duration", "detail"} <= set(found[0])


@pytest.mark.parametrize("args", [["enqueued"], ["nonsense"]])
def test_an_event_that_nobody_tells_is_refused(invoke: Invoke, args: list[str]) -> None:
    assert "Invalid value" in invoke("tail", *args, exit_code=2).stderr
