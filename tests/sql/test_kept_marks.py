"""`keep_mark.sql`, `lanes_of` and the marks' keeper: where sweeps and workers to come begin to look."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from threading import Event
from typing import Any

import psycopg
import pytest

from pgqueue.database import afetch, arun, fetch
from pgqueue.outcome import Completed
from pgqueue.queries import claiming, fleet, pruning
from pgqueue.queries.claiming import FoundLane
from pgqueue.queries.statement import Statement
from pgqueue.services.service import Runner
from pgqueue.worker.lanes import Lanes
from pgqueue.worker.upkeep import KEEP_AFTER, KEEP_INTERVAL, WHOLE_INTERVAL, MarkKeeper
from tests.sql.rows import (
    DEADLINE,
    SCHEMA,
    Connection,
    add,
    claim,
    claim_one,
    finish,
    job_row,
    last_position,
    open_transaction,
    produce,
    runner_on,
    scan,
    value,
)

PRODUCERS = 3
DEAD = 3000


def position(conn: Connection, job_id: int) -> int:
    return int(job_row(conn, job_id)["position"])


def keep(conn: Connection, proven: int | None = None, *, least: int = 1, whole: bool = False, priority: int = 0) -> int:
    """What is kept then. The caller knows that nobody is about to commit a job at `proven` or below."""
    proven = last_position(conn) if proven is None else proven
    statement = claiming.keep_mark(SCHEMA, queue="mail", priority=priority, proven=proven, least=least, whole=whole)
    [kept] = fetch(conn, statement)
    return kept


def sweep(conn: Connection) -> list[FoundLane]:
    return fetch(conn, claiming.lanes(SCHEMA, queue="mail", tasks=["send"]))


def work_off(conn: Connection, count: int, **options: int) -> None:
    add(conn, count, **options)
    claimed = claim(conn, count=count, priority=options.get("priority", 0)).jobs
    finish(conn, claimed, Completed(), kept=False)
    fetch(conn, claiming.drop_claims(SCHEMA, [claimed[0].fence]))


def blocks_read(conn: Connection, statement: Statement[Any]) -> int:
    """Of the jobs and of their claim index."""

    def fetched() -> int:
        tables = "('pgqueue.jobs'::regclass), ('pgqueue.jobs_claim'::regclass)"
        return int(value(conn, f"select sum(pg_stat_get_xact_blocks_fetched(t)) from (values {tables}) v (t)"))

    with conn.transaction():
        before = fetched()
        fetch(conn, statement)
        return fetched() - before


def test_a_kept_mark_is_where_a_new_worker_begins(db: Connection) -> None:
    work_off(db, 5)
    [id_] = add(db)
    kept = keep(db, position(db, id_) - 1)
    assert kept == position(db, id_) - 1
    lanes = Lanes()
    lanes.swept(sweep(db))
    [(_, lane)] = lanes.ordered()
    assert lane.mark == kept
    assert [one.id for one in scan(db, lane).jobs] == [id_]


def test_a_mark_is_kept_no_further_than_the_first_job_that_waits_of_whatever_task(db: Connection) -> None:
    work_off(db, 2)
    [other] = add(db, task="unknown")
    work_off(db, 2)
    assert keep(db) == position(db, other) - 1
    assert keep(db) == position(db, other) - 1


def test_what_runs_does_not_hold_the_kept_mark(db: Connection) -> None:
    add(db)
    claimed = claim_one(db)
    assert keep(db) >= claimed.position


def test_a_mark_that_has_not_moved_far_enough_is_not_written(db: Connection) -> None:
    work_off(db, 5)
    assert keep(db, 3, least=4) == 0
    assert keep(db, 3, least=3) == 3
    assert keep(db, 4, least=2) == 3
    assert value(db, "select count(*) from pgqueue.lanes") == 1


def test_a_lower_mark_than_the_kept_one_changes_nothing(db: Connection) -> None:
    work_off(db, 5)
    keep(db)
    assert keep(db, 1) == last_position(db)


def test_a_released_job_is_found_by_a_sweep_without_its_notification(db: Connection) -> None:
    work_off(db, 5)
    add(db)
    claimed = claim_one(db)
    keep(db)
    finish(db, claimed, None)
    assert sweep(db) == [(0, claimed.position - 1, claimed.position)]


@pytest.mark.parametrize("first_kept", [False, True])
def test_a_release_that_commits_after_the_mark_was_kept_is_not_hidden(
    db: Connection, dsn: str, first_kept: bool
) -> None:
    work_off(db, 5)
    if first_kept:
        keep(db)
    add(db)
    claimed = claim_one(db)
    with open_transaction(dsn) as releasing:
        finish(releasing, claimed, None)
        assert keep(db) == last_position(db)
        releasing.commit()
    assert sweep(db) == [(0, claimed.position - 1, claimed.position)]
    assert keep(db) == claimed.position - 1
    finish(db, claim_one(db), Completed())
    assert keep(db) == last_position(db)
    assert value(db, "select count(*) from pgqueue.lanes") == 1


def test_a_keeper_waits_for_no_release_and_a_release_for_no_keeper(db: Connection, dsn: str) -> None:
    add(db, 2)
    first, second = claim(db, count=2).jobs
    with open_transaction(dsn) as releasing, open_transaction(dsn) as keeping:
        db.execute("set lock_timeout = '2s'")
        finish(releasing, first, None)
        keep(keeping)
        finish(db, second, None)
        assert keep(db) == second.position - 1


def test_two_keepers_at_once_leave_the_lower_of_their_marks(db: Connection, dsn: str) -> None:
    work_off(db, 9)
    with open_transaction(dsn) as first, ThreadPoolExecutor() as threads:
        keep(first, 4)
        second = threads.submit(keep, db, 8)
        assert second.result() == 8
        first.commit()
    assert [lane.kept for lane in sweep(db)] == [4]
    assert keep(db, 6) == 6
    assert value(db, "select count(*) from pgqueue.lanes") == 1


def test_a_job_that_was_changed_by_hand_below_the_kept_mark_is_found_by_a_look_at_the_whole(db: Connection) -> None:
    add(db)
    claimed = claim_one(db)
    work_off(db, 3)
    keep(db)
    db.execute("update pgqueue.jobs set state = 'available', claim_id = null")
    assert [lane.waiting for lane in sweep(db)] == [None]
    assert keep(db, whole=True) == claimed.position - 1
    assert [lane.waiting for lane in sweep(db)] == [claimed.position]


def test_a_mark_from_before_the_sequence_was_set_back_counts_for_nothing(db: Connection) -> None:
    work_off(db, 50)
    keep(db)
    db.execute("alter sequence pgqueue.jobs_position restart with 1")
    [id_] = add(db)
    assert sweep(db) == [(0, 0, position(db, id_))]


def test_a_release_in_a_lane_without_a_proven_mark_hides_nothing_that_is_older(db: Connection) -> None:
    old = add(db, 3)
    [newest] = claim(db, count=1, lifo=True).jobs
    assert newest.id == old[-1]
    finish(db, newest, None)
    assert sweep(db) == [(0, 0, position(db, old[0]))]
    assert keep(db) == position(db, old[0]) - 1


def test_a_stale_mark_from_before_is_replaced(db: Connection) -> None:
    work_off(db, 50)
    keep(db)
    db.execute("alter sequence pgqueue.jobs_position restart with 1")
    work_off(db, 2)
    assert keep(db) == 2
    assert value(db, "select array_agg(mark) from pgqueue.lanes") == [2]


def test_a_mark_beyond_the_last_position_proves_nothing_and_is_not_kept(db: Connection) -> None:
    work_off(db, 2)
    assert keep(db, last_position(db) + 1) == 0
    assert value(db, "select count(*) from pgqueue.lanes") == 0


def test_behind_a_job_that_nobody_runs_what_is_given_back_leaves_one_row(db: Connection) -> None:
    [orphan] = add(db, task="unknown")
    for _ in range(4):
        add(db)
        finish(db, claim_one(db), None)
        finish(db, claim_one(db), Completed())
        assert keep(db) == position(db, orphan) - 1
        assert value(db, "select count(*) from pgqueue.lanes") == 1


def test_a_lane_is_forgotten_when_none_of_its_marks_is_new(db: Connection) -> None:
    db.execute(
        "insert into pgqueue.lanes (queue, priority, mark, proven, kept_at) values "
        "('mail', 0, 1, true, now() - interval '8 days'), ('mail', 0, 2, false, now()), "
        "('mail', 1, 3, true, now() - interval '8 days'), ('mail', 1, 4, true, now() - interval '9 days'), "
        "('other', 0, 5, true, now())"
    )
    assert fetch(db, pruning.forget_lanes(SCHEMA, timedelta(days=7))) == [2]
    assert value(db, "select array_agg(mark order by mark) from pgqueue.lanes") == [1, 2, 5]


def test_a_sweep_finds_kept_lanes_and_new_ones_below_between_and_above_them(db: Connection) -> None:
    for priority in (-3, 3):
        work_off(db, 4, priority=priority)
        keep(db, priority=priority)
    kept = last_position(db)
    waiting = {priority: position(db, add(db, priority=priority)[0]) for priority in (-32768, -3, 0, 2, 32767)}
    expected = {priority: (0, place) for priority, place in waiting.items()} | {3: (kept, None)}
    expected[-3] = (kept - 4, waiting[-3])
    assert {lane.priority: (lane.kept, lane.waiting) for lane in sweep(db)} == expected


def test_a_queue_is_known_as_long_as_it_has_a_job_beyond_its_kept_mark(db: Connection) -> None:
    def names() -> set[str]:
        return set(fetch(db, fleet.queue_names(SCHEMA)))

    add(db, queue="aa")
    add(db, queue="zz")
    work_off(db, 3)
    keep(db)
    assert names() == {"aa", "zz"}
    add(db)
    assert names() == {"aa", "mail", "zz"}


def test_a_drain_is_held_by_what_waits_and_by_what_runs_below_the_kept_mark(db: Connection) -> None:
    def held() -> bool:
        [(answer,)] = fetch(db, claiming.holds_drain(SCHEMA, ["mail"], ["send"]))
        return bool(answer)

    add(db)
    assert held()
    claimed = claim_one(db)
    keep(db)
    assert held()
    finish(db, claimed, None)
    assert held()
    finish(db, claim_one(db), Completed())
    assert not held()


@pytest.mark.parametrize(
    "statement",
    [
        claiming.lanes(SCHEMA, queue="mail", tasks=["send"]),
        fleet.queue_names(SCHEMA),
        fleet.unknown_tasks(SCHEMA, "mail"),
        claiming.holds_drain(SCHEMA, ["mail"], ["send"]),
    ],
    ids=["lanes", "queue_names", "unknown_tasks", "holds_drain"],
)
def test_under_a_held_snapshot_no_look_for_work_walks_over_what_has_ended(
    db: Connection, dsn: str, statement: Statement[Any]
) -> None:
    with open_transaction(dsn) as reader:
        reader.execute("set transaction isolation level repeatable read")
        reader.execute("select count(*) from pgqueue.jobs")
        for priority in (0, 5):
            work_off(db, DEAD, priority=priority)
        before = blocks_read(db, statement)
        for priority in (0, 5):
            keep(db, priority=priority)
        assert blocks_read(db, statement) < min(before / 10, 30)


async def test_a_lane_that_cannot_be_kept_holds_up_no_other_and_is_not_tried_again_at_once(
    db: Connection, dsn: str
) -> None:
    now = 1000.0
    broken, sound = Lanes(), Lanes()
    broken.rewind(40_000, 2)
    sound.rewind(0, 3)
    work_off(db, 3)
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        asked: list[Statement[Any]] = []

        async def counted(statement: Statement[Any]) -> list[Any]:
            asked.append(statement)
            return await afetch(conn, statement)

        runner = Runner(counted, lambda op, atomic: arun(conn, op))
        keeper = MarkKeeper(runner, SCHEMA, lambda: {"broken": broken, "mail": sound}, clock=lambda: now)
        await keeper.run_once()
        for _, lane in [*broken.ordered(), *sound.ordered()]:
            lane.mark = 2
        now += KEEP_INTERVAL * 1.2
        asked.clear()
        await keeper.run_once()
        assert [lane.kept for lane in sweep(db)] == [2]
        assert len(asked) == 2
        await keeper.run_once()
        assert len(asked) == 2


async def test_a_lane_that_a_worker_does_not_know_is_looked_at_too(db: Connection, dsn: str) -> None:
    now = 1000.0
    add(db)
    claimed = claim_one(db)
    work_off(db, 3)
    keep(db)
    db.execute("update pgqueue.jobs set state = 'available', claim_id = null")
    lanes = Lanes()
    lanes.swept(sweep(db))
    assert lanes.ordered() == []
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        runner = runner_on(conn)
        keeper = MarkKeeper(runner, SCHEMA, lambda: {"mail": lanes}, clock=lambda: now)
        await keeper.run_once()
        now += WHOLE_INTERVAL
        await keeper.run_once()
    assert [lane.waiting for lane in sweep(db)] == [claimed.position]


async def test_the_keeper_keeps_what_moved_far_at_once_and_anything_within_a_minute(db: Connection, dsn: str) -> None:
    now = 1000.0
    lanes = Lanes()
    lanes.rewind(0, 1)
    work_off(db, 3)
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        runner = runner_on(conn)
        keeper = MarkKeeper(runner, SCHEMA, lambda: {"mail": lanes}, clock=lambda: now)

        async def kept_after(proven: int, seconds: float) -> int:
            nonlocal now
            now += seconds
            [(_, lane)] = lanes.ordered()
            lane.mark = proven
            await keeper.run_once()
            return sum(found.kept for found in sweep(db))

        assert await kept_after(2, 1.0) == 0
        assert await kept_after(2, KEEP_INTERVAL * 1.2) == 2
        assert await kept_after(3, 1.0) == 2
        db.execute("select setval('pgqueue.jobs_position', %s)", [2 * KEEP_AFTER])
        assert await kept_after(KEEP_AFTER + 2, 1.0) == KEEP_AFTER + 2
        db.execute("insert into pgqueue.jobs (queue, task, state, position) values ('mail', 'send', 'available', 2)")
        assert await kept_after(KEEP_AFTER + 2, WHOLE_INTERVAL * 1.3) == 1


def work(conn: Connection, ended: Event, seed: int) -> list[int]:
    """As workers that come and go: sweep, claim, give some back, keep the mark, all without one notification."""
    rng = random.Random(seed)
    done: list[int] = []
    lanes = Lanes()
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        over = ended.is_set()
        if rng.random() < 0.2:
            lanes = Lanes()
        lanes.swept(sweep(conn))
        how = {"count": rng.choice((1, 5, 50)), "lifo": rng.random() < 0.5}
        found = [one for _, lane in lanes.ordered() for one in scan(conn, lane, **how).jobs]
        back = [one for one in found if rng.random() < 0.3]
        ids = {one.id for one in back}
        finish(conn, back, None)
        finish(conn, [one for one in found if one.id not in ids], Completed())
        done += [one.id for one in found if one.id not in ids]
        for _, lane in lanes.ordered():
            keep(conn, lane.proven)
        if over and not found and value(conn, "select count(*) from pgqueue.jobs") == 0:
            return done
    raise AssertionError(f"{value(conn, 'select count(*) from pgqueue.jobs')} jobs were never found; seed {seed}")


def test_whoever_begins_at_kept_marks_strands_no_job(dsn: str, another: Callable[[], Connection]) -> None:
    seed = random.randrange(2**32)
    ended = Event()
    with ExitStack() as stack, ThreadPoolExecutor() as threads:
        producing = [stack.enter_context(psycopg.connect(dsn)) for _ in range(PRODUCERS)]
        working = [threads.submit(work, another(), ended, seed + n) for n in range(2)]
        made = list(threads.map(produce, producing, range(seed, seed + PRODUCERS)))
        ended.set()
        done = [id_ for turn in working for id_ in turn.result()]
    assert sorted(done) == sorted(id_ for ids in made for id_ in ids), f"seed {seed}"
