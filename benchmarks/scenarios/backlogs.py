"""Millions of jobs that wait: does the next one cost more?"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import psycopg

from benchmarks.scenarios.working import LIMIT
from benchmarks.spread import percentiles
from benchmarks.trial import Trial
from benchmarks.workers import ContenderFailed
from pgqueue.bench.bare import ClaimLoop
from pgqueue.database import Database

PIECE = 1_000_000
FAR = 86_400.0
LEAD = 5.0
ENQUEUES_A_SECOND = 5_000


def fill(trial: Trial, jobs: int, start: int = 0, **given: Any) -> float:
    """Enqueue in pieces that fit into a producer's memory; returns seconds."""
    pieces = range(start, start + jobs, PIECE)
    return sum(trial.bulk(min(PIECE, start + jobs - first), start=first, **given) for first in pieces)


def claims(trial: Trial, backlog: int, count: int, batch: int) -> dict[str, Any]:
    """Milliseconds of pgqueue's claim alone, first to last of `count` in a row, before `backlog` queued jobs."""
    seconds = fill(trial, backlog)
    trial.settle()
    measured = [each * 1000 for each in _claim_seconds(trial.dsn, count, batch)]
    return {"backlog": backlog, "fill": backlog / seconds, "claims": len(measured), "ms": percentiles(measured)}


def _claim_seconds(dsn: str, count: int, batch: int) -> Iterator[float]:
    """How long each of `count` claims of `batch` jobs took, from the front of the queue."""
    with psycopg.connect(dsn, autocommit=True, **Database(dsn).session_options("benchmark")) as conn:
        loop = ClaimLoop(conn, "pgqueue")
        for _ in range(count):
            began = time.perf_counter()
            jobs = loop.claim(batch)
            yield time.perf_counter() - began
            if len(jobs) < batch:
                raise ContenderFailed(f"a claim of {batch} jobs found {len(jobs)}")


def backlog(trial: Trial, backlog: int, jobs: int) -> dict[str, Any]:
    """The rate of the first `jobs` of `backlog` queued ones, by a fresh worker."""
    fill(trial, backlog)
    trial.settle()
    near = min(backlog, 4 * jobs)
    with trial.workers(backlog) as workers:
        began = time.perf_counter()
        workers.go()
        workers.until(lambda: workers.ledgers.ran(0, near) >= jobs, LIMIT)
        seconds = time.perf_counter() - began
        ran = workers.ledgers.ran(0, near)
        doubled = workers.ledgers.tally(0, backlog).doubled
    return {"backlog": backlog, "jobs": jobs, "rate": ran / seconds, "capped": ran < jobs, "doubled": doubled}


def scheduled(trial: Trial, waiting: int, a_second: int, seconds: int) -> dict[str, Any]:
    """How late jobs begin that become due at `a_second`, while `waiting` others are due tomorrow, in milliseconds."""
    jobs = a_second * seconds
    fill(trial, waiting, start=jobs, due=time.time() + FAR, step=0.001)
    trial.settle()
    due = time.time() + LEAD + jobs / ENQUEUES_A_SECOND
    trial.bulk(jobs, due=due, step=1 / a_second)
    if time.time() > due:
        raise ContenderFailed(f"to enqueue {jobs} jobs took until after the first was due")
    server_cpu = trial.server.cpu()
    with trial.workers(jobs, timed=True) as workers:
        workers.go()
        workers.until(lambda: workers.ledgers.ran(0, jobs) >= jobs, due - time.time() + seconds + LIMIT)
        since_boot = time.time_ns() - time.monotonic_ns()
        times = workers.ledgers.times(0, jobs)
        tally = workers.ledgers.tally(0, jobs)
    late = [(at + since_boot) / 1e6 - (due + n / a_second) * 1000 for n, at in enumerate(times) if at]
    return {
        "waiting": waiting,
        "a_second": a_second,
        "jobs": jobs,
        "lost": tally.lost,
        "doubled": tally.doubled,
        "early": sum(each < 0 for each in late),
        "ms": percentiles(late) if late else None,
        "server_us": (trial.server.cpu() - server_cpu) / jobs * 1e6,
    }
