"""A scheduler process of its own, for the crash tests: one schedule that fires every second of the database's clock."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from datetime import datetime, timedelta

from pgqueue import PgQueue
from pgqueue.services.scheduler import run_scheduler
from tests.crash.shop import end_with_the_test


def app_of(dsn: str, start: datetime, ticks: int) -> PgQueue:
    """Its times are `ticks` seconds from `start` on."""
    app = PgQueue(dsn)
    end = start + timedelta(seconds=ticks - 1)
    app.every(1.0, name="tick", catch_up="all", start=start, end=end)(app.task(name="tick")(tick))
    return app


def tick() -> None: ...


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    threading.Thread(target=end_with_the_test, daemon=True).start()
    dsn, start, ticks = sys.argv[1:]
    asyncio.run(run_scheduler(app_of(dsn, datetime.fromisoformat(start), int(ticks)), asyncio.Event()))
