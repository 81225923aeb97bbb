"""The pages of a queue and a task, and what holds their jobs back."""

from __future__ import annotations

from html import escape

import pytest

from pgqueue import Breaker, Limit, PgQueue
from pgqueue.queries import auditing
from pgqueue.testing import adrain
from tests.web.conftest import Browser


async def test_a_queue_is_shown_with_what_waits_in_it(app: PgQueue, viewer: Browser) -> None:
    app.enqueue_many([app.new_job("count", queue="email") for _ in range(3)])
    page = (await viewer.get("/queues/email")).text
    assert "no worker serves it" in page
    assert page.count('<tr id="waiting-') == 3
    assert (await viewer.get("/queues/other")).status_code == 404
    assert (await viewer.get("/queues/a%20b")).status_code == 400


async def test_limits_are_set_shown_and_lifted(app: PgQueue, admin: Browser) -> None:
    app.enqueue("count", queue="email")
    fields = {"concurrency": "4", "rate": "100/min", "burst": "5", "key": "{customer_id}"}
    assert "is set" in await admin.act("/limits/queue/email/set", fields)
    [row] = app.limits.list()
    assert (row.scope, row.name, row.key, row.concurrency, row.burst) == ("queue", "email", "{customer_id}", 4, 5)
    assert row.rate == pytest.approx(100 / 60)
    assert "{customer_id}" in (await admin.get("/queues/email")).text
    assert "is lifted" in await admin.act("/limits/queue/email/remove", {"key": "{customer_id}"})
    assert await admin.act("/limits/queue/email/remove") == "There was no such limit."
    noted = [row.action for row in app.database.fetch(auditing.entries(app.schema, 9))]
    assert noted == ["remove_limit", "remove_limit", "set_limit"]


@pytest.mark.parametrize(
    "fields", [{}, {"concurrency": "many"}, {"concurrency": "0"}, {"rate": "soon"}, {"concurrency": "1", "key": "{"}]
)
async def test_a_limit_that_is_none_is_refused(app: PgQueue, admin: Browser, fields: dict[str, str]) -> None:
    app.enqueue("count", queue="email")
    answer = await admin.post("/limits/queue/email/set", fields, on="/queues/email")
    assert 'class="message error"' in (await admin.get(answer.headers["location"])).text
    assert app.limits.list() == []


async def test_a_task_and_a_value_of_a_key_are_paused_and_go_on(app: PgQueue, operator: Browser) -> None:
    app.enqueue("charge", {"customer": 7})
    app.limits.set(Limit(concurrency=5, key="{customer}"), task="charge")
    assert await operator.act("/limits/task/charge/pause") == "Paused task charge: running jobs go on."
    assert "It is paused" in (page := (await operator.get("/tasks/charge")).text)
    assert 'action="/limits/task/charge/resume"' in page
    assert "Task charge is paused" in (await operator.get("/")).text
    assert await operator.act("/limits/task/charge/resume") == "Resumed task charge."
    assert await operator.act("/limits/task/charge/resume") == "Nothing of task charge was paused."
    value = {"key": "{customer}", "value": "7"}
    assert await operator.act("/limits/task/charge/pause", value) == "Paused 7 of task charge: running jobs go on."
    assert await operator.act("/limits/task/charge/resume", value) == "Resumed 7 of task charge."
    answer = await operator.post("/limits/task/charge/pause", {"key": "{customer}"}, on="/tasks/charge")
    assert "both or none" in (await operator.get(answer.headers["location"])).text
    answer = await operator.post("/limits/task/charge/pause", {**value, "value": "7" * 5_000}, on="/tasks/charge")
    assert "has 5,000 characters: use 1 to 500" in (await operator.get(answer.headers["location"])).text
    assert (await operator.post("/limits/shop/charge/pause")).status_code in (303, 404)


