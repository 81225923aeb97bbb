"""`wait.sql`, and what the end of a job tells those that wait for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest

from pgqueue.database import fetch
from pgqueue.outcome import Cancelled, Completed, Failed, Outcome
from pgqueue.queries import inspecting, waiting
from tests.sql.rows import (
    ERROR,
    OUTCOMES,
    SCHEMA,
    Connection,
    add,
    bury,
    claim,
    claim_one,
    connect,
    finish,
    notifications,
    open_transaction,
    rescue,
    value,
    worker,
)

Another = Callable[[], Connection]

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
ENDINGS: dict[str, Outcome] = {
    "complete": Completed("1"),
    "fail": Failed("fail_job", ERROR),
    "cancel": Cancelled("not needed"),
}
GOES_ON = sorted(OUTCOMES.keys() - {"complete", "fail"})


@pytest.fixture
def waiter(dsn: str) -> Iterator[Connection]:
    """Listens where it is recorded to wait, and where `notifications` ends what it reads."""
    with connect(dsn) as conn:
        conn.execute("listen mine")
        conn.execute("listen pgqueue")
        yield conn


def wait(conn: Connection, *ids: int, channel: str = "mine", expires: timedelta = MINUTE) -> None:
    fetch(conn, waiting.wait(SCHEMA, ids, channel, expires))


def told(conn: Connection) -> list[int]:
    """The ids of jobs whose end was notified."""
    return [int(payload) for payload in notifications(conn) if payload.isdecimal()]


def waiters(conn: Connection) -> int:
    return int(value(conn, "select count(*) from pgqueue.waiters"))


@pytest.mark.parametrize("outcome", ENDINGS)
def test_the_end_of_a_running_job_tells_who_waits_and_forgets_it(
    db: Connection, waiter: Connection, outcome: str
) -> None:
    [id_] = add(db)
    wait(db, id_)
    finish(db, claim_one(db), ENDINGS[outcome])
    assert told(waiter) == [id_]
    assert waiters(db) == 0


def test_a_job_that_keeps_no_history_tells_too(db: Connection, waiter: Connection) -> None:
    [id_] = add(db)
    wait(db, id_)
    finish(db, claim_one(db), Completed(), kept=False)
    assert told(waiter) == [id_]


@pytest.mark.parametrize("outcome", GOES_ON)
def test_a_job_that_goes_on_tells_nobody(db: Connection, waiter: Connection, outcome: str) -> None:
    [id_] = add(db)
    wait(db, id_)
    finish(db, claim_one(db), OUTCOMES[outcome])
    assert told(waiter) == []
    assert waiters(db) == 1


def test_a_cancel_tells_of_every_waiting_job_and_of_no_running_one(db: Connection, waiter: Connection) -> None:
    ids = add(db, 5)
    running = claim_one(db)
    wait(db, *ids)
    fetch(db, inspecting.cancel(SCHEMA, ids, "not wanted"))
    assert sorted(told(waiter)) == sorted(set(ids) - {running.id})
    finish(db, running, OUTCOMES["retry"])
    assert told(waiter) == [running.id]


def test_a_rescue_that_fails_the_job_tells(db: Connection, waiter: Connection) -> None:
    [id_] = add(db, max_attempts=1)
    wait(db, id_)
    dead = worker(db, lease=-1.0)
    claim(db, dead)
    bury(db)
    rescue(db)
    assert told(waiter) == [id_]


def test_of_a_batch_each_job_tells_its_own_waiters(db: Connection, another: Another, waiter: Connection) -> None:
    ids = add(db, 100)
    wait(db, *ids[:50])
    wait(db, *ids[25:75], channel="theirs")
    other = another()
    other.execute("listen theirs")
    other.execute("listen pgqueue")
    finish(db, claim(db).jobs, Completed())
    assert sorted(told(waiter)) == ids[:50]
    assert sorted(told(other)) == ids[25:75]
    assert waiters(db) == 0


def test_an_end_looks_for_nobody_when_nobody_has_waited_for_a_while(db: Connection, waiter: Connection) -> None:
    first, second = add(db, 2)
    wait(db, first, second, expires=HOUR)
    one, other = claim(db).jobs
    finish(db, one, Completed())
    assert told(waiter) == [first]
    # As in an hour.
    db.execute("select setval('pgqueue.waited_until', 1)")
    read = "select pg_stat_get_xact_numscans('pgqueue.waiters_pkey'::regclass)"
    with db.transaction(force_rollback=True):
        before = value(db, read)
        finish(db, other, Completed())
        assert value(db, read) == before
    wait(db, second, expires=2 * HOUR)
    finish(db, other, Completed())
    assert told(waiter) == [second]


def test_how_long_somebody_may_wait_is_written_now_and_then_and_never_too_short(db: Connection) -> None:
    ids = add(db, 3)
    db.execute("select setval('pgqueue.waited_until', 1)")
    until = (
        "select last_value, last_value >= (select extract(epoch from max(expires_at)) from pgqueue.waiters) "
        "from pgqueue.waited_until"
    )
    wait(db, ids[0], expires=HOUR)
    [[first, enough]] = db.execute(until).fetchall()
    assert enough
    wait(db, ids[1], expires=HOUR)
    assert db.execute(until).fetchall() == [(first, True)]
    wait(db, ids[2], expires=2 * HOUR)
    [[later, enough]] = db.execute(until).fetchall()
    assert enough
    assert later > first


def test_the_end_of_jobs_that_nobody_waits_for_tells_nobody(db: Connection, waiter: Connection) -> None:
    awaited, *others = add(db, 20)
    wait(db, awaited)
    first, *rest = claim(db).jobs
    finish(db, rest, Completed())
    finish(db, first, None)
    assert len(rest) == len(others)
    assert told(waiter) == []


def test_a_finish_that_is_rolled_back_tells_nobody(db: Connection, waiter: Connection) -> None:
    [id_] = add(db)
    wait(db, id_)
    claimed = claim_one(db)
    with db.transaction(force_rollback=True):
        finish(db, claimed, Completed())
    assert told(waiter) == []
    assert waiters(db) == 1


def test_nobody_waits_for_what_has_ended_or_never_was(db: Connection) -> None:
    [id_] = add(db)
    finish(db, claim_one(db), Completed())
    wait(db, id_, 4711)
    assert waiters(db) == 0


def test_records_whose_time_is_over_are_forgotten(db: Connection) -> None:
    kept, left = add(db, 2)
    wait(db, kept, left, expires=timedelta())
    wait(db, kept)
    assert fetch(db, waiting.forget_waiters(SCHEMA, 10)) == [2]
    assert fetch(db, waiting.forget_waiters(SCHEMA, 10)) == [0]
    assert value(db, "select job_id from pgqueue.waiters") == kept


def test_a_waiter_is_recorded_again_in_good_time_and_not_before(db: Connection) -> None:
    [id_] = add(db)
    wait(db, id_, expires=MINUTE)
    wait(db, id_, expires=MINUTE)
    assert waiters(db) == 1
    wait(db, id_, expires=3 * MINUTE)
    assert waiters(db) == 2


def test_an_end_does_not_wait_for_one_that_is_recorded_at_this_moment(
    db: Connection, waiter: Connection, dsn: str
) -> None:
    [id_] = add(db)
    wait(db, id_, expires=MINUTE)
    with open_transaction(dsn) as slow:
        wait(slow, id_, expires=3 * MINUTE)
        db.execute("set lock_timeout = '1s'")
        finish(db, claim_one(db), Completed())
    assert told(waiter) == [id_]


def test_a_record_whose_job_is_being_cancelled_is_not_waited_for(db: Connection, dsn: str) -> None:
    [id_] = add(db)
    wait(db, id_)
    with open_transaction(dsn) as canceller:
        fetch(canceller, inspecting.cancel(SCHEMA, [id_], "not wanted"))
        # It would run into its timeout.
        wait(db, id_)
        assert fetch(db, waiting.forget_waiters(SCHEMA, 10)) == [0]
    assert waiters(db) == 1


def test_a_thousand_waiters_that_died_cost_a_finish_nothing_that_is_not_theirs(db: Connection) -> None:
    ids = add(db, 2_000)
    wait(db, *ids[:1_000])
    last = claim(db, count=2_000, slots=2_000).jobs[-1]
    with db.transaction(force_rollback=True):
        read = "select pg_stat_get_xact_tuples_fetched('pgqueue.waiters'::regclass)"
        before = value(db, read)
        finish(db, last, Completed())
        assert value(db, read) == before
