"""Enqueue and drain: bulk, worker processes, payloads, tasks that take time, failures, memory."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.scenarios.working import work_off
from benchmarks.trial import Trial
from benchmarks.workers import Workers

MEMORY_EVERY = 0.25


def enqueue_one(trial: Trial, jobs: int) -> dict[str, Any]:
    """One job after the other, each in a commit of its own."""
    server_cpu = trial.server.cpu()
    made = trial.one(jobs)
    return {
        "jobs": jobs,
        "rate": jobs / made["seconds"],
        "client_us": made["cpu"] / jobs * 1e6,
        "server_us": (trial.server.cpu() - server_cpu) / jobs * 1e6,
    }


def drain(
    trial: Trial, jobs: int, *, pad: int = 0, processes: int = 1, sleep: float = 0.0, failing: int = 0
) -> dict[str, Any]:
    """Enqueue all at once, settle, and let a fresh worker work them off."""
    trial.sleep, trial.failing = sleep, failing
    bulk = trial.bulk(jobs, pad=pad)
    trial.settle()
    return {"bulk": jobs / bulk, **work_off(trial, jobs, processes=processes)}


def memory(trial: Trial, jobs: int, limit: float) -> dict[str, Any]:
    """Resident memory of one worker process at a tenth of the jobs and at their end; the most in between."""
    trial.bulk(jobs)
    trial.settle()
    samples: list[tuple[int, int]] = []
    taken = 0.0

    def sample(workers: Workers) -> None:
        nonlocal taken
        if time.monotonic() - taken > MEMORY_EVERY:
            taken = time.monotonic()
            samples.append((workers.ledgers.ran(0, jobs), workers.memory()))

    figures = work_off(trial, jobs, limit=limit, every=sample)
    early = next((bytes for ran, bytes in samples if ran >= jobs // 10), samples[-1][1])
    return {
        **{name: figures[name] for name in ("jobs", "ran", "rate", "capped", "lost", "doubled")},
        "early_bytes": early,
        "late_bytes": samples[-1][1],
        "most_bytes": max(bytes for _, bytes in samples),
        "samples": samples,
    }
