"""Limits and serial keys while workers are killed: never exceeded, never out of order, nothing left behind."""

from __future__ import annotations

import random
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from pgqueue import NewJob
from tests.crash.fleet import LONG, Fleet, eventually
from tests.crash.shop import KEYED_AT_ONCE, app, keyed, ordered

pytestmark = pytest.mark.crash

JOBS, KEYS, SECONDS, KILL_EVERY = (50_000, 200, 0.05, 2.0) if LONG else (4_000, 20, 0.02, 0.7)


class Run(NamedTuple):
    """A run of a job, in nanoseconds of the host's clock; one that was killed lasts until its process was gone."""

    began: int
    ended: int
    limit: str
    n: int


def runs(fleet: Fleet) -> Iterator[Run]:
    """Of the overlap ledger, which the tasks keep themselves."""
    died = {worker.pid: worker.died_at for worker in fleet.workers}
    for path in fleet.folder.glob("*.overlap"):
        begun: dict[tuple[str, int], int] = {}
        for line in path.read_text().splitlines():
            at, what, limit, n = line.split()
            if what == "begin":
                begun[limit, int(n)] = int(at)
            else:
                yield Run(begun.pop((limit, int(n))), int(at), limit, int(n))
        gone = died[int(path.stem)]
        for (limit, number), began in begun.items():
            assert gone is not None, f"job {number} of {limit} never ended, and its process lives"
            yield Run(began, gone, limit, number)


def most_at_once(found: list[Run]) -> int:
    moments = sorted([(run.ended, -1) for run in found] + [(run.began, 1) for run in found])
    most = now = 0
    for _, change in moments:
        now += change
        most = max(most, now)
    return most


def test_the_ledger_sees_runs_that_overlap() -> None:
    assert most_at_once([Run(0, 10, "k", 1), Run(10, 20, "k", 2)]) == 1
    assert most_at_once([Run(0, 10, "k", 1), Run(9, 20, "k", 2), Run(19, 30, "k", 3)]) == 2


def test_killed_workers_exceed_no_limit_break_no_order_and_leave_no_place_taken(fleet: Fleet) -> None:
    chosen = random.Random(JOBS)
    jobs: list[NewJob] = []
    for n in range(JOBS // 2):
        # A few customers have most of the work.
        customer = int(KEYS * chosen.random() ** 3)
        jobs += [keyed.job(f"limit-{customer}", n, SECONDS), ordered.job(f"serial-{n % KEYS}", n, SECONDS)]
    workers = [fleet.start(queues=["limited:25"]) for _ in range(4)]
    acknowledged = {job.id for start in range(0, JOBS, 500) for job in app.enqueue_many(jobs[start : start + 500])}
    kills = 0
    while fleet.live() > JOBS / 50:
        threading.Event().wait(KILL_EVERY)
        victim = chosen.randrange(len(workers))
        workers[victim].kill()
        kills += 1
        workers[victim] = fleet.start(registered=False, queues=["limited:25"])
    fleet.drained(120)

    ended = fleet.assert_at_rest(acknowledged)
    assert set(ended.values()) <= {"completed", "failed"}
    by_limit: dict[str, list[Run]] = defaultdict(list)
    for run in runs(fleet):
        by_limit[run.limit].append(run)
    most = {limit: most_at_once(found) for limit, found in by_limit.items()}
    assert [count for limit, count in most.items() if limit.startswith("serial")] == [1] * KEYS
    assert max(count for limit, count in most.items() if limit.startswith("limit")) == 3
    assert most_at_once([run for limit, found in by_limit.items() if limit.startswith("limit") for run in found]) <= (
        KEYED_AT_ONCE
    )
    for limit, found in by_limit.items():
        if limit.startswith("serial"):
            order = [run.n for run in sorted(found)]
            assert order == sorted(order), f"{limit} ran in the order {order}"
    again = sum(
        count - 1 for count in Counter(run.limit + str(run.n) for found in by_limit.values() for run in found).values()
    )
    eventually(
        lambda: fleet.query("select name from {schema}.gates where taken + waiting + loose > 0") == [],
        "places are left",
    )
    assert again > 0, "no kill met a job that ran"
    for name, figure in {"jobs": JOBS, "kills": kills, "runs after a kill": again}.items():
        print(f"{name}: {figure}")
