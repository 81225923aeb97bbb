"""The pages of jobs, and what is done with several at once."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from html import unescape

import psycopg
import pytest

from pgqueue import CancelJob, Context, PgQueue
from pgqueue.job import Job
from pgqueue.queries import auditing, browsing
from pgqueue.testing import adrain
from pgqueue.web import reading
from pgqueue.web.pages import jobs as pages
from pgqueue.web.redaction import MASK
from pgqueue.web.visit import Visit
from pgqueue.worker import Worker
from tests.integration.waiting import Gate
from tests.web.conftest import Browser


def shown(page: str) -> list[int]:
    """The ids of the rows."""
    return [int(id_) for id_ in re.findall(r'<tr id="job-(\d+)"', page)]


@pytest.fixture
async def mixed(app: PgQueue) -> dict[str, int]:
    """A job in each state but running, by state."""

    @app.task(name="count", queue="numbers", max_attempts=1)
    def count(n: int = 0, password: str = "") -> int:
        if n == 13:
            raise ValueError(f"unlucky with {password}")
        if n == 7:
            raise CancelJob("not today")
        return n

    made = {
        "completed": count.enqueue(1).id,
        "failed": count.enqueue(13, "hunter22").id,
        "cancelled": count.enqueue(7).id,
    }
    await adrain(app)
    later, first = count.using(delay=3600, key="later", tags=["vip"]).enqueue(2), count.enqueue(3)
    return {**made, "scheduled": later.id, "available": first.id, "blocked": count.using(after=[first]).enqueue(4).id}


async def test_jobs_of_all_states_are_listed_newest_first(viewer: Browser, mixed: dict[str, int]) -> None:
    page = (await viewer.get("/jobs")).text
    assert shown(page) == sorted(mixed.values(), reverse=True)
    for state, id_ in mixed.items():
        assert shown((await viewer.get(f"/jobs?state={state}")).text) == [id_]
    assert '>failed<span class="count">1</span>' in page


@pytest.mark.parametrize(
    ("query", "states"),
    [
        ("key=later", ["scheduled"]),
        ("tag=vip", ["scheduled"]),
        ("queue=numbers&state=failed", ["failed"]),
        ("queue=other", []),
        ("task=other", []),
        ("id=0", []),
        ("id=x", []),
        ("state=odd&task=count&key=later", ["scheduled"]),
    ],
)
async def test_filters_stand_in_the_address(
    viewer: Browser, mixed: dict[str, int], query: str, states: list[str]
) -> None:
    page = (await viewer.get(f"/jobs?{query}")).text
    assert shown(page) == [mixed[state] for state in states]
    assert ("No job matches" in page) is (not states)


async def test_a_page_goes_on_from_where_the_one_before_ended(app: PgQueue, viewer: Browser) -> None:
    ids = [app.enqueue("count").id for _ in range(51)]
    first = (await viewer.get("/jobs")).text
    assert shown(first) == ids[:0:-1]
    assert f"before={ids[1]}" in first
    assert shown((await viewer.get(f"/jobs?before={ids[1]}")).text) == [ids[0]]


async def test_a_filter_looks_back_a_bounded_way_and_the_next_page_further(
    app: PgQueue, viewer: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(browsing, "LOOK_BACK", 10)
    rare = app.enqueue("rare").id
    app.enqueue_many([app.new_job("count") for _ in range(25)])
    seen, path = list[int](), "/jobs?task=rare"
    for _ in range(3):
        page = (await viewer.get(path)).text
        seen += shown(page)
        assert "looks further back" in page or seen == [rare]
        older = re.search(r'href="([^"]+)" rel="next"', page)
        path = older[1].replace("&amp;", "&") if older else path
    assert seen == [rare]


async def test_what_runs_is_listed_however_much_was_enqueued_after_it(
    app: PgQueue, viewer: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(browsing, "LOOK_BACK", 5)
    gate = Gate(app, "old", queue="old")
    old = await app.aenqueue("old", tags=["vip"])
    async with Worker(app, queues=["old"]):
        await gate.enters()
        await app.aenqueue_many([app.new_job("count", queue="old") for _ in range(10)])
        page = (await viewer.get("/jobs?state=running")).text
        tagged = (await viewer.get("/jobs?tag=vip")).text
        gate.opened.set()
    assert shown(page) == [old.id]
    assert '>running<span class="count">1</span>' in page
    # Of tags only the newest are counted.
    assert '>running<span class="count">0+</span>' in tagged


async def test_ticked_jobs_are_cancelled_promoted_and_redriven(
    app: PgQueue, operator: Browser, mixed: dict[str, int]
) -> None:
    ids = [mixed["scheduled"], mixed["completed"]]
    said = await operator.act("/jobs/ticked", {"verb": "promote", "id": ids}, on="/jobs")
    assert said == "Promoted 1 job of 2: the rest were not waiting for their time."
    assert app.jobs.get(mixed["scheduled"]).state == "available"
    said = await operator.act("/jobs/ticked", {"verb": "cancel", "id": [mixed["scheduled"]]}, on="/jobs")
    assert said == "Cancelled 1 job."
    assert app.jobs.get(mixed["scheduled"]).reason == "cancelled by otto"
    said = await operator.act("/jobs/ticked", {"verb": "redrive", "id": [mixed["failed"]]}, on="/jobs")
    assert said == "Redrove 1 job."
    noted = [row.action for row in app.database.fetch(auditing.entries(app.schema, 9))]
    assert noted == ["redrive_jobs", "cancel_jobs", "promote_jobs"]


@pytest.mark.parametrize(
    "fields", [{"verb": "cancel"}, {"verb": "cancel", "id": "x"}, {"id": "1"}, {"verb": "eat", "id": "1"}]
)
async def test_what_makes_no_sense_is_said_and_changes_nothing(
    app: PgQueue, operator: Browser, mixed: dict[str, int], fields: dict[str, str]
) -> None:
    answer = await operator.post("/jobs/ticked", fields, on="/jobs")
    assert answer.status_code == 303
    assert 'class="message error"' in (await operator.get(answer.headers["location"])).text
    assert app.jobs.get(mixed["available"]).state == "available"


async def test_all_that_match_are_cancelled_in_batches_after_a_question(app: PgQueue, operator: Browser) -> None:
    app.enqueue_many([app.new_job("count", queue="a") for _ in range(1200)])
    kept = app.enqueue("count", queue="b").id
    page = (await operator.get("/jobs/all?verb=cancel&queue=a")).text
    assert "1,200 jobs match: queue a." in page
    assert await operator.act("/jobs/cancel-all", {"queue": "a"}) == "Cancelled 1,200 jobs."
    assert app.jobs.count(state="cancelled") == 1200
    assert app.jobs.get(kept).state == "available"
    [noted] = app.database.fetch(auditing.entries(app.schema, 9))
    assert (noted.action, noted.detail, noted.outcome) == ("cancel_all", {"queue": "a"}, "done")


async def test_all_that_match_are_promoted(app: PgQueue, operator: Browser) -> None:
    app.enqueue_many([app.new_job("count", delay=3600) for _ in range(3)])
    assert await operator.act("/jobs/promote-all", {"task": "count"}) == "Promoted 3 jobs."
    assert app.jobs.count(state="available") == 3


async def test_an_admin_purges_all_that_match(
    app: PgQueue, admin: Browser, operator: Browser, mixed: dict[str, int]
) -> None:
    assert "1 job match: state completed" in (await admin.get("/jobs/all?verb=purge&state=completed")).text
    assert (await operator.post("/jobs/purge-all", {"state": "completed"})).status_code == 403
    assert await admin.act("/jobs/purge-all", {"state": "completed"}) == "Purged 1 job."
    assert (await admin.get(f"/jobs/{mixed['completed']}")).status_code == 404


@pytest.mark.parametrize("path", ["cancel-all", "promote-all", "purge-all"])
@pytest.mark.parametrize("fields", [{}, {"state": "completed", "key": "x"}, {"state": "running", "queue": "a"}])
async def test_nothing_is_done_to_all_without_a_fitting_filter(
    app: PgQueue, admin: Browser, mixed: dict[str, int], path: str, fields: dict[str, str]
) -> None:
    before = {job.id: job.state for job in app.jobs.list()}
    answer = await admin.post(f"/jobs/{path}", fields)
    if path == "cancel-all" and fields.get("state") == "running":
        assert answer.status_code == 303
    else:
        assert 'class="message error"' in (await admin.get(answer.headers["location"])).text
    assert {job.id: job.state for job in app.jobs.list()} == before


async def test_a_job_is_shown_whole_without_its_secrets(viewer: Browser, mixed: dict[str, int]) -> None:
    page = (await viewer.get(f"/jobs/{mixed['failed']}")).text
    assert "Attempt 1 failed" in page
    assert "ValueError" in page
    assert "unlucky with" in page
    assert MASK in page
    assert "hunter22" not in page
    assert f"pgqueue failed redrive {mixed['failed']}" in page
    for listing in ("/failed", "/jobs", "/tasks/count", "/", f"/jobs?id={mixed['failed']}"):
        assert "hunter22" not in (await viewer.get(listing)).text


async def test_why_a_job_waits_is_said(viewer: Browser, mixed: dict[str, int]) -> None:
    assert "waits for" in (await viewer.get(f"/jobs/{mixed['blocked']}")).text
    assert "no worker" in (await viewer.get(f"/jobs/{mixed['available']}")).text


async def test_progress_and_log_lines_are_shown(app: PgQueue, viewer: Browser) -> None:
    @app.task(name="tell", bind=True, max_attempts=1)
    async def tell(ctx: Context, token: str) -> None:
        ctx.progress(40, f"with {token}")
        ctx.log(f"sent {token}")
        raise ValueError("too much")

    job = tell.enqueue("abcdef")
    await adrain(app)
    page = (await viewer.get(f"/jobs/{job.id}")).text
    assert f"sent {MASK}" in page
    assert f"with {MASK}" in page
    assert 'value="40.0"' in page


async def test_what_is_done_with_one_job_is_said(app: PgQueue, operator: Browser, mixed: dict[str, int]) -> None:
    scheduled, failed = mixed["scheduled"], mixed["failed"]
    assert "runs as soon as" in await operator.act(f"/jobs/{scheduled}/promote")
    assert "does not wait for its time" in await operator.act(f"/jobs/{mixed['completed']}/promote")
    assert await operator.act(f"/jobs/{scheduled}/cancel") == f"Job {scheduled} is cancelled."
    assert "had ended" in await operator.act(f"/jobs/{scheduled}/cancel")
    assert "back in its queue" in await operator.act(f"/jobs/{failed}/redrive", {"to_queue": "again"})
    assert app.jobs.get(failed).queue == "again"
    assert "stays where it is" in await operator.act(f"/jobs/{failed}/redrive")
    said = await operator.act(f"/jobs/{mixed['completed']}/repeat")
    new = int(said.split()[1])
    assert app.jobs.get(new).args == app.jobs.get(mixed["completed"]).args


async def test_a_waiting_job_is_edited_and_its_secrets_stay(app: PgQueue, admin: Browser, operator: Browser) -> None:
    @app.task(name="mail")
    def mail(to: str, password: str, copies: int = 1) -> None: ...

    job = mail.using(delay=3600).enqueue("a@b.c", "hunter22", copies=2)
    at = f"/jobs/{job.id}"
    assert "/edit" not in (await operator.get(at)).text
    assert (await operator.post(f"{at}/edit")).status_code == 403
    form = (await admin.get(f"{at}/edit")).text
    assert "hunter22" not in form
    assert "they hold secrets: password" in form
    fields = {"arguments": '{"to": "d@e.f"}', "unset": "copies", "queue": "other", "priority": "-4", "when": "5m"}
    assert await admin.act(f"{at}/edit", fields, on=f"{at}/edit") == f"Job {job.id} is changed."
    edited = app.jobs.get(job.id)
    assert (dict(edited.args), edited.queue, edited.priority) == ({"to": "d@e.f", "password": "hunter22"}, "other", -4)
    assert edited.run_at < job.run_at
    [noted] = app.database.fetch(auditing.entries(app.schema, 1))
    assert noted.detail.pop("run_at").startswith(f"{job.run_at} → ")  # type: ignore[attr-defined]
    assert noted.detail == {
        "queue": "default → other",
        "priority": "0 → -4",
        "argument to": '"a@b.c" → "d@e.f"',
        "argument copies": "2 → nothing",
    }
    await admin.act(f"{at}/edit", {"arguments": '{"password": "hunter23"}', "max_attempts": "7"}, on=f"{at}/edit")
    [noted] = app.database.fetch(auditing.entries(app.schema, 1))
    assert noted.detail == {"max_attempts": "25 → 7", "argument password": f"{MASK} → {MASK}"}
    for wrong, said in (
        ({"arguments": "{"}, "no JSON"),
        ({"priority": "x"}, "no whole number"),
        ({}, "nothing is to change"),
    ):
        answer = await admin.post(f"{at}/edit", wrong, on=f"{at}/edit")
        assert answer.status_code in (303, 400)
        assert said in (
            answer.text if answer.status_code == 400 else (await admin.get(answer.headers["location"])).text
        )
    assert "edit_job" in (await admin.get("/audit")).text


async def test_jobs_are_deleted_after_a_question(
    app: PgQueue, admin: Browser, operator: Browser, mixed: dict[str, int]
) -> None:
    at = f"/jobs/{mixed['completed']}"
    assert "Delete" not in (await operator.get(at)).text
    assert (await operator.post(f"{at}/delete")).status_code == 403
    assert "no history of it is left" in (await admin.get(f"{at}/delete")).text
    assert await admin.act(f"{at}/delete", on=f"{at}/delete") == f"Job {mixed['completed']} is deleted."
    assert (await admin.get(at)).status_code == 404
    ids = [str(mixed[state]) for state in ("failed", "scheduled", "cancelled")]
    question = await admin.post("/jobs/ticked", {"verb": "delete", "id": ids, "back": "queue=numbers"}, on="/jobs")
    assert question.status_code == 200
    assert "Delete 3 jobs" in question.text
    assert (await operator.post("/jobs/delete-ticked", {"id": ids})).status_code == 403
    assert await admin.act("/jobs/delete-ticked", {"id": [*ids, mixed["completed"]]}) == (
        "Deleted 3 jobs of 4: the rest run, are being redriven, or are gone."
    )
    assert sorted(shown((await admin.get("/jobs")).text)) == sorted([mixed["available"], mixed["blocked"]])


async def test_the_event_loop_goes_on_while_jobs_are_exported(
    app: PgQueue, operator: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    app.enqueue("count")
    loop, whole = asyncio.get_running_loop(), pages._part

    def part(visit: Visit, jobs: Sequence[Job]) -> str:
        # On the loop's own thread this would wait for itself.
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result(30)
        return whole(visit, jobs)

    monkeypatch.setattr(pages, "_part", part)
    assert len((await operator.post("/jobs/export", {}, on="/jobs")).text.splitlines()) == 1


async def test_all_that_match_are_exported_without_their_secrets(
    operator: Browser, viewer: Browser, mixed: dict[str, int]
) -> None:
    assert (await viewer.post("/jobs/export")).status_code == 403
    answer = await operator.post("/jobs/export")
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert [line["id"] for line in lines] == sorted(mixed.values())
    assert "hunter22" not in answer.text
    [failed] = [line for line in lines if line["state"] == "failed"]
    assert failed["errors"][0]["message"] == f"unlucky with {MASK}"
    assert failed["args"] == {"n": 13, "password": MASK}
    only = await operator.post("/jobs/export", {"state": "cancelled", "queue": "numbers"})
    assert [json.loads(line)["id"] for line in only.text.splitlines()] == [mixed["cancelled"]]
    assert (await operator.post("/jobs/export", {"state": "x"})).status_code in (303, 400)
    assert "export_jobs" in (await operator.get("/audit")).text


@pytest.mark.parametrize("id_", ["0", "99", "x", str(2**63), "1e3", "-4"])
async def test_what_is_no_job_is_not_found(operator: Browser, id_: str) -> None:
    assert (await operator.get(f"/jobs/{id_}")).status_code == 404
    assert (await operator.post(f"/jobs/{id_}/cancel")).status_code in (303, 404)


async def test_odd_ids_stay_exact(app: PgQueue, dsn: str, viewer: Browser) -> None:
    import psycopg

    with psycopg.connect(dsn) as conn:
        conn.execute("alter table pgqueue.jobs alter id restart with 9007199254740993")
    job = app.enqueue("count")
    try:
        assert shown((await viewer.get("/jobs")).text) == [9007199254740993]
        assert (await viewer.get(f"/jobs/{job.id}")).status_code == 200
    finally:
        with psycopg.connect(dsn) as conn:
            conn.execute("alter table pgqueue.jobs alter id restart with 1")


async def test_what_was_done_before_a_lock_is_said_to_stay(
    app: PgQueue, dsn: str, operator: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "BATCH", 2)
    monkeypatch.setattr(reading, "ACT_SECONDS", 1)
    made = [app.enqueue("count") for _ in range(6)]
    with psycopg.connect(dsn) as conn:
        conn.execute("select from pgqueue.jobs where id = %s for update", [made[5].id])
        answer = await operator.post("/jobs/cancel-all", {"queue": "default"}, on="/jobs")
    said = unescape((await operator.get("/jobs")).text + answer.text)
    assert "what was done before stays" in said
    assert "nothing was changed" not in said
    assert app.jobs.count(state="cancelled") == 4


async def test_what_nothing_was_done_to_is_noted_so(app: PgQueue, admin: Browser) -> None:
    job = app.enqueue("count")
    for path in (f"/jobs/{job.id}/cancel", f"/jobs/{job.id}/cancel", "/jobs/999/delete"):
        await admin.post(path, {}, on="/jobs")
    noted = app.database.fetch(auditing.entries(app.schema, 9))
    assert [(row.action, row.outcome) for row in noted] == [
        ("delete_jobs", "nothing"),
        ("cancel_jobs", "nothing"),
        ("cancel_jobs", "done"),
    ]
