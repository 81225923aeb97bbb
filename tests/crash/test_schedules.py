"""Schedulers that are killed and started while time flies: exactly one job per nominal time."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from pgqueue.services.scheduler import Scheduler
from tests.crash.fleet import LONG, ROOT, eventually
from tests.crash.ticker import app_of

pytestmark = pytest.mark.crash

START = datetime(2026, 1, 1, tzinfo=UTC)
SCHEDULERS, TICKS, SPEED, EVERY = (8, 10_000, 100, 1.0) if LONG else (3, 1_000, 100, 0.7)


@pytest.mark.slow
def test_schedulers_that_come_and_go_fire_each_time_once(fresh_dsn: str, tmp_path: Path) -> None:
    dsn = fresh_dsn
    with psycopg.connect(dsn, autocommit=True) as connection:
        # Time begins when the schedule has been declared.
        set_clock(connection, f"'{START - timedelta(seconds=1)}'")
        app = app_of(dsn, START, TICKS)
        asyncio.run(Scheduler.of(app).run_once())
        app.close()
        set_clock(connection, f"'{START}'::timestamptz + (clock_timestamp() - '{datetime.now(UTC)}') * {SPEED}")
        running = [start(dsn, tmp_path, n) for n in range(SCHEDULERS)]
        try:
            chosen, kills = random.Random(TICKS), 0
            while not has_ended(connection):
                victim = chosen.randrange(SCHEDULERS)
                running[victim].kill()
                running[victim].wait()
                kills += 1
                running[victim] = start(dsn, tmp_path, SCHEDULERS + kills)
                threading.Event().wait(EVERY)
                assert kills < 20 * TICKS / SPEED, "it does not come to its end"
            eventually(lambda: has_ended(connection), "the last time is fired")
        finally:
            for process in running:
                process.kill()
                process.communicate()
        assert kills >= TICKS / SPEED / EVERY / 4
        fired = connection.execute("select headers ->> 'scheduled_for' from pgqueue.jobs order by id").fetchall()
        assert [datetime.fromisoformat(at) for (at,) in fired] == [START + timedelta(seconds=n) for n in range(TICKS)]


def set_clock(connection: psycopg.Connection, now: str) -> None:
    connection.execute(
        "create or replace function pgqueue.clock() returns timestamptz language sql volatile as "
        f"$function$ select ({now})::timestamptz $function$".encode()
    )


def start(dsn: str, folder: Path, number: int) -> subprocess.Popen[bytes]:
    with (folder / f"scheduler-{number}.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.crash.ticker", dsn, START.isoformat(), str(TICKS)],
            cwd=ROOT,
            env=os.environ | {"SHOP_LEDGER": str(folder)},
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
        )


def has_ended(connection: psycopg.Connection) -> bool:
    found = connection.execute("select next_run_at = 'infinity' from pgqueue.schedules where name = 'tick'").fetchone()
    return found == (True,)
