"""`complete.sql` and `complete_unkept.sql`: running → completed."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta
from uuid import uuid4

import psycopg
import pytest

from pgqueue import PgQueue
from pgqueue.database import Database, NoPartition, fetch, run
from pgqueue.errors import PgQueueError
from pgqueue.outcome import Cancelled, Completed, Failed, Retry
from pgqueue.queries import finishing, waiting
from pgqueue.worker.connection import WorkerConnection
from pgqueue.worker.finisher import Finisher
from tests.integration.waiting import DEADLINE, until
from tests.sql.rows import (
    ERROR,
    SCHEMA,
    Connection,
    add,
    claim,
    claim_one,
    connect,
    enqueue,
    finish,
    finished,
    job,
    rows,
    state_of,
    states,
    value,
    worker,
)


def test_a_completed_job_leaves_jobs_and_is_kept_whole_in_the_history(db: Connection) -> None:
    [made] = enqueue(db, job(args='{"to": "a@b.c"}', key="k", priority=3, tags='["x"]', headers='{"trace": "1"}'))
    claimed = claim_one(db, priority=3)
    me = uuid4()
    batch = [finished(claimed, Completed('{"sent": [1, null]}'), duration=2.5)]
    assert run(db, finishing.finish(SCHEMA, me, batch)).stale == 0
    assert value(db, "select count(*) from pgqueue.jobs") == 0
    [row] = rows(db, "select * from pgqueue.completed_jobs")
    assert (row["id"], row["state"], row["queue"], row["task"], row["unique_key"], row["priority"]) == (
        made.id, "completed", "mail", "send", "k", 3,
    )  # fmt: skip
    assert (row["args"], row["result"], row["tags"]) == ({"to": "a@b.c"}, {"sent": [1, None]}, ["x"])
    assert (row["headers"], row["worker_id"], row["attempt"], row["errors"]) == ({"trace": "1"}, me, 1, None)
    ran = row["finished_at"] - row["started_at"]
    assert timedelta(seconds=2.5) <= ran < timedelta(seconds=4)


def test_each_job_of_a_batch_gets_its_own_result_and_duration(db: Connection) -> None:
    ids = add(db, 5)
    jobs = claim(db).jobs
    batch = [finished(one, Completed(json.dumps(one.id)), duration=float(n)) for n, one in enumerate(reversed(jobs))]
    assert run(db, finishing.finish(SCHEMA, uuid4(), batch)).stale == 0
    kept = rows(
        db, "select id, result, extract(epoch from finished_at - started_at)::int as ran from pgqueue.completed_jobs"
    )
    assert {row["id"]: (row["result"], row["ran"]) for row in kept} == {id_: (id_, 4 - n) for n, id_ in enumerate(ids)}


def test_a_job_without_a_result_keeps_null(db: Connection) -> None:
    add(db)
    finish(db, claim_one(db), Completed())
    assert value(db, "select result is null from pgqueue.completed_jobs")


def test_a_queue_without_history_keeps_nothing(db: Connection) -> None:
    ids = add(db, 3)
    jobs = claim(db).jobs
    batch = [finished(one, Completed(), kept=one.id == ids[0]) for one in jobs]
    assert run(db, finishing.finish(SCHEMA, uuid4(), batch)).stale == 0
    assert states(db) == {"completed": 1}


def test_a_completed_job_releases_its_key(db: Connection) -> None:
    [first] = enqueue(db, job(key="k"))
    finish(db, claim_one(db), Completed())
    [second] = enqueue(db, job(key="k"))
    assert second.created
    assert second.id != first.id


def test_one_batch_writes_outcomes_of_every_kind(db: Connection) -> None:
    ids = add(db, 6)
    done, unkept, again, failed, cancelled, back = claim(db).jobs
    batch = [
        finished(done, Completed()),
        finished(unkept, Completed(), kept=False),
        finished(again, Retry(60.0, ERROR)),
        finished(failed, Failed("fail_job", ERROR)),
        finished(cancelled, Cancelled("no")),
        finished(back, None),
    ]
    assert run(db, finishing.finish(SCHEMA, uuid4(), batch)).stale == 0
    assert states(db) == {"completed": 1, "scheduled": 1, "failed": 1, "cancelled": 1, "available": 1}
    assert state_of(db, ids[5]) == "available"


def test_of_two_outcomes_of_one_job_in_a_batch_the_later_counts(db: Connection) -> None:
    [id_] = add(db)
    first = claim_one(db)
    finish(db, first, None)
    again = claim_one(db)
    batch = [finished(first, Failed("fail_job", ERROR)), finished(again, Completed())]
    assert run(db, finishing.finish(SCHEMA, uuid4(), batch)).stale == 0
    assert state_of(db, id_) == "completed"


def test_jobs_of_several_queues_and_claims_are_finished_in_one_statement(db: Connection) -> None:
    add(db, 2)
    add(db, 2, queue="thumbs")
    jobs = [*claim(db, count=1).jobs, *claim(db, count=1).jobs, *claim(db, queue="thumbs").jobs]
    assert len({one.fence for one in jobs}) == 3
    assert finish(db, jobs, Completed()) == 0
    assert states(db) == {"completed": 4}


def test_a_finish_that_finds_no_partition_says_so_and_leaves_the_job_as_it_was(fresh_dsn: str) -> None:
    with connect(fresh_dsn) as conn:
        [id_] = add(conn)
        claimed = claim_one(conn)
        today = value(conn, "select to_char(clock_timestamp() at time zone 'UTC', 'YYYYMMDD')")
        conn.execute(f"drop table pgqueue.completed_jobs_{today}")
        with pytest.raises(NoPartition) as raised:
            finish(conn, claimed, Completed())
        assert isinstance(raised.value, PgQueueError)
        assert state_of(conn, id_) == "running"
        conn.execute("select pgqueue.make_partitions()")
        assert finish(conn, claimed, Completed()) == 0
        assert state_of(conn, id_) == "completed"


@pytest.mark.parametrize("kept", [True, False])
def test_a_job_that_came_into_a_flow_while_it_ran_tells_of_its_end(db: Connection, dsn: str, kept: bool) -> None:
    ids = add(db, 3)
    jobs = claim(db).jobs
    assert [one.plain for one in jobs] == [True] * 3
    PgQueue(dsn).enqueue("report", after=[ids[1]])
    batch = [finished(one, Completed("7"), kept=kept) for one in jobs]
    written = run(db, finishing.finish(SCHEMA, uuid4(), batch))
    assert (written.stale, written.in_flows) == (0, 1)
    assert rows(db, "select job_id, state from pgqueue.flow_news") == [{"job_id": ids[1], "state": "completed"}]
    assert value(db, "select result from pgqueue.flow_jobs where job_id = %(id)s", id=ids[1]) == 7
    assert states(db).get("completed", 0) == (3 if kept else 0)


def test_of_plain_jobs_those_that_were_lost_are_counted(db: Connection) -> None:
    add(db, 3)
    jobs = claim(db).jobs
    finish(db, jobs[0], Completed())
    written = run(db, finishing.finish(SCHEMA, uuid4(), [finished(one, Completed()) for one in jobs]))
    assert (written.stale, written.in_flows) == (1, 0)
    assert states(db) == {"completed": 3}


async def test_what_came_into_a_flow_and_is_locked_does_not_hold_back_those_that_were_written_with_it(
    db: Connection, dsn: str
) -> None:
    me, ids = worker(db), add(db, 5)
    jobs = claim(db, me).jobs
    app = PgQueue(dsn)
    app.enqueue("report", after=[ids[1]])
    told: list[int] = []
    stale: list[int] = []
    connection = WorkerConnection(Database(dsn), "finishes", lock_timeout="100ms")
    finisher = Finisher(
        connection,
        SCHEMA,
        lambda: me,
        stale.append,
        unheard,
        unheard,
        unheard,
        lambda all_: told.extend(one.id for one in all_),
    )
    finisher.claimed(jobs[0].fence, ids)
    with psycopg.connect(dsn) as holder:
        # Another parent joins it, in a transaction that is open.
        app.enqueue("report", after=[ids[1]], using=holder)
        writing = asyncio.create_task(finisher.run())
        for one in jobs:
            finisher.add(finished(one, Completed()))

        async def others_are_told() -> bool:
            return sorted(told) == [id_ for id_ in ids if id_ != ids[1]]

        await until(others_are_told)
    await asyncio.wait_for(finisher.flushed(), DEADLINE)
    assert (sorted(told), stale, states(db).get("completed")) == (ids, [], 5)
    writing.cancel()
    await connection.close()


def unheard(*_: object) -> None: ...


@pytest.mark.parametrize("kept", [True, False])
def test_who_waits_for_a_job_that_is_left_is_not_told_before_it_has_ended(db: Connection, dsn: str, kept: bool) -> None:
    ids = add(db, 2)
    jobs = claim(db).jobs
    PgQueue(dsn).enqueue("report", after=[ids[1]])
    fetch(db, waiting.wait(SCHEMA, ids, "mine", timedelta(minutes=1)))
    batch = finishing.grouped([finished(one, Completed(), kept=kept) for one in jobs])
    first = run(db, finishing.finish_grouped(SCHEMA, uuid4(), batch))
    assert [one.id for one in first.left] == [ids[1]]
    assert rows(db, "select job_id from pgqueue.waiters") == [{"job_id": ids[1]}]
    run(db, finishing.finish_grouped(SCHEMA, uuid4(), finishing.grouped(first.left)))
    assert rows(db, "select job_id from pgqueue.waiters") == []
