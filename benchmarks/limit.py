"""One worker's drain of no-op jobs against the bare loop: the same claim and finish on one connection, without tasks.

Each round measures both, one after the other, in a fresh process. Without a DSN it brings its own PostgreSQL.
"""

from __future__ import annotations

import argparse
import json
import statistics
from contextlib import ExitStack

from benchmarks.drain import MODES, measure
from pgqueue.dev import EmbeddedServer

SETTINGS = {"shared_buffers": "1GB", "max_wal_size": "8GB"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dsn", help="your server: a schema pgqueue_benchmark is made there, and dropped")
    parser.add_argument("--json", action="store_true", help="one JSON line")


def measure_all(given: argparse.Namespace) -> None:
    with ExitStack() as stack:
        dsn = given.dsn or stack.enter_context(EmbeddedServer(settings=SETTINGS)).dsn
        figures: dict[str, dict[str, float]] = {}
        for mode in MODES:
            rounds = [
                (measure("limit", dsn, given.jobs, mode), measure("worker", dsn, given.jobs, mode))
                for _ in range(given.rounds)
            ]
            figures[mode] = {
                "limit": statistics.median(limit for limit, _ in rounds),
                "worker": statistics.median(worker for _, worker in rounds),
                "ratio": statistics.median(worker / limit for limit, worker in rounds),
            }
    if given.json:
        print(json.dumps({"jobs": given.jobs, "rounds": given.rounds, "per_second": figures}))
        return
    print(f"{given.jobs:,} no-op jobs, median of {given.rounds} rounds, jobs a second")
    for mode, figure in figures.items():
        bare, worker, ratio = figure["limit"], figure["worker"], figure["ratio"]
        print(f"{mode:<11} bare loop {bare:>8,.0f}   worker {worker:>8,.0f}   ratio {ratio:.2f}")
