"""The figures of alerts: what they count, how far, and how little they read."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from pgqueue.alert import Alert
from pgqueue.database import fetch, run
from pgqueue.outcome import Failed
from pgqueue.queries import alerting, fleet
from pgqueue.queries.measuring import Measured, measure
from pgqueue.queries.statement import Statement
from tests.sql.rows import (
    ERROR,
    SCHEMA,
    Connection,
    add,
    claim,
    finish,
    make_due,
    open_transaction,
    promote,
    rescue,
    rows,
    worker,
)


def figure(conn: Connection, alert: Alert) -> float:
    return run(conn, measure(SCHEMA, alert)).value


def fail(conn: Connection, jobs: int, *, minutes_ago: float = 0, queue: str = "mail", task: str = "send") -> None:
    add(conn, jobs, queue=queue, task=task)
    finish(conn, claim(conn, queue=queue, tasks=[task]).jobs, Failed("fail_job", ERROR))
    conn.execute(
        "update pgqueue.failed_jobs set failed_at = clock_timestamp() - make_interval(secs => %s) "
        "where failed_at > clock_timestamp() - interval '1 minute'",
        [60 * minutes_ago],
    )


def wait_since(conn: Connection, hours: float, *ids: int) -> None:
    conn.execute(
        "update pgqueue.jobs set run_at = clock_timestamp() - make_interval(secs => %s) where id = any (%s)",
        [hours * 3600, list(ids)],
    )


def test_failures_are_counted_in_a_time_of_a_queue_and_a_task_up_to_the_threshold(db: Connection) -> None:
    fail(db, 3, minutes_ago=30)
    fail(db, 2, minutes_ago=3)
    fail(db, 4, minutes_ago=2, task="post")
    fail(db, 5, minutes_ago=1.5, queue="money")
    for alert, expected in (
        (Alert.failures(100, within=300), 11),
        (Alert.failures(100, within=7200), 14),
        (Alert.failures(100, within=300, queue="mail"), 6),
        (Alert.failures(100, within=300, task="send"), 7),
        (Alert.failures(100, within=300, task="send", queue="mail"), 2),
        (Alert.failures(100, within=300, queue="none"), 0),
        (Alert.failures(100, within=300, task="none"), 0),
        (Alert.failures(100, within=1), 0),
        (Alert.failures(3, within=300), 4),
        (Alert.failures(0, within=300, task="send"), 1),
    ):
        assert figure(db, alert) == expected, alert


def test_the_oldest_job_is_one_that_could_run(db: Connection) -> None:
    oldest = Alert.oldest(60, queue="mail")
    assert figure(db, oldest) == 0
    running, waiting, later = add(db, 3)
    due, not_due = add(db, 2, delay=3600.0)
    lower = add(db, 1, priority=5)[0]
    wait_since(db, 9, running)
    claim(db, count=1)
    assert figure(db, oldest) < 60
    wait_since(db, 1, later)
    wait_since(db, 2, waiting)
    assert figure(db, oldest) == pytest.approx(7200, abs=60)
    wait_since(db, 3, lower)
    assert figure(db, oldest) == pytest.approx(10_800, abs=60)
    wait_since(db, 4, due)
    assert figure(db, oldest) == pytest.approx(14_400, abs=60)
    assert figure(db, Alert.oldest(60, queue="other")) == 0
    assert rows(db, "select state from pgqueue.jobs where id = %(id)s", id=not_due) == [{"state": "scheduled"}]


def test_depth_counts_what_could_run_up_to_the_threshold(db: Connection) -> None:
    add(db, 4)
    add(db, 3, priority=2)
    claim(db, count=1)
    later = add(db, 2, delay=3600.0)
    add(db, 5, queue="other")
    assert figure(db, Alert.depth(100, queue="mail")) == 6
    wait_since(db, 0.1, *later)
    assert figure(db, Alert.depth(100, queue="mail")) == 8
    promote(db)
    assert figure(db, Alert.depth(100, queue="mail")) == 8
    assert figure(db, Alert.depth(3, queue="mail")) == 4
    assert figure(db, Alert.depth(0, queue="none")) == 0


def test_what_a_limit_has_let_go_could_run_and_what_it_has_parked_could_not(db: Connection) -> None:
    parked, ready = add(db, 2)
    db.execute("update pgqueue.jobs set state = 'blocked', position = null, waits_for = 'g' where id = %s", [parked])
    assert figure(db, Alert.depth(9, queue="mail")) == 1
    db.execute("update pgqueue.jobs set position = null, ready = 1, waits_for = 'g' where id = %s", [ready])
    wait_since(db, 1, ready)
    assert figure(db, Alert.depth(9, queue="mail")) == 1
    assert figure(db, Alert.oldest(9, queue="mail")) == pytest.approx(3600, abs=60)
    assert run(db, measure(SCHEMA, Alert.no_worker())) == Measured(1, ("mail",))


def test_queues_with_waiting_jobs_and_no_living_worker_are_named(db: Connection) -> None:
    add(db, 2, queue="a")
    [soon] = add(db, 1, queue="b", delay=3600.0)
    add(db, 1, queue="mail")
    every = Alert.no_worker()
    assert run(db, measure(SCHEMA, every)) == Measured(2, ("a", "mail"))
    make_due(db, soon)
    assert run(db, measure(SCHEMA, every)) == Measured(3, ("a", "b", "mail"))
    worker(db, lease=-1.0)
    assert figure(db, every) == 3
    living = worker(db)
    assert run(db, measure(SCHEMA, every)) == Measured(2, ("a", "b"))
    assert (figure(db, Alert.no_worker("mail")), figure(db, Alert.no_worker("a"))) == (0, 1)
    assert figure(db, Alert.no_worker("none")) == 0
    fetch(db, fleet.mark_leaving(SCHEMA, living, "stopping"))
    assert figure(db, Alert.no_worker("mail")) == 1
    claim(db, living, queue="a")
    assert run(db, measure(SCHEMA, every)) == Measured(2, ("b", "mail"))


def test_only_some_of_many_queues_are_named(db: Connection) -> None:
    for n in range(8):
        add(db, 1, queue=f"q{n}")
    assert run(db, measure(SCHEMA, Alert.no_worker())) == Measured(8, ("q0", "q1", "q2", "q3", "q4"))


def test_rescues_are_counted_by_jobs_in_a_time_and_of_a_queue(db: Connection) -> None:
    add(db, 3)
    add(db, 2, queue="other")
    dead = worker(db, lease=-1.0)
    claim(db, dead)
    claim(db, dead, queue="other")
    rescue(db)
    assert rows(db, "select worker_id, queue, jobs from pgqueue.rescues order by queue") == [
        {"worker_id": dead, "queue": "mail", "jobs": 3},
        {"worker_id": dead, "queue": "other", "jobs": 2},
    ]
    rescue(db)
    assert figure(db, Alert.rescues(100, within=60)) == 5
    assert figure(db, Alert.rescues(100, within=60, queue="other")) == 2
    db.execute("update pgqueue.rescues set rescued_at = rescued_at - interval '1 hour' where queue = 'mail'")
    assert figure(db, Alert.rescues(100, within=60)) == 2
    db.execute("update pgqueue.rescues set rescued_at = rescued_at - interval '8 days'")
    fetch(db, alerting.forget_rescues(SCHEMA))
    assert rows(db, "select * from pgqueue.rescues") == []


def test_a_job_that_somebody_holds_is_counted_when_it_is_rescued(db: Connection, dsn: str) -> None:
    ids = add(db, 2)
    claim(db, worker(db, lease=-1.0))
    with open_transaction(dsn) as holder:
        holder.execute("select from pgqueue.jobs where id = %s for update", [ids[0]])
        rescue(db)
        assert figure(db, Alert.rescues(100, within=60)) == 1
    rescue(db)
    assert figure(db, Alert.rescues(100, within=60)) == 2


@pytest.mark.parametrize("analyzed", [True, False])
def test_figures_read_a_few_rows_of_many(db: Connection, analyzed: bool) -> None:
    db.execute(
        "insert into pgqueue.jobs (queue, task, state, position) select 'mail', 'send', 'available', nextval('pgqueue.jobs_position') "
        "from generate_series(1, 20000)"
    )
    db.execute(
        "insert into pgqueue.jobs (queue, task, state, run_at) select 'mail', 'send', 'scheduled', now() + interval '1 day' "
        "from generate_series(1, 20000)"
    )
    db.execute(
        "insert into pgqueue.failed_jobs (id, run_at, created_at, failed_at, attempt, max_attempts, priority, crashes, queue, task, reason, "
        "error_type, error_message, fingerprint, args, errors) select n, now(), now(), now() - interval '2 hours', 1, 1, 0, 0, 'mail', "
        "'send' || n % 20, 'r', 'E', 'm', 'f', '{}', '[]' from generate_series(1, 20000) n"
    )
    if analyzed:
        db.execute("vacuum analyze pgqueue.jobs, pgqueue.failed_jobs")
    for alert in (
        Alert.failures(10, within=300),
        Alert.failures(10, within=300, queue="mail"),
        Alert.failures(10, within=300, task="send1"),
        Alert.oldest(60, queue="mail"),
        Alert.depth(100, queue="mail"),
        Alert.no_worker("mail"),
        Alert.no_worker(),
    ):
        *_, last = statements(db, alert)
        read = sum(int(node["Actual Rows"] * node["Actual Loops"]) for node in scans(analyze(db, last)))
        assert read < 600, (alert, read)


def statements(conn: Connection, alert: Alert) -> list[Statement[Any]]:
    operation = measure(SCHEMA, alert)
    found: list[Statement[Any]] = []
    answer: Any = None
    try:
        while True:
            statement = operation.send(answer)
            assert isinstance(statement, Statement)
            found.append(statement)
            answer = fetch(conn, statement)
    except StopIteration:
        return found


def analyze(conn: Connection, statement: Statement[Any]) -> dict[str, Any]:
    [[plan]] = conn.execute(f"explain (analyze, format json) {statement.text}".encode(), statement.params).fetchall()
    return dict(plan[0]["Plan"])


def scans(node: dict[str, Any]) -> list[dict[str, Any]]:
    """Those of the large tables; what a filter took away was read too."""
    own = []
    if node.get("Relation Name") in ("jobs", "failed_jobs"):
        own = [node, {"Actual Rows": node.get("Rows Removed by Filter", 0), "Actual Loops": node["Actual Loops"]}]
    return own + [scan for child in node.get("Plans", []) for scan in scans(child)]


def test_rescues_of_nobody_are_of_nobody(db: Connection) -> None:
    fetch(db, alerting.record_rescues(SCHEMA, [(uuid4(), "mail", 2)]))
    assert figure(db, Alert.rescues(0, within=60)) == 2
