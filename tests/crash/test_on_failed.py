"""Dead letters of killed workers: each on_failed task is enqueued once, by whoever rescues."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from pgqueue import PgQueue
from tests.crash.fleet import LONG, Fleet, eventually
from tests.crash.shop import only_once
from tests.crash.storm import storm
from tests.integration.waiting import until

pytestmark = pytest.mark.crash

TOLD = "select (headers ->> 'failed_job')::bigint from {schema}.all_jobs where headers ? 'failed_job'"


async def test_the_worker_of_another_app_tells_of_a_job_that_died_with_its_worker(fleet: Fleet, tmp_path: Path) -> None:
    worker = fleet.start(lease=1.0)
    job = (await only_once.aenqueue(str(tmp_path / "never"))).id
    await asyncio.to_thread(eventually, lambda: fleet.noted("begin", job), "the job has not begun")
    worker.kill()

    other = PgQueue(fleet.dsn)

    @other.task(name="other.nothing", queue="nothing")
    async def nothing() -> None: ...

    async with other.worker(["nothing"], lease=1.0):
        await until(lambda: asyncio.to_thread(fleet.query, TOLD))
    await other.aclose()
    assert fleet.query("select id, reason from {schema}.failed_jobs") == [(job, "crashed")]
    assert fleet.query("select state, queue, task, args ->> 'reason' from {schema}.jobs") == [
        ("available", "orders", "tests.crash.shop.told", "crashed")
    ]
    fleet.start()
    await asyncio.to_thread(eventually, lambda: fleet.noted("told", job), "nobody was told")


def test_every_job_that_failed_while_workers_were_killed_is_told_once(fleet: Fleet) -> None:
    storm(fleet, lambda: [only_once.job(seconds=0.06) for _ in range(60)], kills=30 if LONG else 6)

    eventually(lambda: fleet.live() == 0, "jobs are left")
    failed = fleet.query("select id from {schema}.failed_jobs where task = %s", only_once.name)
    assert failed
    assert Counter(fleet.query(TOLD)) == Counter(failed)
