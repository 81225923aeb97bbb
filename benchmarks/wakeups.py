"""What a notification costs eight producers that commit single jobs: `python -m benchmarks.wakeups DSN [JOBS]`.

NOTIFY takes a lock at commit that the whole cluster shares. Four placements, in turn, three rounds: no notification;
one per enqueue in its transaction; one per enqueue in a transaction of its own after the commit; and pgqueue's own,
which notifies only while a worker is recorded idle, beside a worker that runs the jobs. The producers are loops in the
server, so that no client's own cost hides the lock. Prints commits of jobs a second.
"""

from __future__ import annotations

import json
import multiprocessing
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from uuid import uuid4

import psycopg

from benchmarks.drain import SCHEMA, worker_process
from pgqueue import migrate
from pgqueue.database import fetch
from pgqueue.queries import fleet

PRODUCERS = 8
ROUNDS = 3
PLACEMENTS = ("none", "in the transaction", "after the commit", "pgqueue")
LOOP = f"""
    do $$ begin
        for n in 1..%d loop
            perform {SCHEMA}.enqueue('noop', jsonb_build_object('number', n));
            commit;
            %s
        end loop;
    end $$
"""
AFTER = "perform pg_notify('pgqueue_benchmark_after', 'available default 0 1'); commit;"


def produce(dsn: str, placement: str, jobs: int, start: Barrier) -> None:
    """Commit `jobs` single jobs."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        start.wait()
        conn.execute((LOOP % (jobs, AFTER if placement == "after the commit" else "")).encode())


def measure(dsn: str, placement: str, jobs: int) -> float:
    """Commits a second of all producers together."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(f"truncate {SCHEMA}.jobs, {SCHEMA}.claims, {SCHEMA}.workers".encode())
        if placement == "in the transaction":
            # A worker that is always recorded idle makes every enqueue notify.
            row = uuid4()
            registration = fleet.register_worker(
                SCHEMA, worker=row, name="idle", host="", pid=0, version="", queues={}, tasks=[], lease=3600.0
            )
            fetch(conn, registration)
            fetch(conn, fleet.mark_idle(SCHEMA, row, "default"))
    worker = multiprocessing.get_context("spawn").Process(target=worker_process, args=(dsn,))
    if placement == "pgqueue":
        worker.start()
        time.sleep(2.0)
    start = Barrier(PRODUCERS + 1)
    with ThreadPoolExecutor(PRODUCERS) as threads:
        done = [threads.submit(produce, dsn, placement, jobs // PRODUCERS, start) for _ in range(PRODUCERS)]
        start.wait()
        began = time.perf_counter()
        for one in done:
            one.result()
        seconds = time.perf_counter() - began
    if placement == "pgqueue":
        worker.terminate()
        worker.join()
    return jobs / seconds


def main(dsn: str, jobs: int = 16_000) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(f"drop schema if exists {SCHEMA} cascade".encode())
    migrate.upgrade(dsn, schema=SCHEMA)
    rates: dict[str, list[float]] = {placement: [] for placement in PLACEMENTS}
    for _ in range(ROUNDS):
        for placement in PLACEMENTS:
            rates[placement].append(round(measure(dsn, placement, jobs)))
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(f"drop schema {SCHEMA} cascade".encode())
    print(json.dumps({name: {"median": statistics.median(found), "all": found} for name, found in rates.items()}))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
