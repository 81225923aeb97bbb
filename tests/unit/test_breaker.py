"""When a circuit breaker opens, tries a job, and closes: a decision on counts and times that are passed in."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from pgqueue.breaker import Breaker, Counts, Status, Thresholds, decide, kinds_of
from pgqueue.errors import (
    CancelJob,
    ConfigurationError,
    FailJob,
    LimitHit,
    ProcessCrashed,
    RetryJob,
    SnoozeJob,
    TaskTimeout,
)
from pgqueue.outcome import AttemptError, Completed, Failed, Outcome
from pgqueue.outcome import decide as outcome_of

NOW = 1000.0
CLOSED = Status()
TEN = Breaker(failures=10, open_for=30, cap=100).thresholds
HALF = Breaker(ratio=0.5, minimum=20).thresholds
BOTH = Breaker(failures=10, ratio=0.5, minimum=20).thresholds


@pytest.mark.parametrize(
    ("rule", "seen", "opens"),
    [
        (TEN, Counts(9, 9), False),
        (TEN, Counts(10, 10), True),
        (TEN, Counts(10, 1_000_000), True),
        (HALF, Counts(19, 19), False),
        (HALF, Counts(9, 20), False),
        (HALF, Counts(10, 20), True),
        (HALF, Counts(0, 20), False),
        (BOTH, Counts(9, 18), False),
        (BOTH, Counts(10, 19), False),
        (BOTH, Counts(10, 21), False),
        (BOTH, Counts(11, 22), True),
    ],
)
def test_it_opens_when_what_it_has_seen_reaches_all_that_is_asked(rule: Thresholds, seen: Counts, opens: bool) -> None:
    after = decide(rule, CLOSED, NOW, seen=seen)
    assert after == (Status(NOW + rule.open_for) if opens else CLOSED)


def test_it_is_open_until_its_time_and_half_open_from_then_on() -> None:
    opened = decide(TEN, CLOSED, NOW, seen=Counts(10, 10))
    assert opened.state(NOW) == "open"
    assert opened.state(NOW + 29.9) == "open"
    assert opened.state(NOW + 30) == "half_open"
    assert opened.state(NOW + 1e9) == "half_open"


def test_a_trial_that_completes_closes_it_and_the_next_pause_is_a_short_one_again() -> None:
    assert decide(TEN, Status(NOW - 1, 3), NOW, trial=True) == CLOSED
    assert decide(TEN, CLOSED, NOW, seen=Counts(10, 10)) == Status(NOW + 30)


def test_each_trial_that_fails_doubles_the_pause_up_to_the_cap() -> None:
    status, pauses = decide(TEN, CLOSED, NOW, seen=Counts(10, 10)), []
    for _ in range(4):
        assert status.open_until is not None
        now = status.open_until
        status = decide(TEN, status, now, trial=False)
        assert status.open_until is not None
        pauses.append(status.open_until - now)
    assert pauses == [60, 100, 100, 100]
    assert decide(TEN, Status(NOW, 10**9), NOW, trial=False) == Status(NOW + 100, 10**9 + 1)


@pytest.mark.parametrize("trial", [True, False])
@pytest.mark.parametrize(
    "status", [CLOSED, Status(NOW + 1, 2), Status(float("inf"))], ids=["closed", "open", "by hand"]
)
def test_a_late_trial_settles_nothing_where_somebody_has_closed_or_opened_it(status: Status, trial: bool) -> None:
    assert decide(TEN, status, NOW, trial=trial) == status


@pytest.mark.parametrize("status", [Status(NOW + 1), Status(NOW - 1, 2)])
def test_counts_change_nothing_while_it_is_not_closed(status: Status) -> None:
    assert decide(TEN, status, NOW, seen=Counts(1000, 1000)) == status


def outcome(error: BaseException, *, attempt: int = 1) -> Outcome:
    return outcome_of(error, attempt=attempt, max_attempts=3, crashes=0, delay=lambda attempt: 1.0)


@pytest.mark.parametrize("attempt", [1, 3])
def test_what_an_attempt_raised_counts_by_its_classes(attempt: int) -> None:
    kinds = kinds_of(outcome(TaskTimeout("30 s"), attempt=attempt))
    assert "TimeoutError" in kinds
    assert Breaker(failures=1).thresholds.counts(kinds)
    assert Breaker(failures=1, on=TimeoutError).thresholds.counts(kinds)
    assert Breaker(failures=1, on=(KeyError, TaskTimeout)).thresholds.counts(kinds)
    assert Breaker(failures=1, on=("pgqueue.errors.TaskTimeout", KeyError)).thresholds.counts(kinds)
    assert not Breaker(failures=1, on=(KeyError, ConnectionError)).thresholds.counts(kinds)
    assert not Breaker(failures=1, on="TaskTimeout").thresholds.counts(kinds)


def test_a_crash_counts() -> None:
    assert Breaker(failures=1).thresholds.counts(kinds_of(outcome(ProcessCrashed("signal 9"))))


@pytest.mark.parametrize(
    "signal",
    [RetryJob(), SnoozeJob(1), LimitHit(1), CancelJob(), FailJob("no such order")],
    ids=lambda signal: type(signal).__name__,
)
def test_what_a_task_asks_for_does_not_count(signal: Exception) -> None:
    signal.__cause__ = TimeoutError()
    assert kinds_of(outcome(signal)) == ()


@pytest.mark.parametrize("reason", ["bad_arguments", "interrupted"])
def test_what_tells_nothing_of_what_the_task_calls_does_not_count(reason: str) -> None:
    assert kinds_of(Failed(reason, AttemptError.of(ValueError("x")))) == ()
    assert kinds_of(Completed()) == ()
    assert kinds_of(None) == ()
    assert not Breaker(failures=1).thresholds.counts(())


def test_times_may_be_timedeltas_and_the_cap_is_ten_minutes_or_the_first_pause() -> None:
    rule = Breaker(failures=1, within=timedelta(minutes=2), open_for=timedelta(seconds=5)).thresholds
    assert (rule.within, rule.open_for, rule.cap) == (120, 5, 600)
    assert Breaker(failures=1, open_for=3600).thresholds.cap == 3600


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "never opens"),
        ({"failures": 0}, "whole number of at least 1"),
        ({"failures": True}, "whole number of at least 1"),
        ({"failures": 1.5}, "whole number of at least 1"),
        ({"ratio": 0.5, "minimum": 0}, "whole number of at least 1"),
        ({"ratio": 0}, "above 0 and up to 1"),
        ({"ratio": 1.1}, "above 0 and up to 1"),
        ({"ratio": "half"}, "above 0 and up to 1"),
        ({"ratio": float("nan")}, "above 0 and up to 1"),
        ({"failures": 1, "within": 0}, r"within=0\): give a time above 0"),
        ({"failures": 1, "open_for": -1}, "open_for must be between 0 and 100 years"),
        ({"failures": 1, "within": "1 min"}, "within must be a number of seconds or a timedelta"),
        ({"failures": 1, "open_for": 30, "cap": 10}, r"cap=10\) is below open_for=30"),
        ({"failures": 1, "on": "not a name"}, "an exception class or a tuple of some"),
        ({"failures": 1, "on": (OSError, "")}, "an exception class or a tuple of some"),
        ({"failures": 1, "on": [OSError]}, "an exception class or a tuple of some"),
        ({"failures": 1, "on": ()}, "an exception class or a tuple of some"),
        ({"failures": 1, "on": (int,)}, "an exception class or a tuple of some"),
    ],
)
def test_a_breaker_that_cannot_be_meant_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Breaker(**options)
