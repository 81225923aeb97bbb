"""Retention by age and count, of tasks, queues and the app, for jobs that completed, were cancelled, or failed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from pgqueue.database import Database, fetch
from pgqueue.outcome import Cancelled, Completed
from pgqueue.queries import fleet, retaining
from pgqueue.queries.fleet import AppDefaults, QueueRow, TaskRow
from pgqueue.queries.retaining import Rule
from pgqueue.retention import DAY, Retention
from pgqueue.services.pruner import Pruner
from tests.sql.rows import (
    SCHEMA,
    Connection,
    add,
    claim_one,
    connect,
    explain,
    finish,
    open_transaction,
    rows,
    runner_on,
    value,
)

HOUR = timedelta(hours=1)
NONE = Retention(timedelta())


def age(hours: float) -> Retention:
    return Retention(age=hours * HOUR)


def count(jobs: int) -> Retention:
    return Retention(count=jobs)


def task(
    name: str, queue: str = "mail", completed: Retention | None = None, failed: Retention | None = None
) -> TaskRow:
    return TaskRow(name, queue, None, None, None, None, keep_completed=completed, keep_failed=failed)


def register(
    conn: Connection,
    *tasks: TaskRow,
    app: AppDefaults | None = None,
    queue: Retention | None = None,
    queue_failed: Retention | None = None,
) -> None:
    fetch(conn, fleet.register_tasks(SCHEMA, tasks, app))
    fetch(conn, fleet.register_queues(SCHEMA, [QueueRow("mail", keep_completed=queue, keep_failed=queue_failed)]))


def ended(
    conn: Connection, name: str = "send", *, queue: str = "mail", failed: bool = False, own: bool = False
) -> None:
    """A day's ended jobs, one for each half hour: ages 0:30, 1:30, …, 22:30."""
    columns = "id, run_at, created_at, attempt, max_attempts, priority, queue, task, args"
    values = "nextval('pgqueue.jobs_id_seq'), now(), now(), 1, 1, 0, %(queue)s, %(task)s, '{}'"
    at = "clock_timestamp() - make_interval(hours => n, mins => 30)"
    more: tuple[str, str] = (
        (
            "failed_jobs (crashes, reason, error_type, error_message, fingerprint, errors, failed_at",
            "0, 'r', 'E', 'm', 'f', '[]'",
        )
        if failed
        else ("completed_jobs (state, own_retention, finished_at", f"'completed', {'true' if own else 'null'}")
    )
    conn.execute(
        f"insert into pgqueue.{more[0]}, {columns}) select {more[1]}, {at}, {values} from generate_series(0, 22) n".encode(),
        {"queue": queue, "task": name},
    )


def left(conn: Connection, table: str = "completed_jobs", **where: str) -> int:
    """How many are left; since each is an hour older than the next, also which."""
    tests = "".join(f" and {column} = %({column})s" for column in where)
    return int(value(conn, f"select count(*) from pgqueue.{table} where true{tests}", **where))


async def prune(dsn: str, completed: Retention = DAY, failed: Retention | None = None) -> None:
    async with await psycopg.AsyncConnection.connect(
        dsn, autocommit=True, **Database(dsn).session_options("test")
    ) as conn:
        await Pruner(runner_on(conn), SCHEMA, completed, failed).run_once()


@pytest.fixture
def old(fresh_dsn: str) -> Iterator[Connection]:
    """A database of which yesterday has a partition too."""
    with connect(fresh_dsn) as conn:
        yesterday = value(conn, "select (clock_timestamp() at time zone 'UTC')::date - 1")
        conn.execute(
            f"create table pgqueue.completed_jobs_{yesterday:%Y%m%d} partition of pgqueue.completed_jobs "
            f"for values from ('{yesterday} 00:00+00') to ('{yesterday + timedelta(days=1)} 00:00+00')"
        )
        yield conn


