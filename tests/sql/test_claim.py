"""`claim.sql`: available → running."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import pytest

from pgqueue.outcome import Completed
from tests.sql.rows import (
    Connection,
    add,
    claim,
    connect,
    enqueue,
    finish,
    job,
    job_row,
    open_transaction,
    rows,
    state_of,
    until,
    value,
    worker,
)

Another = Callable[[], Connection]


def test_a_claim_takes_the_oldest_jobs_of_its_lane_in_order_and_counts_the_attempt(db: Connection) -> None:
    ids = add(db, 5)
    me = worker(db)
    scan = claim(db, me, count=3)
    assert [one.id for one in scan.jobs] == ids[:3]
    assert scan.full
    assert [one.attempt for one in scan.jobs] == [1, 1, 1]
    row = job_row(db, ids[0])
    assert (row["state"], row["claim_id"]) == ("running", scan.jobs[0].fence)
    assert state_of(db, ids[3]) == "available"


def test_a_claim_writes_one_row_that_names_the_worker_the_queue_and_its_jobs(db: Connection) -> None:
    ids = add(db, 3)
    me = worker(db)
    [fence] = {one.fence for one in claim(db, me).jobs}
    [row] = rows(db, "select * from pgqueue.claims")
    assert (row["id"], row["worker_id"], row["queue"], sorted(row["job_ids"])) == (fence, me, "mail", ids)


def test_an_empty_claim_writes_no_row_and_still_says_what_it_saw(db: Connection) -> None:
    add(db, queue="other")
    scan = claim(db)
    assert (scan.jobs, scan.paused, scan.full) == ([], False, False)
    assert scan.xact_id is not None
    assert claim(db, known=scan.allocated).xact_id is None
    assert scan.xmin > 0
    assert rows(db, "select * from pgqueue.claims") == []


def test_a_last_in_first_out_claim_takes_the_newest_first(db: Connection) -> None:
    ids = add(db, 5)
    assert [one.id for one in claim(db, count=3, lifo=True).jobs] == [ids[4], ids[3], ids[2]]


def test_a_claim_looks_only_at_its_queue_and_its_priority(db: Connection) -> None:
    [wanted] = add(db, priority=5)
    add(db, priority=6)
    add(db, priority=5, queue="other")
    assert [one.id for one in claim(db, priority=5).jobs] == [wanted]


def test_a_claim_does_not_look_below_its_mark(db: Connection) -> None:
    ids = add(db, 3)
    mark = job_row(db, ids[0])["position"]
    assert [one.id for one in claim(db, mark=mark).jobs] == ids[1:]


def test_tasks_that_the_worker_does_not_know_are_left_for_others(db: Connection) -> None:
    [unknown, known] = [add(db, task="other")[0], add(db, task="send")[0]]
    scan = claim(db, tasks=["send", "thumb"])
    assert [one.id for one in scan.jobs] == [known]
    assert (state_of(db, unknown), job_row(db, unknown)["attempt"]) == ("available", 0)


@pytest.mark.parametrize("lifo", [False, True])
def test_a_paused_queue_gives_nothing_and_goes_on_when_it_is_resumed(db: Connection, lifo: bool) -> None:
    ids = add(db, 2)
    db.execute("select pgqueue.pause('mail')")
    scan = claim(db, lifo=lifo)
    assert scan.paused
    assert scan.jobs == []
    assert state_of(db, ids[0]) == "available"
    db.execute("select pgqueue.resume('mail')")
    assert len(claim(db, lifo=lifo).jobs) == 2


def test_scheduled_and_blocked_jobs_are_not_claimed(db: Connection) -> None:
    add(db, delay=60.0)
    [parked] = add(db)
    db.execute("update pgqueue.jobs set state = 'blocked', run_at = 'infinity' where id = %s", [parked])
    assert claim(db).jobs == []


@pytest.mark.parametrize("lifo", [False, True])
def test_rule_6_jobs_that_must_not_repeat_are_never_claimed_beyond_the_slots(db: Connection, lifo: bool) -> None:
    once = add(db, 4, max_attempts=1)
    often = add(db, 3)
    scan = claim(db, count=10, slots=2, lifo=lifo)
    taken = {one.id for one in scan.jobs}
    assert taken >= set(often)
    assert len(taken & set(once)) == 2
    left = [one for one in once if one not in taken]
    assert {job_row(db, one)["attempt"] for one in left} == {0}
    assert scan.full
    assert scan.left_from == min(job_row(db, one)["position"] for one in left)


def test_without_a_free_slot_no_job_that_must_not_repeat_is_claimed(db: Connection) -> None:
    add(db, 4, max_attempts=1)
    scan = claim(db, count=10, slots=0)
    assert scan.jobs == []
    assert scan.full


def test_a_job_that_somebody_has_locked_is_skipped_not_waited_for(db: Connection, dsn: str) -> None:
    ids = add(db, 3)
    with open_transaction(dsn) as other:
        other.execute("select from pgqueue.jobs where id = %s for update", [ids[0]])
        assert [one.id for one in claim(db).jobs] == ids[1:]
    assert [one.id for one in claim(db).jobs] == ids[:1]


def test_eight_claimers_at_once_take_every_job_exactly_once(db: Connection, another: Another) -> None:
    ids = add(db, 400)

    def take_all(conn: Connection) -> list[int]:
        taken: list[int] = []
        while found := claim(conn, count=7).jobs:
            taken += [one.id for one in found]
        return taken

    with ThreadPoolExecutor(8) as threads:
        taken = list(chain.from_iterable(threads.map(take_all, [another() for _ in range(8)])))
    # A claimer stops at its first empty look, which may be past rows that another one has just locked.
    taken += take_all(db)
    assert sorted(taken) == sorted(ids)
    assert value(db, "select bool_and(attempt = 1) from pgqueue.jobs")


def test_rule_7_a_claim_commits_asynchronously_and_the_session_keeps_its_own_setting(db: Connection) -> None:
    add(db, 2)
    db.execute("set synchronous_commit = on")
    with db.transaction():
        claim(db, count=1)
        assert value(db, "show synchronous_commit") == "off"
    assert value(db, "show synchronous_commit") == "on"
    claim(db, count=1)
    assert value(db, "show synchronous_commit") == "on"


def test_rule_7_nothing_of_a_claim_stays_in_the_session(db: Connection) -> None:
    changed = "select name, setting from pg_settings where source = 'session' order by name"
    before = rows(db, changed)
    add(db, 2)
    claim(db)
    assert rows(db, changed) == before
    assert value(db, "select count(*) from pg_locks where pid = pg_backend_pid() and locktype = 'advisory'") == 0


@pytest.mark.parametrize("args", ["{}", '{"to": "a@b.c"}', '{"to": "%s"}' % ("x" * 400)], ids=["none", "short", "long"])
def test_every_claim_is_a_hot_update_however_small_the_row(dsn: str, db: Connection, args: str) -> None:
    query = "select n_tup_upd as all, n_tup_hot_upd as hot from pg_stat_user_tables where relname = 'jobs'"
    [before] = rows(db, query)
    with connect(dsn) as conn:
        add(conn, 2_000)
        taken = 0
        while found := claim(conn, count=500).jobs:
            taken += len(found)
    assert taken == 2_000
    # A session that has ended has told its counters.
    [after] = until(
        lambda: [row for row in rows(db, query) if row["all"] - before["all"] >= taken], "the count of the updates"
    )
    assert after["hot"] - before["hot"] == taken


@pytest.mark.parametrize("start", [2**31, 2**53, 2**63 - 1_000_000])
def test_a_job_lives_and_ends_with_an_id_and_a_position_beyond_what_other_types_hold(
    fresh_dsn: str, start: int
) -> None:
    with connect(fresh_dsn) as conn:
        conn.execute(f"alter sequence pgqueue.jobs_id_seq restart with {start}")
        conn.execute(f"alter sequence pgqueue.jobs_position restart with {start}")
        [one, two] = enqueue(conn, job(key="a"), job())
        assert [one.id, two.id] == [start, start + 1]
        scan = claim(conn, mark=start - 1)
        assert [found.position for found in scan.jobs] == [start, start + 1]
        assert finish(conn, scan.jobs[0], Completed()) == 0
        assert finish(conn, scan.jobs[1], None) == 0
        assert (state_of(conn, one.id), state_of(conn, two.id)) == ("completed", "available")


def test_a_claim_under_the_largest_fence_is_kept_whole(db: Connection) -> None:
    [id_] = add(db)
    scan = claim(db, fence=2**63 - 1)
    assert [one.id for one in scan.jobs] == [id_]
    assert finish(db, scan.jobs, Completed()) == 0
