"""`lock_claimed.sql` and rule 2: one locked row does not hold up a batch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from psycopg import errors

from pgqueue.database import fetch
from pgqueue.job import ClaimedJob
from pgqueue.outcome import Completed, Outcome
from pgqueue.queries import finishing
from tests.sql.rows import (
    OUTCOMES,
    SCHEMA,
    Connection,
    add,
    claim,
    connect,
    finish,
    finished,
    open_transaction,
    rows,
    state_of,
)

Another = Callable[[], Connection]


def lock(conn: Connection, jobs: list[ClaimedJob]) -> list[int]:
    return fetch(conn, finishing.lock_claimed(SCHEMA, [finished(one, None) for one in jobs]))


def test_it_locks_what_is_free_by_id_and_names_it(db: Connection, dsn: str) -> None:
    ids = add(db, 4)
    jobs = claim(db).jobs
    with open_transaction(dsn) as other:
        other.execute("select from pgqueue.jobs where id = %s for update", [ids[2]])
        with db.transaction():
            assert lock(db, jobs[::-1]) == [ids[0], ids[1], ids[3]]


def test_it_does_not_lock_what_the_caller_no_longer_holds(db: Connection, dsn: str) -> None:
    add(db, 2)
    mine, other = claim(db).jobs
    finish(db, other, None)
    with open_transaction(dsn) as finisher:
        assert lock(finisher, [mine, other]) == [mine.id]


@pytest.mark.parametrize("outcome", OUTCOMES.values(), ids=OUTCOMES)
def test_rule_2_a_finish_that_meets_a_locked_row_gives_up_soon_and_writes_the_others(
    dsn: str, db: Connection, outcome: Outcome | None
) -> None:
    ids = add(db, 3)
    jobs = claim(db).jobs
    with open_transaction(dsn) as other, connect(dsn, lock_timeout="50ms") as finisher:
        other.execute("select from pgqueue.jobs where id = %s for update", [ids[1]])
        with pytest.raises(errors.LockNotAvailable):
            finish(finisher, jobs, outcome)
        assert {state_of(db, id_) for id_ in ids} == {"running"}
        with finisher.transaction():
            free = lock(finisher, jobs)
            assert finish(finisher, [one for one in jobs if one.id in free], outcome) == 0
        assert state_of(db, ids[1]) == "running"
        assert {state_of(db, ids[0]), state_of(db, ids[2])}.isdisjoint({"running"})
        other.rollback()
        assert finish(finisher, jobs[1], outcome) == 0


def test_rule_2_a_finish_locks_no_claim(db: Connection, dsn: str) -> None:
    add(db, 2)
    jobs = claim(db).jobs
    with open_transaction(dsn) as finisher:
        assert finish(finisher, jobs, Completed()) == 0
        assert len(rows(db, "select from pgqueue.claims for update nowait")) == 1
