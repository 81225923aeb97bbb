"""`age.sql`: available → available, sooner for what has waited."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from pgqueue.database import fetch, run
from pgqueue.outcome import Failed, Retry, Snooze
from pgqueue.queries import ageing, claiming
from pgqueue.queries.ageing import AgedLane
from pgqueue.queries.inspecting import reschedule
from pgqueue.services.ageing import Ageing
from pgqueue.worker.lanes import Lane
from tests.sql.rows import (
    ERROR,
    SCHEMA,
    Connection,
    add,
    claim,
    claim_one,
    connect,
    enqueue,
    finish,
    job,
    job_row,
    last_position,
    notifications,
    open_transaction,
    promote,
    rows,
    runner_on,
    scan,
    value,
)

EVERY = timedelta(minutes=10)


def age(conn: Connection, floor: int | None = 0, *, count: int = 500, queue: str = "mail") -> list[AgedLane]:
    return fetch(conn, ageing.age(SCHEMA, queue=queue, every=EVERY, floor=floor, count=count))


def wait(conn: Connection, times: float, *ids: int) -> None:
    """As if they had waited so many times ten minutes more."""
    conn.execute(
        "update pgqueue.jobs set run_at = run_at - make_interval(secs => %s), "
        "created_at = created_at - make_interval(secs => %s) where id = any (%s)",
        [times * EVERY.total_seconds(), times * EVERY.total_seconds(), list(ids)],
    )


def priorities(conn: Connection, *ids: int) -> list[int]:
    return [job_row(conn, id_)["priority"] for id_ in ids]


def in_order(conn: Connection) -> list[int]:
    """Ids in the order in which they are claimed."""
    query = "select id from pgqueue.jobs where state = 'available' order by priority, position"
    return [row["id"] for row in rows(conn, query)]


@pytest.mark.parametrize(("times", "priority"), [(0.9, 5), (1.1, 4), (2.9, 3), (4.5, 1), (5.5, 0), (99, 0)])
def test_a_job_is_one_priority_sooner_for_each_time_that_it_has_waited_down_to_the_floor(
    db: Connection, times: float, priority: int
) -> None:
    [id_] = add(db, priority=5)
    wait(db, times, id_)
    age(db)
    assert priorities(db, id_) == [priority]
    assert job_row(db, id_)["aged"] == (5 - priority or None)


def test_it_ages_step_by_step_and_no_faster_for_being_looked_at_often(db: Connection) -> None:
    [id_] = add(db, priority=5)
    found = []
    for _ in range(12):
        wait(db, 0.51, id_)
        age(db)
        age(db)
        found += priorities(db, id_)
    assert found == [5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0, 0]


def test_what_does_not_wait_for_a_slot_does_not_age(db: Connection) -> None:
    running, later, blocked, other = (
        *add(db, priority=5),
        *add(db, priority=5, delay=60.0),
        *add(db, priority=5),
        *add(db, priority=5, queue="other"),
    )
    claim(db, priority=5, count=1)
    db.execute(
        "update pgqueue.jobs set state = 'blocked', position = null, waits_for = 'gate' where id = %s", [blocked]
    )
    wait(db, 9, running, blocked, other)
    assert age(db) == []
    assert priorities(db, running, later, blocked, other) == [5, 5, 5, 5]


def test_the_time_before_it_was_due_is_no_wait(db: Connection) -> None:
    [backdated] = [one.id for one in enqueue(db, job(priority=5, run_at=datetime(2020, 1, 1, tzinfo=UTC)))]
    [delayed] = add(db, priority=5, delay=0.0)
    db.execute("update pgqueue.jobs set created_at = created_at - interval '1 day' where id = %s", [delayed])
    assert age(db) == []
    assert priorities(db, backdated, delayed) == [5, 5]


def test_without_a_floor_it_ages_as_far_as_somebody_is_before_it(db: Connection) -> None:
    [alone] = add(db, priority=5)
    wait(db, 99, alone)
    assert age(db, None) == []
    [urgent] = add(db, priority=-3)
    assert [lane.priority for lane in age(db, None)] == [-3]
    assert in_order(db) == [urgent, alone]
    # One that runs has its slot, and so has a priority that others wait behind.
    claim(db, priority=-3, count=1)
    add(db, priority=-4)
    claim(db, priority=-4)
    wait(db, 1, alone)
    age(db, None)
    assert priorities(db, alone) == [-4]


def test_what_ages_is_first_in_first_out_behind_what_waits_there(db: Connection) -> None:
    old = add(db, 3, priority=5)
    newer = add(db, 2, priority=4)
    there = add(db, 2, priority=3)
    wait(db, 2.5, *old)
    wait(db, 1.5, *newer)
    age(db)
    assert priorities(db, *old, *newer, *there) == [3] * 7
    assert in_order(db) == [*there, *old, *newer]


def test_jobs_of_one_lane_keep_their_order_whatever_the_clocks_say(db: Connection) -> None:
    ids = add(db, 50, priority=5)
    wait(db, 2, *ids)
    rng = random.Random(5)
    for id_ in ids:
        wait(db, rng.random() / 2, id_)
    age(db)
    assert in_order(db) == ids


def test_it_moves_no_more_than_it_is_told_the_longest_waiting_first(db: Connection) -> None:
    ids = add(db, 10, priority=5)
    wait(db, 1.5, *ids)
    assert [lane.jobs for lane in age(db, count=4)] == [4]
    assert priorities(db, *ids) == [4] * 4 + [5] * 6


def test_one_that_somebody_has_locked_is_left_to_him(db: Connection, dsn: str) -> None:
    ids = add(db, 3, priority=5)
    wait(db, 1.5, *ids)
    with open_transaction(dsn) as other:
        other.execute("select from pgqueue.jobs where id = %s for update", [ids[1]])
        age(db)
    assert priorities(db, *ids) == [4, 5, 4]
    age(db)
    assert in_order(db) == [ids[0], ids[2], ids[1]]


def test_none_overtakes_another_of_its_serial_key(db: Connection, dsn: str, listener: Connection) -> None:
    first, second, third = add(db, 3, priority=5, serial_key="k")
    [free] = add(db, priority=5)
    wait(db, 1.5, first, second, third, free)
    notifications(listener)
    with open_transaction(dsn) as other:
        other.execute("select from pgqueue.jobs where id = %s for update", [first])
        moved = age(db)
    assert priorities(db, first, second, third, free) == [5, 5, 5, 4]
    # A claim may have passed by those that were locked for a moment.
    below = job_row(db, second)["position"]
    assert AgedLane(5, below, 0) in moved
    assert f"available mail 5 {below}" in notifications(listener)
    age(db)
    assert in_order(db) == [free, first, second, third]


def test_claimers_are_told_of_the_lane_and_the_position(db: Connection, listener: Connection) -> None:
    ids = add(db, 3, priority=5)
    wait(db, 1.5, *ids[:2])
    notifications(listener)
    [lane] = age(db)
    assert lane == AgedLane(4, job_row(db, ids[0])["position"], 2)
    assert lane.position > job_row(db, ids[2])["position"]
    assert notifications(listener) == [f"available mail 4 {lane.position}"]


def test_a_claimer_whose_mark_is_far_finds_what_has_aged(db: Connection) -> None:
    [id_] = add(db, priority=5)
    lane = Lane()
    for _ in range(3):
        add(db, 10)
        finish(db, scan(db, lane).jobs, None, limited=False)
        db.execute("delete from pgqueue.jobs where priority = 0")
        scan(db, lane)
    assert lane.mark == last_position(db) > job_row(db, id_)["position"]
    wait(db, 9, id_)
    age(db)
    assert [one.id for one in scan(db, lane).jobs] == [id_]


@pytest.mark.parametrize("outcome", [Retry(0.0, ERROR), Snooze(0.0)], ids=["retry", "snooze"])
def test_after_a_run_it_waits_anew_at_its_own_priority(db: Connection, outcome: Any) -> None:
    [id_] = add(db, priority=5)
    wait(db, 2.5, id_)
    age(db)
    finish(db, claim_one(db, priority=3), outcome)
    promote(db)
    assert (priorities(db, id_), job_row(db, id_)["aged"]) == ([5], None)
    assert age(db) == []


def test_one_that_is_given_back_unstarted_keeps_what_it_has(db: Connection) -> None:
    [id_] = add(db, priority=5)
    wait(db, 2.5, id_)
    age(db)
    finish(db, claim_one(db, priority=3), None)
    assert (priorities(db, id_), job_row(db, id_)["aged"]) == ([3], 2)
    wait(db, 1, id_)
    age(db)
    assert priorities(db, id_) == [2]


def test_a_failed_job_comes_back_at_its_own_priority(db: Connection) -> None:
    [id_] = add(db, priority=5)
    wait(db, 2.5, id_)
    age(db)
    finish(db, claim_one(db, priority=3), Failed("fail_job", ERROR))
    db.execute("select pgqueue.redrive(array[%s::bigint])", [id_])
    assert (priorities(db, id_), job_row(db, id_)["aged"]) == ([5], None)


def test_one_that_is_put_off_waits_anew_and_one_that_is_to_run_now_keeps_its_place(db: Connection) -> None:
    put_off, hurried = add(db, 2, priority=5)
    wait(db, 2.5, put_off, hurried)
    age(db)
    fetch(db, reschedule(SCHEMA, [put_off], None, 60.0))
    fetch(db, reschedule(SCHEMA, [hurried], None, 0.0))
    assert priorities(db, put_off, hurried) == [5, 3]
    assert [job_row(db, id_)["aged"] for id_ in (put_off, hurried)] == [None, 2]


@pytest.mark.parametrize(
    ("conflict", "delay", "expected"),
    [
        ("replace", None, (7, None)),
        ("reschedule", "1 hour", (5, None)),
        ("reschedule", None, (3, 2)),
        ("keep_last_if_running", None, (3, 2)),
    ],
)
def test_what_an_enqueue_with_its_key_does_to_an_aged_job(
    db: Connection, conflict: str, delay: str | None, expected: tuple[int, int | None]
) -> None:
    [id_] = add(db, priority=5, key="k")
    wait(db, 2.5, id_)
    age(db)
    again = value(
        db,
        "select pgqueue.enqueue('send', queue => 'mail', key => 'k', priority => 7, on_conflict => %(c)s, "
        "delay => %(d)s::interval)",
        c=conflict,
        d=delay,
    )
    assert again == id_
    row = job_row(db, id_)
    assert (row["priority"], row["aged"]) == expected


def test_many_that_age_claim_and_enqueue_at_once_lose_nothing_and_run_nothing_twice(db: Connection, dsn: str) -> None:
    ids = set(add(db, 600, priority=9))
    wait(db, 99, *ids)
    taken: list[int] = []

    def ages(_: int) -> None:
        with connect(dsn) as conn:
            for _ in range(40):
                age(conn, count=30)

    def claims(_: int) -> None:
        with connect(dsn) as conn:
            lanes = {priority: Lane() for priority in range(10)}
            for _ in range(30):
                for priority, lane in lanes.items():
                    taken.extend(one.id for one in scan(conn, lane, priority=priority, count=7).jobs)

    with ThreadPoolExecutor(5) as threads:
        list(threads.map(lambda work: work[0](work[1]), [(ages, 0), (claims, 0), (ages, 1), (claims, 1), (ages, 2)]))
    assert len(taken) == len(set(taken))
    left = {row["id"] for row in rows(db, "select id from pgqueue.jobs where state = 'available'")}
    assert set(taken) | left == ids
    assert not set(taken) & left
    # A sweep finds whatever a claim has passed by.
    found = [one for one in fetch(db, claiming.lanes(SCHEMA, queue="mail", tasks=["send"])) if one.waiting is not None]
    again = [one.id for lane in found for one in claim(db, priority=lane.priority or 0, count=600).jobs]
    assert sorted(again) == sorted(left)


def test_two_that_age_at_once_move_each_job_once(db: Connection, another: Callable[[], Connection]) -> None:
    ids = add(db, 200, priority=5)
    wait(db, 1.5, *ids)
    with ThreadPoolExecutor(4) as threads:
        moved = list(threads.map(lambda conn: sum(lane.jobs for lane in age(conn)), [another() for _ in range(4)]))
    assert sum(moved) == 200
    assert priorities(db, *ids) == [4] * 200


async def test_the_service_ages_the_queues_that_it_is_told_and_goes_on_while_there_is_more(
    db: Connection, dsn: str
) -> None:
    ids = add(db, 501, priority=5)
    others = add(db, 2, priority=5, queue="other")
    wait(db, 1.5, *ids, *others)
    told: list[tuple[str, int, int]] = []
    clock = [100.0]
    queues = {"mail": (EVERY, 0)}
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        service = Ageing(
            runner_on(conn), SCHEMA, lambda: queues, lambda *moved: told.append(moved), clock=lambda: clock[0]
        )
        assert await service.run_once() == 0
        assert value(db, "select count(*) from pgqueue.jobs where priority = 4") == 500
        assert 0 < await service.run_once() <= 30
        assert value(db, "select count(*) from pgqueue.jobs where priority = 4") == 501
        assert [(queue, priority) for queue, priority, _ in told] == [("mail", 4), ("mail", 4)]
        wait(db, 1, *ids)
        await service.run_once()
        assert value(db, "select count(*) from pgqueue.jobs where priority = 4") == 501
        clock[0] += 31
        await service.run_once()
        assert value(db, "select count(*) from pgqueue.jobs where priority = 3") == 500
        assert priorities(db, *others) == [5, 5]
        queues.clear()
        clock[0] += 31
        assert await service.run_once() > 0
        assert value(db, "select count(*) from pgqueue.jobs where priority = 3") == 500


@pytest.mark.parametrize(
    "call",
    ["'mail', interval '0.5 s'", "'mail', interval '-1 h'", "'mail', interval '1 h', 40000", "'mail', null, 3"],
)
def test_sql_refuses_an_ageing_that_cannot_be(db: Connection, call: str) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="the ageing of queue mail cannot be"):
        db.execute(f"select pgqueue.set_ageing({call})".encode())


def test_a_statement_reads_as_many_jobs_of_a_lane_as_it_may_move(db: Connection) -> None:
    add(db, 2000, priority=5)
    add(db, 1)
    db.execute("analyze pgqueue.jobs")
    with db.transaction(force_rollback=True):
        before = value(db, "select pg_stat_get_xact_tuples_fetched('pgqueue.jobs'::regclass)")
        assert age(db, count=50) == []
        assert value(db, "select pg_stat_get_xact_tuples_fetched('pgqueue.jobs'::regclass)") - before < 100


def test_operations_are_one_statement(db: Connection) -> None:
    def operation() -> Any:
        yield ageing.set_ageing(SCHEMA, "mail", EVERY, -1)

    run(db, operation())
    [row] = rows(db, "select ageing, ageing_floor from pgqueue.queues where name = 'mail'")
    assert row == {"ageing": EVERY, "ageing_floor": -1}
    fetch(db, ageing.set_ageing(SCHEMA, "mail", None, None))
    [row] = rows(db, "select ageing, ageing_floor from pgqueue.queues where name = 'mail'")
    assert row == {"ageing": None, "ageing_floor": None}
