"""The turns of a purge, and the steps of an obliterated queue."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from pgqueue.database import fetch, run
from pgqueue.errors import QueueBusy
from pgqueue.outcome import Completed
from pgqueue.queries import purging
from pgqueue.queries.obliterating import obliterate
from pgqueue.queries.purging import WAITING, Purged, Purging, Steps, purge_turn
from tests.sql.rows import SCHEMA, Connection, add, claim_one, finish, rows, value

Another = Callable[[], Connection]
MAIL = Purging("jobs", WAITING, "mail")


def turn(conn: Connection, which: Purging = MAIL, after: int = 0, *, wait: bool = False) -> Purged:
    [done] = fetch(conn, purge_turn(SCHEMA, which, after, wait=wait))
    return done


def steps_until(conn: Connection, steps: Steps, holds: Callable[[], bool], sent: Any = None) -> Any:
    """What the next step is to be sent."""
    while not holds():
        sent = run(conn, steps.send(sent))
    return sent


def rest_of(conn: Connection, steps: Steps, sent: Any = None) -> Any:
    while True:
        try:
            sent = run(conn, steps.send(sent))
        except StopIteration as end:
            return end.value


def test_a_turn_looks_at_so_many_rows_and_goes_on_from_there(db: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(purging, "LOOK_AT", 3)
    others = add(db, 2, queue="other")
    ids = add(db, 4)
    assert turn(db) == (3, ids[0], 1, 1)
    assert turn(db, after=ids[0]) == (3, ids[3], 3, 3)
    assert turn(db, after=ids[3]) == (0, 0, 0, 0)
    assert [row["id"] for row in rows(db, "select id from pgqueue.jobs order by id")] == others


def test_what_is_locked_is_skipped_and_counted_as_meant(db: Connection, another: Another) -> None:
    ids = add(db, 3)
    other = another()
    with other.transaction():
        other.execute("select from pgqueue.jobs where id = %s for update", [ids[1]])
        assert turn(db) == (3, ids[2], 3, 2)
    assert turn(db, wait=True) == (1, ids[1], 1, 1)
    assert turn(db, wait=True) == (0, 0, 0, 0)


def test_what_waits_for_one_passes_those_that_are_not_meant(db: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(purging, "LOOK_AT", 2)
    others = add(db, 2, queue="other")
    assert turn(db, wait=True) == (2, others[1], 0, 0)


def test_running_jobs_and_those_above_an_id_stay(db: Connection) -> None:
    held = claim_one(db) if add(db, 3) else None
    assert held is not None
    ids = [row["id"] for row in rows(db, "select id from pgqueue.jobs order by id")]
    assert turn(db, Purging("jobs", WAITING, "mail", up_to=ids[1])).gone == 1
    assert [row["id"] for row in rows(db, "select id from pgqueue.jobs order by id")] == [ids[0], ids[2]]
    assert turn(db, Purging("jobs", ("running",), "mail")).gone == 1


def test_age_counts_from_the_enqueue_of_a_waiting_job(db: Connection) -> None:
    add(db, 2)
    db.execute(
        "update pgqueue.jobs set created_at = now() - interval '2 h' where id = (select min(id) from pgqueue.jobs)"
    )
    assert turn(db, Purging("jobs", WAITING, older_than=timedelta(hours=3))).gone == 0
    assert turn(db, Purging("jobs", WAITING, older_than=timedelta(hours=1))).gone == 1


def test_places_are_given_back(db: Connection) -> None:
    add(db, 1)
    db.execute(
        "update pgqueue.jobs set places = array['serial:mail:a', 'task:send'], waits_for = 'task:send', ready = 1"
    )
    turn(db)
    freed = rows(db, "select gate, loose, places from pgqueue.freed_places order by gate")
    assert [tuple(row.values()) for row in freed] == [("serial:mail:a", False, 1), ("task:send", True, 1)]


def test_a_job_that_was_claimed_just_before_the_pause_keeps_it_from_the_end(db: Connection) -> None:
    add(db, 2)
    steps = obliterate(SCHEMA, "mail", force=False)
    sent = steps_until(db, steps, lambda: bool(value(db, "select count(*) from pgqueue.queues where paused")))
    # The second look sees nothing yet.
    sent = run(db, steps.send(sent))
    assert sent == 0
    db.execute("update pgqueue.queues set paused = false")
    held = claim_one(db)
    db.execute("update pgqueue.queues set paused = true")
    with pytest.raises(QueueBusy, match="1 job of it runs, claimed just before it was paused, which it still is"):
        rest_of(db, steps, sent)
    assert value(db, "select paused from pgqueue.queues where name = 'mail'")
    finish(db, held, Completed())
    gone = rest_of(db, obliterate(SCHEMA, "mail", force=False))
    assert (gone.waiting, gone.running, gone.ended) == (0, 0, 1)
    assert value(db, "select count(*) from pgqueue.queues where name = 'mail'") == 0


def test_a_gate_where_a_later_job_is_parked_stays(db: Connection) -> None:
    add(db, 1, serial_key="a")
    for key in "ab":
        db.execute(
            "insert into pgqueue.gates (name, scope, of, waiting) values (%s, 'serial', 'mail', 1)",
            [f"serial:mail:{key}"],
        )
    steps = obliterate(SCHEMA, "mail", force=False)
    sent = steps_until(db, steps, lambda: value(db, "select count(*) from pgqueue.jobs") == 0)
    [late] = add(db, 1, serial_key="b")
    db.execute("update pgqueue.jobs set state = 'blocked', position = null, waits_for = 'serial:mail:b'")
    rest_of(db, steps, sent)
    assert [row["name"] for row in rows(db, "select name from pgqueue.gates")] == ["serial:mail:b"]
    assert [row["id"] for row in rows(db, "select id from pgqueue.jobs")] == [late]
