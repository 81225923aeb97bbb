"""What can be said about how long ended jobs are kept."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from pgqueue import ConfigurationError, PgQueue
from pgqueue.retention import LONGEST, MOST, Retention, retention

NONE = Retention(timedelta())


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, None),
        (False, NONE),
        (0, NONE),
        (timedelta(), NONE),
        (timedelta(hours=1), Retention(timedelta(hours=1))),
        (LONGEST, Retention(LONGEST)),
        (1, Retention(count=1)),
        (MOST, Retention(count=MOST)),
    ],
)
def test_an_age_a_count_or_none(given: Any, expected: Retention | None) -> None:
    assert retention(given, "x") == expected


@pytest.mark.parametrize("given", [True, -1, MOST + 1, 1.5, "1 day", timedelta(-1), LONGEST + timedelta(1), [1]])
def test_anything_else_is_refused_where_it_is_declared(given: Any) -> None:
    app = PgQueue("postgresql:///nowhere")
    for option in ("keep_completed", "keep_failed"):
        for declare, what in (
            (lambda **options: PgQueue(**options), "the app"),
            (lambda **options: app.queue("mail", **options), "queue mail"),
            (lambda **options: app.task(name="t", **options)(print), "@app.task"),
        ):
            with pytest.raises(ConfigurationError, match=f"{option} of {what} is .*give an age as a timedelta"):
                declare(**{option: given})


@pytest.mark.parametrize(
    ("given", "keeps"), [(NONE, False), (Retention(timedelta(1)), True), (Retention(count=1), True)]
)
def test_only_an_age_of_nothing_keeps_nothing(given: Retention, keeps: bool) -> None:
    assert given.keeps is keeps
