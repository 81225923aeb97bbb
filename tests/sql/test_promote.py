"""`promote.sql`: scheduled → available."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from threading import Barrier

import psycopg

from pgqueue.database import afetch, arun, fetch
from pgqueue.queries import claiming
from pgqueue.queries.claiming import Promotion
from pgqueue.services.promoter import BATCH, SLACK, SWEEP_INTERVAL, DueMark, Promoter
from pgqueue.services.service import Runner
from tests.sql.rows import (
    SCHEMA,
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
    until,
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


def turns(conn: Connection, mark: DueMark, *, count: int = 500) -> Callable[..., int]:
    """What a promoter does in a turn, at a monotonic time of 0 or `at`: how many it promoted."""

    def turn(at: float = 0.0) -> int:
        [seen] = fetch(conn, claiming.promote(SCHEMA, queue="mail", count=count, since=mark.since(at)))
        mark.observe(seen, at, full=seen.promoted == count)
        return seen.promoted

    turn()
    return turn


def test_what_was_due_before_the_mark_is_passed_by(db: Connection) -> None:
    [early, late] = add(db, 2, delay=60.0)
    hour_ago = datetime.now(UTC) - timedelta(hours=1)
    db.execute("update pgqueue.jobs set run_at = %s - interval '1 s' where id = %s", [hour_ago, early])
    db.execute("update pgqueue.jobs set run_at = %s where id = %s", [hour_ago, late])
    [seen] = fetch(db, claiming.promote(SCHEMA, queue="mail", count=500, since=hour_ago))
    assert (seen.promoted, state_of(db, early), state_of(db, late)) == (1, "scheduled", "available")


def test_the_mark_follows_the_clock_once_no_transaction_of_that_time_is_left(db: Connection, dsn: str) -> None:
    mark = DueMark()
    turn = turns(db, mark)
    make_due(db, *add(db, 1, delay=60.0))
    with open_transaction(dsn) as other:
        other.execute("select pg_current_xact_id()")
        assert turn() == 1
        assert (turn(), mark.since(0.0)) == (0, None)
    until(lambda: turn() == 0 and mark.since(0.0) is not None, "the mark's move")
    since = mark.since(0.0)
    assert since is not None
    assert timedelta(0) < datetime.now(UTC) - SLACK - since < timedelta(minutes=1)


def test_a_job_that_was_due_before_its_transaction_committed_is_promoted_then(db: Connection, dsn: str) -> None:
    turn = turns(db, DueMark())
    with open_transaction(dsn) as other:
        [late] = add(other, 1, delay=60.0)
        other.execute("update pgqueue.jobs set run_at = now() - interval '1 h'")
        make_due(db, *add(db, 1, delay=60.0))
        assert turn() == 1
        assert turn() == 0
        other.commit()
    assert turn() == 1
    assert state_of(db, late) == "available"


def test_what_lies_below_the_mark_is_found_by_the_next_sweep(db: Connection) -> None:
    mark = DueMark()
    turn = turns(db, mark)
    make_due(db, *add(db, 1, delay=60.0))
    turn()
    until(lambda: turn() == 0 and mark.since(0.0) is not None, "the mark's move")
    stranded = add(db, 3, delay=60.0)
    db.execute("update pgqueue.jobs set run_at = now() - interval '1 h' where id = any (%s)", [stranded])
    assert turn() == 0
    assert turn(2 * SWEEP_INTERVAL) == 3
    assert {state_of(db, id_) for id_ in stranded} == {"available"}


def test_a_sweep_goes_on_until_it_has_promoted_all_that_it_finds(db: Connection) -> None:
    turn = turns(db, DueMark(), count=2)
    make_due(db, *add(db, 5, delay=60.0))
    assert [turn(2 * SWEEP_INTERVAL) for _ in range(4)] == [2, 2, 1, 0]


def test_a_full_turn_does_not_move_the_mark(db: Connection) -> None:
    mark = DueMark()
    turn = turns(db, mark, count=2)
    ids = add(db, 6, delay=60.0)
    db.execute("update pgqueue.jobs set run_at = now() - interval '1 h' where id = any (%s)", [ids])
    assert [turn() for _ in range(4)] == [2, 2, 2, 0]
    assert {state_of(db, id_) for id_ in ids} == {"available"}


def test_a_server_whose_clock_is_behind_the_mark_begins_anew() -> None:
    now = datetime(2030, 1, 1, tzinfo=UTC)
    mark = DueMark()
    mark.observe(Promotion(1, None, now, 7, 7), 0.0, full=False)
    mark.observe(Promotion(0, None, now, None, 8), 0.0, full=False)
    assert mark.since(0.0) == now - SLACK
    mark.observe(Promotion(0, None, now - timedelta(hours=1), None, 9), 0.0, full=False)
    assert mark.since(0.0) is None


async def test_a_backlog_of_one_queue_does_not_keep_the_others_waiting(db: Connection, dsn: str) -> None:
    for queue in ("first", "second"):
        make_due(db, *add(db, BATCH + 1, queue=queue, delay=60.0))
    promoted: list[str] = []
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        runner = Runner(partial(afetch, conn), partial(arun, conn))
        pause = await Promoter(runner, SCHEMA, lambda: ["first", "second"], promoted.append, 1.0).run_once()
    assert (promoted, pause) == (["first", "second"], 0.0)


def test_a_turn_that_promotes_nothing_uses_no_transaction_id(db: Connection) -> None:
    add(db, delay=60.0)
    with db.transaction():
        promote(db)
        assert db.execute("select pg_current_xact_id_if_assigned()").fetchone() == (None,)
