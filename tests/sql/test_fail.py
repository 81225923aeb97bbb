"""`fail.sql`: running → failed, whole into `failed_jobs`."""

from __future__ import annotations

from uuid import uuid4

from pgqueue.database import run
from pgqueue.outcome import AttemptError, Failed, Retry
from pgqueue.queries import finishing
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
    finished,
    job,
    make_due,
    promote,
    rows,
    value,
)


def test_a_failed_job_is_kept_whole_with_every_attempts_error(db: Connection) -> None:
    [made] = enqueue(
        db,
        job(
            args='{"to": "a@b.c"}',
            key="k",
            tags='["x"]',
            headers='{"trace": "1"}',
            options='{"timeout": 3}',
            max_attempts=2,
        ),
    )
    finish(db, claim_one(db), Retry(0.0, AttemptError("E", "first")))
    make_due(db, made.id)
    promote(db)
    me = uuid4()
    batch = [finished(claim_one(db), Failed("attempts_used", ERROR), duration=1.0)]
    assert run(db, finishing.finish(SCHEMA, me, batch)).stale == 0
    assert value(db, "select count(*) from pgqueue.jobs") == 0
    [row] = rows(db, "select * from pgqueue.failed_jobs")
    assert (row["id"], row["queue"], row["task"], row["unique_key"], row["attempt"], row["max_attempts"]) == (
        made.id, "mail", "send", "k", 2, 2,
    )  # fmt: skip
    assert (row["args"], row["tags"], row["headers"], row["options"]) == (
        {"to": "a@b.c"},
        ["x"],
        {"trace": "1"},
        {"timeout": 3},
    )
    assert (row["reason"], row["error_type"], row["error_message"]) == ("attempts_used", ERROR.type, ERROR.message)
    assert [(error["attempt"], error["message"]) for error in row["errors"]] == [(1, "first"), (2, ERROR.message)]
    assert row["errors"][1]["worker"] == str(me)
    assert row["worker_id"] == me


def test_each_job_of_a_batch_gets_its_own_reason_and_fingerprint(db: Connection) -> None:
    add(db, 3)
    errors = [AttemptError("A", "a"), AttemptError("B", "b"), AttemptError("A", "other words")]
    batch = [finished(one, Failed(f"r{n}", errors[n], crashed=n == 1)) for n, one in enumerate(claim(db).jobs)]
    run(db, finishing.finish(SCHEMA, uuid4(), batch[::-1]))
    found = rows(db, "select reason, error_type, crashes, fingerprint from pgqueue.failed_jobs order by id")
    assert [(row["reason"], row["error_type"], row["crashes"]) for row in found] == [
        ("r0", "A", 0),
        ("r1", "B", 1),
        ("r2", "A", 0),
    ]
    assert found[0]["fingerprint"] == found[2]["fingerprint"] != found[1]["fingerprint"]


def test_a_failed_job_releases_its_key(db: Connection) -> None:
    enqueue(db, job(key="k"))
    finish(db, claim_one(db), Failed("fail_job", ERROR))
    assert enqueue(db, job(key="k"))[0].created


def test_the_errors_of_a_failed_job_are_bounded_at_a_hundred(db: Connection) -> None:
    add(db)
    many = "select jsonb_agg(jsonb_build_object('message', n)) from generate_series(1, 100) n"
    db.execute(f"update pgqueue.jobs set errors = ({many})")
    finish(db, claim_one(db), Failed("attempts_used", ERROR))
    [row] = rows(db, "select errors from pgqueue.failed_jobs")
    assert len(row["errors"]) == 100
    assert (row["errors"][0]["message"], row["errors"][-1]["message"]) == (2, ERROR.message)


def test_a_redriven_job_fails_again_under_its_own_id_with_the_older_errors_kept(db: Connection) -> None:
    [id_] = add(db)
    finish(db, claim_one(db), Failed("fail_job", AttemptError("E", "first")))
    assert value(db, "select pgqueue.redrive(everything => true)") == id_
    again = claim_one(db)
    assert (again.id, again.attempt, again.crashes) == (id_, 1, 0)
    assert finish(db, again, Failed("fail_job", AttemptError("E", "second"))) == 0
    [row] = rows(db, "select errors from pgqueue.failed_jobs")
    assert [error["message"] for error in row["errors"]] == ["first", "second"]


def test_a_job_that_was_running_when_its_cancel_was_asked_for_may_still_fail(db: Connection) -> None:
    [id_] = add(db)
    claimed = claim_one(db)
    db.execute("select pgqueue.cancel(array[%s]::bigint[])", [id_])
    assert finish(db, claimed, Failed("fail_job", ERROR)) == 0
    assert value(db, "select count(*) from pgqueue.failed_jobs") == 1


def test_the_fingerprint_depends_on_the_task_the_type_and_the_place_and_on_nothing_else() -> None:
    def of(task: str = "t", type_: str = "E", text: str = "a", place: str = "shop.send") -> str:
        return finishing.fingerprint(task, AttemptError(type_, text, f"Traceback of {text}", place=place))

    assert of() == of(text="b")
    assert len({of(), of(task="u"), of(type_="F"), of(place="shop.other")}) == 4


def test_texts_of_errors_are_kept_as_they_are(db: Connection) -> None:
    [id_] = add(db)
    finish(db, claim_one(db), Retry(0.0, AttemptError(TRICKY, TRICKY, TRICKY)))
    make_due(db, id_)
    promote(db)
    finish(db, claim_one(db), Failed("attempts_used", AttemptError(TRICKY, TRICKY, TRICKY)))
    [row] = rows(db, "select * from pgqueue.failed_jobs")
    assert [(each["type"], each["message"], each["traceback"]) for each in row["errors"]] == [(TRICKY,) * 3] * 2
    assert (row["error_type"], row["error_message"]) == (TRICKY, TRICKY)
