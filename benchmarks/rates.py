"""How exactly rates are kept: `python -m benchmarks.rates DSN [SECONDS]`.

Two worker processes run tasks that do nothing under a limit of 10, 100 and 1,000 a second, with bursts of 1 and 10, for
SECONDS (60) each, with more jobs waiting than may begin. Each process notes when its tasks begin. Prints how far the
rate was from the limit, and by how many jobs the busiest second exceeded burst + rate (0 is what is promised).
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import sys
import time
from bisect import bisect_right
from multiprocessing.queues import Queue
from typing import Any

from benchmarks.limits import SCHEMA, TABLES, execute
from pgqueue import Limit, PgQueue, migrate
from pgqueue.worker import loop

RATES = ((10, 1), (100, 1), (1_000, 1), (100, 10))
WORKERS = 2
SLOTS = 200
TRIM = 1.0
"""Seconds at the beginning and the end in which workers start and stop."""


def shop(dsn: str, rate: float, burst: int, began: list[float]) -> PgQueue:
    app = PgQueue(dsn, schema=SCHEMA)
    app.queue("default", limit=Limit(rate=rate, burst=burst))

    @app.task(name="noop", keep_completed=False)
    async def noop() -> None:
        began.append(time.monotonic())

    return app


async def work(app: PgQueue, until: float) -> None:
    async with app.worker({"default": SLOTS}):
        await asyncio.sleep(until - time.monotonic())
    await app.aclose()


def process(dsn: str, rate: float, burst: int, seconds: float, ready: Any, answers: Queue[list[float]]) -> None:
    """One worker process; the clock is shared by all processes of a machine."""
    began: list[float] = []
    app = shop(dsn, rate, burst, began)
    ready.wait()
    loop.run(work(app, time.monotonic() + seconds))
    answers.put(began)


def measure(dsn: str, rate: int, burst: int, seconds: float) -> dict[str, Any]:
    execute(dsn, "truncate " + ", ".join(f"{SCHEMA}.{table}" for table in TABLES))
    app = shop(dsn, rate, burst, [])
    jobs = round(rate * (seconds + 10)) + burst
    for start in range(0, jobs, 10_000):
        app.enqueue_many([app.tasks["noop"].job() for _ in range(start, min(jobs, start + 10_000))])
    app.close()
    context = multiprocessing.get_context("spawn")
    answers: Queue[list[float]] = context.Queue()
    ready = context.Barrier(WORKERS)
    given = (dsn, rate, burst, seconds + 2 * TRIM, ready, answers)
    workers = [context.Process(target=process, args=given) for _ in range(WORKERS)]
    for worker in workers:
        worker.start()
    times = sorted(at for _ in workers for at in answers.get())
    for worker in workers:
        worker.join()
    steady = [at for at in times if times[0] + TRIM <= at <= times[-1] - TRIM]
    span = steady[-1] - steady[0]
    most = max(bisect_right(times, at + 1) - n for n, at in enumerate(times))
    return {
        "rate": rate,
        "burst": burst,
        "seconds": round(span, 1),
        "begun": len(times),
        "off_percent": round(100 * ((len(steady) - 1) / span / rate - 1), 2),
        "above_in_a_second": max(0, most - rate - burst),
    }


def main(dsn: str, seconds: float = 60.0) -> None:
    execute(dsn, f"drop schema if exists {SCHEMA} cascade")
    migrate.upgrade(dsn, schema=SCHEMA)
    for rate, burst in RATES:
        print(json.dumps(measure(dsn, rate, burst, seconds)), flush=True)
    execute(dsn, f"drop schema {SCHEMA} cascade")


if __name__ == "__main__":
    main(sys.argv[1], *map(float, sys.argv[2:]))
