"""`pgqueue.cancel`, `cancel_claimed.sql` and rescheduling: jobs that somebody changes from outside."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier

from pgqueue.database import fetch, run
from pgqueue.outcome import Cancelled, Completed, Retry
from pgqueue.queries import inspecting
from tests.sql.rows import (
    ERROR,
    SCHEMA,
    TRICKY,
    Connection,
    add,
    claim,
    claim_one,
    enqueue,
    finish,
    job,
    job_row,
    notifications,
    open_transaction,
    promote,
    rows,
    state_of,
    states,
    value,
    wait_for_lock,
)

Another = Callable[[], Connection]


def cancel(conn: Connection, *ids: int) -> dict[int, str]:
    return dict(fetch(conn, inspecting.cancel(SCHEMA, ids, "not wanted")))


def reschedule(conn: Connection, *ids: int, delay: float = 0.0, run_at: datetime | None = None) -> list[int]:
    return sorted(id_ for (id_,) in fetch(conn, inspecting.reschedule(SCHEMA, ids, run_at, delay)))


def test_a_task_that_cancels_its_job_ends_it_with_its_reason(db: Connection) -> None:
    [made] = enqueue(db, job(key="k", args='{"n": 1}'))
    assert finish(db, claim_one(db), Cancelled("sold out"), duration=1.0) == 0
    [row] = rows(db, "select * from pgqueue.completed_jobs")
    assert (row["id"], row["state"], row["reason"], row["args"], row["attempt"]) == (
        made.id,
        "cancelled",
        "sold out",
        {"n": 1},
        1,
    )
    assert enqueue(db, job(key="k"))[0].created


def test_rule_5_a_running_job_is_marked_and_a_waiting_one_ends_in_one_call(db: Connection) -> None:
    running, later = add(db)[0], add(db, delay=60.0)[0]
    claim_one(db)
    [waiting] = add(db)
    assert cancel(db, running, waiting, later, 999) == {running: "running", waiting: "available", later: "scheduled"}
    assert [state_of(db, id_) for id_ in (running, waiting, later)] == ["running", "cancelled", "cancelled"]
    assert job_row(db, running)["cancel_requested"]


def test_rule_5_a_cancel_that_meets_a_claim_under_way_marks_what_has_become_running(
    db: Connection, another: Another, dsn: str
) -> None:
    [id_] = add(db)
    with open_transaction(dsn) as claimer, ThreadPoolExecutor(1) as threads:
        [claimed] = claim(claimer).jobs
        other = another()
        cancelling = threads.submit(cancel, other, id_)
        wait_for_lock(db, other)
        claimer.commit()
        assert cancelling.result() == {id_: "running"}
    assert finish(db, claimed, Retry(60.0, ERROR)) == 0
    assert state_of(db, id_) == "cancelled"


def test_rule_5_a_cancel_that_meets_a_retry_under_way_ends_what_has_become_scheduled(
    db: Connection, another: Another, dsn: str
) -> None:
    [id_] = add(db)
    claimed = claim_one(db)
    with open_transaction(dsn) as worker, ThreadPoolExecutor(1) as threads:
        assert finish(worker, claimed, Retry(60.0, ERROR)) == 0
        other = another()
        cancelling = threads.submit(cancel, other, id_)
        wait_for_lock(db, other)
        worker.commit()
        assert cancelling.result() == {id_: "scheduled"}
    assert state_of(db, id_) == "cancelled"


def test_rule_5_a_retry_that_meets_a_cancel_under_way_is_cancelled(db: Connection, another: Another, dsn: str) -> None:
    [id_] = add(db)
    claimed = claim_one(db)
    with open_transaction(dsn) as user, ThreadPoolExecutor(1) as threads:
        assert cancel(user, id_) == {id_: "running"}
        other = another()
        finishing = threads.submit(finish, other, claimed, Retry(60.0, ERROR))
        wait_for_lock(db, other)
        user.commit()
        assert finishing.result() == 0
    assert state_of(db, id_) == "cancelled"


def test_cancelling_and_claiming_and_finishing_at_once_ends_every_job_once(db: Connection, another: Another) -> None:
    ids = add(db, 150)
    start = Barrier(3)
    claimer, one, two = another(), another(), another()

    def work() -> None:
        start.wait()
        while jobs := claim(claimer, count=4).jobs:
            finish(claimer, jobs, Retry(3600.0, ERROR))

    def stop(conn: Connection) -> None:
        start.wait()
        for n in range(0, len(ids), 5):
            cancel(conn, *ids[n : n + 5])

    with ThreadPoolExecutor(3) as threads:
        for turn in [threads.submit(work), threads.submit(stop, one), threads.submit(stop, two)]:
            turn.result()
    assert states(db) == {"cancelled": 150}


def test_a_job_is_cancelled_by_its_key_in_every_queue_or_in_one(db: Connection) -> None:
    [here, there] = enqueue(db, job(key="k"), job(key="k", queue="other"))
    assert run(db, inspecting.cancel_key(SCHEMA, "k", "other", "no")) == [(there.id, "available")]
    assert run(db, inspecting.cancel_key(SCHEMA, "k", None, "no")) == [(here.id, "available")]
    assert run(db, inspecting.cancel_key(SCHEMA, "k", None, "no")) == []


def test_rescheduling_to_now_makes_a_job_available_and_tells_the_claimers_where(
    db: Connection, listener: Connection
) -> None:
    [id_] = add(db, delay=60.0)
    assert reschedule(db, id_) == [id_]
    row = job_row(db, id_)
    assert row["state"] == "available"
    assert notifications(listener) == [f"available mail 0 {row['position']}"]
    assert claim_one(db).id == id_


def test_rescheduling_an_available_job_to_later_takes_its_place_away(db: Connection, listener: Connection) -> None:
    [id_] = add(db)
    assert reschedule(db, id_, run_at=datetime.now(UTC) + timedelta(hours=1)) == [id_]
    row = job_row(db, id_)
    assert (row["state"], row["position"]) == ("scheduled", None)
    assert notifications(listener) == ["scheduled mail"]
    assert claim(db).jobs == []
    assert promote(db)[0] == 0


def test_rescheduling_leaves_running_jobs_alone(db: Connection) -> None:
    [id_] = add(db)
    claimed = claim_one(db)
    assert reschedule(db, id_, delay=60.0) == []
    assert finish(db, claimed, Completed()) == 0
    assert value(db, "select count(*) from pgqueue.jobs") == 0


def test_the_reason_of_a_cancellation_is_kept_as_it_is(db: Connection) -> None:
    add(db)
    finish(db, claim_one(db), Cancelled(TRICKY))
    assert value(db, "select reason from pgqueue.completed_jobs") == TRICKY
