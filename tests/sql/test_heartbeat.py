"""`heartbeat.sql` and `bury.sql`: a lease is renewed, ends, and is never brought back."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID, uuid4

from pgqueue.database import fetch
from pgqueue.outcome import Completed
from pgqueue.queries import fleet
from tests.sql.rows import (
    SCHEMA,
    Connection,
    add,
    bury,
    claim,
    finish,
    open_transaction,
    rows,
    value,
    wait_for_lock,
    worker,
)

Another = Callable[[], Connection]


def heartbeat(conn: Connection, id_: UUID, lease: float = 30.0) -> list[UUID]:
    return [found for (found,) in fetch(conn, fleet.heartbeat(SCHEMA, id_, lease))]


def test_a_heartbeat_moves_the_end_of_the_lease_by_the_databases_clock(db: Connection) -> None:
    me = worker(db, lease=1.0)
    before = rows(db, "select heartbeat_at, expires_at from pgqueue.workers")[0]
    assert heartbeat(db, me, lease=500.0) == [me]
    [after] = rows(
        db, "select heartbeat_at, expires_at, expires_at - heartbeat_at > interval '499 s' as long from pgqueue.workers"
    )
    assert after["heartbeat_at"] > before["heartbeat_at"]
    assert after["long"]


def test_rule_6_a_heartbeat_never_inserts_a_row(db: Connection) -> None:
    assert heartbeat(db, uuid4()) == []
    assert value(db, "select count(*) from pgqueue.workers") == 0


def test_rule_6_a_buried_worker_learns_it_from_its_next_heartbeat(db: Connection) -> None:
    dead, alive = worker(db, lease=-1.0), worker(db)
    assert bury(db) == {dead}
    assert heartbeat(db, dead) == []
    assert heartbeat(db, alive) == [alive]
    assert bury(db) == set()


def test_a_late_heartbeat_keeps_a_lease_that_nobody_has_ended_yet(db: Connection) -> None:
    late = worker(db, lease=-1.0)
    assert heartbeat(db, late) == [late]
    assert bury(db) == set()


def test_a_burial_does_not_wait_for_a_heartbeat_under_way(db: Connection, dsn: str) -> None:
    late, dead = worker(db, lease=-1.0), worker(db, lease=-1.0)
    with open_transaction(dsn) as other:
        assert heartbeat(other, late) == [late]
        db.execute("set lock_timeout = '100ms'")
        assert bury(db) == {dead}
        other.commit()
    assert bury(db) == set()


def test_a_heartbeat_that_waited_for_a_burial_finds_no_row(db: Connection, another: Another, dsn: str) -> None:
    late = worker(db, lease=-1.0)
    with open_transaction(dsn) as rescuer, ThreadPoolExecutor(1) as threads:
        assert bury(rescuer) == {late}
        other = another()
        beating = threads.submit(heartbeat, other, late)
        wait_for_lock(db, other)
        rescuer.commit()
        assert beating.result() == []


def test_a_worker_leaves_only_when_no_claim_of_it_is_left(db: Connection) -> None:
    me = worker(db)
    add(db)
    jobs = claim(db, me).jobs
    assert fetch(db, fleet.unregister_worker(SCHEMA, me)) == []
    finish(db, jobs, Completed())
    db.execute("delete from pgqueue.claims")
    assert fetch(db, fleet.unregister_worker(SCHEMA, me)) == [(me,)]


def test_a_stopping_worker_is_idle_for_no_queue(db: Connection) -> None:
    me = worker(db, idle=["mail"])
    fetch(db, fleet.mark_leaving(SCHEMA, me, "stopping"))
    assert value(db, "select state from pgqueue.workers") == "stopping"
    assert value(db, "select count(*) from pgqueue.idle_workers") == 0


def test_a_worker_without_a_row_is_idle_for_no_queue(db: Connection) -> None:
    dead = worker(db, lease=-1.0, idle=["mail"])
    assert bury(db) == {dead}
    assert fetch(db, fleet.mark_idle(SCHEMA, dead, "mail")) == []
    assert value(db, "select count(*) from pgqueue.idle_workers") == 0


def test_recording_idleness_waits_for_a_burial_under_way(db: Connection, another: Another, dsn: str) -> None:
    late = worker(db, lease=-1.0)
    with open_transaction(dsn) as rescuer, ThreadPoolExecutor(1) as threads:
        assert bury(rescuer) == {late}
        other = another()
        marking = threads.submit(fetch, other, fleet.mark_idle(SCHEMA, late, "mail"))
        wait_for_lock(db, other)
        rescuer.commit()
        assert marking.result() == []


def test_a_busy_worker_is_idle_for_its_other_queues_only(db: Connection) -> None:
    me = worker(db, idle=["mail", "thumbs"])
    fetch(db, fleet.mark_busy(SCHEMA, me, "mail"))
    assert value(db, "select array_agg(queue) from pgqueue.idle_workers") == ["thumbs"]


def test_a_burial_removes_what_a_worker_without_a_row_left(db: Connection) -> None:
    me = worker(db, idle=["mail"])
    db.execute("insert into pgqueue.idle_workers (worker_id, queue) values (gen_random_uuid(), 'mail')")
    assert bury(db) == set()
    assert value(db, "select array_agg(worker_id) from pgqueue.idle_workers") == [me]
