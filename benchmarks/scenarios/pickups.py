"""How long an idle worker takes to begin a job that another process enqueues."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from benchmarks.trial import Trial

IDLE_BEFORE = 1.5
ARRIVAL_LIMIT = 15.0
BOOT = 5.0
KNOTS = (50, 95, 99)


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """p50, p95, p99 and max, interpolated."""
    ordered = sorted(values)
    found = {}
    for knot in KNOTS:
        place = (len(ordered) - 1) * knot / 100
        low = int(place)
        high = min(low + 1, len(ordered) - 1)
        found[f"p{knot}"] = ordered[low] + (ordered[high] - ordered[low]) * (place - low)
    return {**found, "max": ordered[-1]}


def pickup(trial: Trial, jobs: int, interval: float) -> dict[str, Any]:
    """Milliseconds from just before the enqueue call, and from its end, to the first line of the task."""
    with trial.workers(jobs, timed=True) as workers:
        if trial.contender.boots:
            time.sleep(BOOT)
        else:
            workers.go()
            time.sleep(IDLE_BEFORE)
        made = trial.paced(jobs, interval)
        workers.until(lambda: workers.ledgers.ran(0, jobs) >= jobs, ARRIVAL_LIMIT)
        time.sleep(0.05)
        times = workers.ledgers.times(0, jobs)
        tally = workers.ledgers.tally(0, jobs)
    ran = [number for number, at in enumerate(times) if at]
    if not ran:
        return {"jobs": jobs, "lost": tally.lost, "doubled": tally.doubled}
    return {
        "jobs": jobs,
        "lost": tally.lost,
        "doubled": tally.doubled,
        "ms": percentiles([(times[n] - made["before"][n]) / 1e6 for n in ran]),
        "after_ms": percentiles([(times[n] - made["after"][n]) / 1e6 for n in ran]),
        "enqueue_ms": percentiles([(made["after"][n] - made["before"][n]) / 1e6 for n in ran]),
    }
