"""Two kinds of work at once: do e-mails wait for the images?"""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any

from benchmarks.scenarios.pickups import IDLE_BEFORE, arrivals
from benchmarks.trial import Trial
from benchmarks.workers import ContenderFailed, Workers

ENQUEUE = "select count(pgqueue.enqueue('image', jsonb_build_object('number', n))) from generate_series(1, %s) n"
LEFT = """
    select count(*) filter (where state = 'available'), count(*) filter (where errors is not null)
    from pgqueue.jobs where queue = 'images'
"""
EMAILS = {"default": 10}
IMAGES = {"images": 1}


def beside(trial: Trial, jobs: int, interval: float, images_queued: int, own_worker: bool) -> dict[str, Any]:
    """The pickup of e-mails, first with an empty queue of images, then with `images_queued` in it.

    An image is 15 to 20 ms of one processor, in a process of its own; one is worked on at a time, by the worker of the
    e-mails or, with `own_worker`, by another.
    """
    queues = [EMAILS, IMAGES] if own_worker else [{**EMAILS, **IMAGES}]
    with ExitStack() as stack:
        started = [stack.enter_context(trial.workers(2 * jobs, timed=True, queues=each)) for each in queues]
        for workers in started:
            workers.go()
        time.sleep(IDLE_BEFORE)
        emails = started[0]
        idle = _pickups(trial, emails, 0, jobs, interval)
        trial.connection.execute(ENQUEUE, [images_queued])
        loaded = _pickups(trial, emails, jobs, jobs, interval)
        [[left, failed]] = trial.connection.execute(LEFT).fetchall()
        if failed:
            raise ContenderFailed(f"{failed} images failed")
    return {
        "images": images_queued,
        "left": left,
        "own_worker": own_worker,
        "idle": idle,
        **loaded,
        "lost": idle["lost"] + loaded["lost"],
        "doubled": idle["doubled"] + loaded["doubled"],
    }


def _pickups(trial: Trial, workers: Workers, first: int, jobs: int, interval: float) -> dict[str, Any]:
    made = trial.paced(jobs, interval, first)
    return arrivals(workers, first, made["before"], made["after"])
