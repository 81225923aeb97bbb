"""`promote.sql`: scheduled → available."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from tests.sql.rows import (
    Connection,
    add,
    claim,
    enqueue,
    job,
    job_row,
    make_due,
    notifications,
    open_transaction,
    promote,
    rows,
    state_of,
)

Another = Callable[[], Connection]


def test_due_jobs_become_available_in_the_order_of_their_times(db: Connection) -> None:
    ids = add(db, 5, delay=60.0)
    order = [ids[3], ids[0], ids[4], ids[1], ids[2]]
    for n, id_ in enumerate(order):
        db.execute(
            "update pgqueue.jobs set run_at = now() - interval '1 h' + make_interval(secs => %s) where id = %s",
            [n, id_],
        )
    assert promote(db)[0] == 5
    assert [one.id for one in claim(db).jobs] == order


def test_rule_5_jobs_of_one_time_keep_the_order_of_their_ids(db: Connection) -> None:
    ids = add(db, 50, delay=60.0)
    db.execute("update pgqueue.jobs set run_at = now() - interval '1 s' where id = any (%s)", [ids[::-1]])
    promote(db)
    assert [one.id for one in claim(db).jobs] == ids


def test_what_is_not_due_stays_and_its_time_is_told(db: Connection) -> None:
    [later] = add(db, delay=1000.0)
    add(db, delay=5000.0)
    count, due_in = promote(db)
    assert count == 0
    assert due_in is not None
    assert 990 < due_in <= 1000
    assert state_of(db, later) == "scheduled"


def test_a_queue_without_scheduled_jobs_has_no_next_time(db: Connection) -> None:
    add(db)
    add(db, queue="other", delay=5.0)
    assert promote(db) == (0, None)


def test_a_turn_takes_a_bounded_number_the_oldest_first(db: Connection) -> None:
    ids = add(db, 5, delay=60.0)
    make_due(db, *ids)
    assert promote(db, count=3)[0] == 3
    assert [state_of(db, id_) for id_ in ids] == ["available"] * 3 + ["scheduled"] * 2


def test_blocked_jobs_are_not_promoted(db: Connection) -> None:
    [id_] = add(db, delay=60.0)
    db.execute("update pgqueue.jobs set state = 'blocked', run_at = now() - interval '1 s'")
    assert promote(db)[0] == 0
    assert state_of(db, id_) == "blocked"


def test_a_promotion_tells_where_each_lane_begins(db: Connection, listener: Connection) -> None:
    made = enqueue(db, *[job(delay=60.0)] * 3, *[job(delay=60.0, priority=4)] * 2)
    make_due(db, *(one.id for one in made))
    promote(db)
    expected = {f"available mail {one.priority} {job_row(db, one.id)['position']}" for one in (made[0], made[3])}
    told = notifications(listener)
    assert len(told) == 2
    assert set(told) == expected


def test_a_turn_that_promotes_nothing_tells_nobody(db: Connection, listener: Connection) -> None:
    add(db, delay=60.0)
    promote(db)
    assert notifications(listener) == []


def test_a_locked_job_does_not_stall_the_others(db: Connection, dsn: str) -> None:
    ids = add(db, 3, delay=60.0)
    make_due(db, *ids)
    with open_transaction(dsn) as other:
        other.execute("select from pgqueue.jobs where id = %s for update", [ids[0]])
        assert promote(db)[0] == 2
    assert promote(db)[0] == 1


def test_four_promoters_at_once_give_every_job_one_place(db: Connection, another: Another) -> None:
    ids = add(db, 300, delay=60.0)
    make_due(db, *ids)
    start = Barrier(4)

    def work(conn: Connection) -> int:
        start.wait()
        total = 0
        while count := promote(conn, count=20)[0]:
            total += count
        return total

    with ThreadPoolExecutor(4) as threads:
        total = sum(threads.map(work, [another() for _ in range(4)]))
    total += promote(db)[0]
    assert total == 300
    [row] = rows(
        db, "select count(distinct position) as places, count(*) as jobs from pgqueue.jobs where state = 'available'"
    )
    assert (row["places"], row["jobs"]) == (300, 300)
