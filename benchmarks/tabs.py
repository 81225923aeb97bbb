"""What open pages of the dashboard cost: `python -m benchmarks.tabs DSN [JOBS] [ROUNDS]`.

Drains JOBS (200,000) no-op jobs with one worker, in turns beside nothing and beside a dashboard in another process,
on which five pages are open: each holds its stream, and asks for what is new at each tick, as htmx does. Prints both
rates of each round, how many pages were drawn meanwhile, what share of the machine's processors the dashboard and its
connections took, and the medians; what is promised is 0.98. Rates of two runs differ by more than that on most
machines: a drain has all processors to itself, and cannot lose more to the dashboard than its share of them.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import socket
import sys
import time
from statistics import median
from typing import Any

import httpx
import psutil
import psycopg

from benchmarks.drain import SCHEMA, measure
from pgqueue import PgQueue
from pgqueue.web import Dashboard

PAGES = ("/", "/queues", "/jobs", "/failed", "/workers")


def serve(dsn: str, listener: socket.socket) -> None:
    import uvicorn

    app = PgQueue(dsn, schema=SCHEMA)
    config = uvicorn.Config(Dashboard(app), log_config=None, lifespan="off", timeout_graceful_shutdown=1)
    asyncio.run(uvicorn.Server(config).serve([listener]))


async def follow(client: httpx.AsyncClient, path: str, shown: Any) -> None:
    async with client.stream("GET", "/live") as stream:
        async for line in stream.aiter_lines():
            if line == "event: tick":
                answer = await client.get(path, headers={"HX-Request": "true"})
                shown.value += answer.status_code == 200


async def look(address: str, shown: Any) -> None:
    async with httpx.AsyncClient(base_url=address, timeout=60) as client:
        await asyncio.gather(*(follow(client, path, shown) for path in PAGES))


def tabs(address: str, shown: Any) -> None:
    asyncio.run(look(address, shown))


def processor_seconds(dsn: str, dashboard: int) -> float | None:
    """What the dashboard has used, with its connections; None where PostgreSQL runs elsewhere."""
    with psycopg.connect(dsn) as conn:
        backends = conn.execute(
            "select pid from pg_stat_activity where application_name = 'pgqueue' and datname = current_database()"
        ).fetchall()
    try:
        used = [psutil.Process(pid).cpu_times() for pid in (dashboard, *(pid for (pid,) in backends))]
    except psutil.NoSuchProcess:
        return None
    return sum(one.user + one.system for one in used)


def beside(dsn: str, jobs: int) -> tuple[float, int, float | None]:
    """The rate beside five open pages, how often one was drawn anew meanwhile, and their share of the processors."""
    context = multiprocessing.get_context("fork")
    shown = context.Value("q", 0)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"http://localhost:{listener.getsockname()[1]}"
        processes: list[Any] = [
            context.Process(target=serve, args=(dsn, listener), daemon=True),
            context.Process(target=tabs, args=(address, shown), daemon=True),
        ]
        for process in processes:
            process.start()
        try:
            time.sleep(2)
            before, used, began = shown.value, processor_seconds(dsn, processes[0].pid), time.monotonic()
            rate = measure("worker", dsn, jobs, "history")
            after = processor_seconds(dsn, processes[0].pid)
            there = (time.monotonic() - began) * len(psutil.Process().cpu_affinity())
            share = None if used is None or after is None else (after - used) / there
            return rate, shown.value - before, share
        finally:
            for process in processes:
                process.kill()
                process.join()


def main(dsn: str, jobs: str = "200000", rounds: str = "5") -> None:
    ratios, shares = [], []
    for number in range(int(rounds)):
        if number % 2:
            alone, (with_tabs, shown, share) = measure("worker", dsn, int(jobs), "history"), beside(dsn, int(jobs))
        else:
            (with_tabs, shown, share), alone = beside(dsn, int(jobs)), measure("worker", dsn, int(jobs), "history")
        ratios.append(with_tabs / alone)
        found = {
            "alone": round(alone),
            "beside_five_tabs": round(with_tabs),
            "drawn": shown,
            "ratio": round(ratios[-1], 3),
            "processors": None if share is None else round(share, 4),
        }
        if share is not None:
            shares.append(share)
        print(json.dumps(found), flush=True)
    processors = round(median(shares), 4) if shares else None
    print(json.dumps({"median_ratio": round(median(ratios), 3), "bound": 0.98, "processors": processors}))


if __name__ == "__main__":
    main(*sys.argv[1:])
