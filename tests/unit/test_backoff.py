"""The delays between attempts."""

from __future__ import annotations

import json
import math
import pickle
from datetime import timedelta
from decimal import Decimal
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgqueue.backoff import DEFAULT, LONGEST, Backoff
from pgqueue.errors import ConfigurationError

SHAPES = [
    DEFAULT,
    Backoff.exponential(jitter=0.5),
    Backoff.exponential(3, factor=1.5, cap=3600, jitter=0.2),
    Backoff.exponential(factor=1e300, jitter=1),
    Backoff.polynomial(jitter=0.3),
    Backoff.polynomial(400, base=2, cap=86_400),
    Backoff.delays([1, 5, 30], jitter=0.1),
    Backoff.fixed(LONGEST, jitter=1),
    Backoff.fixed(0, jitter=1),
    Backoff.of(lambda attempt: attempt * 10),
]


def first(backoff: Backoff, count: int = 5) -> list[float]:
    return [backoff.delay(attempt) for attempt in range(1, count + 1)]


def test_exponential_starts_at_its_base_and_stops_at_its_cap() -> None:
    assert first(Backoff.exponential(1, cap=10)) == [1, 2, 4, 8, 10]
    assert first(Backoff.exponential(timedelta(minutes=1), factor=3), 3) == [60, 180, 540]


def test_polynomial_is_a_power_of_the_attempt() -> None:
    assert first(Backoff.polynomial()) == [1, 16, 81, 256, 625]
    assert first(Backoff.polynomial(2, base=10, cap=timedelta(seconds=100))) == [10, 40, 90, 100, 100]


def test_fixed_is_always_the_same() -> None:
    assert first(Backoff.fixed(timedelta(seconds=2.5)), 3) == [2.5, 2.5, 2.5]


def test_the_last_of_given_delays_repeats() -> None:
    assert first(Backoff.delays([1, timedelta(seconds=5), 30])) == [1, 5, 30, 30, 30]


def test_an_own_function_returns_seconds_or_a_timedelta() -> None:
    assert first(Backoff.of(lambda attempt: 10 * attempt), 3) == [10, 20, 30]
    assert first(Backoff.of(lambda attempt: timedelta(minutes=attempt)), 2) == [60, 120]


def test_the_default_is_e_to_the_attempt_and_25_attempts_take_about_four_days() -> None:
    middle = [DEFAULT.delay(attempt, lambda: 0.5) for attempt in range(1, 25)]
    assert middle == pytest.approx([math.exp(min(attempt, 10)) for attempt in range(1, 25)])
    assert 3.9 < sum(middle) / 86_400 < 4.1
    assert Backoff.default() == DEFAULT


def test_jitter_spreads_evenly_to_both_sides() -> None:
    backoff = Backoff.fixed(100, jitter=0.2)
    assert [backoff.delay(1, partial(float, at)) for at in (0.0, 0.25, 0.5, 1.0)] == pytest.approx([80, 90, 100, 120])


def test_jitter_at_the_cap_spreads_below_it_instead_of_meeting_there() -> None:
    backoff = Backoff.exponential(1, cap=100, jitter=0.2)
    assert [backoff.delay(50, partial(float, at)) for at in (0.0, 0.5, 1.0)] == pytest.approx([80, 90, 100])


@pytest.mark.parametrize("backoff", SHAPES, ids=repr)
@given(attempt=st.integers(-3, 10**9) | st.just(10**400), at=st.floats(0, 1))
def test_a_delay_is_never_negative_nor_endless_for_any_attempt(backoff: Backoff, attempt: int, at: float) -> None:
    if "function" not in repr(backoff) or attempt < 10**300:
        assert 0 <= backoff.delay(attempt, lambda: at) <= LONGEST


def test_an_attempt_below_1_counts_as_the_first() -> None:
    assert Backoff.delays([1, 5, 30]).delay(0) == Backoff.exponential(1).delay(-5) == 1


def test_equal_backoffs_compare_equal_hash_alike_and_travel_between_processes() -> None:
    assert Backoff.exponential(1, cap=60) == Backoff.exponential(timedelta(seconds=1), cap=60.0)
    assert Backoff.exponential(1) != Backoff.exponential(1, jitter=0.1)
    assert Backoff.fixed(1) != Backoff.exponential(1)
    assert len({Backoff.delays([1, 2]), Backoff.delays((1.0, 2.0))}) == 1
    assert pickle.loads(pickle.dumps(DEFAULT)) == DEFAULT


