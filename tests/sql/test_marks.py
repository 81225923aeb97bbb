"""Claims from a lane's mark, with real transactions that take a position early and commit late."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from threading import Event

import psycopg
import pytest

from pgqueue.database import fetch
from pgqueue.outcome import Completed
from pgqueue.queries import claiming
from pgqueue.worker.lanes import FAR, PENDING, Lane, Lanes
from tests.sql.rows import (
    DEADLINE,
    SCHEMA,
    Connection,
    add,
    connect,
    enqueue,
    finish,
    job,
    job_row,
    last_position,
    notifications,
    open_transaction,
    produce,
    scan,
    until,
    value,
    worker,
)

PRODUCERS = 4


def settle(conn: Connection, lane: Lane, **options: object) -> None:
    """Scan until the mark has reached the last position: what other sessions did before has been proven then."""
    until(lambda: not scan(conn, lane, **options).jobs and lane.mark >= last_position(conn), "the mark's move")


def test_the_mark_moves_on_short_and_on_empty_claims(db: Connection) -> None:
    add(db, 3)
    lane = Lane()
    assert len(scan(db, lane, count=10).jobs) == 3
    settle(db, lane)
    add(db, 2, queue="other")
    settle(db, lane)


@pytest.mark.parametrize("lifo", [False, True])
def test_a_claim_that_sees_nothing_new_uses_no_transaction_id(db: Connection, lifo: bool) -> None:
    lane = Lane()
    add(db, 3)
    by = worker(db)
    settle(db, lane, lifo=lifo)
    with db.transaction():
        assert scan(db, lane, by=by, lifo=lifo).jobs == []
        assert value(db, "select pg_current_xact_id_if_assigned()") is None


@pytest.mark.parametrize("lifo", [False, True])
def test_a_worker_that_waited_on_a_new_database_finds_its_first_job(fresh_dsn: str, lifo: bool) -> None:
    with connect(fresh_dsn) as conn:
        lane = Lane()
        for _ in range(5):
            assert scan(conn, lane, lifo=lifo).allocated == 0
        [id_] = add(conn)
        assert [one.id for one in scan(conn, lane, lifo=lifo).jobs] == [id_]


def test_a_full_claim_leaves_the_mark_at_its_last_job_at_most(db: Connection) -> None:
    ids = add(db, 6)
    lane = Lane()
    settle(db, lane, priority=9)
    lane.rewind(job_row(db, ids[0])["position"])
    taken = [*scan(db, lane, count=2).jobs, *scan(db, lane, count=2).jobs]
    assert lane.mark <= taken[-1].position
    assert [one.id for one in scan(db, lane, count=2).jobs] == ids[4:]


def test_a_job_that_took_its_position_early_and_was_committed_late_is_not_stranded(db: Connection, dsn: str) -> None:
    lane = Lane()
    settle(db, lane)
    with open_transaction(dsn) as early:
        [first] = enqueue(early)
        for _ in range(3):
            [later] = add(db)
            assert [one.id for one in scan(db, lane).jobs] == [later]
            assert scan(db, lane).jobs == []
        early.commit()
    assert [one.id for one in scan(db, lane).jobs] == [first.id]
    settle(db, lane)


def test_a_lane_that_a_sweep_found_does_not_hide_what_is_committed_below(db: Connection, dsn: str) -> None:
    with open_transaction(dsn) as early:
        [first] = enqueue(early, job(priority=3))
        [later] = add(db, priority=3)
        lanes = Lanes()
        lanes.swept(fetch(db, claiming.lanes(SCHEMA, queue="mail", tasks=["send"])))
        [(priority, lane)] = lanes.ordered()
        assert [one.id for one in scan(db, lane, priority=priority).jobs] == [later]
        early.commit()
    assert [one.id for one in scan(db, lane, priority=priority).jobs] == [first.id]


def test_a_position_whose_transaction_rolled_back_holds_the_mark_no_longer(db: Connection, dsn: str) -> None:
    lane = Lane()
    settle(db, lane)
    with open_transaction(dsn) as early:
        enqueue(early)
        scan(db, lane)
        scan(db, lane)
        assert lane.mark < last_position(db)
    settle(db, lane)


def test_a_reader_with_an_old_snapshot_does_not_hold_the_mark(db: Connection, dsn: str) -> None:
    with open_transaction(dsn) as reader:
        reader.execute("set transaction isolation level repeatable read")
        reader.execute("select count(*) from pgqueue.jobs")
        add(db, 3)
        lane = Lane()
        settle(db, lane)


@pytest.mark.parametrize("lifo", [False, True])
def test_behind_a_long_writer_the_mark_runs_ahead_and_finds_what_the_writer_left(
    db: Connection, dsn: str, lifo: bool
) -> None:
    lane = Lane()
    settle(db, lane)
    with open_transaction(dsn) as writer:
        [left] = enqueue(writer)
        db.execute("select setval('pgqueue.jobs_position', %s)", [last_position(db) + FAR])
        for _ in range(PENDING + 2):
            [id_] = add(db)
            assert [one.id for one in scan(db, lane, lifo=lifo).jobs] == [id_]
        assert lane.mark > FAR
        writer.commit()
    found = until(lambda: scan(db, lane, lifo=lifo).jobs, "the claim of what the writer left")
    assert [one.id for one in found] == [left.id]
    settle(db, lane, lifo=lifo)


def test_newest_first_never_hides_the_old_jobs(db: Connection) -> None:
    ids = add(db, 20)
    lane = Lane()
    order: list[int] = []
    for n in range(10):
        order += [one.id for one in scan(db, lane, count=3, lifo=True).jobs]
        if n < 3:
            ids += add(db, 2)
    assert sorted(order) == sorted(ids)
    settle(db, lane, lifo=True)


def test_a_released_job_lies_below_the_mark_until_its_notification_rewinds_it(
    db: Connection, listener: Connection
) -> None:
    [id_] = add(db)
    lane = Lane()
    [claimed] = scan(db, lane).jobs
    settle(db, lane)
    finish(db, claimed, None)
    assert scan(db, lane).jobs == []
    [told] = notifications(listener)
    _, _, priority, position = told.split()
    assert priority == "0"
    lane.rewind(int(position))
    assert [one.id for one in scan(db, lane).jobs] == [id_]


def test_a_sweep_finds_each_lane_in_which_something_waits_for_a_known_task(db: Connection) -> None:
    low = add(db, 3, priority=-5)
    high = add(db, 2, priority=8)
    add(db, task="other", priority=1)
    add(db, delay=60.0, priority=2)
    add(db, queue="other", priority=3)
    lane = Lane()
    scan(db, lane, priority=-5, count=1)
    swept = fetch(db, claiming.lanes(SCHEMA, queue="mail", tasks=["send"]))
    assert swept == [
        (-5, 0, job_row(db, low[1])["position"]),
        (1, 0, None),
        (8, 0, job_row(db, high[0])["position"]),
    ]


def take(conn: Connection, ended: Event, seed: int, lifo: bool) -> tuple[list[int], Lane]:
    """Claim from the mark until the producers have ended and nothing more is found."""
    rng = random.Random(seed)
    lane = Lane()
    taken: list[int] = []
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        over = ended.is_set()
        found = scan(conn, lane, count=rng.choice((1, 3, 50)), lifo=lifo).jobs
        taken += [one.id for one in found]
        finish(conn, found, Completed())
        if over and not found and lane.mark >= last_position(conn):
            return taken, lane
    raise AssertionError(f"the claims did not end: mark {lane.mark} of {last_position(conn)}")


def edit(conn: Connection, ended: Event, seed: int) -> None:
    """Change waiting jobs between a claim's snapshot and its locks."""
    while not ended.is_set():
        conn.execute(
            "update pgqueue.jobs set tags = array['edited'] where id in "
            "(select id from pgqueue.jobs where state = 'available' order by random() limit 1)"
        )


