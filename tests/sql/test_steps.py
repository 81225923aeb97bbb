"""Steps: stored under the claim of their job, kept as long as the job may run again."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import psycopg
import pytest

from pgqueue.database import fetch, run
from pgqueue.job import ClaimedJob
from pgqueue.outcome import Cancelled, Completed, Outcome
from pgqueue.queries import failures, steps
from pgqueue.queries.effects import Holder
from pgqueue.queries.failures import FailureFilter
from pgqueue.queries.steps import Stored
from pgqueue.services.pruner import STEPS_INTERVAL, Pruner
from tests.sql.rows import (
    OUTCOMES,
    SCHEMA,
    Connection,
    add,
    bury,
    claim,
    claim_one,
    finish,
    open_transaction,
    rescue,
    rows,
    runner_on,
    value,
    worker,
)

Another = Callable[[], Connection]


def store(conn: Connection, holder: Holder, name: str = "a", result: str | None = "1", **options: Any) -> Stored:
    return run(conn, steps.store(SCHEMA, holder, name, result, **options))


def committed(conn: Connection, holder: Holder) -> dict[str, str | None] | None:
    return run(conn, steps.committed(SCHEMA, holder))


def me(claimed: ClaimedJob) -> Holder:
    return Holder(claimed.id, claimed.fence)


def one_running(conn: Connection) -> Holder:
    add(conn)
    return me(claim_one(conn))


def left(conn: Connection) -> int:
    return int(value(conn, "select count(*) from pgqueue.job_steps"))


def test_what_was_stored_is_read_back_by_the_next_attempt(db: Connection) -> None:
    add(db)
    first = claim_one(db)
    holder = me(first)
    assert committed(db, holder) == {}
    assert store(db, holder, "a", '{"b": 1, "a": [1.0, 1e3]}') == Stored("stored", '{"a": [1.0, 1000], "b": 1}')
    assert store(db, holder, "b", None) == Stored("stored", None)
    finish(db, first, None)
    again = claim_one(db)
    assert committed(db, me(again)) == {"a": '{"a": [1.0, 1000], "b": 1}', "b": None}
    assert committed(db, holder) is None
    assert [row["attempt"] for row in rows(db, "select attempt from pgqueue.job_steps")] == [1, 1]


@pytest.mark.parametrize("completing", [False, True])
def test_a_stale_run_stores_nothing(db: Connection, completing: bool) -> None:
    holder = one_running(db)
    for stale in (Holder(holder.job_id, 1), Holder(4711, holder.fence)):
        assert store(db, stale, completing=completing).verdict == "stale"
    assert left(db) == 0


def test_storing_twice_is_as_once(db: Connection) -> None:
    holder = one_running(db)
    assert [store(db, holder, "a", "1"), store(db, holder, "a", "1")] == [Stored("stored", "1")] * 2
    assert left(db) == 1


def test_a_row_that_somebody_has_locked_is_not_waited_for(db: Connection, dsn: str) -> None:
    holder = one_running(db)
    with open_transaction(dsn) as other:
        other.execute("update pgqueue.jobs set cancel_requested = true")
        assert store(db, holder).verdict == "locked"
    assert store(db, holder).verdict == "stored"


def test_a_rescue_and_a_step_exclude_each_other(db: Connection, another: Another) -> None:
    """Either the step was stored under a claim that held until then, or the rescue came first and it is refused."""
    stepping, rescuing = another(), another()
    seen = set()
    for _ in range(100):
        add(db, max_attempts=25)
        dead = worker(db, lease=-1.0)
        [claimed] = claim(db, dead, count=1).jobs
        bury(db)
        start = Barrier(2)

        def step(claimed: ClaimedJob = claimed, start: Barrier = start) -> Stored:
            start.wait()
            return store(stepping, me(claimed))

        def save(start: Barrier = start) -> None:
            start.wait()
            rescue(rescuing)

        with ThreadPoolExecutor(2) as pool:
            asked, saved = pool.submit(step), pool.submit(save)
            verdict = asked.result(20).verdict
            saved.result(20)
        seen.add(verdict)
        assert left(db) == (verdict == "stored")
        db.execute("truncate pgqueue.jobs, pgqueue.claims, pgqueue.workers, pgqueue.job_steps")
    assert seen <= {"stored", "stale", "locked"}


@pytest.mark.parametrize("outcome", [Completed(), Cancelled("no")])
def test_the_steps_of_a_job_that_has_ended_go(db: Connection, outcome: Outcome) -> None:
    add(db, 2)
    ended, live = claim(db).jobs
    ids = [ended.id, live.id]
    for claimed in (ended, live):
        store(db, me(claimed))
    assert sorted(fetch(db, steps.forget_of(SCHEMA, ids))) == ids
    assert left(db) == 2
    finish(db, ended, outcome)
    assert fetch(db, steps.forget_of(SCHEMA, ids)) == [live.id]
    assert value(db, "select job_id from pgqueue.job_steps") == live.id


def test_the_steps_of_a_failed_job_stay_until_it_is_purged(db: Connection) -> None:
    add(db)
    claimed = claim_one(db)
    store(db, me(claimed))
    finish(db, claimed, OUTCOMES["fail"])
    assert fetch(db, steps.forget_of(SCHEMA, [claimed.id])) == []
    assert fetch(db, steps.forget_ended(SCHEMA, 10)) == [0]
    fetch(db, failures.redrive(SCHEMA, FailureFilter(ids=(claimed.id,))))
    again = claim_one(db)
    assert committed(db, me(again)) == {"a": "1"}
    finish(db, again, OUTCOMES["fail"])
    fetch(db, failures.purge_failed(SCHEMA, FailureFilter(ids=(claimed.id,))))
    assert fetch(db, steps.forget_ended(SCHEMA, 10)) == [1]
    assert left(db) == 0


def test_what_workers_left_is_found_in_batches(db: Connection) -> None:
    db.execute(
        "insert into pgqueue.job_steps (job_id, attempt, name) select n, 1, 'a' from generate_series(1001, 1025) n"
    )
    holder = one_running(db)
    store(db, holder, "mine")
    assert [fetch(db, steps.forget_ended(SCHEMA, 10)) for _ in range(4)] == [[10], [10], [5], [0]]
    assert value(db, "select name from pgqueue.job_steps") == "mine"


async def test_the_pruner_looks_for_them_once_an_hour(dsn: str, db: Connection) -> None:
    now = 0.0
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        pruner = Pruner(runner_on(conn), SCHEMA, clock=lambda: now)
        seen = []
        for now in (0.0, STEPS_INTERVAL, STEPS_INTERVAL * 1.5, STEPS_INTERVAL * 2.5):
            db.execute("insert into pgqueue.job_steps (job_id, attempt, name) values (1001, 1, %s)", [str(now)])
            await pruner.run_once()
            seen.append(left(db))
    assert seen == [1, 0, 1, 0]