def test_a_backoff_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        DEFAULT._jitter = 0.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("backoff", "text"),
    [
        (Backoff.exponential(1, cap=3600, jitter=0.2), "exponential 1 s, cap 3600 s, jitter 20 %"),
        (Backoff.exponential(0.5, factor=3), "exponential 0.5 s × 3"),
        (Backoff.polynomial(2, base=5), "polynomial 5 s × attempt^2"),
        (Backoff.fixed(timedelta(minutes=1), jitter=0.07), "fixed 60 s, jitter 7 %"),
        (Backoff.delays([1, 5, 30]), "delays 1, 5, 30 s"),
        (Backoff.of(math.sqrt), "function math.sqrt"),
        (DEFAULT, "e^min(attempt, 10) s, jitter 10 %"),
    ],
)
def test_a_backoff_describes_itself_in_a_line_that_json_can_hold(backoff: Backoff, text: str) -> None:
    assert json.loads(json.dumps(backoff.describe())) == text
    assert repr(backoff) == f"<Backoff: {text}>"


@pytest.mark.parametrize(
    "delay", [-1, math.nan, math.inf, 10**400, "5", None, True, Decimal(5), timedelta(days=-1), 4e9]
)
def test_a_delay_that_is_none_is_refused_with_the_fix(delay: float) -> None:
    for make in (Backoff.fixed, Backoff.exponential, partial(Backoff.polynomial, base=delay)):
        with pytest.raises(ConfigurationError, match=r"pass seconds such as 30, or timedelta\(minutes=5\)"):
            make(delay) if not isinstance(make, partial) else make()
    with pytest.raises(ConfigurationError, match="delay 2 must be between"):
        Backoff.delays([1, delay])


@pytest.mark.parametrize("jitter", [-0.1, 1.5, 20, math.nan, "0.2", None, True, timedelta(seconds=1)])
def test_jitter_outside_of_0_to_1_is_refused(jitter: float) -> None:
    with pytest.raises(ConfigurationError, match="jitter must be a fraction from 0 to 1"):
        Backoff.fixed(1, jitter=jitter)


def test_values_that_make_no_sense_are_refused_with_the_fix() -> None:
    with pytest.raises(ConfigurationError, match=r"write Backoff\.fixed\(0\)"):
        Backoff.exponential(0)
    with pytest.raises(ConfigurationError, match=r"factor must be a number from 1 up, not 0\.5"):
        Backoff.exponential(factor=0.5)
    with pytest.raises(ConfigurationError, match="power must be a number from 0 up, not -1"):
        Backoff.polynomial(-1)
    with pytest.raises(ConfigurationError, match="raise cap or lower base"):
        Backoff.exponential(60, cap=10)


@pytest.mark.parametrize("delays", [[], (), "15", 5, None])
def test_delays_that_are_no_list_of_delays_are_refused(delays: list[float]) -> None:
    with pytest.raises(ConfigurationError, match=r"such as \[1, 5, 30\]"):
        Backoff.delays(delays)


async def coroutine(attempt: int) -> float:
    return 1.0


@pytest.mark.parametrize("function", [5, "exponential", coroutine])
def test_what_is_no_plain_function_is_refused(function: object) -> None:
    with pytest.raises(ConfigurationError, match="a plain function from the attempt to seconds"):
        Backoff.of(function)  # type: ignore[arg-type]


@pytest.mark.parametrize("result", [-1, math.nan, math.inf, "5", None, True, timedelta(days=-1)])
def test_a_bad_result_of_an_own_function_names_the_function_and_the_attempt(result: float) -> None:
    def too_clever(attempt: int) -> float:
        return result

    with pytest.raises(ConfigurationError, match=r"too_clever returned .* for attempt 3"):
        Backoff.of(too_clever).delay(3)


def test_an_error_in_an_own_function_names_the_function_and_keeps_its_cause() -> None:
    with pytest.raises(ConfigurationError, match=r"broken raised KeyError\(2\) for attempt 2") as raised:
        Backoff.of(broken).delay(2)
    assert isinstance(raised.value.__cause__, KeyError)


def broken(attempt: int) -> float:
    raise KeyError(attempt)


def test_an_own_function_that_waits_for_ever_is_cut_at_the_longest_delay() -> None:
    assert Backoff.of(lambda attempt: 1e300).delay(1) == LONGEST
