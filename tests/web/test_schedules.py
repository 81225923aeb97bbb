"""The pages of schedules."""

from __future__ import annotations

import json
from html import unescape

import pytest

from pgqueue import PgQueue
from pgqueue.queries import auditing
from pgqueue.services.scheduler import Scheduler
from tests.web.conftest import Browser


@pytest.fixture
async def nightly(app: PgQueue) -> str:
    @app.cron("30 2 * * *", tz="Europe/Berlin", tenant="acme")
    @app.task(name="report", queue="reports")
    def report(tenant: str) -> None: ...

    await Scheduler.of(app).run_once()
    return next(iter(app.declared_schedules))


async def test_a_schedule_is_shown_in_words_with_its_next_times_in_its_zone(viewer: Browser, nightly: str) -> None:
    assert "At 02:30 (Europe/Berlin)" in (await viewer.get("/schedules")).text
    page = (await viewer.get(f"/schedules/{nightly}")).text
    assert "In Europe/Berlin" in page
    assert page.count("02:30:00 +0") == 5


async def test_an_operator_runs_pauses_and_resumes_it(app: PgQueue, operator: Browser, nightly: str) -> None:
    assert "is enqueued" in await operator.act(f"/schedules/{nightly}/run")
    [job] = app.jobs.list(task="report")
    assert (job.args, job.queue) == ({"tenant": "acme"}, "reports")
    assert await operator.act(f"/schedules/{nightly}/pause") == f"Schedule {nightly} is paused."
    assert not app.schedules.get(nightly).enabled
    assert "it fires next at" in await operator.act(f"/schedules/{nightly}/resume")
    assert app.schedules.get(nightly).enabled
    noted = [row.action for row in app.database.fetch(auditing.entries(app.schema, 9, target=nightly))]
    assert noted == ["resume_schedule", "pause_schedule", "run_schedule"]
    assert (await operator.post(f"/schedules/{nightly}/remove")).status_code == 403


async def test_an_admin_removes_it_after_a_question(app: PgQueue, admin: Browser, nightly: str) -> None:
    assert "it comes back when a scheduler starts" in (await admin.get(f"/schedules/{nightly}/remove")).text
    assert await admin.act(f"/schedules/{nightly}/remove") == f"Schedule {nightly} is removed."
    assert app.schedules.list() == []


async def test_an_admin_adds_one_after_a_look_at_its_times(app: PgQueue, admin: Browser, nightly: str) -> None:
    fields = {
        "name": "acme-weekly",
        "task": "report",
        "cron": "0 9 * * MON",
        "tz": "Europe/Paris",
        "arguments": '{"tenant": "acme"}',
        "catch_up": "latest",
        "overlap": "skip",
        "grace": "2h",
        "max_runs": "3",
    }
    looked = await admin.post("/schedule-form", {**fields, "look": "1"}, on="/schedule-form")
    assert looked.text.count(" 09:00:00 +0") == 3
    assert [row.name for row in app.schedules.list()] == [nightly]
    assert "At 09:00, only on Monday" in await admin.act("/schedule-form", fields, on="/schedule-form")
    row = app.schedules.get("acme-weekly")
    assert (row.tz, row.overlap, row.max_runs, row.args, row.source) == (
        "Europe/Paris",
        "skip",
        3,
        {"tenant": "acme"},
        "live",
    )
    form = (await admin.get("/schedule-form?name=acme-weekly")).text
    assert 'value="0 9 * * MON"' in form
    assert 'value="7200"' in form
    again = await admin.post("/schedule-form", {**fields, "cron": "@daily"}, on="/schedule-form")
    assert "there is a schedule acme-weekly already" in again.text
    assert app.schedules.get("acme-weekly").cron == "0 9 * * MON"
    changed = {**fields, "cron": "@daily", "changes": "acme-weekly"}
    assert "At 00:00" in await admin.act("/schedule-form", changed, on="/schedule-form?name=acme-weekly")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"cron": "0 0 30 2 *"}, "comes within 8 years"),
        ({"cron": ""}, "one of the two"),
        ({"every": "5m"}, "one of the two"),
        ({"tz": "Mars/Olympus"}, "Mars/Olympus"),
        ({"arguments": "{"}, "arguments: no JSON"),
        ({"arguments": "[1]"}, "write a JSON object"),
        ({"arguments": '{"tenant": NaN}'}, "NaN"),
        ({"arguments": '{"owner": "x"}'}, "owner"),
        ({"name": "a b"}, "is not valid"),
        ({"name": ""}, "name is empty"),
        ({"task": ""}, "task is empty"),
        ({"grace": "soon"}, "grace: 'soon' is no duration"),
        ({"start": "2026-01-01"}, "start: '2026-01-01' has no offset"),
        ({"max_runs": "1e3"}, "no whole number"),
        ({"overlap": "dance"}, "must be one of"),
    ],
)
async def test_what_is_wrong_is_said_beside_what_was_written(
    app: PgQueue, admin: Browser, nightly: str, wrong: dict[str, str], says: str
) -> None:
    fields = {"name": "mine", "task": "report", "cron": "@daily", "arguments": '{"tenant": "acme"}'}
    answer = await admin.post("/schedule-form", {**fields, **wrong}, on="/schedule-form")
    assert (answer.status_code, says in unescape(answer.text)) == (400, True), answer.text
    assert [row.name for row in app.schedules.list()] == [nightly]


async def test_one_of_the_code_is_not_changed_here(admin: Browser, nightly: str) -> None:
    fields = {"name": nightly, "task": "report", "cron": "@daily", "arguments": '{"tenant": "acme"}'}
    answer = await admin.post("/schedule-form", fields, on="/schedule-form")
    assert "is declared in the code" in answer.text


async def test_one_that_is_not_there_is_not_found(viewer: Browser) -> None:
    answer = await viewer.get("/schedules/nobody")
    assert (answer.status_code, "There is no schedule &#39;nobody&#39;" in answer.text) == (404, True)


SECRET = "hunter22hunter"


async def test_what_a_schedule_hides_is_in_no_form_and_no_audit_row_and_stays(
    app: PgQueue, admin: Browser, viewer: Browser
) -> None:
    fields = {"name": "pull", "task": "t.pull", "every": "1h", "catch_up": "latest", "overlap": "allow"}
    args = {"password": SECRET, "url": f"https://x.example/{SECRET}", "n": 1}
    await admin.act("/schedule-form", {**fields, "arguments": json.dumps(args)}, on="/schedule-form")
    assert app.schedules.get("pull").args == args
    for page in (await viewer.get("/audit"), await admin.get("/schedule-form?name=pull")):
        assert SECRET not in unescape(page.text)
    assert "password, url stay" in page.text
    [noted] = app.database.fetch(auditing.entries(app.schema, 9, target="pull"))
    assert "arguments" not in noted.detail
    fields["changes"] = "pull"
    await admin.act("/schedule-form", {**fields, "arguments": '{"n": 2}', "keeps": "1"}, on="/schedule-form")
    assert app.schedules.get("pull").args == {**args, "n": 2}
    await admin.act("/schedule-form", {**fields, "arguments": '{"n": 3}'}, on="/schedule-form")
    assert app.schedules.get("pull").args == {"n": 3}
