"""Histograms of times, and how far their percentiles are from the exact ones."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgqueue.histogram import BUCKETS, bounds, bucket, percentile

CENTURIES = 6e11
TIMES = st.lists(st.floats(1e-6, CENTURIES), min_size=1, max_size=200)


@pytest.mark.parametrize(
    ("seconds", "number"), [(0.0, 0), (9e-7, 0), (1e-6, 1), (2e-6, 2), (0.001, 10), (1.0, 20), (86400.0, 37)]
)
def test_a_bucket_holds_the_times_between_two_powers_of_two_of_microseconds(seconds: float, number: int) -> None:
    assert bucket(seconds) == number
    lower, upper = bounds(number)
    assert lower <= seconds < upper


def test_a_job_that_could_run_since_the_first_day_of_postgresql_has_a_bucket() -> None:
    assert bucket((4713 + 10_000) * 366 * 86400.0) < BUCKETS


@given(TIMES, st.sampled_from([1, 50, 95, 99, 100]))
def test_a_percentile_is_more_than_half_of_the_exact_one_and_less_than_twice(times: list[float], percent: int) -> None:
    exact = sorted(times)[max(1, -(-len(times) * percent // 100)) - 1]
    found = percentile(Counter(map(bucket, times)), percent)
    assert found is not None
    assert exact / 2 < found < exact * 2


@given(TIMES)
def test_percentiles_rise(times: list[float]) -> None:
    counts = Counter(map(bucket, times))
    found = [percentile(counts, percent) or 0.0 for percent in range(1, 101)]
    assert found == sorted(found)


def test_of_nothing_there_is_no_percentile() -> None:
    assert percentile({}, 50) is None
