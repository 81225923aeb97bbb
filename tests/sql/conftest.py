"""Connections as a worker makes them, closed at the end of the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.sql.rows import Connection, connect


@pytest.fixture
def db(dsn: str) -> Iterator[Connection]:
    with connect(dsn) as conn:
        yield conn


@pytest.fixture
def another(dsn: str) -> Iterator[Callable[[], Connection]]:
    """Further sessions of the same database."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(connect(dsn))


@pytest.fixture
def listener(dsn: str) -> Iterator[Connection]:
    with connect(dsn) as conn:
        conn.execute("listen pgqueue")
        yield conn
