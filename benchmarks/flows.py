"""What flows cost: `python -m benchmarks.flows DSN [CHILDREN] [ROUNDS]`.

Drains of tasks that do nothing, by one worker with 100 slots, in turn: plain jobs, and as many that all wait for the
first and the last waits for all others (a fan-out and a fan-in); with history kept, as it is unless set, and without.
Prints jobs a second from the start of the worker until the last outcome is written, the ratio within each round, and
how many were enqueued a second.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from itertools import product

import psycopg

from pgqueue import PgQueue, chain, group, migrate
from pgqueue.worker import loop

SCHEMA = "pgqueue_benchmark"
SLOTS = 100
TABLES = (
    "jobs",
    "claims",
    "lanes",
    "workers",
    "idle_workers",
    "completed_jobs",
    "flows",
    "flow_jobs",
    "flow_edges",
    "flow_waits",
    "flow_news",
    "flow_turns",
)


async def drain(dsn: str, children: int, *, as_flow: bool, history: bool = True) -> tuple[float, float]:
    """Jobs a second, and jobs enqueued a second."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(f"truncate {', '.join(f'{SCHEMA}.{table}' for table in TABLES)}".encode())
        conn.execute("checkpoint")
    app = PgQueue(dsn, schema=SCHEMA)
    done, ended = 0, asyncio.Event()
    total = children + 2

    @app.task(name="noop", keep_completed=None if history else False)
    async def noop(n: int) -> None:
        nonlocal done
        done += 1
        if done == total:
            ended.set()

    began = time.perf_counter()
    jobs = [noop.job(n) for n in range(total)]
    if as_flow:
        await app.flows.aenqueue(chain(jobs[0], group(*jobs[1:-1]), jobs[-1]))
    else:
        await app.aenqueue_many(jobs)
    enqueued = time.perf_counter() - began
    began = time.perf_counter()
    async with app.worker({"default": SLOTS}) as worker:
        async with asyncio.timeout(60):
            await ended.wait()
            await worker.finisher.flushed()
        took = time.perf_counter() - began
    await app.aclose()
    return total / took, total / enqueued


def main(dsn: str, children: int = 10_000, rounds: int = 5) -> None:
    migrate.upgrade(dsn, schema=SCHEMA)
    ratios: dict[bool, list[float]] = {True: [], False: []}
    for _, history in product(range(rounds), ratios):
        plain, plain_in = loop.run(drain(dsn, children, as_flow=False, history=history))
        flow, flow_in = loop.run(drain(dsn, children, as_flow=True, history=history))
        ratios[history].append(flow / plain)
        figures = {
            "history": history,
            "plain jobs/s": round(plain),
            "flow jobs/s": round(flow),
            "ratio": round(flow / plain, 2),
            "plain enqueued/s": round(plain_in),
            "flow enqueued/s": round(flow_in),
        }
        print(json.dumps(figures))
    for history, found in ratios.items():
        median = round(statistics.median(found), 2)
        print(json.dumps({"children": children, "history": history, "median ratio": median, "bound": 0.5}))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:4]))
