"""How long an idle worker takes to begin a job that another process enqueues."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.spread import percentiles
from benchmarks.trial import Trial

IDLE_BEFORE = 1.5
ARRIVAL_LIMIT = 15.0
BOOT = 5.0


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
    samples = [(times[n] - made["before"][n]) / 1e6 for n in ran]
    after = [(times[n] - made["after"][n]) / 1e6 for n in ran]
    return {
        "jobs": jobs,
        "lost": tally.lost,
        "doubled": tally.doubled,
        "ms": percentiles(samples),
        "after_ms": percentiles(after),
        "samples": [round(each, 3) for each in samples],
        "after_samples": [round(each, 3) for each in after],
    }
