"""What limits cost: `python -m benchmarks.limits DSN [JOBS]`.

Drains of tasks that do nothing, by one worker with 100 slots, in turn, three rounds: without a limit; with a limit of
the queue that never refuses; with one for each of 200 values of a key; with a rate that never refuses; with 200 serial
keys; and without a limit in the queue, beside 100,000 jobs that a limit of another queue blocks. Prints jobs a second
and the ratio to the drain without a limit of the same round.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time

import psycopg

from pgqueue import Limit, PgQueue, migrate
from pgqueue.worker import loop

SCHEMA = "pgqueue_benchmark"
SLOTS = 100
KEYS = 200
BLOCKED = 100_000
ROUNDS = 3
LIMITS = {
    "none": None,
    "queue": Limit(concurrency=SLOTS),
    "key": Limit(concurrency=SLOTS, key="{key}"),
    "rate": Limit(rate=1_000_000, burst=1_000_000),
    "serial keys": None,
    "beside blocked jobs": None,
}
TABLES = ("jobs", "claims", "lanes", "workers", "idle_workers", "completed_jobs", "limits", "gates", "freed_places")
BLOCK = f"""
    insert into {SCHEMA}.limits (scope, name, concurrency) values ('queue', 'other', 1);
    insert into {SCHEMA}.gates (name, scope, of, taken, waiting) values ('queue:other', 'queue', 'other', 1, {BLOCKED});
    insert into {SCHEMA}.jobs (queue, task, state, waits_for, args)
    select 'other', 'noop', 'blocked', 'queue:other', '{{"key": 0}}' from generate_series(1, {BLOCKED});
"""


async def drain(dsn: str, case: str, jobs: int) -> float:
    """Jobs a second, from the start of the worker to the last job's begin."""
    app = PgQueue(dsn, schema=SCHEMA)
    done, ended = 0, asyncio.Event()

    @app.task(name="noop", keep_completed=False)
    async def noop(key: int) -> None:
        nonlocal done
        done += 1
        if done == jobs:
            ended.set()

    if LIMITS[case] is not None:
        app.queue("default", limit=LIMITS[case])
    queues = {"default": SLOTS}
    if case == "beside blocked jobs":
        await asyncio.to_thread(execute, dsn, BLOCK)
        queues["other"] = SLOTS
    for start in range(0, jobs, 10_000):
        serial = case == "serial keys"
        await app.aenqueue_many(
            [
                (noop.using(serial_key=str(n % KEYS)) if serial else noop).job(n % KEYS)
                for n in range(start, min(jobs, start + 10_000))
            ]
        )
    await asyncio.to_thread(execute, dsn, f"vacuum analyze {SCHEMA}.jobs")
    async with app.worker(queues) as worker:
        began = time.perf_counter()
        await ended.wait()
        seconds = time.perf_counter() - began
        assert not worker.stopping
    await app.aclose()
    return jobs / seconds


def execute(dsn: str, statement: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(statement.encode())


def main(dsn: str, jobs: int = 30_000) -> None:
    execute(dsn, f"drop schema if exists {SCHEMA} cascade")
    migrate.upgrade(dsn, schema=SCHEMA)
    rates: dict[str, list[float]] = {case: [] for case in LIMITS}
    for _ in range(ROUNDS):
        for case in LIMITS:
            execute(dsn, "truncate " + ", ".join(f"{SCHEMA}.{table}" for table in TABLES))
            rates[case].append(round(loop.run(drain(dsn, case, jobs))))
    execute(dsn, f"drop schema {SCHEMA} cascade")
    for case, found in rates.items():
        ratios = [rate / plain for rate, plain in zip(found, rates["none"], strict=True)]
        print(json.dumps({"case": case, "rates": found, "ratio": round(statistics.median(ratios), 3)}))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