@pytest.mark.parametrize(
    ("own", "queue", "app", "expected"),
    [
        (age(3), age(5), age(7), 3),
        (age(5), age(3), None, 5),
        (None, age(5), age(7), 5),
        (None, age(7), age(5), 7),
        (None, None, age(7), 7),
        (None, None, None, 23),
        (NONE, age(5), None, 0),
        (None, NONE, None, 0),
        (age(30), NONE, None, 23),
        (count(4), age(6), None, 4),
        (count(6), age(4), None, 4),
        (None, count(4), None, 4),
        (None, count(9), age(7), 7),
        (None, None, count(8), 8),
        (age(5), count(2), count(3), 5),
        (count(50), None, None, 23),
        (count(4), NONE, None, 4),
        (None, count(4), NONE, 4),
    ],
)
@pytest.mark.parametrize("failed", [False, True], ids=["completed", "failed"])
async def test_a_task_says_before_its_queue_and_that_before_the_app(
    old: Connection,
    fresh_dsn: str,
    failed: bool,
    own: Retention | None,
    queue: Retention | None,
    app: Retention | None,
    expected: int,
) -> None:
    if failed:
        register(old, task("send", failed=own), queue_failed=queue, app=AppDefaults(keep_failed=app))
    else:
        register(old, task("send", completed=own), queue=queue, app=AppDefaults(keep_completed=app or DAY))
    ended(old, failed=failed, own=own is not None)
    await prune(fresh_dsn)
    table = "failed_jobs" if failed else "completed_jobs"
    assert left(old, table) == expected
    oldest = "failed_at" if failed else "finished_at"
    if expected:
        assert value(old, f"select min({oldest}) > now() - make_interval(hours => {expected}) from pgqueue.{table}")


async def test_a_count_of_a_queue_is_of_all_its_tasks_that_do_not_say_themselves(
    old: Connection, fresh_dsn: str
) -> None:
    register(
        old,
        task("own", completed=count(3), failed=count(2)),
        task("a"),
        task("b"),
        queue=count(10),
        queue_failed=count(6),
    )
    for name in ("own", "a", "b", "nobody's"):
        ended(old, name, own=name == "own")
        ended(old, name, failed=True)
        ended(old, name, queue="other")
        ended(old, name, queue="other", failed=True)
    await prune(fresh_dsn)
    assert (left(old, queue="mail", task="own"), left(old, queue="mail")) == (3, 13)
    assert (left(old, "failed_jobs", queue="mail", task="own"), left(old, "failed_jobs", queue="mail")) == (2, 8)
    assert left(old, queue="other", task="a") == left(old, "failed_jobs", queue="other", task="a") == 23
    assert left(old, "failed_jobs", queue="other", task="own") == 2


async def test_tasks_of_two_apps_in_one_queue_do_not_cut_each_other_short(old: Connection, fresh_dsn: str) -> None:
    register(old, task("brief"), app=AppDefaults(keep_completed=age(2), keep_failed=age(2)))
    register(old, task("long"), app=AppDefaults(keep_completed=age(9), keep_failed=None))
    for name in ("brief", "long"):
        ended(old, name)
        ended(old, name, failed=True)
    await prune(fresh_dsn, age(2), age(2))
    assert (left(old, task="long"), left(old, "failed_jobs", task="long")) == (9, 23)
    assert left(old, "failed_jobs", task="brief") == 2


async def test_what_no_worker_has_registered_is_kept_as_the_app_that_prunes_says(
    old: Connection, fresh_dsn: str
) -> None:
    ended(old, failed=True)
    await prune(fresh_dsn)
    assert left(old, "failed_jobs") == 23
    await prune(fresh_dsn, DAY, age(4))
    assert left(old, "failed_jobs") == 4


async def test_days_are_kept_for_the_longest_rule_of_all(old: Connection, fresh_dsn: str) -> None:
    before = value(old, "select count(*) from pg_inherits where inhparent = 'pgqueue.completed_jobs'::regclass")
    old.execute("select pgqueue.make_partitions(7)")
    yesterday = value(old, "select min(relname::text) from pg_inherits join pg_class on oid = inhrelid "
                           "where inhparent = 'pgqueue.completed_jobs'::regclass")  # fmt: skip
    for rule in (
        {"task": task("audit", completed=age(72))},
        {"app": AppDefaults(keep_completed=age(72))},
        {"queue": age(72)},
    ):
        old.execute("truncate pgqueue.tasks, pgqueue.queues")
        register(old, rule.get("task", task("plain")), app=rule.get("app"), queue=rule.get("queue"))  # type: ignore[arg-type]
        await prune(fresh_dsn, NONE)
        assert value(old, f"select to_regclass('pgqueue.{yesterday}') is not null")
    assert value(old, "select count(*) from pg_inherits where inhparent = 'pgqueue.completed_jobs'::regclass") == before
    old.execute("truncate pgqueue.tasks, pgqueue.queues")
    await prune(fresh_dsn, NONE)
    assert value(old, f"select to_regclass('pgqueue.{yesterday}') is null")


