"""A storm: two workers at work, and every second one of them dies and is replaced."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pgqueue import NewJob
from tests.crash.fleet import Fleet, eventually
from tests.crash.shop import app

WAITING = 300


@dataclass(frozen=True)
class Storm:
    """What was enqueued, and how often a kill met a worker with jobs in it."""

    acknowledged: set[int]
    kills: int
    hits: int


def storm(fleet: Fleet, jobs: Callable[[], Sequence[NewJob]], *, kills: int, lease: float = 2.0) -> Storm:
    """Kill one of two workers every second, `kills` times, with work for both all the time; then let all end."""
    pair = [fleet.start(lease=lease), fleet.start(lease=lease)]
    acknowledged: set[int] = set()
    over = threading.Event()

    def feed() -> None:
        while not over.wait(0.05):
            # Not all live ones: what dead workers held is rescued when a worker has lived for a lease.
            if fleet.value("select count(*) from {schema}.jobs where state = 'available'") < WAITING:
                acknowledged.update(job.id for job in app.enqueue_many(jobs()))

    feeder = threading.Thread(target=feed)
    feeder.start()
    try:
        hits = 0
        following = time.monotonic()
        for n in range(kills):
            following += 1.0
            over.wait(following - time.monotonic())
            victim = pair[n % 2]
            eventually(lambda victim=victim: fleet.running_in(victim), "the worker runs nothing")  # type: ignore[misc]
            victim.kill()
            hits += bool(fleet.running_in(victim))
            pair[n % 2] = fleet.start(lease=lease, registered=False)
    finally:
        over.set()
        feeder.join()
    fleet.drained(120)
    return Storm(acknowledged, kills, hits)
