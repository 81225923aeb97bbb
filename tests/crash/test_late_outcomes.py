"""An outcome that could not be written in time, when the same worker holds the job again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from uuid import UUID, uuid4

import pytest

from pgqueue.database import Database, fetch, run
from pgqueue.job import NewJob
from pgqueue.outcome import AttemptError, Completed, Retry
from pgqueue.queries import claiming, enqueuing
from pgqueue.queries import fleet as fleet_queries
from pgqueue.queries.finishing import Finished
from pgqueue.worker.connection import WorkerConnection
from pgqueue.worker.finisher import Finisher
from tests.crash.fleet import Fleet

pytestmark = pytest.mark.crash

TASK = "shop.pack"
RETRY = Retry(3600.0, AttemptError("KeyError", "'x'"))


@dataclass
class Held:
    """A finisher with its claims, as a worker has them. `stale` is what it was told it refused."""

    database: Database
    finisher: Finisher
    worker: UUID
    stale: list[int]

    def enqueue(self) -> None:
        with self.database.connection() as conn:
            run(conn, enqueuing.enqueue("pgqueue", [NewJob(TASK, "{}", "orders")], 25))

    def claim(self, fence: int) -> list[int]:
        operation = claiming.claim(
            "pgqueue",
            queue="orders",
            priority=0,
            mark=0,
            known=0,
            tasks=[TASK],
            count=10,
            slots=10,
            fence=fence,
            worker=self.worker,
            lifo=False,
        )
        with self.database.connection() as conn:
            ids = [job.id for job in run(conn, operation).jobs]
        self.finisher.claimed(fence, ids)
        return ids

    def release(self, job_id: int, fence: int) -> None:
        with self.database.connection() as conn:
            fetch(conn, claiming.release("pgqueue", [job_id], [fence], suspected=True))

    async def write(self) -> None:
        writing = asyncio.create_task(self.finisher.run())
        await asyncio.wait_for(self.finisher.flushed(), 20)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)


@pytest.fixture
async def held(fleet: Fleet) -> AsyncIterator[Held]:
    worker = uuid4()
    registration = fleet_queries.register_worker(
        "pgqueue",
        worker=worker,
        name="w",
        host="h",
        pid=1,
        version="0",
        queues={"orders": 1},
        tasks=[TASK],
        lease=3600.0,
    )
    stale: list[int] = []
    database = Database(fleet.dsn)
    database.fetch(registration)
    connection = WorkerConnection(database, "finishes")
    finisher = Finisher(
        connection,
        "pgqueue",
        lambda: worker,
        stale.append,
        on_later=lambda delay: None,
        on_freed=lambda: None,
        on_flows=lambda: None,
        on_written=lambda outcomes: None,
    )
    yield Held(database, finisher, worker, stale)
    await connection.close()
    database.close()


async def test_a_late_outcome_is_dropped_when_its_job_runs_again_beside_others_of_the_new_claim(
    fleet: Fleet, held: Held
) -> None:
    held.enqueue()
    [first] = held.claim(11)
    held.finisher.add(Finished(first, 11, TASK, RETRY))
    held.release(first, 11)
    held.enqueue()
    [again, second] = held.claim(12)
    assert again == first
    held.finisher.add(Finished(second, 12, TASK, RETRY))
    await held.write()

    assert fleet.query("select id, state, claim_id from {schema}.jobs order by id") == [
        (first, "running", 12),
        (second, "scheduled", None),
    ]
    assert held.stale == [1]


async def test_an_outcome_that_arrives_after_its_job_was_claimed_again_is_refused_and_the_newer_one_written(
    fleet: Fleet, held: Held
) -> None:
    held.enqueue()
    [first] = held.claim(11)
    held.release(first, 11)
    assert held.claim(12) == [first]
    held.finisher.add(Finished(first, 11, TASK, RETRY))
    assert (held.stale, held.finisher.backlog) == ([1], 0)
    held.finisher.add(Finished(first, 12, TASK, Completed("12")))
    # Each run has one outcome.
    held.finisher.add(Finished(first, 12, TASK, RETRY))
    await held.write()

    assert fleet.query("select id, state, attempt, result::text from {schema}.completed_jobs") == [
        (first, "completed", 1, "12")
    ]
    assert fleet.query("select id from {schema}.jobs") == []
    assert held.stale == [1, 1]
