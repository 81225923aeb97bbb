"""How long an idle worker takes to begin a job that another process enqueues."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from benchmarks.spread import percentiles
from benchmarks.trial import Trial
from benchmarks.workers import Workers

IDLE_BEFORE = 1.5
ARRIVAL_LIMIT = 15.0
BOOT = 5.0
SETTLED = 0.05


def pickup(trial: Trial, jobs: int, interval: float) -> dict[str, Any]:
    """Milliseconds from just before the enqueue call, and from its end, to the first line of the task."""
    with trial.workers(jobs, timed=True) as workers:
        if trial.contender.boots:
            time.sleep(BOOT)
        else:
            workers.go()
            time.sleep(IDLE_BEFORE)
        made = trial.paced(jobs, interval)
        return arrivals(workers, 0, made["before"], made["after"])


def arrivals(workers: Workers, first: int, since: Sequence[int], after: Sequence[int] | None = None) -> dict[str, Any]:
    """Of the jobs from number `first` on: milliseconds since, and after, those times to the task's first line.

    The times are nanoseconds of the monotonic clock, one a job. A job that began before counts 0.
    """
    jobs = len(since)
    workers.until(lambda: workers.ledgers.ran(first, jobs) >= jobs, ARRIVAL_LIMIT)
    time.sleep(SETTLED)
    tally = workers.ledgers.tally(first, jobs)
    times = workers.ledgers.times(first, jobs)
    found: dict[str, Any] = {"jobs": jobs, "lost": tally.lost, "doubled": tally.doubled}
    for prefix, moments in (("", since), ("after_", after)):
        if moments is None or tally.ran == 0:
            continue
        samples = [max(0.0, at - moment) / 1e6 for at, moment in zip(times, moments, strict=True) if at]
        found[f"{prefix}ms"] = percentiles(samples)
        found[f"{prefix}samples"] = [round(each, 3) for each in samples]
    return found