async def test_a_breaker_is_opened_closed_and_reset(app: PgQueue, operator: Browser) -> None:
    app.enqueue("charge", queue="money")
    app.breakers.set(Breaker(failures=5, within=60), queue="money")
    assert "is open" in await operator.act("/breakers/queue/money/open", {"duration": "10m"})
    [row] = app.breakers.list()
    assert (row.state, row.reason) == ("open", "by otto")
    assert "its circuit breaker is open" in (page := (await operator.get("/queues/money")).text.lower())
    assert "tries a job in 10 min" in page
    assert "the circuit breaker of queue money is open" in (await operator.get("/")).text.lower()
    assert "is closed" in await operator.act("/breakers/queue/money/close")
    assert "has forgotten" in await operator.act("/breakers/queue/money/reset")
    answer = await operator.post("/breakers/queue/other/close", on="/queues/money")
    assert "there is no circuit breaker" in (await operator.get(answer.headers["location"])).text


async def test_a_queue_is_obliterated_after_a_question(app: PgQueue, admin: Browser) -> None:
    app.enqueue_many([app.new_job("count", queue="old") for _ in range(3)])
    assert "3 live jobs and 0 failed jobs" in (await admin.get("/queues/old/obliterate")).text
    assert await admin.act("/queues/old/obliterate") == "Obliterated old: 3 jobs."
    assert app.jobs.count() == 0


async def test_tasks_are_shown_and_those_that_nobody_knows(app: PgQueue, viewer: Browser) -> None:
    @app.task(name="known", queue="a", timeout=30)
    def known(to: str, copies: int = 1) -> None: ...

    known.enqueue("x")
    await adrain(app)
    app.enqueue("unheard")
    page = (await viewer.get("/tasks")).text
    assert 'id="task-known"' in page
    assert "no worker knows it" in page
    assert "30 s" in (await viewer.get("/tasks/known")).text
    assert (await viewer.get("/tasks/nothing")).status_code == 404


async def test_an_operator_enqueues_a_job_and_what_is_wrong_is_said(app: PgQueue, operator: Browser) -> None:
    @app.task(name="send", queue="email")
    def send(to: str, copies: int = 1) -> None: ...

    assert "copies" in (await operator.get("/tasks/send")).text
    said = await operator.act("/tasks/send/enqueue", {"arguments": '{"to": "a@b.c"}', "priority": "-1", "key": "k"})
    job = app.jobs.get(int(said.split()[1]))
    assert (job.args, job.priority, job.key, job.queue) == ({"to": "a@b.c"}, -1, "k", "email")
    again = await operator.act("/tasks/send/enqueue", {"arguments": '{"to": "a@b.c"}', "key": "k"})
    assert "holds the key already" in again
    for wrong in ("{", '{"whom": "x"}', '{"to": "x", "copies": "many"}', "[]"):
        given = {"arguments": wrong, "key": "typed"}
        answer = await operator.post("/tasks/send/enqueue", given, on="/tasks/send")
        assert (answer.status_code, 'class="message error"' in answer.text) == (400, True)
        # What was written is still there, and nothing asks for the page anew.
        assert f">{escape(wrong, quote=True)}</textarea>" in answer.text.replace("&#34;", "&quot;")
        assert 'value="typed"' in answer.text
        assert "hx-get" not in answer.text
    assert app.jobs.count() == 1


async def test_the_overview_says_what_needs_somebody(app: PgQueue, viewer: Browser) -> None:
    assert "No queue is known yet" in (await viewer.get("/")).text
    app.enqueue("count", queue="email")
    app.queues["video"].pause()
    page = (await viewer.get("/")).text
    assert "and no worker serves it" in page
    assert "is paused" in page


async def test_an_open_page_is_drawn_anew_without_its_frame(app: PgQueue, viewer: Browser) -> None:
    app.enqueue("count", queue="email")
    part = (await viewer.get("/queues", headers={"HX-Request": "true"})).text
    assert part.lstrip().startswith('<div class="panel scroll">')
    assert "<nav" not in part
