"""An outcome that could not be written in time, when the same worker holds the job again."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest

from pgqueue.database import Database, fetch, run
from pgqueue.job import NewJob
from pgqueue.outcome import AttemptError, Retry
from pgqueue.queries import claiming, enqueuing
from pgqueue.queries.finishing import Finished
from pgqueue.worker.connection import WorkerConnection
from pgqueue.worker.finisher import Finisher
from tests.crash.fleet import Fleet

pytestmark = pytest.mark.crash

TASK = "shop.pack"
RETRY = Retry(3600.0, AttemptError("KeyError", "'x'"))


async def test_a_late_outcome_is_dropped_when_its_job_runs_again_beside_others_of_the_new_claim(fleet: Fleet) -> None:
    worker = uuid4()
    stale: list[int] = []
    connection = WorkerConnection(Database(fleet.dsn), "finishes")
    finisher = Finisher(connection, "pgqueue", lambda: worker, stale.append)

    def claim(fence: int) -> list[int]:
        with database.connection() as conn:
            scan = run(
                conn,
                claiming.claim(
                    "pgqueue",
                    queue="orders",
                    priority=0,
                    mark=0,
                    tasks=[TASK],
                    count=10,
                    slots=10,
                    fence=fence,
                    worker=worker,
                    lifo=False,
                ),
            )
        ids = [job.id for job in scan.jobs]
        finisher.claimed(fence, ids)
        return ids

    database = Database(fleet.dsn)
    try:
        with database.connection() as conn:
            run(conn, enqueuing.enqueue("pgqueue", [NewJob(TASK, "{}", "orders")], 25))
        [first] = claim(11)
        finisher.add(Finished(first, 11, TASK, RETRY))
        with database.connection() as conn:
            fetch(conn, claiming.release("pgqueue", [first], [11], suspected=True))
            run(conn, enqueuing.enqueue("pgqueue", [NewJob(TASK, "{}", "orders")], 25))
        [again, second] = claim(12)
        assert again == first
        finisher.add(Finished(second, 12, TASK, RETRY))
        writing = asyncio.create_task(finisher.run())
        await asyncio.wait_for(finisher.flushed(), 20)
        writing.cancel()
    finally:
        await connection.close()
        database.close()

    assert fleet.query("select id, state, claim_id from {schema}.jobs order by id") == [
        (first, "running", 12),
        (second, "scheduled", None),
    ]
    assert stale == [1]