async def test_a_change_in_the_table_holds_from_the_next_turn_on(old: Connection, fresh_dsn: str) -> None:
    register(old, task("send"), queue=age(9), queue_failed=age(9))
    ended(old)
    ended(old, failed=True)
    old.execute("update pgqueue.queues set keep_completed = '3 hours', keep_failed = null, keep_failed_count = 5")
    await prune(fresh_dsn)
    assert (left(old), left(old, "failed_jobs")) == (3, 5)
    old.execute("update pgqueue.queues set keep_completed_count = 2, keep_failed = '4 hours'")
    await prune(fresh_dsn)
    assert (left(old), left(old, "failed_jobs")) == (2, 4)


def test_what_the_code_declares_of_a_queue_takes_the_place_of_what_was_there(db: Connection) -> None:
    register(db, task("send"), queue=age(9), queue_failed=count(5))
    register(db, task("send"), queue=count(7))
    [row] = rows(db, "select keep_completed, keep_completed_count, keep_failed, keep_failed_count from pgqueue.queues")
    assert list(row.values()) == [None, 7, None, 5]


@pytest.mark.parametrize("column", ["keep_completed_count", "keep_failed_count"])
def test_a_count_of_none_is_refused(db: Connection, column: str) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        db.execute(f"insert into pgqueue.queues (name, {column}) values ('mail', 0)")


def test_cancelled_jobs_are_marked_where_their_task_says_how_long_they_are_kept(db: Connection) -> None:
    register(db, task("own", completed=age(1)), task("counted", completed=count(1)), task("plain", failed=age(1)))
    for name in ("own", "counted", "plain", "unknown"):
        add(db, 2, task=name)
        finish(db, claim_one(db, tasks=[name]), Cancelled("enough"))
    db.execute("select pgqueue.cancel(array(select id from pgqueue.jobs))")
    assert rows(
        db,
        "select task, own_retention as own, count(*)::int as jobs from pgqueue.completed_jobs group by 1, 2 order by 1",
    ) == [
        {"task": "counted", "own": True, "jobs": 2},
        {"task": "own", "own": True, "jobs": 2},
        {"task": "plain", "own": None, "jobs": 2},
        {"task": "unknown", "own": None, "jobs": 2},
    ]


def test_completed_jobs_are_marked_as_their_worker_says(db: Connection) -> None:
    add(db, 2)
    for own in (True, False):
        finish(db, claim_one(db), Completed(), own_retention=own)
    assert [
        row["own_retention"] for row in rows(db, "select own_retention from pgqueue.completed_jobs order by id")
    ] == [
        True,
        None,
    ]


async def test_what_is_pruned_takes_its_log_lines_and_progress_along(old: Connection, fresh_dsn: str) -> None:
    register(old, task("send"), queue=age(4), queue_failed=age(3))
    ended(old)
    ended(old, failed=True)
    add(old)
    old.execute(TELL)
    await prune(fresh_dsn)
    assert (left(old), left(old, "failed_jobs")) == (4, 3)
    for table in ("job_logs", "job_progress"):
        assert rows(old, f"select distinct job_id from pgqueue.{table} order by 1") == rows(
            old, "select id as job_id from pgqueue.all_jobs order by 1"
        )


TELL = """
    with told as (insert into pgqueue.job_progress (job_id, percent) select id, 1 from pgqueue.all_jobs)
    insert into pgqueue.job_logs (job_id, attempt, logged_at, level, message)
    select id, 1, now(), 'info', 'x' from pgqueue.all_jobs, generate_series(1, 3) order by id
"""


async def test_the_lines_of_jobs_whose_day_was_dropped_go_and_those_of_failed_and_live_jobs_stay(
    old: Connection, fresh_dsn: str
) -> None:
    ended(old)
    ended(old, failed=True)
    add(old, 2)
    old.execute(TELL)
    old.execute("truncate pgqueue.completed_jobs")
    await prune(fresh_dsn)
    for table, lines in (("job_logs", 3), ("job_progress", 1)):
        assert value(old, f"select count(*) from pgqueue.{table}") == 25 * lines


def test_a_sweep_looks_at_no_more_than_it_may_and_goes_on_where_it_ended(db: Connection) -> None:
    add(db, 4)
    db.execute(TELL)
    ids = [row["id"] for row in rows(db, "delete from pgqueue.jobs where mod(id, 2) = 0 returning id")]
    assert len(ids) == 2
    after, gone, seen = 0, 0, []
    while True:
        [swept] = fetch(db, retaining.sweep(SCHEMA, "job_logs", after, 5))
        seen.append(swept.seen)
        gone += swept.gone
        after = swept.last
        if swept.seen < 5:
            break
    assert (gone, seen) == (6, [5, 5, 2])
    assert value(db, "select count(*) from pgqueue.job_logs") == 6


