"""Letting workers run a known set of jobs, and what every such run tells: rate, cost, and what was lost or doubled."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from benchmarks.ledgers import Tally
from benchmarks.trial import Trial
from benchmarks.workers import Workers

LIMIT = 60.0
SETTLED = 0.3
WRITTEN = 0.01
STUCK = 10.0


def work_off(
    trial: Trial,
    jobs: int,
    start: int = 0,
    *,
    processes: int = 1,
    limit: float = LIMIT,
    every: Callable[[Workers], None] = lambda workers: None,
) -> dict[str, Any]:
    """From just before the workers start until the last job has ended in the database, or `limit` seconds have passed.

    `every` is called again and again in the meantime.
    """
    before = trial.counters()
    with trial.workers(start + jobs, processes=processes) as workers:
        trial.unfinished()
        run = _Run(trial, workers, jobs, start, every)
        figures = run.measure(limit)
        tally = run.tally
    after = trial.counters()
    if before is not None and after is not None and tally.ran:
        figures |= after.since(before, tally.ran) | {"wal_bytes": figures["wal_bytes"]}
    return figures


class _Run:
    def __init__(self, trial: Trial, workers: Workers, jobs: int, start: int, every: Callable[[Workers], None]) -> None:
        self._trial = trial
        self._workers = workers
        self._jobs = jobs
        self._start = start
        self._every = every
        self._most = 0
        self._progressed = time.monotonic()
        self._ended_at = 0.0
        self.tally = Tally(0, jobs, 0)

    def measure(self, limit: float) -> dict[str, Any]:
        trial, workers, jobs = self._trial, self._workers, self._jobs
        postgres = trial.servers.postgres
        if trial.contender.boots:
            workers.go()
        worker_cpu, server_cpu, wal = workers.cpu(), trial.server.cpu(), postgres.wal()
        began = time.perf_counter()
        if not trial.contender.boots:
            workers.go()
        in_time = workers.until(self._all_ran, limit)
        if in_time:
            # The last outcomes are on their way. Under a held snapshot a question that comes too early costs the next
            # one a tenth of a second.
            time.sleep(WRITTEN)
            in_time = workers.until(self._all_ended, limit, rest=1)
        seconds = (self._ended_at or time.perf_counter()) - began
        worker_cpu, server_cpu, wal = workers.cpu() - worker_cpu, trial.server.cpu() - server_cpu, postgres.wal() - wal
        if in_time:
            # What runs a second time does so after the end.
            time.sleep(SETTLED)
        self.tally = workers.ledgers.tally(self._start, jobs)
        ran = max(1, self.tally.ran)
        return {
            "jobs": jobs,
            "rate": self.tally.ran / seconds,
            "seconds": seconds,
            "ran": self.tally.ran,
            "capped": not in_time,
            "lost": self.tally.lost if in_time else 0,
            "doubled": self.tally.doubled,
            "worker_us": worker_cpu / ran * 1e6,
            "server_us": server_cpu / ran * 1e6,
            "wal_bytes": round(wal / ran),
        }

    def _all_ended(self) -> bool:
        """By the time of the question: under a held snapshot the answer takes long, not by the contender's fault."""
        asked = time.perf_counter()
        if self._trial.unfinished() > 0:
            return False
        self._ended_at = asked
        return True

    def _all_ran(self) -> bool:
        """Or will run no more: jobs that the contender has ended without running them are lost."""
        self._every(self._workers)
        ran = self._workers.ledgers.ran(self._start, self._jobs)
        if ran > self._most:
            self._most, self._progressed = ran, time.monotonic()
        if time.monotonic() - self._progressed > STUCK and self._trial.unfinished() <= 0:
            return True
        return ran >= self._jobs and self._workers.ledgers.tally(self._start, self._jobs).lost == 0
