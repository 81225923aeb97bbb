"""What a limit may say, and the keys that it makes."""

from __future__ import annotations

from typing import Any

import pytest

from pgqueue.errors import ConfigurationError
from pgqueue.limit import Limit, fill, limits_of, per_second


@pytest.mark.parametrize(
    ("rate", "value"),
    [
        ("100/min", 100 / 60),
        ("5/s", 5),
        ("1/10s", 0.1),
        ("90 / 1.5 minutes", 1),
        ("7/day", 7 / 86_400),
        (2.5, 2.5),
        ("3/hours", 3 / 3600),
    ],
)
def test_a_rate_is_so_many_a_second(rate: str | float, value: float) -> None:
    assert per_second(rate) == pytest.approx(value)


@pytest.mark.parametrize(
    "rate",
    ["", "100", "100/", "100/fortnight", "-1/s", "0/s", "1/0s", 0, -1, True, float("nan"), float("inf"), 2e6, [1]],
)
def test_what_is_no_rate_is_refused(rate: Any) -> None:
    with pytest.raises(ConfigurationError, match="is no rate: write '100/min'"):
        per_second(rate)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "limits nothing"),
        ({"key": "{a}"}, "limits nothing"),
        ({"concurrency": 0}, r"concurrency=0\): give a whole number"),
        ({"concurrency": True}, "give a whole number"),
        ({"concurrency": 1.5}, "give a whole number"),
        ({"rate": 1, "burst": 0}, r"burst=0\): give a whole number"),
        ({"concurrency": 1, "burst": 2}, "needs a rate"),
        ({"concurrency": 1, "key": "plain"}, "name arguments in braces"),
        ({"concurrency": 1, "key": "{}"}, "name arguments in braces"),
        ({"concurrency": 1, "key": "{a.b}"}, "name arguments in braces"),
        ({"concurrency": 1, "key": "{a!r}"}, "name arguments in braces"),
        ({"concurrency": 1, "key": "{a"}, "expected '}'"),
        ({"concurrency": 1, "key": 7}, "name arguments in braces"),
        ({"concurrency": 1, "key": "{a}" + "x" * 198}, "in 1 to 200 characters"),
    ],
)
def test_a_limit_that_cannot_be_meant_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Limit(**options)


def test_a_key_is_filled_with_arguments_as_text_and_bounded() -> None:
    assert fill("{customer}/{kind}", {"customer": 7, "kind": None}) == "7/"
    assert fill("{a}", {}) == ""
    assert fill("{{x}}{a}", {"a": "{b}"}) == "{x}{b}"
    assert fill("{a}", {"a": True}) == "true"
    assert len(fill("{a}", {"a": "x" * 1000})) == 400


@pytest.mark.parametrize("given", [7, "10/s", {"rate": 1}, [7], [Limit(rate=1), None]])
def test_what_is_no_limit_is_refused_where_it_is_declared(given: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"queue email: limit=.* must be a Limit, or a list of them"):
        limits_of(given, "queue email")
