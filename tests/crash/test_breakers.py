"""Circuit breakers across real worker processes: what begins while one is open, counted by the tasks themselves."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from pgqueue.client.breakers import BreakerRow
from tests.crash.fleet import LONG, Fleet, WorkerProcess, eventually
from tests.crash.shop import OPEN_FOR, app, fragile, order

pytestmark = pytest.mark.crash

JOBS, TRIALS = (20_000, 20) if LONG else (2_000, 3)
# Half of the workers hear of nothing, and learn how the breaker is from the tables, once a second.
LISTEN = [True, False, True, False]


class Start(NamedTuple):
    """The start of an attempt, in nanoseconds of the host's clock, as the task itself has noted it."""

    at: int
    job_id: int
    attempt: int
    pid: int

    @property
    def run(self) -> tuple[int, int]:
        return self.job_id, self.attempt


def starts(fleet: Fleet) -> list[Start]:
    found = []
    for path in fleet.folder.glob("*.overlap"):
        for line in path.read_text().splitlines():
            at, what, job_id, attempt = line.split()
            if what == "begin":
                found.append(Start(int(at), int(job_id), int(attempt), int(path.stem)))
    return sorted(found)


def breaker() -> BreakerRow:
    [row] = app.breakers.list()
    return row


class Opened(NamedTuple):
    """A moment at which the breaker is open, and the runs that had been claimed when it opened."""

    at: int
    trials: int
    claimed: set[tuple[int, int]]


def opened(fleet: Fleet) -> Opened | None:
    before = breaker()
    if before.state != "open":
        return None
    # Whatever was under way when it opened, a claim that had not seen it among them, has ended.
    now = fleet.value("select pg_current_xact_id()::text::bigint")
    eventually(
        lambda: fleet.value("select pg_snapshot_xmin(pg_current_snapshot())::text::bigint") > now, "a transaction lasts"
    )
    # Who has a place has it at the breaker: it is the next that is tried, and has not begun.
    found = fleet.query(
        "select id, attempt from {schema}.jobs where task = %s and state = 'running' and places is null", fragile.name
    )
    moment = time.monotonic_ns()
    after = breaker()
    still = after.state == "open" and after.opened_at == before.opened_at
    return Opened(moment, after.trials, {(id_, attempt) for id_, attempt in found}) if still else None


def test_nothing_begins_while_it_is_open_and_one_job_is_tried_at_a_time(fleet: Fleet) -> None:
    down = Path(fleet.folder, "down")
    down.touch()
    for listen in LISTEN:
        fleet.start(queues=["fragile:10", "orders:2"], listen=listen)
    jobs = [job.id for _ in range(0, JOBS, 500) for job in app.enqueue_many([fragile.job()] * 500)]
    first = eventually(lambda: opened(fleet), "it did not open")
    assert first is not None
    # The work of others goes on meanwhile.
    others = [job.id for job in app.enqueue_many([order.job() for _ in range(50)])]
    eventually(
        lambda: fleet.value("select count(*) from {schema}.completed_jobs where task like '%order'") == 50,
        "the other queue stands still",
    )

    def tried() -> BreakerRow | None:
        row = breaker()
        return row if row.trials >= first.trials + TRIALS and row.state == "open" else None

    last = eventually(tried, "no job is tried")
    assert last is not None
    trials = last.trials - first.trials
    later = [start for start in starts(fleet) if start.at > first.at and start.run not in first.claimed]
    # Another one may have begun since then.
    assert trials <= len(later) <= trials + 1
    pauses = [after.at - before.at for before, after in pairwise(later)]
    assert min(pauses) >= OPEN_FOR * 1e9

    down.unlink()
    ended = fleet.assert_at_rest_soon([*jobs, *others])
    assert set(ended.values()) == {"completed"}
    row = breaker()
    assert (row.state, row.blocked, row.trials) == ("closed", 0, 0)
    begun: dict[int, list[int]] = {id_: [] for id_ in jobs}
    for start in starts(fleet):
        begun[start.job_id].append(start.attempt)
    attempts = dict(fleet.query("select id, attempt from {schema}.completed_jobs"))
    # What was given back before it began has used no attempt, and each attempt began once.
    assert {id_: attempts[id_] for id_ in jobs} == {id_: len(found) for id_, found in begun.items()}
    assert all(sorted(found) == list(range(1, len(found) + 1)) for found in begun.values())
    assert fleet.query("select name from {schema}.gates where taken + waiting + loose > 0") == []
    figures = {"jobs": JOBS, "runs": sum(map(len, begun.values())), "trials": len(later), "claimed": len(first.claimed)}
    for name, figure in figures.items():
        print(f"{name}: {figure}")


@pytest.mark.parametrize("alone", [True, False], ids=["it ran alone", "it ran beside others"])
def test_another_job_is_tried_when_the_worker_of_the_first_was_killed(fleet: Fleet, alone: bool) -> None:
    hangs = Path(fleet.folder, "hangs")
    for listen in LISTEN[:2]:
        fleet.start(queues=["fragile:10", "orders:10"], listen=listen)
    by_pid: dict[int, WorkerProcess] = {worker.pid: worker for worker in fleet.workers}
    app.breakers.open(task=fragile.name)
    jobs = [job.id for job in app.enqueue_many([fragile.job()] * 20)]
    eventually(lambda: breaker().blocked == 20, "they wait")
    hangs.touch()
    app.breakers.reset(task=fragile.name)
    [first] = eventually(lambda: starts(fleet), "no job is tried")
    if not alone:
        jobs += [job.id for job in app.enqueue_many([order.job(1.0) for _ in range(20)])]
        eventually(lambda: len(fleet.running_in(by_pid[first.pid])) >= 5, "nothing runs beside it")
    by_pid[first.pid].kill()
    hangs.unlink()
    ended = fleet.assert_at_rest_soon(jobs)
    assert set(ended.values()) == {"completed"}
    assert breaker().state == "closed"
    found = starts(fleet)
    assert len(found) == 21
    assert {start.pid for start in found[1:]} == {worker.pid for worker in fleet.workers if worker.alive}
    eventually(
        lambda: fleet.query("select name from {schema}.gates where taken + waiting + loose > 0") == [],
        "the place of the dead is still taken",
    )