@pytest.mark.parametrize("scope", ["queue", "task", "failed"])
def test_a_batch_deletes_no_more_than_it_may_the_oldest_first(db: Connection, scope: Any) -> None:
    db.execute("select pgqueue.make_partitions()")
    ended_today(db, 10, failed=scope == "failed", own=scope == "task")
    rule = Rule(scope, "mail", ("send",), timedelta(), None)
    assert fetch(db, retaining.prune(SCHEMA, rule, "send", None, 4)) == [4]
    table, time = ("failed_jobs", "failed_at") if scope == "failed" else ("completed_jobs", "finished_at")
    assert [row["id"] for row in rows(db, f"select id from pgqueue.{table} order by {time}")] == [5, 6, 7, 8, 9, 10]


def ended_today(conn: Connection, jobs: int, *, failed: bool = False, own: bool = False, tasks: int = 1) -> None:
    """Ended a microsecond after the other, just now."""
    columns = "id, run_at, created_at, attempt, max_attempts, priority, queue, task, args"
    values = f"n, now(), now(), 1, 1, 0, 'mail', concat('send', nullif(n % {tasks}, 0)), '{{}}'"
    kind = (
        "failed_jobs (crashes, reason, error_type, error_message, fingerprint, errors, failed_at"
        if failed
        else "completed_jobs (state, own_retention, finished_at"
    )
    first = "0, 'r', 'E', 'm', 'f', '[]'" if failed else f"'completed', {'true' if own else 'null'}"
    conn.execute(
        f"insert into pgqueue.{kind}, {columns}) select {first}, now() + make_interval(secs => n * 1e-6), {values} "
        f"from generate_series(1, {jobs}) n".encode()
    )


async def test_two_pruners_at_one_queue_do_not_wait_for_each_other(old: Connection, fresh_dsn: str) -> None:
    register(old, task("send"), queue_failed=age(2))
    ended(old, failed=True)
    with open_transaction(fresh_dsn) as other:
        rule = Rule("failed", "mail", ("send",), 2 * HOUR, None)
        assert fetch(other, retaining.prune(SCHEMA, rule, "send", None, 5)) == [5]
        await prune(fresh_dsn)
        assert left(old, "failed_jobs") == 2 + 5
        other.commit()
    assert left(old, "failed_jobs") == 2


@pytest.mark.parametrize("analyzed", [True, False])
def test_the_rules_read_no_more_than_they_must(db: Connection, analyzed: bool) -> None:
    ended_today(db, 20_000, tasks=20)
    ended_today(db, 20_000, own=True, tasks=20)
    ended_today(db, 20_000, failed=True, tasks=20)
    register(db, *(task(f"send{n or ''}", completed=count(10), failed=count(10)) for n in range(20)), queue=count(10))
    if analyzed:
        db.execute("vacuum analyze pgqueue.completed_jobs, pgqueue.failed_jobs")
    statements: list[Any] = [retaining.task_rules(SCHEMA, timedelta(days=1)), retaining.failed_rules(SCHEMA, None)]
    for scope, tasks in (("queue", (None,)), ("task", ("send",)), ("failed", ("send", "send1"))):
        rule = Rule(scope, "mail", tasks, None, 10)  # type: ignore[arg-type]
        [before] = fetch(db, retaining.oldest_kept(SCHEMA, rule))
        statements += [retaining.oldest_kept(SCHEMA, rule), retaining.prune(SCHEMA, rule, tasks[0], before, 100)]
    for statement in statements:
        plan = explain(db, statement)
        for node in walk(plan):
            assert not (node["Node Type"] == "Seq Scan" and is_large(node.get("Relation Name", ""))), statement.text


def is_large(relation: str) -> bool:
    return relation == "failed_jobs" or relation.startswith("completed_jobs")


def walk(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", []):
        yield from walk(child)


def test_each_statement_that_completes_says_whose_history_it_is(db: Connection) -> None:
    from pgqueue.database import run
    from pgqueue.queries import finishing
    from tests.sql.rows import finished

    add(db, 3)
    first, second, third = (claim_one(db) for _ in range(3))
    batch = [
        finished(first, Completed(), own_retention=True),
        finished(second, Completed()),
        finished(third, Completed(), kept=False, own_retention=True),
    ]
    with db.transaction():
        assert run(db, finishing.finish(SCHEMA, uuid4(), batch)).stale == 0
    assert {
        row["id"]: row["own_retention"] for row in rows(db, "select id, own_retention from pgqueue.completed_jobs")
    } == {
        first.id: True,
        second.id: None,
    }
