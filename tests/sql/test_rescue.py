"""`orphans.sql` and the rescue of what dead workers held."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from pgqueue.breaker import Breaker, Of
from pgqueue.database import Database, afetch, arun, fetch
from pgqueue.outcome import CRASH_LIMIT, Completed
from pgqueue.queries import breakers, fleet
from pgqueue.queries.fleet import TaskRow
from pgqueue.queries.rescuing import Orphan
from pgqueue.services.rescuer import Rescuer
from pgqueue.services.service import Runner
from tests.sql.rows import (
    SCHEMA,
    Connection,
    add,
    bury,
    claim,
    claim_one,
    finish,
    job_row,
    make_due,
    notifications,
    open_transaction,
    promote,
    rescue,
    rows,
    state_of,
    states,
    value,
    worker,
)

Another = Callable[[], Connection]


def die_with(conn: Connection, count: int, **options: Any) -> list[int]:
    """A worker takes `count` jobs, dies, and is buried; the ids of the jobs."""
    dead = worker(conn, lease=-1.0)
    ids = [one.id for one in claim(conn, dead, count=count, **options).jobs]
    assert len(ids) == count
    assert bury(conn) == {dead}
    return ids


def test_a_job_that_was_alone_is_blamed_retried_and_keeps_the_used_attempt(db: Connection) -> None:
    [id_] = add(db)
    die_with(db, 1)
    [orphan] = rescue(db, delay=60.0)
    assert (orphan.job_id, orphan.attempt) == (id_, 1)
    row = job_row(db, id_)
    assert (row["state"], row["attempt"], row["crashes"], row["claim_id"]) == ("scheduled", 1, 1, None)
    assert row["errors"][0]["type"] == "pgqueue.errors.ProcessCrashed"
    assert value(db, "select count(*) from pgqueue.claims") == 0


def test_a_job_under_a_former_name_counts_for_its_task(db: Connection) -> None:
    rows = [TaskRow("send", "mail", None, None, None, None)]
    rows.append(TaskRow("old", "mail", None, None, None, None, alias_of="send"))
    fetch(db, fleet.register_tasks(SCHEMA, rows))
    fetch(db, breakers.change(SCHEMA, Of("task", "send"), Breaker(failures=5)))
    add(db, task="old")
    die_with(db, 1, tasks=["old"])
    [orphan] = rescue(db, delay=60.0)
    assert orphan.task == "send"
    [known] = fetch(db, breakers.read(SCHEMA))
    assert known.seen.failures == 1


def test_a_job_that_may_have_waited_for_its_chunk_is_suspected_before_it_is_blamed(db: Connection) -> None:
    [id_] = add(db)
    for suspicions in (1, 2):
        die_with(db, 1)
        rescue(db, gathers=True)
        row = job_row(db, id_)
        assert (row["state"], row["attempt"], row["crashes"]) == ("available", 0, 0)
        assert row["suspicions"] == suspicions
    lines = rows(db, "select message from pgqueue.job_logs where job_id = %(id)s", id=id_)
    assert ["others" in line["message"] for line in lines] == [False, False]
    die_with(db, 1)
    rescue(db, gathers=True)
    row = job_row(db, id_)
    assert (row["state"], row["attempt"], row["crashes"]) == ("scheduled", 1, 1)


@pytest.mark.parametrize(("name", "called"), [("mail-1", "h:1 (mail-1, {short})"), ("h:1", "h:1 ({short})")])
def test_the_worker_that_is_buried_and_rescued_from_is_named(db: Connection, name: str, called: str) -> None:
    [id_] = add(db)
    dead = worker(db, lease=-1.0, name=name)
    claim(db, dead)
    [orphan] = rescue(db)
    called = called.format(short=str(dead)[:8])
    assert (orphan.worker_id, orphan.worker) == (dead, called)
    assert job_row(db, id_)["errors"][0]["message"] == f"worker {called} died while it ran this job"
    assert value(db, "select count(*) from pgqueue.workers where id = %(dead)s", dead=dead) == 0


def test_a_worker_whose_row_has_gone_before_is_named_by_its_id(db: Connection) -> None:
    [id_] = add(db)
    dead = worker(db, lease=-1.0)
    claim(db, dead)
    bury(db)
    [orphan] = rescue(db)
    assert orphan.worker == str(dead)
    assert job_row(db, id_)["errors"][0]["message"] == f"worker {dead} died while it ran this job"


def test_among_several_nobody_is_blamed_and_all_go_back_to_their_places(db: Connection) -> None:
    ids = add(db, 3)
    places = [job_row(db, id_)["position"] for id_ in ids]
    die_with(db, 3)
    assert sorted(orphan.job_id or 0 for orphan in rescue(db)) == ids
    for id_, place in zip(ids, places, strict=True):
        row = job_row(db, id_)
        assert (row["state"], row["attempt"], row["crashes"], row["suspicions"]) == ("available", 0, 0, 1)
        assert (row["position"], row["errors"]) == (place, None)
        [line] = rows(db, "select attempt, level, message from pgqueue.job_logs where job_id = %(id)s", id=id_)
        assert (line["attempt"], line["level"]) == (1, "warning")
        assert "among others: it runs again" in line["message"]


def test_a_worker_with_two_claims_of_one_job_each_was_not_running_one_alone(db: Connection) -> None:
    ids = add(db, 2)
    dead = worker(db, lease=-1.0)
    claim_one(db, dead)
    claim_one(db, dead)
    bury(db)
    rescue(db)
    assert [job_row(db, id_)["crashes"] for id_ in ids] == [0, 0]


def test_jobs_that_had_ended_before_the_worker_died_do_not_count_as_company(db: Connection) -> None:
    add(db, 3)
    dead = worker(db, lease=-1.0)
    *done, last = claim(db, dead).jobs
    finish(db, done, Completed())
    bury(db)
    rescue(db)
    assert job_row(db, last.id)["crashes"] == 1


def test_three_crashes_of_a_job_alone_end_in_failed_jobs(db: Connection) -> None:
    [id_] = add(db)
    for n in range(CRASH_LIMIT):
        assert state_of(db, id_) == "available"
        die_with(db, 1)
        rescue(db)
        make_due(db, id_)
        assert promote(db)[0] == (n < CRASH_LIMIT - 1)
    [row] = rows(db, "select * from pgqueue.failed_jobs")
    assert (row["id"], row["reason"], row["crashes"], row["attempt"]) == (id_, "crashed", 3, 3)
    assert len(row["errors"]) == 3


def test_a_job_that_is_never_alone_keeps_its_attempts_however_often_workers_die(db: Connection) -> None:
    ids = add(db, 2, max_attempts=2)
    for _ in range(5):
        die_with(db, 2)
        rescue(db)
    assert states(db) == {"available": 2}
    assert [(job_row(db, id_)["attempt"], job_row(db, id_)["suspicions"]) for id_ in ids] == [(0, 5)] * 2


@pytest.mark.parametrize("company", [0, 2])
def test_a_job_that_must_not_repeat_fails_at_once(db: Connection, company: int) -> None:
    [once] = add(db, max_attempts=1)
    others = add(db, company) if company else []
    die_with(db, 1 + company)
    rescue(db)
    [row] = rows(db, "select * from pgqueue.failed_jobs")
    assert (row["id"], row["reason"], row["crashes"]) == (once, "crashed", 1)
    assert [state_of(db, id_) for id_ in others] == ["available"] * company


def test_a_worker_without_a_row_claims_nothing(db: Connection) -> None:
    [id_] = add(db)
    assert claim(db, uuid4()).jobs == []
    assert state_of(db, id_) == "available"


def test_rule_6_claims_of_a_worker_without_a_row_are_rescued(db: Connection) -> None:
    ids = add(db, 2)
    claim(db)
    db.execute("delete from pgqueue.workers")
    assert len(rescue(db)) == 2
    assert [state_of(db, id_) for id_ in ids] == ["available"] * 2


def test_the_jobs_of_living_workers_are_left_alone(db: Connection) -> None:
    add(db, 2)
    [mine] = claim(db, worker(db), count=1).jobs
    die_with(db, 1)
    rescue(db)
    assert job_row(db, mine.id)["claim_id"] == mine.fence
    assert [row["id"] for row in rows(db, "select id from pgqueue.claims")] == [mine.fence]


def test_a_job_whose_cancel_was_asked_for_ends_as_cancelled_when_its_worker_died(db: Connection) -> None:
    ids = add(db, 3)
    dead = worker(db, lease=-1.0)
    claim(db, dead, count=2)
    alone = worker(db, lease=-1.0)
    claim(db, alone, count=1)
    db.execute("select pgqueue.cancel(%s::bigint[])", [[ids[0], ids[2]]])
    bury(db)
    rescue(db)
    assert [state_of(db, id_) for id_ in ids] == ["cancelled", "available", "cancelled"]
    assert value(db, "select count(*) from pgqueue.claims") == 0


def test_an_empty_claim_of_a_dead_worker_is_dropped(db: Connection) -> None:
    add(db)
    dead = worker(db, lease=-1.0)
    finish(db, claim_one(db, dead), Completed())
    bury(db)
    assert rescue(db) == []
    assert value(db, "select count(*) from pgqueue.claims") == 0


def test_a_rescue_tells_the_claimers_where_to_look(db: Connection, listener: Connection) -> None:
    ids = add(db, 3)
    die_with(db, 3)
    rescue(db)
    assert notifications(listener) == [f"available mail 0 {job_row(db, ids[0])['position']}"]


def test_rule_2_a_locked_row_does_not_stall_a_rescue_and_is_rescued_next_time(db: Connection, dsn: str) -> None:
    ids = add(db, 3)
    die_with(db, 3)
    with open_transaction(dsn) as other:
        other.execute("select from pgqueue.jobs where id = %s for update", [ids[1]])
        db.execute("set lock_timeout = '100ms'")
        assert sorted(orphan.job_id or 0 for orphan in rescue(db)) == [ids[0], ids[2]]
        assert value(db, "select count(*) from pgqueue.claims") == 1
    assert [orphan.job_id for orphan in rescue(db)] == [ids[1]]
    assert value(db, "select count(*) from pgqueue.claims") == 0


def test_a_job_that_waits_locked_for_a_second_turn_is_not_blamed_as_if_it_had_been_alone(
    db: Connection, dsn: str
) -> None:
    ids = add(db, 3)
    die_with(db, 3)
    with open_transaction(dsn) as other:
        other.execute("select from pgqueue.jobs where id = %s for update", [ids[1]])
        rescue(db)
    rescue(db)
    assert [job_row(db, id_)["crashes"] for id_ in ids] == [0, 0, 0]


def test_eight_rescuers_at_once_take_every_job_back_once(db: Connection, another: Another) -> None:
    ids = add(db, 60)
    for _ in range(20):
        die_with(db, 3)
    start = Barrier(8)

    def work(conn: Connection) -> list[Orphan]:
        start.wait()
        return rescue(conn)

    with ThreadPoolExecutor(8) as threads:
        taken = [orphan.job_id for turn in threads.map(work, [another() for _ in range(8)]) for orphan in turn]
    taken += [orphan.job_id for orphan in rescue(db)]
    assert sorted(id_ or 0 for id_ in taken) == ids
    assert value(db, "select bool_and(attempt = 0 and suspicions = 1 and state = 'available') from pgqueue.jobs")
    assert value(db, "select count(*) from pgqueue.claims") == 0


@contextmanager
def rescuer(conn: psycopg.AsyncConnection[Any], healthy_for: float, lease: float, told: list[Orphan]) -> Any:
    async def run(operation: Any, *, atomic: bool) -> Any:
        async with conn.transaction():
            return await arun(conn, operation)

    yield Rescuer(
        Runner(lambda statement: afetch(conn, statement), run),
        SCHEMA,
        lease=lease,
        healthy_for=lambda: healthy_for,
        delay=lambda task, attempt: 60.0,
        on_rescued=told.append,
    )


@pytest.mark.parametrize(("healthy_for", "rescues"), [(0.0, False), (29.9, False), (30.0, True)])
async def test_rule_6_a_worker_rescues_only_after_a_lease_of_unbroken_heartbeats_of_its_own(
    db: Connection, dsn: str, healthy_for: float, rescues: bool
) -> None:
    [id_] = add(db)
    dead = worker(db, lease=-1.0)
    claim_one(db, dead)
    told: list[Orphan] = []
    async with await psycopg.AsyncConnection.connect(
        dsn, autocommit=True, **Database(dsn).session_options("test")
    ) as conn:
        with rescuer(conn, healthy_for, 30.0, told) as service:
            assert 0 < await asyncio.wait_for(service.run_once(), 30) < 30
    assert [orphan.job_id for orphan in told] == ([id_] if rescues else [])
    assert state_of(db, id_) == ("scheduled" if rescues else "running")
    assert value(db, "select count(*) from pgqueue.workers") == (0 if rescues else 1)


def test_a_crashed_attempt_began_when_its_job_was_claimed(db: Connection) -> None:
    add(db, max_attempts=1)
    die_with(db, 1)
    db.execute("update pgqueue.claims set claimed_at = claimed_at - interval '1 minute'")
    rescue(db)
    ran = value(db, "select extract(epoch from failed_at - started_at)::float8 from pgqueue.failed_jobs")
    assert 59 < ran < 80
