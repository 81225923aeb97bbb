"""`drop_claims.sql`: a claims row goes when no job carries it any more, and not before."""

from __future__ import annotations

import pytest

from pgqueue.database import fetch
from pgqueue.outcome import Completed, Outcome
from pgqueue.queries import claiming
from tests.sql.rows import (
    OUTCOMES,
    SCHEMA,
    Connection,
    add,
    claim,
    claim_one,
    finish,
    open_transaction,
    value,
)


def drop(conn: Connection, *fences: int) -> list[int]:
    return [fence for (fence,) in fetch(conn, claiming.drop_claims(SCHEMA, fences))]


@pytest.mark.parametrize("outcome", OUTCOMES.values(), ids=OUTCOMES)
def test_a_claim_goes_when_its_jobs_have_ended_or_gone_back(db: Connection, outcome: Outcome | None) -> None:
    add(db, 3)
    jobs = claim(db).jobs
    assert drop(db, jobs[0].fence) == []
    finish(db, jobs[:2], outcome)
    assert drop(db, jobs[0].fence) == []
    finish(db, jobs[2], outcome)
    assert drop(db, jobs[0].fence) == [jobs[0].fence]
    assert value(db, "select count(*) from pgqueue.claims") == 0


def test_a_claim_goes_though_its_job_is_held_under_another_one_since(db: Connection) -> None:
    add(db)
    first = claim_one(db)
    finish(db, first, None)
    second = claim_one(db)
    assert drop(db, first.fence, second.fence) == [first.fence]


def test_a_claim_of_which_nobody_knows_is_no_error(db: Connection) -> None:
    assert drop(db, 1, 2) == []


def test_rule_7_dropping_claims_commits_asynchronously_and_leaves_the_session_as_it_was(db: Connection) -> None:
    add(db)
    claimed = claim_one(db)
    finish(db, claimed, Completed())
    db.execute("set synchronous_commit = on")
    with db.transaction():
        drop(db, claimed.fence)
        assert value(db, "show synchronous_commit") == "off"
    assert value(db, "show synchronous_commit") == "on"


def test_rule_2_a_finish_does_not_wait_for_a_locked_claim(db: Connection, dsn: str) -> None:
    add(db)
    claimed = claim_one(db)
    with open_transaction(dsn) as other:
        other.execute("select from pgqueue.claims for update")
        db.execute("set lock_timeout = '100ms'")
        assert finish(db, claimed, Completed()) == 0


def test_rule_2_dropping_a_claim_locks_no_job(db: Connection, dsn: str) -> None:
    add(db, 2)
    jobs = claim(db).jobs
    finish(db, jobs[0], None)
    with open_transaction(dsn) as other:
        other.execute("select from pgqueue.jobs for update")
        db.execute("set lock_timeout = '100ms'")
        assert drop(db, jobs[0].fence) == []
