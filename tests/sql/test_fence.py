"""A worker that lost its claim can write nothing, whatever it came to."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from uuid import uuid4

import pytest

from pgqueue.database import run
from pgqueue.job import ClaimedJob
from pgqueue.outcome import Cancelled, Completed, Outcome
from pgqueue.queries import finishing
from tests.sql.rows import (
    OUTCOMES,
    SCHEMA,
    Connection,
    add,
    bury,
    claim,
    claim_one,
    finish,
    finished,
    job_row,
    make_due,
    promote,
    rescue,
    rows,
    state_of,
    states,
    value,
    worker,
)

ALL = {**OUTCOMES, "cancel": Cancelled("no"), "complete without history": Completed()}
each_outcome = pytest.mark.parametrize(("kind", "outcome"), ALL.items(), ids=ALL)


def lose(conn: Connection) -> tuple[ClaimedJob, ClaimedJob]:
    """A job as a dead worker holds it, and as the worker does that has claimed it since."""
    dead = worker(conn, lease=-1.0)
    add(conn, 1, queue="other")
    claim_one(conn, dead, queue="other")
    stale = claim_one(conn, dead)
    assert bury(conn) == {dead}
    assert {orphan.job_id for orphan in rescue(conn)} >= {stale.id}
    current = claim_one(conn, worker(conn))
    assert current.id == stale.id
    return stale, current


def everything(conn: Connection, job_id: int) -> list[object]:
    tables = ("jobs", "completed_jobs", "failed_jobs")
    return [rows(conn, f"select * from pgqueue.{table} where id = %(id)s", id=job_id) for table in tables]


@each_outcome
def test_a_stale_finish_after_a_rescue_and_a_new_claim_writes_nothing(
    db: Connection, kind: str, outcome: Outcome | None
) -> None:
    [id_] = add(db)
    stale, current = lose(db)
    before = everything(db, id_)
    assert finish(db, stale, outcome, kept="without" not in kind) == 1
    assert everything(db, id_) == before
    assert finish(db, current, Completed()) == 0
    assert state_of(db, id_) == "completed"


@each_outcome
def test_a_stale_finish_of_a_job_that_only_waits_writes_nothing(
    db: Connection, kind: str, outcome: Outcome | None
) -> None:
    [id_] = add(db)
    claimed = claim_one(db)
    finish(db, claimed, None)
    before = everything(db, id_)
    assert finish(db, claimed, outcome, kept="without" not in kind) == 1
    assert everything(db, id_) == before


@each_outcome
def test_a_second_finish_of_the_same_attempt_writes_nothing(db: Connection, kind: str, outcome: Outcome | None) -> None:
    [id_] = add(db)
    claimed = claim_one(db)
    assert finish(db, claimed, outcome, kept="without" not in kind) == 0
    before = everything(db, id_)
    assert finish(db, claimed, Completed()) == 1
    assert everything(db, id_) == before


def test_a_stale_outcome_in_a_batch_leaves_the_others_alone(db: Connection) -> None:
    add(db)
    stale, current = lose(db)
    [own] = add(db)
    mine = claim_one(db)
    assert mine.id == own
    assert finish(db, [stale, mine], Completed()) == 1
    assert state_of(db, own) == "completed"
    assert job_row(db, current.id)["claim_id"] == current.fence


def test_an_older_outcome_of_a_job_that_the_worker_holds_again_does_not_count(db: Connection) -> None:
    [id_] = add(db)
    first = claim_one(db)
    finish(db, first, OUTCOMES["retry"])
    make_due(db, id_)
    promote(db)
    again = claim_one(db)
    # The fences of a batch are not paired with its jobs, so both fences stand in the same statement.
    batch = [finished(first, OUTCOMES["fail"]), finished(again, OUTCOMES["snooze"])]
    assert run(db, finishing.finish(SCHEMA, uuid4(), batch)).stale == 0
    assert state_of(db, id_) == "scheduled"


def test_a_finish_and_a_rescue_at_once_end_each_job_once(db: Connection, another: Callable[[], Connection]) -> None:
    add(db, 200)
    dead = worker(db, lease=-1.0)
    held = [*claim(db, dead, count=120).jobs, *claim(db, dead).jobs]
    bury(db)
    start = Barrier(3)
    one, two, three = another(), another(), another()

    def write(conn: Connection) -> int:
        start.wait()
        return sum(finish(conn, held[n : n + 20], Completed()) for n in range(0, len(held), 20))

    def take_back(conn: Connection) -> int:
        start.wait()
        return len(rescue(conn))

    with ThreadPoolExecutor(3) as threads:
        writing = threads.submit(write, one)
        taking = [threads.submit(take_back, conn) for conn in (two, three)]
        stale = writing.result()
        rescued = sum(turn.result() for turn in taking)
    found = states(db)
    assert found.get("completed", 0) == 200 - stale
    assert found.get("completed", 0) + found.get("available", 0) + found.get("running", 0) == 200
    # A row that the finish had locked at that moment is left to the next turn.
    assert rescued + len(rescue(db)) >= found.get("available", 0)
    assert states(db).get("running", 0) == 0
    assert value(db, "select count(*) from pgqueue.claims") == 0
    assert value(db, "select count(*) from (select id from pgqueue.all_jobs group by id having count(*) > 1) d") == 0
