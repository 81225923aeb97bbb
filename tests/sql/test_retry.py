"""`retry.sql`: running → scheduled, for a retry and for a snooze."""

from __future__ import annotations

from uuid import uuid4

import pytest

from pgqueue.database import run
from pgqueue.outcome import AttemptError, Completed, Outcome, Retry, Snooze
from pgqueue.queries import finishing
from tests.sql.rows import (
    ERROR,
    SCHEMA,
    Connection,
    add,
    claim,
    claim_one,
    enqueue,
    finish,
    finished,
    job,
    job_row,
    make_due,
    promote,
    rows,
    state_of,
    states,
    value,
)


def fail_once(conn: Connection, job_id: int, outcome: Retry | Snooze) -> None:
    claimed = claim_one(conn)
    assert claimed.id == job_id
    assert finish(conn, claimed, outcome) == 0
    make_due(conn, job_id)
    assert promote(conn)[0] == 1


def test_a_retry_waits_for_its_delay_and_keeps_the_attempt_and_the_error(db: Connection) -> None:
    [id_] = add(db)
    claimed, me = claim_one(db), uuid4()
    assert run(db, finishing.finish(SCHEMA, me, [finished(claimed, Retry(60.0, ERROR))])).stale == 0
    row = job_row(db, id_)
    assert (row["state"], row["position"], row["claim_id"], row["attempt"], row["crashes"]) == (
        "scheduled",
        None,
        None,
        1,
        0,
    )
    assert 55 < value(db, "select extract(epoch from run_at - clock_timestamp())::float8 from pgqueue.jobs") <= 60
    [error] = row["errors"]
    assert (error["attempt"], error["type"], error["message"]) == (1, ERROR.type, ERROR.message)
    assert (error["traceback"], error["worker"]) == (ERROR.traceback, str(me))
    assert error["at"]


def test_a_snooze_gives_the_attempt_back_and_is_no_error(db: Connection) -> None:
    [id_] = add(db)
    finish(db, claim_one(db), Snooze(60.0))
    row = job_row(db, id_)
    assert (row["state"], row["attempt"], row["errors"]) == ("scheduled", 0, None)


def test_a_crash_counts_as_a_crash_and_an_attempt(db: Connection) -> None:
    [id_] = add(db)
    finish(db, claim_one(db), Retry(60.0, ERROR, crashed=True))
    row = job_row(db, id_)
    assert (row["crashes"], row["attempt"]) == (1, 1)


def test_the_errors_of_all_attempts_are_appended_in_order(db: Connection) -> None:
    [id_] = add(db)
    for n in range(3):
        fail_once(db, id_, Retry(0.0, AttemptError("E", f"error {n}")))
        fail_once(db, id_, Snooze(0.0))
    errors = job_row(db, id_)["errors"]
    assert [(error["attempt"], error["message"]) for error in errors] == [(n + 1, f"error {n}") for n in range(3)]


def test_of_more_than_a_hundred_errors_the_last_hundred_are_kept(db: Connection) -> None:
    [id_] = add(db, max_attempts=1000)
    many = "select jsonb_agg(jsonb_build_object('message', n)) from generate_series(1, 99) n"
    db.execute(f"update pgqueue.jobs set attempt = 99, errors = ({many})")
    for n in range(100, 103):
        fail_once(db, id_, Retry(0.0, AttemptError("E", str(n))))
    errors = job_row(db, id_)["errors"]
    assert len(errors) == 100
    assert errors[0]["message"] == 3
    assert [error["message"] for error in errors[-3:]] == ["100", "101", "102"]


def test_each_job_of_a_batch_gets_its_own_delay_refund_and_error(db: Connection) -> None:
    ids = add(db, 4)
    outcomes: list[Outcome] = [
        Retry(1000.0, AttemptError("A", "a")),
        Snooze(2000.0),
        Retry(3000.0, AttemptError("B", "b"), crashed=True),
        Snooze(4000.0),
    ]
    batch = [finished(one, outcome) for one, outcome in zip(claim(db).jobs, outcomes, strict=True)]
    assert run(db, finishing.finish(SCHEMA, uuid4(), batch[::-1])).stale == 0
    found = [
        (row["waits"], row["attempt"], row["crashes"], row["message"])
        for row in rows(
            db,
            "select round(extract(epoch from run_at - clock_timestamp()) / 1000)::int as waits, attempt, crashes, "
            "errors -> 0 ->> 'message' as message from pgqueue.jobs where id = any (%(ids)s) order by id",
            ids=ids,
        )
    ]
    assert found == [(1, 1, 0, "a"), (2, 0, 0, None), (3, 1, 1, "b"), (4, 0, 0, None)]


