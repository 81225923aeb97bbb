"""`begin_effect.sql`, `look_at_effect.sql`, `take_effect_over.sql`: of those that ask for a key, one calls."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier

import psycopg
import pytest

from pgqueue.database import fetch, run
from pgqueue.job import ClaimedJob
from pgqueue.outcome import Retry
from pgqueue.queries import effects
from pgqueue.queries.effects import Begun, Holder
from tests.sql.rows import (
    ERROR,
    SCHEMA,
    Connection,
    add,
    claim,
    claim_one,
    connect,
    finish,
    open_transaction,
    rows,
    value,
    wait_for_lock,
)

Another = Callable[[], Connection]

HOUR = timedelta(hours=1)


def me(claimed: ClaimedJob) -> Holder:
    return Holder(claimed.id, claimed.fence)


def running(conn: Connection, count: int = 1) -> list[Holder]:
    add(conn, count)
    return [me(one) for one in claim(conn).jobs]


def begin(conn: Connection, holder: Holder, key: str = "k", request: str = "r") -> Begun:
    return run(conn, effects.begin(SCHEMA, holder, key, request))


def record(conn: Connection, holder: Holder, key: str = "k", result: str | None = "7") -> list[str | None]:
    return run(conn, effects.record(SCHEMA, holder, key, result, None))


def test_the_first_calls_and_the_next_are_told_what_came_of_it(db: Connection) -> None:
    first, second = running(db, 2)
    assert begin(db, first).verdict == "yours"
    assert begin(db, second) == Begun("held", held_by=first.job_id)
    assert record(db, first, result='{"b": 1, "a": 1e2}') == ['{"a": 100, "b": 1}']
    assert begin(db, second) == begin(db, first) == Begun("done", "r", '{"a": 100, "b": 1}')


def test_a_call_that_was_given_back_is_the_next_ones(db: Connection) -> None:
    first, second = running(db, 2)
    begin(db, first)
    run(db, effects.give_back(SCHEMA, first, "k"))
    assert begin(db, second).verdict == "yours"
    run(db, effects.give_back(SCHEMA, first, "k"))
    assert begin(db, first).verdict == "held"


def test_what_is_done_is_not_given_back(db: Connection) -> None:
    [holder] = running(db)
    begin(db, holder)
    record(db, holder, result=None)
    run(db, effects.give_back(SCHEMA, holder, "k"))
    assert begin(db, holder) == Begun("done", "r")


def test_asking_and_recording_twice_is_as_once(db: Connection) -> None:
    [holder] = running(db)
    assert [begin(db, holder).verdict for _ in range(2)] == ["yours", "yours"]
    assert [record(db, holder) for _ in range(2)] == [["7"], ["7"]]


def test_a_key_is_free_as_soon_as_its_job_has_lost_the_claim(db: Connection) -> None:
    add(db)
    claimed = claim_one(db)
    first = me(claimed)
    begin(db, first, request="first")
    finish(db, claimed, Retry(60.0, ERROR))
    [second] = running(db)
    assert begin(db, second, request="second").verdict == "yours"
    assert record(db, first) == []
    assert record(db, second) == ["7"]
    assert value(db, "select request from pgqueue.effects") == "second"


def test_a_run_that_lost_its_claim_begins_nothing(db: Connection) -> None:
    [holder] = running(db)
    assert begin(db, Holder(holder.job_id, 1)).verdict == "stale"
    assert begin(db, Holder(4711, holder.fence)).verdict == "stale"
    assert rows(db, "select * from pgqueue.effects") == []


@pytest.mark.parametrize("left_by", ["nobody", "a dead holder"])
def test_of_many_that_ask_at_once_one_calls(db: Connection, another: Another, left_by: str) -> None:
    holders = running(db, 8)
    sessions = [another() for _ in holders]
    for turn in range(20):
        key = f"k{turn}"
        if left_by != "nobody":
            db.execute("insert into pgqueue.effects (key, request, job_id, fence) values (%s, 'r', 4711, 5)", [key])
        start = Barrier(len(holders))

        def ask(conn: Connection, holder: Holder, key: str = key, start: Barrier = start) -> str:
            start.wait()
            return begin(conn, holder, key).verdict

        with ThreadPoolExecutor(len(holders)) as pool:
            verdicts = sorted(pool.map(ask, sessions, holders))
        assert verdicts == ["held"] * 7 + ["yours"]


@pytest.mark.parametrize("commits", [True, False])
def test_who_asks_while_a_transaction_has_taken_the_key_waits_for_its_end(
    db: Connection, another: Another, dsn: str, commits: bool
) -> None:
    first, second = running(db, 2)
    waiting = another()
    with open_transaction(dsn) as transaction, ThreadPoolExecutor(1) as pool:
        begin(transaction, first)
        record(transaction, first)
        asked = pool.submit(begin, waiting, second)
        wait_for_lock(db, waiting)
        transaction.commit() if commits else transaction.rollback()
        assert asked.result(20).verdict == ("done" if commits else "yours")


def test_a_claim_that_is_younger_than_the_question_holds_its_key(db: Connection, another: Another, dsn: str) -> None:
    """Who has waited sees who lives now, not who lived when it asked."""
    first, second = running(db, 2)
    waiting = another()
    with open_transaction(dsn) as transaction, ThreadPoolExecutor(1) as pool:
        begin(transaction, first)
        asked = pool.submit(begin, waiting, second)
        wait_for_lock(db, waiting)
        [young] = running(db)
        transaction.execute("update pgqueue.effects set job_id = %s, fence = %s", [young.job_id, young.fence])
        transaction.commit()
        assert asked.result(20) == Begun("held", held_by=young.job_id)


def test_old_effects_are_forgotten_and_calls_under_way_are_not(db: Connection) -> None:
    held, ended, recent = running(db, 3)
    for holder, key in ((held, "under way"), (ended, "done"), (recent, "recent")):
        begin(db, holder, key)
    record(db, ended, "done")
    db.execute(
        "insert into pgqueue.effects (key, request, job_id, fence, begun_at) values ('left', 'r', 4711, 5, '2020-01-01')"
    )
    db.execute("update pgqueue.effects set begun_at = now() - interval '2 h' where key <> 'recent'")
    assert fetch(db, effects.forget_effects(SCHEMA, HOUR, 10)) == [2]
    assert [row["key"] for row in rows(db, "select key from pgqueue.effects order by 1")] == ["recent", "under way"]


def test_a_worker_waits_for_a_transaction_only_as_long_as_its_connection_allows(db: Connection, dsn: str) -> None:
    first, second = running(db, 2)
    with open_transaction(dsn) as transaction, connect(dsn, lock_timeout="50ms") as conn:
        begin(transaction, first)
        with pytest.raises(psycopg.errors.LockNotAvailable):
            begin(conn, second)
        assert begin(conn, second, "other").verdict == "yours"
