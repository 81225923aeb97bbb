"""Alerts in the table: judged by one evaluator at a time, said once, and remembered over restarts."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier
from typing import Any

import pytest

from pgqueue.alert import Alert, AlertRule
from pgqueue.database import fetch, run
from pgqueue.queries import alerting, fleet
from pgqueue.queries.alerting import Fired
from pgqueue.queries.fleet import TaskRow
from tests.sql.rows import ATTEMPTS, SCHEMA, Connection, add, claim, open_transaction, rows, value

DEEP = AlertRule("deep", Alert.depth(2, queue="mail"), "critical", "https://wiki/deep", ("page", "chat"), 3600.0)


def declare(conn: Connection, *rules: AlertRule) -> None:
    fetch(conn, alerting.declare(SCHEMA, rules or [DEEP]))


def evaluate(conn: Connection, name: str = "deep", interval: float = 0.0) -> Fired | None:
    with conn.transaction():
        return run(conn, alerting.evaluate(SCHEMA, name, interval, ATTEMPTS))


def row(conn: Connection, name: str = "deep") -> dict[str, Any]:
    [found] = rows(conn, "select * from pgqueue.alerts where name = %(name)s", name=name)
    return found


def told(conn: Connection) -> list[tuple[str, str]]:
    """Whom, and what of: in order."""
    found = rows(conn, "select task, args ->> 'status' as status from pgqueue.jobs where headers ? 'alert' order by id")
    return [(one["task"], one["status"]) for one in found]


def back(conn: Connection, **seconds: float) -> None:
    """As if that had been so much earlier."""
    for column, by in seconds.items():
        conn.execute(f"update pgqueue.alerts set {column} = {column} - make_interval(secs => %s)".encode(), [by])


def test_whoever_is_to_be_told_is_enqueued_with_what_there_is_to_say(db: Connection) -> None:
    fetch(db, fleet.register_tasks(SCHEMA, [TaskRow("page", "ops", -5, 3, None, None)]))
    declare(db)
    add(db, 5)
    fired = evaluate(db)
    assert fired is not None
    assert (fired.rule, fired.status, fired.value) == (DEEP, "firing", 3)
    page, chat = rows(db, "select * from pgqueue.jobs where headers ? 'alert' order by id")
    assert (page["queue"], page["priority"], page["max_attempts"], page["state"]) == ("ops", -5, 3, "available")
    assert (chat["task"], chat["queue"], chat["headers"]) == ("chat", "default", {"alert": "deep"})
    assert (
        page["args"]
        == chat["args"]
        == {
            "alert": "deep",
            "status": "firing",
            "severity": "critical",
            "message": "jobs of queue mail that could run: more than 2",
            "runbook": "https://wiki/deep",
            "value": 3,
            "since": fired.since.isoformat(),
        }
    )
    assert fired.since == row(db)["firing_since"]
    assert abs(fired.since - datetime.now(UTC)) < timedelta(minutes=1)


def test_an_alert_that_fires_is_said_once_again_after_its_time_and_at_its_end(db: Connection) -> None:
    declare(db)
    assert evaluate(db) is None
    add(db, 3)
    assert evaluate(db) is not None
    since = row(db)["firing_since"]
    for _ in range(3):
        assert evaluate(db) is None
    back(db, delivered_at=3600.0)
    again = evaluate(db)
    assert again is not None
    assert (again.status, again.since) == ("still_firing", since)
    assert evaluate(db) is None
    claim(db)
    over = evaluate(db)
    assert over is not None
    assert (over.status, over.since, over.message) == ("resolved", since, "jobs of queue mail that could run: 0")
    assert evaluate(db) is None
    assert told(db) == [(to, status) for status in ("firing", "still_firing", "resolved") for to in ("page", "chat")]
    after = row(db)
    assert (after["holds_since"], after["firing_since"], after["delivered_at"], after["value"]) == (None, None, None, 0)


def test_what_must_last_is_pending_until_it_has(db: Connection) -> None:
    declare(db, AlertRule("deep", Alert.depth(2, queue="mail", lasting=600), to=("page",)))
    add(db, 3)
    for passed in (0.0, 590.0, 5.0):
        back(db, holds_since=passed)
        assert evaluate(db) is None
    [pending] = fetch(db, alerting.list_alerts(SCHEMA))
    assert (pending.state, pending.since) == ("pending", row(db)["holds_since"])
    back(db, holds_since=10.0)
    assert evaluate(db) is not None
    assert told(db) == [("page", "firing")]


def test_of_many_evaluators_at_once_one_says_it(db: Connection, another: Callable[[], Connection]) -> None:
    declare(db)
    add(db, 3)
    connections = [another() for _ in range(8)]
    start = Barrier(8)

    def look(conn: Connection) -> Fired | None:
        start.wait()
        return evaluate(conn, interval=10.0)

    with ThreadPoolExecutor(8) as threads:
        said = [fired for fired in threads.map(look, connections) if fired is not None]
    assert len(said) == 1
    assert told(db) == [("page", "firing"), ("chat", "firing")]


def test_one_that_somebody_looks_at_is_passed_by(db: Connection, dsn: str) -> None:
    declare(db)
    add(db, 3)
    with open_transaction(dsn) as other:
        assert run(other, alerting.evaluate(SCHEMA, "deep", 0.0, ATTEMPTS)) is not None
        assert evaluate(db) is None
    # It was rolled back: nobody has been told, and the next look says it.
    assert told(db) == []
    assert evaluate(db) is not None
    assert len(told(db)) == 2


def test_one_is_due_when_nobody_has_looked_for_a_while(db: Connection) -> None:
    declare(db)
    assert fetch(db, alerting.due(SCHEMA, ["deep", "unknown"], 15.0)) == [("deep", True), ("unknown", False)]
    evaluate(db)
    assert fetch(db, alerting.due(SCHEMA, ["deep"], 15.0)) == []
    assert evaluate(db, interval=15.0) is None
    back(db, evaluated_at=16.0)
    assert fetch(db, alerting.due(SCHEMA, ["deep"], 15.0)) == [("deep", True)]
    add(db, 3)
    assert evaluate(db, interval=15.0) is not None
    assert evaluate(db, "unknown") is None


def test_a_restart_forgets_nothing_and_a_new_rule_judges_what_fires(db: Connection) -> None:
    declare(db)
    add(db, 5)
    evaluate(db)
    declare(db)
    assert evaluate(db) is None
    declare(db, AlertRule("deep", Alert.depth(3, queue="mail"), "info", None, ("chat",), None))
    assert evaluate(db) is None
    declare(db, AlertRule("deep", Alert.depth(10, queue="mail"), "info", None, ("chat",), None))
    over = evaluate(db)
    assert over is not None
    assert (over.status, over.rule.severity, over.rule.runbook, over.rule.repeat) == ("resolved", "info", None, None)
    assert told(db)[2:] == [("chat", "resolved")]


def test_what_no_code_declares_any_more_is_forgotten_after_a_day(db: Connection) -> None:
    declare(db, DEEP, AlertRule("old", DEEP.alert), AlertRule("new", DEEP.alert))
    evaluate(db)
    evaluate(db, "old")
    db.execute("update pgqueue.alerts set declared_at = declared_at - interval '2 days' where name <> 'new'")
    db.execute("update pgqueue.alerts set evaluated_at = evaluated_at - interval '25 hours' where name = 'old'")
    assert fetch(db, alerting.forget(SCHEMA)) == ["old"]
    assert [one.name for one in fetch(db, alerting.list_alerts(SCHEMA))] == ["deep", "new"]


@pytest.mark.parametrize(
    ("looked", "firing", "holds", "state"),
    [
        (None, None, None, "unknown"),
        (600, 900, 900, "unknown"),
        (10, None, None, "ok"),
        (10, None, 20, "pending"),
        (10, 20, 30, "firing"),
    ],
)
def test_the_list_tells_how_each_stands(
    db: Connection, looked: float | None, firing: float | None, holds: float | None, state: str
) -> None:
    declare(db)
    ago = "clock_timestamp() - make_interval(secs => %s::float8)"
    db.execute(
        f"update pgqueue.alerts set evaluated_at = {ago}, firing_since = {ago}, holds_since = {ago}".encode(),
        [looked, firing, holds],
    )
    [shown] = fetch(db, alerting.list_alerts(SCHEMA))
    assert (shown.state, shown.rule, shown.to) == (state, str(DEEP.alert), ("page", "chat"))
    assert (shown.severity, shown.runbook) == ("critical", "https://wiki/deep")
    assert (shown.since is None) is (firing is None and holds is None)


@pytest.mark.parametrize(
    "alert",
    [
        Alert.failures(1, within=60, queue="mail", task="send"),
        Alert.oldest(60.5, queue="mail", lasting=1),
        Alert.depth(1, queue="mail", lasting=timedelta(minutes=2)),
        Alert.no_worker(),
        Alert.rescues(1, within=60),
    ],
)
def test_each_kind_is_kept_as_it_was_declared(db: Connection, alert: Alert) -> None:
    declare(db, AlertRule("a", alert))
    assert evaluate(db, "a") is None
    [shown] = fetch(db, alerting.list_alerts(SCHEMA))
    assert (shown.rule, shown.value, shown.state) == (str(alert), 0, "ok")


def test_many_start_at_once_with_the_same_alerts(db: Connection, another: Callable[[], Connection]) -> None:
    rules = [AlertRule(f"a{n}", DEEP.alert) for n in range(20)]
    connections = [another() for _ in range(6)]

    def start(n: int) -> None:
        for _ in range(5):
            declare(connections[n], *(rules if n % 2 else rules[::-1]))

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(start, range(6)))
    assert value(db, "select count(*) from pgqueue.alerts") == 20


def test_what_was_pending_begins_anew_where_nobody_has_looked_for_long(db: Connection) -> None:
    declare(db, AlertRule("deep", Alert.depth(2, queue="mail", lasting=60), "warning", None, (), None))
    add(db, 5)
    evaluate(db, interval=10)
    back(db, holds_since=90, evaluated_at=90)
    assert evaluate(db, interval=10) is None
    back(db, holds_since=90, evaluated_at=20)
    fired = evaluate(db, interval=10)
    assert fired is not None
    assert fired.status == "firing"