def test_a_retry_keeps_the_key_of_its_job(db: Connection) -> None:
    [first] = enqueue(db, job(key="k"))
    finish(db, claim_one(db), Retry(60.0, ERROR))
    [second] = enqueue(db, job(key="k"))
    assert (second.id, second.created) == (first.id, False)


def test_a_retried_job_goes_behind_those_that_became_available_meanwhile(db: Connection) -> None:
    [again, other] = add(db, 2)
    finish(db, claim_one(db), Retry(0.0, ERROR))
    make_due(db, again)
    promote(db)
    assert [one.id for one in claim(db).jobs] == [other, again]


def test_a_running_job_whose_cancel_was_asked_for_is_cancelled_instead_of_retried(db: Connection) -> None:
    ids = add(db, 2)
    jobs = claim(db).jobs
    db.execute("select pgqueue.cancel(array[%s]::bigint[])", [ids[0]])
    assert state_of(db, ids[0]) == "running"
    assert finish(db, jobs, Retry(60.0, ERROR)) == 0
    assert (state_of(db, ids[0]), state_of(db, ids[1])) == ("cancelled", "scheduled")
    assert value(db, "select reason from pgqueue.completed_jobs") == "cancelled while it ran"


def test_a_job_whose_cancel_came_too_late_completes(db: Connection) -> None:
    [id_] = add(db)
    claimed = claim_one(db)
    db.execute("select pgqueue.cancel(array[%s]::bigint[])", [id_])
    assert finish(db, claimed, Completed()) == 0
    assert state_of(db, id_) == "completed"


@pytest.mark.parametrize("outcome", [Retry(60.0, ERROR), Snooze(60.0), None], ids=["retry", "snooze", "release"])
def test_a_job_that_gave_its_key_to_one_that_is_gone_has_it_again_and_goes_on(
    db: Connection, outcome: Outcome | None
) -> None:
    [id_] = add(db, 1, key="k")
    [first] = claim(db).jobs
    heir = enqueued_in_place(db)
    db.execute("select pgqueue.cancel(array[%s])", [heir])
    assert finish(db, first, outcome) == 0
    again = job_row(db, id_)
    assert (again["state"], again["unique_key"], again["options"]) == (
        "available" if outcome is None else "scheduled",
        "k",
        None,
    )
    assert value(db, "select pgqueue.enqueue('send', queue => 'mail', key => 'k')") == id_


@pytest.mark.parametrize("outcome", [Retry(60.0, ERROR), None], ids=["retry", "release"])
def test_a_job_yields_to_the_last_of_those_that_came_also_where_that_runs(
    db: Connection, outcome: Outcome | None
) -> None:
    [oldest] = add(db, 1, key="k")
    [first] = claim(db).jobs
    older = enqueued_in_place(db)
    [second] = claim(db).jobs
    db.execute("select pgqueue.cancel(array[%s])", [enqueued_in_place(db)])
    # The older runs, and has given the key away too.
    assert finish(db, first, outcome) == 0
    assert state_of(db, oldest) == "cancelled"
    assert finish(db, second, outcome) == 0
    assert (job_row(db, older)["unique_key"], states(db)["cancelled"]) == ("k", 2)


def test_of_a_batch_one_job_has_its_key_again_and_the_others_are_written(db: Connection) -> None:
    [plain] = add(db)
    made = add(db, 1, key="k")
    first = claim(db).jobs
    made.append(enqueued_in_place(db))
    second = claim(db).jobs
    db.execute("select pgqueue.cancel(array[%s])", [enqueued_in_place(db)])
    db.execute("update pgqueue.jobs set options = options - 'heir' where options is not null")
    assert finish(db, [*first, *second], Retry(60.0, ERROR)) == 0
    assert job_row(db, plain)["state"] == "scheduled"
    assert [state_of(db, id_) for id_ in made] == ["scheduled", "cancelled"]


def enqueued_in_place(conn: Connection) -> int:
    """A job that takes its key from one that runs."""
    return int(value(conn, "select pgqueue.enqueue('send', queue => 'mail', key => 'k', on_conflict => 'replace')"))
