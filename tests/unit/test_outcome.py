"""What an attempt that raised comes to."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgqueue.errors import (
    ArgumentError,
    CancelJob,
    FailJob,
    PgQueueError,
    ProcessCrashed,
    RetryJob,
    SnoozeJob,
    TaskTimeout,
)
from pgqueue.outcome import (
    CRASH_LIMIT,
    TRACEBACK_LIMIT,
    AttemptError,
    Cancelled,
    Failed,
    Outcome,
    Retry,
    Snooze,
    decide,
    storable,
    type_name,
)


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    try:
        raise error from cause
    except type(error) as caught:
        return caught


def outcome(error: BaseException, *, attempt: int = 1, max_attempts: int = 3, crashes: int = 0) -> Outcome:
    return decide(
        error, attempt=attempt, max_attempts=max_attempts, crashes=crashes, delay=lambda number: number * 10.0
    )


@pytest.mark.parametrize("attempt", [1, 2])
def test_an_error_is_retried_after_the_backoff_of_its_attempt(attempt: int) -> None:
    found = outcome(raised(KeyError("x")), attempt=attempt)
    assert isinstance(found, Retry)
    assert (found.delay, found.crashed) == (attempt * 10.0, False)
    assert (found.error.type, found.error.message) == ("KeyError", "'x'")
    assert "raise error from cause" in found.error.traceback


@pytest.mark.parametrize("attempt", [3, 4])
def test_the_last_attempts_error_is_a_failure(attempt: int) -> None:
    found = outcome(raised(KeyError("x")), attempt=attempt)
    assert isinstance(found, Failed)
    assert (found.reason, found.crashed, found.error.type) == ("attempts_used", False, "KeyError")


def test_a_timeout_is_an_error_like_others() -> None:
    found = outcome(raised(TaskTimeout("took longer than 3 s")))
    assert isinstance(found, Retry)
    assert found.error.type == "pgqueue.errors.TaskTimeout"


@pytest.mark.parametrize("delay", [7, 7.0, timedelta(seconds=7)])
def test_a_retry_that_the_task_asks_for_may_name_its_delay(delay: float | timedelta) -> None:
    found = outcome(RetryJob("later", delay=delay))
    assert isinstance(found, Retry)
    assert found.delay == 7.0


def test_a_retry_without_a_delay_takes_the_backoff() -> None:
    found = outcome(RetryJob("later"), attempt=2)
    assert isinstance(found, Retry)
    assert found.delay == 20.0


def test_a_retry_uses_an_attempt_so_the_last_one_fails() -> None:
    found = outcome(RetryJob("later", delay=1), attempt=3)
    assert isinstance(found, Failed)
    assert found.reason == "attempts_used"


@pytest.mark.parametrize("signal", [RetryJob("later"), FailJob("no use")])
def test_what_a_signal_was_raised_from_is_what_is_reported(signal: BaseException) -> None:
    found = outcome(raised(signal, ValueError("the cause")))
    assert isinstance(found, Retry | Failed)
    assert (found.error.type, found.error.message) == ("ValueError", "the cause")


def test_a_snooze_is_possible_on_the_last_attempt() -> None:
    assert outcome(SnoozeJob(timedelta(minutes=1)), attempt=3) == Snooze(60.0)


def test_a_cancellation_carries_its_reason() -> None:
    assert outcome(CancelJob("sold out\x00")) == Cancelled("sold out\\x00")


def test_a_failure_that_the_task_asks_for_does_not_wait_for_the_attempts() -> None:
    found = outcome(FailJob("no such account"))
    assert isinstance(found, Failed)
    assert (found.reason, found.error.message) == ("fail_job", "no such account")


@pytest.mark.parametrize(
    ("crashes", "fails"), [(0, False), (CRASH_LIMIT - 2, False), (CRASH_LIMIT - 1, True), (CRASH_LIMIT, True)]
)
def test_the_third_crash_is_a_failure_whatever_attempts_are_left(crashes: int, fails: bool) -> None:
    found = outcome(ProcessCrashed("died"), max_attempts=100, crashes=crashes)
    assert isinstance(found, Failed if fails else Retry)
    assert found.crashed
    assert not isinstance(found, Failed) or found.reason == "crashed"


def test_a_crash_on_the_last_attempt_is_a_failure_by_crash() -> None:
    found = outcome(ProcessCrashed("died"), attempt=1, max_attempts=1)
    assert isinstance(found, Failed)
    assert (found.reason, found.crashed) == ("crashed", True)


def test_earlier_crashes_do_not_count_against_an_ordinary_error() -> None:
    assert isinstance(outcome(raised(KeyError("x")), crashes=CRASH_LIMIT), Retry)


class Strange(Exception):
    """An error of this module."""


def test_types_are_named_with_their_module_except_builtins() -> None:
    assert type_name(KeyError) == "KeyError"
    assert type_name(Strange) == f"{__name__}.Strange"
    assert type_name(PgQueueError) == "pgqueue.errors.PgQueueError"


@pytest.mark.parametrize("delay", [-1, float("nan"), float("inf"), timedelta(days=-1), 1e12])
def test_a_delay_out_of_range_is_refused_where_it_is_raised(delay: float | timedelta) -> None:
    with pytest.raises(ArgumentError, match="delay must be between 0 and 100 years"):
        SnoozeJob(delay)
    with pytest.raises(ArgumentError, match="delay must be between 0 and 100 years"):
        RetryJob(delay=delay)


def test_a_long_text_loses_its_middle_and_says_how_much() -> None:
    text = storable("a" * TRACEBACK_LIMIT + "b" * TRACEBACK_LIMIT)
    assert text.startswith("a" * 100)
    assert text.endswith("b" * 100)
    assert f"{TRACEBACK_LIMIT} characters left out" in text
    assert len(text) < TRACEBACK_LIMIT + 100


@given(st.text(st.characters(codec=None)))
def test_any_text_becomes_what_jsonb_can_hold(text: str) -> None:
    kept = storable(text)
    assert "\x00" not in kept
    assert json.loads(json.dumps(kept)) == kept
    kept.encode("utf-8")


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=200))
def test_ordinary_text_is_kept_as_it_is(text: str) -> None:
    assert storable(text) == text


def test_an_error_whose_text_cannot_be_stored_is_kept_in_a_readable_form() -> None:
    kept = AttemptError.of(raised(ValueError("nul \x00 and \ud800")))
    assert kept.message == "nul \\x00 and \\ud800"
    assert "\x00" not in kept.traceback


def test_the_place_of_an_error_is_that_of_the_code_wherever_it_lies_and_whatever_the_message_says() -> None:
    source = "def charge(text):\n    raise ValueError(text)\n"

    def raised(file: str, blank_lines: int, text: str) -> AttemptError:
        module: dict[str, Any] = {"__name__": "shop.billing"}
        exec(compile("\n" * blank_lines + source, file, "exec"), module)
        with pytest.raises(ValueError, match="x") as found:
            module["charge"](text)
        return AttemptError.of(found.value)

    errors = [
        raised("/releases/1/billing.py", 0, "x"),
        raised("/releases/2/billing.py", 7, 'x File "a.py", line 1, in b'),
    ]
    assert [error.place for error in errors] == ["shop.billing.charge"] * 2
    assert AttemptError.of(ValueError("never raised")).place == ""
