"""Enqueues against what they cost at least: `python -m benchmarks.enqueue [--jobs N] [--rounds N] [--dsn DSN]`.

- one: `task.enqueue()` against a bare INSERT of such a row and its COMMIT on psycopg
- one alone: the same against an INSERT in autocommit, which is one round trip too
- bulk: `enqueue_many` of jobs that are made already against a bare COPY of the same rows, made already too
- bulk made: the same, with `task.job()` for each of them

Rounds alternate, each on an emptied table; the ratio is the median of the rounds' own ratios.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import psycopg

from benchmarks.drain import SCHEMA
from benchmarks.limit import SETTINGS
from pgqueue import PgQueue, migrate
from pgqueue.bench import bare
from pgqueue.dev import EmbeddedServer

SINGLES = 1_000
TURN = 10


class Bench:
    """An app, and a connection of its own for what is bare."""

    def __init__(self, dsn: str, jobs: int) -> None:
        self.jobs = jobs
        self.app = PgQueue(dsn, schema=SCHEMA)
        self.task = self.app.task(name="noop")(noop)
        self.conn = psycopg.connect(dsn, autocommit=True, prepare_threshold=1)
        self.committing = psycopg.connect(dsn, prepare_threshold=1)
        self.insert_alone = bare.inserting(self.conn, SCHEMA)
        self.insert = bare.inserting(self.committing, SCHEMA)

    def seconds(self, work: Callable[[], object]) -> float:
        self.conn.execute(f"truncate {SCHEMA}.jobs".encode())
        self.conn.execute("checkpoint")
        gc.collect()
        began = time.perf_counter()
        work()
        return time.perf_counter() - began

    def singles(self) -> dict[str, tuple[float, float]]:
        """In turns of a few, since what else happens on the machine weighs more than the difference."""
        work: list[Callable[[], object]] = [
            lambda: self.task.enqueue(1),
            lambda: self.insert(1),
            lambda: self.insert_alone(1),
        ]
        seconds = [0.0, 0.0, 0.0]
        self.conn.execute(f"truncate {SCHEMA}.jobs".encode())
        for _ in range(SINGLES // TURN):
            # Each leaves its neighbour something to pay for.
            for place in random.sample(range(len(work)), len(work)):
                began = time.perf_counter()
                for _ in range(TURN):
                    work[place]()
                seconds[place] += time.perf_counter() - began
        enqueued, committed, alone = (SINGLES / spent for spent in seconds)
        return {"one": (committed, enqueued), "one alone": (alone, enqueued)}

    def round(self) -> dict[str, tuple[float, float]]:
        """Rows a second, bare and ours, of each kind."""
        jobs = [self.task.job(number) for number in range(self.jobs)]
        blocks = list(bare.rows(range(self.jobs)))
        copied = self.jobs / self.seconds(lambda: bare.copy(self.conn, SCHEMA, blocks))
        bulk = self.jobs / self.seconds(lambda: self.app.enqueue_many(jobs))
        made = self.jobs / self.seconds(
            lambda: self.app.enqueue_many([self.task.job(number) for number in range(self.jobs)])
        )
        return {**self.singles(), "bulk": (copied, bulk), "bulk made": (copied, made)}

    def close(self) -> None:
        self.app.close()
        self.conn.close()
        self.committing.close()


async def noop(number: int) -> None: ...


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.enqueue", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dsn", help="a database of its own on your server: its schema pgqueue_benchmark is made anew")
    parser.add_argument("--json", action="store_true", help="one JSON line")
    given = parser.parse_args()
    with ExitStack() as stack:
        dsn = given.dsn or stack.enter_context(EmbeddedServer(settings=SETTINGS)).dsn
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute(f"drop schema if exists {SCHEMA} cascade".encode())
        migrate.upgrade(dsn, schema=SCHEMA)
        bench = Bench(dsn, given.jobs)
        bench.round()
        rounds = [bench.round() for _ in range(given.rounds)]
        bench.close()
    figures: dict[str, dict[str, Any]] = {
        kind: {
            "bare": statistics.median(found[kind][0] for found in rounds),
            "pgqueue": statistics.median(found[kind][1] for found in rounds),
            "ratios": [found[kind][1] / found[kind][0] for found in rounds],
        }
        for kind in rounds[0]
    }
    if given.json:
        print(json.dumps({"jobs": given.jobs, "rounds": given.rounds, "per_second": figures}))
        return
    print(f"{given.jobs:,} jobs, median of {given.rounds} rounds, rows a second")
    for kind, figure in figures.items():
        least, ours, ratio = figure["bare"], figure["pgqueue"], statistics.median(figure["ratios"])
        print(f"{kind:<10} bare {least:>9,.0f}   pgqueue {ours:>9,.0f}   ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
