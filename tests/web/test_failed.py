"""The pages of failed jobs."""

from __future__ import annotations

import psycopg
import pytest

from pgqueue import PgQueue
from pgqueue.queries import auditing
from pgqueue.testing import adrain
from tests.web.conftest import Browser


@pytest.fixture
async def fingerprint(app: PgQueue) -> str:
    """Of three jobs that failed with one error."""

    @app.task(name="resize", queue="images", max_attempts=1)
    def resize(n: int) -> None:
        raise ValueError(f"no image {n}")

    app.enqueue_many([resize.job(n) for n in range(3)])
    await adrain(app)
    [group] = app.failed.groups()
    return group.fingerprint


async def test_the_same_error_is_shown_once_with_how_often_it_was(viewer: Browser, fingerprint: str) -> None:
    page = (await viewer.get("/failed")).text
    assert page.count('<tr id="failure-') == 1
    assert f'href="/failed/{fingerprint}">3</a>' in page
    assert "No failed job matches." in (await viewer.get("/failed?task=other")).text
    one = (await viewer.get(f"/failed/{fingerprint}")).text
    assert one.count('<tr id="job-') == 3
    assert "no image 2" in one


@pytest.mark.parametrize("errors", ["[]", "[{}]", '[{"message": 7, "traceback": null}]'])
async def test_an_error_that_sql_wrote_in_its_own_way_is_shown(
    dsn: str, viewer: Browser, fingerprint: str, errors: str
) -> None:
    with psycopg.connect(dsn) as conn:
        conn.execute("update pgqueue.failed_jobs set errors = %s::jsonb", [errors])
    assert (await viewer.get(f"/failed/{fingerprint}")).status_code == 200
    assert (await viewer.get("/failed")).status_code == 200


async def test_all_of_an_error_are_redriven_after_a_question(app: PgQueue, operator: Browser, fingerprint: str) -> None:
    assert "Redrive 3 failed jobs" in (await operator.get(f"/failed/{fingerprint}/redrive")).text
    said = await operator.act(f"/failed/{fingerprint}/redrive", {"to_queue": "later", "rate": "1/min"})
    assert said == "Redrove 3 failed jobs."
    jobs = app.jobs.list(queue="later")
    assert sorted(job.state for job in jobs) == ["available", "scheduled", "scheduled"]
    [noted] = app.database.fetch(auditing.entries(app.schema, 9))
    assert (noted.action, noted.detail) == ("redrive_failed", {"to_queue": "later", "rate": "1/min"})
    assert (await operator.get(f"/failed/{fingerprint}")).status_code == 404


async def test_they_go_back_to_their_own_queue(app: PgQueue, operator: Browser, fingerprint: str) -> None:
    assert await operator.act(f"/failed/{fingerprint}/redrive") == "Redrove 3 failed jobs."
    assert [job.state for job in app.jobs.list(queue="images")] == ["available"] * 3


async def test_an_admin_purges_an_error(app: PgQueue, admin: Browser, operator: Browser, fingerprint: str) -> None:
    assert (await operator.get(f"/failed/{fingerprint}/purge")).status_code == 403
    assert "Purge 3 failed jobs" in (await admin.get(f"/failed/{fingerprint}/purge")).text
    assert await admin.act(f"/failed/{fingerprint}/purge") == "Purged 3 failed jobs."
    assert app.failed.count() == 0


@pytest.mark.parametrize("fields", [{"rate": "soon"}, {"to_queue": "a b"}])
async def test_what_cannot_be_is_said_and_changes_nothing(
    app: PgQueue, operator: Browser, fingerprint: str, fields: dict[str, str]
) -> None:
    answer = await operator.post(f"/failed/{fingerprint}/redrive", fields)
    assert 'class="message error"' in (await operator.get(answer.headers["location"])).text
    assert app.failed.count() == 3
