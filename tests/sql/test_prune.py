"""Retention by the day: history leaves as partitions. What is kept for less is in `test_retaining`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg import errors as pg_errors

from pgqueue.database import Database, afetch, arun, fetch
from pgqueue.queries import pruning
from pgqueue.queries.statement import Operation, Statement
from pgqueue.retention import Retention
from pgqueue.services.pruner import INTERVAL, Pruner
from pgqueue.services.service import Runner
from tests.sql.rows import SCHEMA, Connection, connect, open_transaction, rows, until, value

DAY = timedelta(days=1)


@pytest.fixture
def old(fresh_dsn: str) -> Iterator[Connection]:
    """A database with a partition for each of the last five days."""
    with connect(fresh_dsn) as conn:
        for age in range(1, 6):
            start = datetime.strptime(f"{day(conn, age)[-8:]}+0000", "%Y%m%d%z")
            conn.execute(
                f"create table pgqueue.{day(conn, age)} partition of pgqueue.completed_jobs "
                f"for values from ('{start}') to ('{start + DAY}')"
            )
        yield conn


def day(conn: Connection, age: int) -> str:
    query = "select to_char((clock_timestamp() at time zone 'UTC')::date - %(age)s::int, 'YYYYMMDD')"
    return f"completed_jobs_{value(conn, query, age=age)}"


def keep(conn: Connection, queue: str, age: timedelta | None) -> None:
    conn.execute(
        "insert into pgqueue.queues (name, keep_completed) values (%s, %s)",
        [queue, age],
    )


def history(conn: Connection, queue: str, count: int, age: timedelta) -> None:
    conn.execute(
        "insert into pgqueue.completed_jobs (id, run_at, created_at, finished_at, attempt, max_attempts, priority, "
        "state, queue, task, args) "
        "select n, now(), now(), now() - %s::interval, 1, 1, 0, 'completed', %s, 'send', '{}' from generate_series(1, %s) n",
        [age, queue, count],
    )


async def prune(dsn: str, kept: timedelta) -> float:
    async def run(operation: Operation[object], *, atomic: bool) -> object:
        return await arun(conn, operation)

    async with await psycopg.AsyncConnection.connect(
        dsn, autocommit=True, **Database(dsn).session_options("test")
    ) as conn:
        return await Pruner(Runner(lambda statement: afetch(conn, statement), run), SCHEMA, Retention(kept)).run_once()


def begin_detaching(conn: Connection, dsn: str, partition: str) -> None:
    """Leave it as a pruner does that an old reader held up."""
    fetch(conn, pruning.mark_ended(SCHEMA, partition))
    with open_transaction(dsn) as reader:
        reader.execute("select from pgqueue.completed_jobs")
        conn.execute("set lock_timeout = '50ms'")
        with pytest.raises(pg_errors.LockNotAvailable):
            conn.execute(f"alter table pgqueue.completed_jobs detach partition pgqueue.{partition} concurrently")
        conn.execute("reset lock_timeout")
    assert (partition, True) in fetch(conn, pruning.ended_partitions(SCHEMA, DAY))


def waiting_for_locks(conn: Connection) -> int:
    query = "select count(*)::int from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    return int(value(conn, query))


def partitions(conn: Connection) -> list[str]:
    query = (
        "select relname::text from pg_inherits join pg_class on oid = inhrelid "
        "where inhparent = 'pgqueue.completed_jobs'::regclass order by 1"
    )
    return [row["relname"] for row in rows(conn, query)]


async def test_days_that_are_wholly_past_their_retention_are_dropped(old: Connection, fresh_dsn: str) -> None:
    history(old, "mail", 3, 4 * DAY)
    assert await prune(fresh_dsn, 2 * DAY) == pytest.approx(INTERVAL, rel=0.2)
    # Yesterday and the two days before it hold rows that are younger, or may be.
    assert partitions(old)[0] == day(old, 2)
    assert value(old, "select count(*) from pg_class where relname = %(name)s", name=day(old, 4)) == 0


async def test_the_longest_retention_of_all_queues_decides_about_a_day(old: Connection, fresh_dsn: str) -> None:
    keep(old, "audit", 30 * DAY)
    await prune(fresh_dsn, 2 * DAY)
    assert partitions(old)[0] == day(old, 5)


async def test_the_week_ahead_has_its_partitions_again(old: Connection, fresh_dsn: str) -> None:
    old.execute(f"drop table pgqueue.{day(old, -7)}")
    await prune(fresh_dsn, 2 * DAY)
    assert partitions(old)[-1] == day(old, -7)


async def test_a_partition_that_was_detached_and_not_dropped_is_dropped_by_the_next_turn(
    old: Connection, fresh_dsn: str
) -> None:
    fetch(old, pruning.mark_ended(SCHEMA, day(old, 5)))
    fetch(old, pruning.detach_partition(SCHEMA, day(old, 5), finalize=False))
    await prune(fresh_dsn, 4 * DAY)
    assert value(old, "select count(*) from pg_class where relname = %(name)s", name=day(old, 5)) == 0
    assert day(old, 4) in partitions(old)


@pytest.mark.parametrize("pending", [False, True], ids=["whole", "half detached"])
async def test_two_pruners_at_one_partition_detach_it_once_and_neither_fails(
    old: Connection, fresh_dsn: str, pending: bool
) -> None:
    if pending:
        begin_detaching(old, fresh_dsn, day(old, 5))
    with open_transaction(fresh_dsn) as holder:
        holder.execute("lock table pgqueue.completed_jobs in share update exclusive mode")
        pruners = [asyncio.create_task(prune(fresh_dsn, 4 * DAY)) for _ in range(2)]
        # Both have seen the partition, and neither has detached it.
        await asyncio.to_thread(until, lambda: waiting_for_locks(old) == 2, "a wait of both for the table")
        holder.rollback()
    for pause in await asyncio.gather(*pruners):
        assert pause == pytest.approx(INTERVAL, rel=0.2)
    await prune(fresh_dsn, 4 * DAY)
    assert value(old, "select count(*) from pg_class where relname = %(name)s", name=day(old, 5)) == 0
    assert day(old, 3) in partitions(old)


async def test_a_pruner_that_comes_to_a_partition_after_another_dropped_it_goes_on(
    old: Connection, fresh_dsn: str
) -> None:
    overtaken = 0

    async def fetch_late(statement: Statement[Any]) -> list[Any]:
        nonlocal overtaken
        if "detach partition" in statement.text:
            overtaken += 1
            await prune(fresh_dsn, 4 * DAY)
        return await afetch(conn, statement)

    async with await psycopg.AsyncConnection.connect(fresh_dsn, autocommit=True) as conn:
        runner = Runner(fetch_late, lambda operation, atomic: arun(conn, operation))
        assert await Pruner(runner, SCHEMA, Retention(4 * DAY)).run_once() > 0
    assert overtaken == 1
    assert partitions(old)[0] == day(old, 4)


async def test_a_queue_that_keeps_its_history_for_less_loses_only_its_own_old_rows(
    old: Connection, fresh_dsn: str
) -> None:
    keep(old, "brief", timedelta(hours=1))
    for queue in ("brief", "mail"):
        history(old, queue, 4, timedelta(minutes=90))
        history(old, queue, 3, timedelta(minutes=30))
    await prune(fresh_dsn, 2 * DAY)
    kept = rows(old, "select queue, count(*)::int as jobs from pgqueue.completed_jobs group by queue order by queue")
    assert kept == [{"queue": "brief", "jobs": 3}, {"queue": "mail", "jobs": 7}]


async def test_a_day_that_somebody_detached_to_keep_it_is_not_dropped(old: Connection, fresh_dsn: str) -> None:
    history(old, "mail", 3, 5 * DAY)
    old.execute(f"alter table pgqueue.completed_jobs detach partition pgqueue.{day(old, 5)}")
    old.execute("create table pgqueue.completed_jobs_20010101 (like pgqueue.completed_jobs including all)")
    old.execute("create table pgqueue.completed_jobs_backup (id bigint)")
    await prune(fresh_dsn, 2 * DAY)
    assert value(old, f"select count(*) from pgqueue.{day(old, 5)}") == 3
    assert value(old, "select count(*) from pgqueue.completed_jobs_20010101") == 0
    assert value(old, "select count(*) from pgqueue.completed_jobs_backup") == 0
    assert partitions(old)[0] == day(old, 2)


async def test_a_detach_that_somebody_else_began_is_finished_and_the_day_is_kept(
    old: Connection, fresh_dsn: str
) -> None:
    begin_detaching(old, fresh_dsn, day(old, 5))
    old.execute(f"comment on table pgqueue.{day(old, 5)} is null")
    await prune(fresh_dsn, 4 * DAY)
    assert day(old, 5) not in partitions(old)
    assert value(old, f"select count(*) from pgqueue.{day(old, 5)}") == 0


async def test_a_day_whose_retention_was_lengthened_is_kept_when_somebody_detaches_it(
    old: Connection, fresh_dsn: str
) -> None:
    history(old, "mail", 3, 5 * DAY)
    fetch(old, pruning.mark_ended(SCHEMA, day(old, 5)))
    old.execute(f"comment on table pgqueue.{day(old, 4)} is 'the audit asks for it'")
    await prune(fresh_dsn, 30 * DAY)
    assert comment(old, day(old, 5)) is None
    assert comment(old, day(old, 4)) == "the audit asks for it"
    old.execute(f"alter table pgqueue.completed_jobs detach partition pgqueue.{day(old, 5)}")
    await prune(fresh_dsn, 2 * DAY)
    assert value(old, f"select count(*) from pgqueue.{day(old, 5)}") == 3


async def test_a_detached_day_is_not_dropped_before_it_is_past_the_longest_retention(
    old: Connection, fresh_dsn: str
) -> None:
    history(old, "mail", 3, 5 * DAY)
    fetch(old, pruning.mark_ended(SCHEMA, day(old, 5)))
    fetch(old, pruning.detach_partition(SCHEMA, day(old, 5), finalize=False))
    keep(old, "audit", 30 * DAY)
    await prune(fresh_dsn, 2 * DAY)
    assert value(old, f"select count(*) from pgqueue.{day(old, 5)}") == 3
    old.execute("delete from pgqueue.queues")
    await prune(fresh_dsn, 2 * DAY)
    assert value(old, "select count(*) from pg_class where relname = %(name)s", name=day(old, 5)) == 0


def comment(conn: Connection, partition: str) -> Any:
    return value(conn, "select obj_description(%(name)s::regclass, 'pg_class')", name=f"pgqueue.{partition}")