@pytest.mark.parametrize("lifo", [False, True])
@pytest.mark.parametrize("claimers", [1, 2])
def test_of_many_producers_with_transactions_of_any_length_no_job_is_stranded(
    dsn: str, claimers: int, lifo: bool
) -> None:
    seed = random.randrange(2**32)
    ended = Event()
    with ExitStack() as stack:
        producing = [stack.enter_context(psycopg.connect(dsn)) for _ in range(PRODUCERS)]
        claiming_ = [stack.enter_context(connect(dsn)) for _ in range(claimers)]
        reader = stack.enter_context(psycopg.connect(dsn))
        reader.execute("set transaction isolation level repeatable read")
        reader.execute("select count(*) from pgqueue.jobs")
        with ThreadPoolExecutor(PRODUCERS + claimers) as threads:
            taking = [threads.submit(take, conn, ended, seed + n, lifo) for n, conn in enumerate(claiming_)]
            made = list(threads.map(produce, producing, range(seed, seed + PRODUCERS)))
            ended.set()
            taken = [id_ for turn in taking for id_ in turn.result()[0]]
    committed = [id_ for ids in made for id_ in ids]
    assert sorted(taken) == sorted(committed), f"seed {seed}: {len(set(committed) - set(taken))} stranded"


def test_jobs_that_change_while_they_are_claimed_are_claimed_all_the_same(
    db: Connection, another: Callable[[], Connection]
) -> None:
    ids = add(db, 1_500)
    ended = Event()
    editors = [another(), another()]
    with ThreadPoolExecutor(2) as threads:
        editing = [threads.submit(edit, conn, ended, n) for n, conn in enumerate(editors)]
        lane = Lane()
        taken: list[int] = []
        for _ in range(200):
            taken += [one.id for one in scan(db, lane, count=10).jobs]
        ended.set()
        for turn in editing:
            turn.result()
    skipped = set(ids) - set(taken)
    # Only what was locked at that moment by an editor may have been skipped: a handful, for the sweep.
    assert len(skipped) <= 20
    assert len(taken) == len(set(taken))


def test_who_has_written_to_jobs_and_has_not_ended_is_known(db: Connection, dsn: str) -> None:
    def writers() -> list[str]:
        return sorted(fetch(db, claiming.writers_of_jobs(SCHEMA)))

    def left(of: list[str]) -> list[str]:
        return sorted(fetch(db, claiming.still_under_way(of)))

    with open_transaction(dsn) as first, open_transaction(dsn) as second, open_transaction(dsn) as reader:
        reader.execute("select pg_current_xact_id() from pgqueue.jobs")
        enqueue(first)
        [own] = writers()
        assert own == value(first, "select pg_current_xact_id()::text")
        enqueue(second)
        second.execute("savepoint inner_one")
        enqueue(second)
        under_way = writers()
        assert len(under_way) == 2
        assert left(under_way) == under_way
        first.rollback()
        assert left(under_way) == writers() == sorted({*under_way} - {own})
        second.commit()
        assert left(under_way) == writers() == []
