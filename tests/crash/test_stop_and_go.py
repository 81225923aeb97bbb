"""Workers that stand still: stopped by SIGSTOP, blocked in their event loop, or asked to stop."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psycopg
import pytest

from tests.crash.fleet import FINISHES_WAITING, Fleet, WorkerProcess, eventually
from tests.crash.shop import app, block_the_loop, order, wait_for

pytestmark = pytest.mark.crash


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    return tmp_path / "gate"


def start_a_run(fleet: Fleet, gate: Path) -> tuple[WorkerProcess, int]:
    """A worker that runs one job behind the gate."""
    worker = fleet.start(lease=1.0)
    job = wait_for.enqueue(str(gate)).id
    eventually(lambda: fleet.noted("begin", job, worker.pid), "the job has not begun")
    return worker, job


def stop_and_replace(fleet: Fleet, stopped: WorkerProcess, job: int) -> WorkerProcess:
    """SIGSTOP it for longer than its lease; another worker, which has taken its job and runs it."""
    os.kill(stopped.pid, signal.SIGSTOP)
    other = fleet.start(lease=1.0)
    eventually(lambda: fleet.noted("begin", job, other.pid), "the job was not rescued")
    return other


def works_on(fleet: Fleet, worker: WorkerProcess, other: WorkerProcess) -> None:
    """After its return it has another id, and runs jobs that nobody else could."""
    eventually(lambda: fleet.is_registered(worker), "it has not registered anew")
    assert other.stop() == 0
    job = order.enqueue().id
    eventually(lambda: fleet.noted("end", job, worker.pid), "it does not work on")
    fleet.drained()


def test_a_worker_stopped_past_its_lease_cannot_finish_a_job_that_another_runs(fleet: Fleet, gate: Path) -> None:
    stopped, job = start_a_run(fleet, gate)
    other = stop_and_replace(fleet, stopped, job)
    before = fleet.query("select state, attempt, claim_id from {schema}.jobs")
    fleet.open_gate(gate, stopped)
    os.kill(stopped.pid, signal.SIGCONT)
    eventually(lambda: stopped.says("outcomes were refused"), "no stale finish was refused")

    assert fleet.query("select state, attempt, claim_id from {schema}.jobs") == before
    fleet.open_gate(gate, other)
    fleet.drained()
    assert fleet.query("select id, state, attempt, result::int from {schema}.completed_jobs") == [
        (job, "completed", 2, other.pid)
    ]
    works_on(fleet, stopped, other)


def test_a_worker_stopped_with_a_finish_in_hand_cannot_write_it_later(fleet: Fleet, gate: Path) -> None:
    stopped, job = start_a_run(fleet, gate)
    with psycopg.connect(fleet.dsn) as locker:
        locker.execute("select from pgqueue.jobs for update")
        fleet.open_gate(gate, stopped)
        eventually(lambda: fleet.noted("end", job), "the first run has not ended")
        os.kill(stopped.pid, signal.SIGSTOP)
        eventually(lambda: not fleet.value(FINISHES_WAITING), "its finish still waits for the lock")
    other = stop_and_replace(fleet, stopped, job)
    before = fleet.query("select state, attempt, claim_id from {schema}.jobs")
    os.kill(stopped.pid, signal.SIGCONT)
    eventually(lambda: stopped.says("outcomes were refused"), "no stale finish was refused")

    assert fleet.query("select state, attempt, claim_id from {schema}.jobs") == before
    fleet.open_gate(gate, other)
    fleet.drained()
    assert fleet.query("select id, state, attempt, result::int from {schema}.completed_jobs") == [
        (job, "completed", 2, other.pid)
    ]
    works_on(fleet, stopped, other)


def test_a_worker_that_comes_back_when_the_job_has_ended_changes_nothing(fleet: Fleet, gate: Path) -> None:
    stopped, job = start_a_run(fleet, gate)
    other = stop_and_replace(fleet, stopped, job)
    fleet.open_gate(gate, other)
    fleet.drained()
    before = fleet.query("select * from {schema}.completed_jobs")
    fleet.open_gate(gate, stopped)
    os.kill(stopped.pid, signal.SIGCONT)
    eventually(lambda: stopped.says("outcomes were refused"), "no stale finish was refused")

    assert fleet.query("select * from {schema}.completed_jobs") == before
    works_on(fleet, stopped, other)


def test_a_blocked_event_loop_does_not_lose_its_jobs(fleet: Fleet, gate: Path) -> None:
    blocked, beside = start_a_run(fleet, gate)
    fleet.start(lease=1.0, queues=["nothing"])
    job = block_the_loop.enqueue(str(gate)).id
    eventually(lambda: fleet.noted("begin", job, blocked.pid), "the loop is not blocked")
    fleet.follow_heartbeats(blocked, 10)
    assert not fleet.noted("end")
    gate.touch()
    fleet.open_gate(gate, blocked)

    assert fleet.assert_at_rest_soon([beside, job]) == {beside: "completed", job: "completed"}
    assert not fleet.unexplained()
    assert not fleet.noted("rescued")


def test_an_event_loop_blocked_beyond_the_limit_loses_its_jobs(fleet: Fleet, gate: Path) -> None:
    blocked = fleet.start(lease=1.0, blocked_limit=1.0)
    job = block_the_loop.enqueue(str(gate)).id
    eventually(lambda: fleet.noted("begin", job, blocked.pid), "the job has not begun")
    other = fleet.start(lease=1.0)
    eventually(lambda: fleet.noted("end", job, other.pid), "the job was not rescued")
    fleet.drained()
    gate.touch()
    eventually(lambda: blocked.says("outcomes were refused"), "no stale finish was refused")

    assert fleet.query("select attempt, result::int from {schema}.completed_jobs") == [(2, other.pid)]
    works_on(fleet, blocked, other)


def test_a_graceful_stop_gives_prefetched_jobs_back_at_once_and_lets_running_ones_end(fleet: Fleet, gate: Path) -> None:
    worker, long, waiting = start_with_prefetched_jobs(fleet, gate)
    worker.signal(signal.SIGTERM)
    eventually(lambda: states(fleet, waiting) == {("available", 0)}, "the prefetched jobs were not given back")
    assert states(fleet, long) == {("running", 1)}
    assert worker.alive

    fleet.open_gate(gate, worker)
    assert worker.process.wait(20) == 0
    assert states(fleet, long) == {("completed", 1)}
    assert states(fleet, waiting) == {("available", 0)}
    assert not fleet.query("select from {schema}.claims union all select from {schema}.workers")


def test_a_second_signal_gives_running_jobs_back_without_using_an_attempt(fleet: Fleet, gate: Path) -> None:
    worker, long, waiting = start_with_prefetched_jobs(fleet, gate)
    worker.signal(signal.SIGTERM)
    eventually(lambda: fleet.value("select state from {schema}.workers") == "stopping", "it is not stopping")
    worker.signal(signal.SIGTERM)

    assert worker.process.wait(20) == 0
    assert states(fleet, long + waiting) == {("available", 0)}
    assert not fleet.noted("end", long[0])
    assert not fleet.query("select from {schema}.claims union all select from {schema}.workers")


def start_with_prefetched_jobs(fleet: Fleet, gate: Path) -> tuple[WorkerProcess, list[int], list[int]]:
    """A worker of two slots that was fast, and so has claimed ahead; its running jobs, and its waiting ones."""
    worker = fleet.start(queues=["orders:2"], lease=2.0)
    for _ in range(60):
        order.enqueue()
    fleet.drained()
    jobs = [job.id for job in app.enqueue_many([wait_for.job(str(gate)) for _ in range(12)])]
    query = "select job_ids from {schema}.claims where %s = any (job_ids)"
    [(held,)] = eventually(lambda: fleet.query(query, jobs[0]), "nothing was claimed")
    assert len(held) > 2, "the worker has not claimed ahead"
    eventually(lambda: len(fleet.noted("begin", pid=worker.pid)) == 62, "not all slots are taken")
    return worker, jobs[:2], jobs[2:]


def states(fleet: Fleet, jobs: list[int]) -> set[tuple[str, int]]:
    return set(fleet.query("select state, attempt from {schema}.all_jobs where id = any(%s)", jobs))
