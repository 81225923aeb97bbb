"""`release.sql`, `drop_claims.sql` by its owner, and rule 1: what was claimed and not started goes back as it was."""

from __future__ import annotations

from uuid import UUID

import psycopg

from pgqueue.database import Database, afetch, arun, fetch
from pgqueue.job import ClaimedJob
from pgqueue.outcome import Completed, Retry
from pgqueue.queries import claiming
from pgqueue.queries.statement import Operation
from pgqueue.services.service import Runner
from pgqueue.worker.lanes import Lane
from pgqueue.worker.upkeep import Reconciler
from tests.sql.rows import (
    ERROR,
    SCHEMA,
    Connection,
    add,
    claim,
    claim_one,
    finish,
    job_row,
    notifications,
    rows,
    scan,
    state_of,
    states,
    value,
    worker,
)


def test_a_released_job_is_available_in_its_old_place_with_its_attempt_given_back(db: Connection) -> None:
    ids = add(db, 3)
    before = job_row(db, ids[0])
    assert finish(db, claim_one(db), None) == 0
    assert job_row(db, ids[0]) == before
    assert [one.id for one in claim(db).jobs] == ids


def test_a_release_tells_the_claimers_where_each_lane_begins(db: Connection, listener: Connection) -> None:
    low, high = add(db, 2), add(db, 2, priority=7)
    lane = Lane()
    jobs = [*scan(db, lane).jobs, *claim(db, priority=7).jobs]
    finish(db, jobs, None)
    places = {priority: job_row(db, id_)["position"] for priority, id_ in ((0, low[0]), (7, high[0]))}
    assert sorted(notifications(listener)) == [
        f"available mail {priority} {place}" for priority, place in places.items()
    ]


def test_a_released_job_whose_cancel_was_asked_for_is_cancelled(db: Connection) -> None:
    [id_] = add(db)
    claimed = claim_one(db)
    db.execute("select pgqueue.cancel(array[%s]::bigint[])", [id_])
    assert finish(db, claimed, None) == 0
    assert state_of(db, id_) == "cancelled"


def test_releasing_what_is_no_longer_held_tells_nobody(db: Connection, listener: Connection) -> None:
    add(db)
    claimed = claim_one(db)
    finish(db, claimed, Completed())
    assert finish(db, claimed, None) == 1
    assert notifications(listener) == []


async def reconcile(dsn: str, me: UUID, known: set[int]) -> None:
    options = Database(dsn).session_options("test")
    conn = await psycopg.AsyncConnection.connect(dsn, autocommit=True, **options)

    async def run(operation: Operation[int], *, atomic: bool) -> int:
        return await arun(conn, operation)

    async with conn:
        runner = Runner(lambda statement: afetch(conn, statement), run)
        await Reconciler(runner, SCHEMA, worker=lambda: me, known=lambda: known, interval=10.0).run_once()


async def test_rule_1_a_claim_whose_answer_was_lost_is_given_back(db: Connection, dsn: str) -> None:
    ids = add(db, 4)
    me = worker(db)
    kept = claim(db, me, count=2).jobs
    claim(db, me, count=2)
    await reconcile(dsn, me, {kept[0].fence})
    assert [state_of(db, id_) for id_ in ids] == ["running", "running", "available", "available"]
    assert [job_row(db, id_)["attempt"] for id_ in ids] == [1, 1, 0, 0]
    assert [row["id"] for row in rows(db, "select id from pgqueue.claims")] == [kept[0].fence]
    assert finish(db, kept, Completed()) == 0


async def test_rule_1_the_claims_of_other_workers_are_none_of_its_business(db: Connection, dsn: str) -> None:
    add(db)
    other = claim_one(db, worker(db))
    await reconcile(dsn, worker(db), set())
    assert job_row(db, other.id)["claim_id"] == other.fence


async def test_rule_1_a_lost_claim_of_which_some_jobs_have_ended_gives_back_the_rest(db: Connection, dsn: str) -> None:
    add(db, 3)
    me = worker(db)
    done, again, lost = claim(db, me).jobs
    finish(db, done, Completed())
    finish(db, again, Retry(60.0, ERROR))
    await reconcile(dsn, me, set())
    assert states(db) == {"completed": 1, "scheduled": 1, "available": 1}
    assert state_of(db, lost.id) == "available"
    assert value(db, "select count(*) from pgqueue.claims") == 0


def fences(jobs: list[ClaimedJob]) -> list[int]:
    return sorted({one.fence for one in jobs})


def test_claims_of_lists_what_a_worker_holds(db: Connection) -> None:
    ids = add(db, 3)
    me = worker(db)
    jobs = claim(db, me).jobs
    [(fence, job_ids)] = fetch(db, claiming.claims_of(SCHEMA, me))
    assert (fence, sorted(job_ids)) == (jobs[0].fence, ids)
