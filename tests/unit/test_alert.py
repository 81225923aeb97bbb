"""What alerts can be declared, and when one is said: at its start, again after a time, and at its end."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from pgqueue import Alert, ConfigurationError, PgQueue
from pgqueue.alert import AlertRule, AlertState, decide
from pgqueue.wording import span

DEPTH = Alert.depth(10, queue="mail", lasting=60)
NOW = 1_000_000.0


@pytest.fixture
def app() -> PgQueue:
    return PgQueue("postgresql:///nowhere")


def rule(alert: Alert = DEPTH, **options: Any) -> AlertRule:
    return AlertRule("a", alert, **{"repeat": 100.0} | options)


def test_it_fires_once_it_has_been_so_for_long_enough_and_not_sooner() -> None:
    state, said = decide(rule(), AlertState(), 11, NOW)
    assert (state, said) == (AlertState(NOW), None)
    state, said = decide(rule(), state, 12, NOW + 59.9)
    assert (state, said) == (AlertState(NOW), None)
    state, said = decide(rule(), state, 11, NOW + 60)
    assert (state, said) == (AlertState(NOW, NOW + 60, NOW + 60), "firing")
    assert decide(rule(), state, 11, NOW + 61) == (state, None)


def test_what_was_not_so_in_between_begins_anew() -> None:
    state, _ = decide(rule(), AlertState(), 11, NOW)
    state, said = decide(rule(), state, 10, NOW + 30)
    assert (state, said) == (AlertState(), None)
    state, said = decide(rule(), state, 11, NOW + 60)
    assert (state, said) == (AlertState(NOW + 60), None)


def test_without_a_time_it_fires_at_once() -> None:
    assert decide(rule(Alert.depth(0, queue="mail")), AlertState(), 1, NOW) == (AlertState(NOW, NOW, NOW), "firing")


def test_it_is_said_again_after_the_time_that_was_set_counted_from_the_last_time() -> None:
    state = AlertState(NOW, NOW, NOW)
    assert decide(rule(), state, 11, NOW + 99) == (state, None)
    state, said = decide(rule(), state, 11, NOW + 150)
    assert (state, said) == (AlertState(NOW, NOW, NOW + 150), "still_firing")
    assert decide(rule(), state, 11, NOW + 240) == (state, None)
    assert decide(rule(repeat=None), state, 11, NOW + 10**9) == (state, None)


def test_it_is_said_when_it_is_over_only_where_it_fired() -> None:
    assert decide(rule(), AlertState(NOW, NOW, NOW), 10, NOW + 5) == (AlertState(), "resolved")
    assert decide(rule(), AlertState(NOW), 10, NOW + 5) == (AlertState(), None)
    assert decide(rule(), AlertState(), 10, NOW) == (AlertState(), None)


def test_what_goes_up_and_down_around_its_bound_is_one_alert() -> None:
    state, told = AlertState(NOW, NOW, NOW), []
    for n in range(40):
        state, said = decide(rule(repeat=None), state, 11 if n % 3 else 9, NOW + 15 * n, calm=60)
        told.append(said)
    assert set(told) == {None}
    for n in range(5):
        state, said = decide(rule(repeat=None), state, 9, NOW + 600 + 15 * n, calm=60)
        told.append(said)
    # The last look of those before was one too.
    assert told[-5:] == [None, None, None, "resolved", None]
    assert state == AlertState()


@pytest.mark.parametrize(
    ("alert", "text", "at_11"),
    [
        (
            Alert.failures(10, within=timedelta(minutes=5)),
            "jobs that failed in 5 min: more than 10",
            "jobs that failed in 5 min: more than 10",
        ),
        (
            Alert.failures(10, within=90, queue="money", task="shop.charge"),
            "jobs of task shop.charge of queue money that failed in 90 s: more than 10",
            "jobs of task shop.charge of queue money that failed in 90 s: more than 10",
        ),
        (
            Alert.oldest(10, queue="mail"),
            "the oldest job of queue mail that could run has waited longer than 10 s",
            "the oldest job of queue mail that could run has waited 11 s",
        ),
        (
            DEPTH,
            "jobs of queue mail that could run: more than 10, for 1 min",
            "jobs of queue mail that could run: more than 10",
        ),
        (
            Alert.no_worker(),
            "jobs wait, and no worker serves a queue, for 1 min",
            "jobs wait, and no worker serves a, b",
        ),
        (
            Alert.rescues(10, within=timedelta(days=1)),
            "jobs rescued from dead workers in 1 day: more than 10",
            "jobs rescued from dead workers in 1 day: more than 10",
        ),
    ],
)
def test_an_alert_tells_what_it_is_about(alert: Alert, text: str, at_11: str) -> None:
    assert str(alert) == text
    assert alert.message(11, ["a", "b"], above=True) == at_11


@pytest.mark.parametrize(
    ("alert", "text"),
    [
        (Alert.failures(10, within=300), "jobs that failed in 5 min: 0"),
        (Alert.oldest(10, queue="mail"), "no job of queue mail waits"),
        (Alert.no_worker("mail"), "no job of queue mail waits without a worker"),
        (DEPTH, "jobs of queue mail that could run: 0"),
    ],
)
def test_an_alert_tells_that_nothing_is_wrong(alert: Alert, text: str) -> None:
    assert alert.message(0, above=False) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (60, "1 min"),
        (90, "90 s"),
        (119, "119 s"),
        (150, "2.5 min"),
        (3600, "1 h"),
        (5400, "90 min"),
        (1122, "19 min"),
        (7169, "119 min"),
        (7194, "2 h"),
        (86_400, "1 day"),
        (259_200, "3 days"),
    ],
)
def test_a_time_is_said_in_the_unit_that_people_use(seconds: float, text: str) -> None:
    assert span(seconds) == text


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Alert.failures(-1, within=60),
        lambda: Alert.failures(100_001, within=60),
        lambda: Alert.failures(1.5, within=60),  # type: ignore[arg-type]
        lambda: Alert.failures(True, within=60),
        lambda: Alert.failures(1, within=0),
        lambda: Alert.failures(1, within=timedelta(days=8)),
        lambda: Alert.failures(1, within="5 min"),  # type: ignore[arg-type]
        lambda: Alert.failures(1, within=60, queue="a b"),
        lambda: Alert.failures(1, within=60, task=""),
        lambda: Alert.oldest(0, queue="mail"),
        lambda: Alert.depth(1, queue="mail", lasting=-1),
        lambda: Alert.rescues(1, within=10**9),
    ],
)
def test_an_alert_that_cannot_be_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigurationError):
        wrong()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": "a b"}, "alert name 'a b' is not valid"),
        ({"alert": "failures"}, "give what is wrong"),
        ({"severity": "urgent"}, "must be one of info, warning, critical"),
        ({"runbook": " "}, "must be a text or a URL"),
        ({"runbook": 7}, "must be a text or a URL"),
        ({"repeat": 0}, "repeat=0 must be between 1 s and 7 days"),
        ({"to": False}, "to=False must be a task"),
        ({"to": [print]}, "give a task, its name"),
        ({"to": "a b"}, "task name 'a b' is not valid"),
    ],
)
def test_a_declaration_that_cannot_be_is_refused(app: PgQueue, options: dict[str, Any], said: str) -> None:
    given: dict[str, Any] = {"name": "late", "alert": DEPTH} | options
    with pytest.raises(ConfigurationError, match=said):
        app.alert(**given)
    assert app.declared_alerts == {}


def test_two_alerts_of_one_name_are_refused(app: PgQueue) -> None:
    app.alert("late", DEPTH)
    with pytest.raises(ConfigurationError, match="two alerts are named late"):
        app.alert("late", DEPTH)


def test_whom_it_tells_must_take_what_it_is_told(app: PgQueue) -> None:
    @app.task(name="page")
    def page(alert: str, status: str, **rest: Any) -> None: ...

    @app.task(name="mute")
    def mute(alert: str) -> None: ...

    app.alert("late", DEPTH, to=[page, "another.app.page"])
    assert app.declared_alerts["late"].to == ("page", "another.app.page")
    with pytest.raises(ConfigurationError, match="to of alert deep: task mute: there is no argument 'status'"):
        app.alert("deep", DEPTH, to=mute)
