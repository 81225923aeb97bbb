"""The page of all queues."""

from __future__ import annotations

from pgqueue import PgQueue
from pgqueue.queries import auditing
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
