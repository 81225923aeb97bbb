"""Which times of a schedule are fired: catch_up ones, bounds, jitter."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgqueue.errors import ConfigurationError
from pgqueue.policy import AT_MOST, ON_TIME, Policy
from pgqueue.schedule import Cron, Every, Rule

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTES, HOURS = timedelta(minutes=1), timedelta(hours=1)
HOURLY: list[Rule] = [Every(HOURS), Cron("0 * * * *")]
hourly = pytest.mark.parametrize("rule", HOURLY, ids=["every", "cron"])


def due(policy: Policy, rule: Rule, now: datetime, **state: Any) -> tuple[list[datetime], datetime | None]:
    found = policy.due(rule, now=now, **{"expected": NOON, "last": None, "runs": 0, **state})
    return list(found.times), found.following


@hourly
@pytest.mark.parametrize("catch_up", ["skip", "latest", "all"])
def test_a_time_that_is_on_time_is_fired_under_every_policy(rule: Rule, catch_up: Any) -> None:
    assert due(Policy(catch_up), rule, NOON + timedelta(seconds=5)) == ([NOON], NOON + HOURS)


@hourly
@pytest.mark.parametrize("down", [1 * MINUTES, 59 * MINUTES, 61 * MINUTES, 24 * HOURS, 30 * 24 * HOURS])
def test_after_a_downtime_each_policy_fires_what_it_promises(rule: Rule, down: timedelta) -> None:
    now = NOON + down
    passed = down // HOURS + 1
    newest = NOON + (passed - 1) * HOURS
    following = newest + HOURS
    assert due(Policy("latest"), rule, now) == ([newest], following)
    assert due(Policy("skip"), rule, now) == ([newest] if now - newest <= ON_TIME else [], following)
    assert due(Policy("all"), rule, now) == ([NOON + n * HOURS for n in range(passed)], following)


def test_all_makes_up_for_the_newest_thousand_and_no_more() -> None:
    times, following = due(Policy("all"), Every(timedelta(seconds=1)), NOON + timedelta(days=30))
    assert len(times) == AT_MOST
    assert times[-1] == NOON + timedelta(days=30)
    assert following == times[-1] + timedelta(seconds=1)


@hourly
def test_no_time_is_fired_later_than_its_grace(rule: Rule) -> None:
    now = NOON + 2.5 * HOURS
    assert due(Policy("all", grace=1.5 * HOURS), rule, now)[0] == [NOON + HOURS, NOON + 2 * HOURS]
    assert due(Policy("latest", grace=29 * MINUTES), rule, now) == ([], NOON + 3 * HOURS)
    assert due(Policy("skip", grace=31 * MINUTES), rule, now)[0] == [NOON + 2 * HOURS]


@hourly
def test_times_that_were_fired_are_not_fired_again(rule: Rule) -> None:
    assert due(Policy("all"), rule, NOON + 2 * HOURS, last=NOON + HOURS)[0] == [NOON + 2 * HOURS]
    assert due(Policy("latest"), rule, NOON, last=NOON) == ([], NOON + HOURS)


@hourly
def test_nothing_is_fired_before_the_start_or_after_the_end(rule: Rule) -> None:
    bounded = Policy("all", start=NOON + 30 * MINUTES, end=NOON + 2 * HOURS)
    assert bounded.first(rule, NOON - 5 * HOURS) == NOON + HOURS
    assert due(bounded, rule, NOON + 24 * HOURS) == ([NOON + HOURS, NOON + 2 * HOURS], None)
    assert due(bounded, rule, NOON + HOURS, expected=NOON + HOURS) == ([NOON + HOURS], NOON + 2 * HOURS)
    assert bounded.first(rule, NOON + 2 * HOURS) is None


@hourly
def test_a_start_and_an_end_that_are_times_themselves_are_fired(rule: Rule) -> None:
    once = Policy(start=NOON, end=NOON)
    assert once.first(rule, NOON - 24 * HOURS) == NOON
    assert due(once, rule, NOON + HOURS) == ([NOON], None)


@hourly
def test_after_its_last_run_nothing_follows_and_a_time_that_may_be_left_out_is_not_yet_one(rule: Rule) -> None:
    assert due(Policy(max_runs=3), rule, NOON, runs=1) == ([NOON], NOON + HOURS)
    assert due(Policy(max_runs=3), rule, NOON, runs=2) == ([NOON], NOON + HOURS)
    assert due(Policy(max_runs=3), rule, NOON, runs=3) == ([], None)
    assert due(Policy("all", max_runs=3), rule, NOON + 9 * HOURS, runs=1) == ([NOON, NOON + HOURS], NOON + 10 * HOURS)


@hourly
def test_a_time_that_was_set_by_hand_counts_as_one(rule: Rule) -> None:
    odd = NOON + 20 * MINUTES
    assert due(Policy(), rule, NOON + 30 * MINUTES, expected=odd) == ([odd], NOON + HOURS)


@given(seconds=st.floats(0.001, 86_400), hours=st.integers(0, 10_000))
def test_jitter_stays_within_its_bound_and_is_the_same_for_one_time(seconds: float, hours: int) -> None:
    policy, nominal = Policy(jitter=timedelta(seconds=seconds)), NOON + hours * HOURS
    begins = policy.delayed("digest", nominal)
    assert nominal <= begins <= nominal + timedelta(seconds=seconds)
    assert begins == policy.delayed("digest", nominal.astimezone(timezone(timedelta(hours=5))))


def test_jitter_spreads_schedules_and_times() -> None:
    policy = Policy(jitter=HOURS)
    begins = [policy.delayed(name, NOON + n * HOURS) - n * HOURS for name in ("a", "b") for n in range(50)]
    assert len(set(begins)) == 100
    thirds = [int((one - NOON) / (HOURS / 3)) for one in begins]
    assert min(thirds.count(third) for third in range(3)) > 15


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"catch_up": "some"}, "catch_up='some' must be one of skip, latest, all"),
        ({"overlap": "queue"}, "overlap='queue' must be one of allow, skip, queue_one, cancel_running"),
        ({"grace": -1}, "grace=-1 must be a timedelta or seconds, from 0 to ten years"),
        ({"grace": "1h"}, "grace='1h' must be a timedelta"),
        ({"jitter": float("nan")}, "jitter=nan must be a timedelta"),
        ({"jitter": timedelta(days=9999)}, "from 0 to ten years"),
        ({"jitter": True}, "jitter=True must be a timedelta"),
        ({"start": datetime(2026, 1, 1)}, "must be a datetime that knows its time zone"),
        ({"end": "2026-01-01"}, "end='2026-01-01' must be a datetime"),
        ({"start": NOON, "end": NOON - HOURS}, "no time is left to fire"),
        ({"max_runs": 0}, "max_runs=0 must be a whole number"),
        ({"max_runs": True}, "max_runs=True must be a whole number"),
        ({"catch_up": "all", "overlap": "skip"}, "would leave out: choose catch_up='latest'"),
    ],
)
def test_a_policy_that_cannot_be_is_refused_with_the_fix(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message.replace("(", r"\(")):
        Policy(**options)
