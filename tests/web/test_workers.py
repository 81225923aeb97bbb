"""The pages of workers, of health and of the audit log."""

from __future__ import annotations

import asyncio
import re
from uuid import uuid4

import psycopg
import pytest

from pgqueue import PgQueue
from pgqueue.queries import fleet
from tests.web.conftest import Browser


async def test_a_worker_is_shown_with_what_it_runs_and_how_far_that_is(app: PgQueue, viewer: Browser) -> None:
    assert "No worker runs" in (await viewer.get("/workers")).text
    begun, go_on = asyncio.Event(), asyncio.Event()

    @app.task(name="slow", queue="video")
    async def slow() -> None:
        begun.set()
        await go_on.wait()

    job = slow.enqueue()
    async with app.worker({"video": 3}) as worker:
        await begun.wait()
        page = (await viewer.get("/workers")).text
        assert f'id="worker-{worker.id}"' in page
        assert '1 <span class="quiet">of 3</span>' in page
        one = (await viewer.get(f"/workers/{worker.id}")).text
        assert f'id="job-{job.id}"' in one
        go_on.set()
    assert (await viewer.get(f"/workers/{worker.id}")).status_code == 404


async def test_one_whose_heartbeat_is_over_is_lost(app: PgQueue, dsn: str, viewer: Browser) -> None:
    id_ = uuid4()
    app.database.fetch(
        fleet.register_worker(
            app.schema, worker=id_, name="w", host="h", pid=1, version="0", queues={"a": 1}, tasks=["t"], lease=30
        )
    )
    with psycopg.connect(dsn) as conn:
        conn.execute("update pgqueue.workers set expires_at = now() - interval '1 min'")
    assert "lost" in (await viewer.get("/workers")).text
    assert "other workers rescue its jobs" in (await viewer.get(f"/workers/{id_}")).text


async def test_a_worker_is_drained_and_stopped_after_a_question_which_is_noted(
    app: PgQueue, operator: Browser, viewer: Browser
) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    @app.task(name="slow")
    async def slow() -> None:
        begun.set()
        await go_on.wait()

    slow.enqueue()
    async with app.worker(name="w", shutdown_timeout=0) as worker:
        await begun.wait()
        page = f"/workers/{worker.id}"
        assert "/ask" not in (await viewer.get(page)).text
        assert (await viewer.post(f"{page}/drain")).status_code == 403
        assert "verb=drain" in (await operator.get(page)).text
        question = (await operator.get(f"{page}/ask?verb=drain")).text
        assert "It runs 1 job now, claims no more, and stops when they have ended" in question
        said = await operator.act(f"{page}/drain", on=f"{page}/ask?verb=drain")
        assert said == "w drains: it stops when what runs has ended."
        assert "draining" in (await viewer.get("/workers")).text
        assert "verb=drain" not in (await operator.get(page)).text
        assert await operator.act(f"{page}/drain", on=page) == "w drains or stops already."
        assert "given back, without using an attempt" in (await operator.get(f"{page}/ask?verb=stop")).text
        assert await operator.act(f"{page}/stop", on=page) == "w stops."
        await worker.wait()
    noted = (await operator.get("/audit")).text
    assert "stop_worker" in noted
    assert "drain_worker" in noted
    assert (await operator.get(f"{page}/ask")).status_code == 404
    assert "not registered any more" in await operator.act(f"{page}/stop")


@pytest.mark.parametrize("id_", ["x", "1", "2c0f4f3e-7d53-4a0e-9a55-0e9b0b6a0b11"])
async def test_what_is_no_worker_is_not_found(viewer: Browser, id_: str) -> None:
    assert (await viewer.get(f"/workers/{id_}")).status_code == 404


async def test_health_shows_what_the_doctor_finds_and_what_hurts_first(app: PgQueue, dsn: str, admin: Browser) -> None:
    with psycopg.connect(dsn) as conn:
        [(name,)] = conn.execute(
            "select inhrelid::regclass::text from pg_inherits where inhparent = 'pgqueue.completed_jobs'::regclass "
            "order by 1 desc limit 1"
        ).fetchall()
        conn.execute(f"drop table {name}")
    page = (await admin.get("/health")).text
    findings = app.doctor.look()
    assert page.count('<tr id="finding-') == len(findings)
    levels = re.findall(r'class="badge (problem|warning|ok)"', page)[: len(findings)]
    assert levels == sorted(levels, key=["problem", "warning", "ok"].index)
    assert set(levels) == {finding.level for finding in findings}
    assert await admin.act("/health/mend") == "Made 1 partitions of the history."
    assert await admin.act("/health/mend") == "There was nothing to mend."


async def test_the_audit_log_is_filtered_and_paged(app: PgQueue, operator: Browser) -> None:
    app.enqueue("count", queue="email")
    assert "Nobody has done anything here yet" in (await operator.get("/audit")).text
    for _ in range(51):
        await operator.act("/queues/email/pause")
        await operator.act("/queues/email/resume")
    first = (await operator.get("/audit")).text
    assert first.count('<tr id="audit-') == 100
    assert "before=3" in first
    assert (await operator.get("/audit?before=3")).text.count('<tr id="audit-') == 2
    assert (await operator.get("/audit?action=pause_queue")).text.count('<tr id="audit-') == 51
    assert "Nothing matches." in (await operator.get("/audit?actor=ann&target=email")).text
