"""The app as those who use it see it."""

from __future__ import annotations

import pydoc
from typing import Any

import pytest

from pgqueue import ConfigurationError, PgQueue


def test_help_shows_what_users_call_and_nothing_else() -> None:
    assert {name for name in vars(PgQueue) if not name.startswith("_")} == {
        "task",
        "cron",
        "every",
        "queue",
        "alert",
        "enqueue",
        "aenqueue",
        "new_job",
        "enqueue_many",
        "aenqueue_many",
        "on",
        "watch",
        "add_middleware",
        "worker",
        "close",
        "aclose",
    }
    text = pydoc.plain(pydoc.render_doc(PgQueue))
    assert "send_email" in text
    assert "insert" not in text


def test_a_dsn_that_is_no_text_is_refused_at_once() -> None:
    number: Any = 5
    with pytest.raises(ConfigurationError, match=r"was given 5 as its DSN: give text such as 'postgresql:///shop'"):
        PgQueue(number)
