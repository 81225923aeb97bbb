"""A fleet of real worker processes for each test; none of them outlives it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.fleet import Fleet
from tests.crash.shop import app


@pytest.fixture
def fleet(fresh_dsn: str, tmp_path: Path) -> Iterator[Fleet]:
    """Workers on a database of this test alone; `app` of the shop enqueues into the same."""
    made = Fleet(fresh_dsn, tmp_path)
    app.database.point_at(fresh_dsn)
    try:
        yield made
    finally:
        made.end()
        app.close()
        for worker in made.workers:
            print(f"--- {worker.log.name}, pid {worker.pid}", worker.log.read_text()[-4000:], sep="\n")
