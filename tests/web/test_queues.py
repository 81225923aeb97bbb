"""The page of all queues."""

from __future__ import annotations

import re

from pgqueue import PgQueue
from pgqueue.queries import auditing, counting
from pgqueue.worker import Worker
from tests.integration.waiting import Gate, until
from tests.web.conftest import Browser


async def test_an_operator_pauses_a_queue_and_lets_it_go_on_and_both_are_noted(app: PgQueue, operator: Browser) -> None:
    app.enqueue("count", queue="email")
    assert await operator.act("/queues/email/pause") == "Queue email is paused: running jobs go on."
    assert [row.paused for row in app.queues.stats()] == [True]
    assert await operator.act("/queues/email/resume") == "Queue email goes on."
    assert await operator.act("/queues/email/resume") == "Queue email was not paused."
    noted = app.database.fetch(auditing.entries(app.schema, 10))
    assert [(row.actor, row.role, row.action, row.target, row.outcome) for row in noted] == [
        ("otto", "operator", "resume_queue", "email", "done"),
        ("otto", "operator", "resume_queue", "email", "done"),
        ("otto", "operator", "pause_queue", "email", "done"),
    ]


async def test_what_waits_and_nobody_serves_is_said(app: PgQueue, viewer: Browser) -> None:
    assert "No queue is known yet" in (await viewer.get("/queues")).text
    app.enqueue("count", queue="email")
    page = (await viewer.get("/queues")).text
    assert 'id="queue-email"' in page
    assert "no worker" in page


async def test_a_queue_says_what_its_blocked_jobs_wait_for(app: PgQueue, viewer: Browser) -> None:
    gate = Gate(app, "charge", queue="money", serial_key="{n}")
    async with Worker(app, queues={"money": 5}):
        running = await gate.task.aenqueue(1)
        await gate.enters()
        waiting = await app.aenqueue_many([gate.task.job(1) for _ in range(3)])
        await until(lambda: has_blocked(app, 3))
        page = (await viewer.get("/queues/money")).text
        gate.opened.set()
    row = re.search(r'<tr id="blocked-(\d+)"><td class="number">(\d+)</td><td class="long">([^<]+)<', page)
    assert row is not None
    assert (int(row[1]), row[2]) == (waiting[0].id, "3")
    assert row[3] == f"job {running.id} of its serial key 1 is running: one of a key runs at a time, in order"


async def has_blocked(app: PgQueue, count: int) -> bool:
    [depth] = await app.database.arun(counting.depths(app.schema, ["money"]))
    return depth.blocked == count
