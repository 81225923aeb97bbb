"""`enqueue.sql`, COPY, and the operation around them: new → available or scheduled."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier, Event
from typing import Any

import psycopg
import pytest
from psycopg import errors as pg_errors

from pgqueue import PgQueue
from pgqueue.database import fetch, run
from pgqueue.job import Job, NewJob
from pgqueue.outcome import Completed
from pgqueue.queries import copying, enqueuing, fleet
from pgqueue.queries.fleet import QueueRow, TaskRow
from pgqueue.queries.statement import Operation, Statement
from tests.sql.rows import (
    ATTEMPTS,
    DEADLINE,
    SCHEMA,
    Connection,
    add,
    bury,
    claim,
    claim_one,
    connect,
    enqueue,
    finish,
    job,
    job_row,
    notifications,
    open_transaction,
    rows,
    value,
    wait_for_lock,
    worker,
)

Another = Callable[[], Connection]
BULK = copying.COPY_FROM
INVOICE = TaskRow("charge", "billing", None, 1, None, "charge:{invoice}")


@pytest.fixture
def app(dsn: str) -> Iterator[PgQueue]:
    """An app that has none of the tasks: it enqueues by name."""
    made = PgQueue(dsn)
    yield made
    made.close()


def charges(app: PgQueue, invoices: Sequence[int]) -> list[NewJob]:
    return [app.new_job("charge", {"invoice": invoice}, queue="billing") for invoice in invoices]


def copy(conn: Connection, jobs: Sequence[NewJob]) -> list[Job]:
    with conn.transaction():
        return list(run(conn, copying.copy(SCHEMA, jobs, ATTEMPTS)))


def resumed(operation: Operation[list[Job]], answer: list[Any]) -> Operation[list[Job]]:
    """The rest of an operation whose first statement has been answered."""
    statement = operation.send(answer)
    try:
        while True:
            answer = yield statement
            statement = operation.send(answer)
    except StopIteration as stop:
        made: list[Job] = stop.value
        return made


def keys(count: int, seed: int) -> list[str]:
    found = [f"k{n}" for n in range(count)]
    random.Random(seed).shuffle(found)
    return found


def test_a_job_comes_back_as_the_table_holds_it(db: Connection) -> None:
    options = {
        "priority": 3,
        "max_attempts": 7,
        "key": "k",
        "tags": '["a b", "{\\"c\\"}"]',
        "headers": '{"trace": "1"}',
        "options": '{"timeout": 2.5}',
    }
    [made] = enqueue(db, job(args='{"to": "ä\\u0001"}', **options))  # type: ignore[arg-type]
    row = job_row(db, made.id)
    assert (row["queue"], row["task"], row["state"], row["priority"], row["max_attempts"], row["unique_key"]) == (
        "mail", "send", "available", 3, 7, "k",
    )  # fmt: skip
    assert (row["args"], row["tags"], row["headers"], row["options"]) == (
        {"to": "ä\x01"}, ["a b", '{"c"}'], {"trace": "1"}, {"timeout": 2.5},
    )  # fmt: skip
    assert (made.created, made.state, made.priority, made.max_attempts, made.tags) == (
        True,
        "available",
        3,
        7,
        ("a b", '{"c"}'),
    )
    assert (made.run_at, made.created_at) == (row["run_at"], row["created_at"])


def test_a_later_job_is_scheduled_and_has_no_place(db: Connection) -> None:
    at = datetime.now(UTC) + timedelta(days=400)
    [delayed, dated, past] = enqueue(db, job(delay=60.0), job(run_at=at), job(run_at=datetime(2020, 1, 1, tzinfo=UTC)))
    assert [delayed.state, dated.state, past.state] == ["scheduled", "scheduled", "available"]
    assert [job_row(db, one.id)["position"] is None for one in (delayed, dated, past)] == [True, True, False]
    assert job_row(db, dated.id)["run_at"] == at


def test_what_a_job_leaves_open_is_decided_by_its_task_then_its_queue_then_the_app(db: Connection) -> None:
    fetch(db, fleet.register_tasks(SCHEMA, [TaskRow("known", "thumbs", 4, None, None, None)]))
    fetch(db, fleet.register_queues(SCHEMA, [QueueRow("thumbs", priority=9, max_attempts=6)]))
    given = enqueue(
        db,
        NewJob("known", "{}"),
        NewJob("known", "{}", queue="mail"),
        NewJob("known", "{}", priority=1, max_attempts=2),
        NewJob("other", "{}", queue="thumbs"),
        NewJob("other", "{}"),
    )
    assert [(one.queue, one.priority, one.max_attempts) for one in given] == [
        ("thumbs", 4, 6), ("mail", 4, ATTEMPTS), ("thumbs", 1, 2), ("thumbs", 9, 6), ("default", 0, ATTEMPTS),
    ]  # fmt: skip


def test_a_transaction_that_rolls_back_enqueues_nothing(db: Connection, dsn: str) -> None:
    with open_transaction(dsn) as app:
        enqueue(app, job(), job(key="k"))
    assert value(db, "select count(*) from pgqueue.jobs") == 0
    assert enqueue(db, job(key="k"))[0].created


def test_one_enqueue_is_one_statement_with_its_notification(db: Connection, listener: Connection) -> None:
    worker(db, idle=["mail"])
    operation = enqueuing.enqueue(SCHEMA, [job(key="k")], ATTEMPTS)
    statement = next(operation)
    assert isinstance(statement, Statement)
    answer = fetch(db, statement)
    with pytest.raises(StopIteration) as ended:
        operation.send(answer)
    [made] = ended.value.value
    assert (made.created, made.key) == (True, "k")
    assert len(notifications(listener)) == 1


def test_what_a_copy_made_is_a_sequence_of_jobs(db: Connection) -> None:
    with db.transaction():
        made = run(db, copying.copy(SCHEMA, [job(args=f'{{"n": {n}}}') for n in range(BULK)], ATTEMPTS))
    assert len(made) == BULK
    assert [one.args["n"] for one in made[-3:]] == [BULK - 3, BULK - 2, BULK - 1]
    assert made[-1] == made[BULK - 1]
    assert made == list(made)
    assert made[:2] != made[1:3]


def test_rule_4_a_key_that_a_live_job_holds_brings_back_that_job(db: Connection) -> None:
    [first] = enqueue(db, job(key="k", args='{"n": 1}'))
    [second, other_queue, free] = enqueue(db, job(key="k", args='{"n": 2}'), job(key="k", queue="other"), job(key="l"))
    assert (second.id, second.created, second.args) == (first.id, False, {"n": 1})
    assert (other_queue.created, free.created) == (True, True)
    claim_one(db)
    [third] = enqueue(db, job(key="k"))
    assert (third.id, third.created, third.state) == (first.id, False, "running")


def test_rule_4_of_the_same_key_twice_in_one_call_the_first_is_made(db: Connection) -> None:
    made = enqueue(db, *[job(key="k", args=json.dumps({"n": n})) for n in range(50)])
    assert len({one.id for one in made}) == 1
    assert [one.created for one in made] == [True] + [False] * 49
    [row] = rows(db, "select args from pgqueue.jobs")
    assert row["args"] == {"n": 0}


def test_rule_4_positions_follow_the_order_of_the_input_whatever_the_keys(db: Connection) -> None:
    given = [job(key=key) for key in keys(300, 1)]
    made = enqueue(db, *given)
    assert [one.key for one in made] == [one.key for one in given]
    assert [one.id for one in claim(db, count=300).jobs] == [one.id for one in made]


@pytest.mark.parametrize("count", [200, 1_000 + 500])
def test_rule_4_two_bulks_with_the_same_keys_in_other_orders_do_not_deadlock(
    db: Connection, another: Another, count: int
) -> None:
    start = Barrier(2)
    sessions = [another(), another()]

    def work(n: int) -> list[Job]:
        start.wait()
        with sessions[n].transaction():
            return enqueue(sessions[n], *[job(key=key) for key in keys(count, n)])

    for turn in range(3):
        with ThreadPoolExecutor(2) as threads:
            one, two = threads.map(work, range(2))
        assert sorted(made.id for made in one) == sorted(made.id for made in two)
        assert sum(made.created for made in [*one, *two]) == (count if turn == 0 else 0)
    # A bulk begins anew after a deadlock, which would hide one here.
    assert deadlocks(*sessions) == 0


def deadlocks(*sessions: Connection) -> int:
    """How many there have been in this database, those of `sessions` included."""
    for session in sessions:
        session.execute("select pg_stat_force_next_flush()")
        session.execute("select 1")
    return int(value(sessions[0], "select deadlocks from pg_stat_database where datname = current_database()"))


def test_a_deadlock_over_what_the_caller_holds_is_told_after_few_tries(db: Connection, another: Another) -> None:
    db.execute("create table public.mine as select 1 as id")
    keyed = [job(key="k"), job(key="l")]
    victim, other = another(), another()
    victim.execute("set deadlock_timeout = '20ms'")
    other.execute("set deadlock_timeout = '60s'")
    with ThreadPoolExecutor(1) as threads, other.transaction(force_rollback=True):
        with victim.transaction(force_rollback=True):
            victim.execute("update public.mine set id = 2")
            enqueue(other, *keyed)
            waiting = threads.submit(other.execute, "update public.mine set id = 3")
            wait_for_lock(db, other)
            with pytest.raises(pg_errors.DeadlockDetected):
                enqueue(victim, *keyed)
        waiting.result(DEADLINE)
    db.execute("drop table public.mine")


def test_bulks_whose_keys_only_the_server_knows_neither_fail_nor_double(
    db: Connection, another: Another, app: PgQueue
) -> None:
    fetch(db, fleet.register_tasks(SCHEMA, [INVOICE]))
    start = Barrier(2)
    sessions = [another(), another()]
    orders = [range(40), range(39, -1, -1)]

    def work(n: int) -> int:
        made = 0
        for _ in range(10):
            start.wait()
            with sessions[n].transaction():
                jobs = run(sessions[n], enqueuing.enqueue(SCHEMA, charges(app, orders[n]), ATTEMPTS))
                made += sum(one.created for one in jobs)
        return made

    with ThreadPoolExecutor(2) as threads:
        assert sum(threads.map(work, range(2))) == 40


def test_rule_4_a_bulk_takes_its_keys_in_their_own_order_in_one_statement(
    db: Connection, another: Another, dsn: str
) -> None:
    count = 1_000 + 5
    names = sorted(keys(count, 0), reverse=True)
    with open_transaction(dsn) as holder, ThreadPoolExecutor(1) as threads:
        enqueue(holder, job(key=names[-1]))
        other = another()
        bulk = threads.submit(enqueue, other, *[job(key=key) for key in names])
        wait_for_lock(db, other)
        # It waits for the smallest key, though that came last, and so it holds none that another could wait for.
        db.execute("set lock_timeout = '5s'")
        assert enqueue(db, job(key=names[0]))[0].created
        holder.rollback()
        assert sum(one.created for one in bulk.result()) == count - 1


def test_rule_4_a_skip_whose_holder_ends_meanwhile_goes_round_until_it_has_a_job(
    db: Connection, another: Another, dsn: str
) -> None:
    enqueue(db, job(key="k"))
    holder = claim_one(db)
    with open_transaction(dsn) as app:
        operation = enqueuing.enqueue(SCHEMA, [job(key="k")], ATTEMPTS)
        statement = next(operation)
        assert isinstance(statement, Statement)
        held = fetch(app, statement)
        assert held == []
        finish(another(), holder, Completed())
        [made] = run(app, resumed(operation, held))
        app.commit()
    assert made.created
    assert made.id != holder.id


def test_rule_4_producers_and_a_worker_that_fight_over_a_few_keys_lose_nothing(
    db: Connection, another: Another
) -> None:
    sessions = [another() for _ in range(4)]
    ended = Event()

    def produce(n: int) -> list[Job]:
        rng = random.Random(n)
        return [
            one for _ in range(60) for one in enqueue(sessions[n], *[job(key=f"k{rng.randrange(4)}") for _ in range(3)])
        ]

    def work(conn: Connection) -> int:
        done = 0
        while True:
            over = ended.is_set()
            jobs = claim(conn, count=2).jobs
            done += len(jobs) - finish(conn, jobs, Completed())
            if over and not jobs:
                return done

    with ThreadPoolExecutor(4) as threads:
        working = threads.submit(work, sessions[3])
        made = [one for turn in threads.map(produce, range(3)) for one in turn]
        ended.set()
        done = working.result()
    assert len(made) == 3 * 60 * 3
    assert sum(one.created for one in made) == done == len({one.id for one in made if one.created})


def test_rule_8_nobody_is_told_while_no_worker_of_the_queue_is_idle(db: Connection, listener: Connection) -> None:
    worker(db, idle=["other"])
    worker(db, lease=-1.0, idle=["mail"])
    assert bury(db)
    worker(db)
    add(db, 3)
    add(db, delay=60.0)
    copy(db, [job()] * 3)
    assert notifications(listener) == []


def test_rule_8_an_idle_worker_is_told_once_a_lane_where_it_begins(db: Connection, listener: Connection) -> None:
    worker(db, idle=["mail", "thumbs"])
    others = [job(queue="thumbs"), job(queue="other"), job(queue="thumbs", priority=1, delay=60.0)]
    made = enqueue(
        db,
        *[job()] * 50,
        *[job(priority=2)] * 50,
        *others,
    )
    place = {one.id: job_row(db, one.id)["position"] for one in made}
    assert set(notifications(listener)) == {
        f"available mail 0 {place[made[0].id]}",
        f"available mail 2 {place[made[50].id]}",
        f"available thumbs 0 {place[made[100].id]}",
        "scheduled thumbs",
    }


def test_rule_8_nobody_is_told_of_an_enqueue_that_rolled_back(db: Connection, listener: Connection, dsn: str) -> None:
    worker(db, idle=["mail"])
    with open_transaction(dsn) as app:
        enqueue(app)
    assert notifications(listener) == []


def test_an_enqueue_has_its_transaction_id_before_it_takes_a_position(db: Connection, dsn: str) -> None:
    # It waits for the key's holder with its position taken: only if its id is older can a claim's mark be trusted.
    with open_transaction(dsn) as holder, connect(dsn) as other, ThreadPoolExecutor(1) as threads:
        enqueue(holder, job(key="k"))
        waiting = threads.submit(enqueue, other, job(key="k"), job(key="l"))
        wait_for_lock(db, other)
        [row] = rows(
            db,
            "select backend_xid::text::bigint as xid, (select last_value from pgqueue.jobs_position) as place, "
            "pg_current_xact_id()::text::bigint as mine from pg_stat_activity where pid = %(pid)s",
            pid=other.info.backend_pid,
        )
        assert row["xid"] < row["mine"]
        holder.rollback()
        assert waiting.result()[0].created


def test_rule_9_copy_inserts_what_an_insert_would(db: Connection) -> None:
    fetch(db, fleet.register_queues(SCHEMA, [QueueRow("mail", priority=4, max_attempts=6)]))
    tricky = json.dumps({"a": 'tab\t newline\n back\\slash "quote" \\N ä {x,y}'})
    given = [
        job(args=tricky, tags=json.dumps(["a,b", 'c"d', "e\\f", "{}", "NULL", " "])),
        job(priority=1, max_attempts=2, headers='{"h": "\\\\n"}', options='{"timeout": 1}'),
        job(delay=60.0),
        job(run_at=datetime(2020, 1, 1, tzinfo=UTC)),
    ]
    copied, inserted = copy(db, given), enqueue(db, *given)
    same = (
        "select queue, task, args, state, priority, max_attempts, tags, headers, options, position is null as waits, "
        "attempt from pgqueue.jobs where id = %(id)s"
    )
    for one, two in zip(copied, inserted, strict=True):
        [left], [right] = rows(db, same, id=one.id), rows(db, same, id=two.id)
        assert left == right
        assert (one.state, one.priority, one.max_attempts, one.tags) == (
            two.state,
            two.priority,
            two.max_attempts,
            two.tags,
        )
        assert job_row(db, one.id)["run_at"] == one.run_at


def test_rule_9_copied_jobs_have_their_ids_and_places_in_the_order_of_the_input(db: Connection) -> None:
    made = copy(db, [job(args=json.dumps({"n": n})) for n in range(2_500)])
    claimed = [one for _ in range(5) for one in claim(db, count=500).jobs]
    assert [one.id for one in claimed] == [one.id for one in made]
    assert [json.loads(one.args)["n"] for one in claimed] == list(range(2_500))


def test_rule_9_copy_is_taken_only_for_many_jobs_without_keys_of_a_named_queue() -> None:
    many = [job()] * copying.COPY_FROM
    assert copying.can_copy(many)
    assert not copying.can_copy(many[1:])
    assert not copying.can_copy([*many, job(key="k")])
    assert not copying.can_copy([*many, NewJob("send", "{}")])


def test_rule_9_a_copied_job_has_the_attempts_of_its_task(db: Connection, app: PgQueue) -> None:
    fetch(db, fleet.register_tasks(SCHEMA, [TaskRow("charge", "billing", 3, 1, None, None)]))
    jobs = charges(app, range(BULK))
    assert copying.can_copy(jobs)
    assert {(one.max_attempts, one.priority) for one in app.enqueue_many(jobs)} == {(1, 3)}
    stored = "select distinct max_attempts, priority from pgqueue.jobs"
    assert rows(db, stored) == [{"max_attempts": 1, "priority": 3}]


@pytest.mark.parametrize("count", [1, BULK], ids=["insert", "copy"])
def test_what_a_task_says_goes_over_what_the_app_declares_of_its_queue(
    db: Connection, app: PgQueue, count: int
) -> None:
    app.queue("billing", max_attempts=5, priority=4)
    fetch(db, fleet.register_tasks(SCHEMA, [TaskRow("charge", "billing", None, 1, None, None)]))
    made = app.enqueue_many(charges(app, range(count)))
    assert {(one.max_attempts, one.priority) for one in made} == {(1, 4)}
    assert rows(db, "select distinct max_attempts, priority from pgqueue.jobs") == [{"max_attempts": 1, "priority": 4}]


@pytest.mark.parametrize("count", [1, BULK], ids=["insert", "copy"])
def test_a_declared_queue_counts_before_a_worker_has_written_it_and_the_table_after(
    db: Connection, app: PgQueue, count: int
) -> None:
    app.queue("billing", max_attempts=5)
    assert {one.max_attempts for one in app.enqueue_many(charges(app, range(count)))} == {5}
    fetch(db, fleet.register_queues(SCHEMA, [QueueRow("billing", max_attempts=7)]))
    assert {one.max_attempts for one in app.enqueue_many(charges(app, range(count)))} == {7}
    stored = "select max_attempts as attempts, count(*)::int as jobs from pgqueue.jobs group by 1 order by 1"
    assert rows(db, stored) == [{"attempts": 5, "jobs": count}, {"attempts": 7, "jobs": count}]


def test_rule_4_a_tasks_registered_key_holds_from_sql_and_by_name(db: Connection, app: PgQueue) -> None:
    fetch(db, fleet.register_tasks(SCHEMA, [INVOICE]))
    first, second = (value(db, "select pgqueue.enqueue('charge', '{\"invoice\": 7}')") for _ in range(2))
    named = app.enqueue("charge", {"invoice": 7})
    assert first == second == named.id
    assert (named.created, named.key, named.queue) == (False, "charge:7", "billing")
    other = app.enqueue("charge", {"invoice": 8})
    assert (other.created, other.key) == (True, "charge:8")
    keys = [row["unique_key"] for row in rows(db, "select unique_key from pgqueue.jobs order by id")]
    assert keys == ["charge:7", "charge:8"]
    assert app.enqueue("charge", {"invoice": 7}, key="again").created


def test_rule_4_a_registered_key_whose_argument_is_missing_is_refused(db: Connection, app: PgQueue) -> None:
    fetch(db, fleet.register_tasks(SCHEMA, [INVOICE]))
    for refused in (
        lambda: db.execute("select pgqueue.enqueue('charge', '{\"bill\": 7}')"),
        lambda: app.enqueue("charge", {"bill": 7}),
    ):
        with pytest.raises(pg_errors.InvalidParameterValue, match=r"'charge:\{invoice\}' cannot be filled") as caught:
            refused()
        assert caught.value.diag.message_hint == "Pass every argument that the key names, or give the key itself."
    assert app.enqueue("charge", {"bill": 7}, key="mine").created
    assert value(db, "select count(*) from pgqueue.jobs") == 1


def test_rule_4_a_bulk_of_a_task_with_a_registered_key_is_not_copied(db: Connection, app: PgQueue) -> None:
    fetch(db, fleet.register_tasks(SCHEMA, [INVOICE]))
    jobs = charges(app, [n // 2 for n in range(BULK)])
    assert copying.can_copy(jobs)
    made = app.enqueue_many(jobs)
    assert [one.created for one in made] == [True, False] * (BULK // 2)
    assert [one.key for one in made] == [f"charge:{n // 2}" for n in range(BULK)]
    assert [one.id for one in app.enqueue_many(jobs)] == [one.id for one in made]
    assert value(db, "select count(*) from pgqueue.jobs") == BULK // 2


def test_rule_9_a_copy_tells_an_idle_worker_once_a_lane(db: Connection, listener: Connection) -> None:
    worker(db, idle=["mail"])
    made = copy(db, [job(delay=60.0), job(), job(), job(priority=1)])
    place = {one.id: job_row(db, one.id)["position"] for one in made}
    assert set(notifications(listener)) >= {
        f"available mail 0 {place[made[1].id]}",
        f"available mail 1 {place[made[3].id]}",
    }


def test_rule_9_a_copy_of_scheduled_jobs_wakes_the_promoter_of_an_idle_worker(
    db: Connection, listener: Connection
) -> None:
    worker(db, idle=["mail"])
    copy(db, [job(delay=0.5)] * 3)
    assert notifications(listener) == ["scheduled mail"]


def test_rule_10_jobs_is_one_table(db: Connection) -> None:
    assert value(db, "select relkind::text from pg_class where oid = 'pgqueue.jobs'::regclass") == "r"
    assert value(db, "select count(*) from pg_inherits where inhparent = 'pgqueue.jobs'::regclass") == 0


def test_bad_rows_of_a_bulk_leave_nothing_behind(db: Connection) -> None:
    with pytest.raises(psycopg.Error), db.transaction():
        enqueue(db, *[job()] * 5, job(args="[1]"))
    assert value(db, "select count(*) from pgqueue.jobs") == 0
