"""kill -9: what a worker held is taken over, and nothing is lost, left or blamed on the innocent."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from tests.crash.fleet import FINISHES_WAITING, LONG, Fleet, eventually
from tests.crash.shop import charge, charge_async, crash_own_process, kill_own_worker, order, wait_for
from tests.crash.storm import storm

pytestmark = pytest.mark.crash


def test_a_worker_killed_every_second_loses_no_job(
    fleet: Fleet, record_property: Callable[[str, object], None]
) -> None:
    result = storm(fleet, lambda: [order.job(0.06) for _ in range(100)], kills=60 if LONG else 8)

    ended = fleet.assert_at_rest(result.acknowledged)
    assert not fleet.unexplained()
    begun = Counter(entry.job_id for entry in fleet.noted("begin"))
    assert set(begun) == set(ended)
    blamed = {id_: int(crashes) for id_, crashes in fleet.query("select id, crashes from {schema}.failed_jobs")}
    assert set(blamed.values()) <= {3}
    assert {id_ for id_, state in ended.items() if state == "failed"} == set(blamed)
    for id_, attempt in fleet.query("select id, attempt from {schema}.completed_jobs"):
        assert 1 <= attempt <= 3, id_
    if LONG:
        assert result.hits >= 50
    for name, figure in {
        "kills": result.kills,
        "kills that hit running jobs": result.hits,
        "jobs": len(ended),
        "failed after three crashes": len(blamed),
        "rescues": len(fleet.noted("rescued")),
        "jobs that ran more than once": sum(1 for count in begun.values() if count > 1),
    }.items():
        record_property(name, figure)
        print(f"{name}: {figure}")


def test_a_transactional_job_has_one_effect_however_often_it_is_killed(fleet: Fleet) -> None:
    fleet.query("create table charges (job_id bigint not null)")
    jobs = [charge.job(0.05), charge_async.job(0.05)] * 20
    result = storm(fleet, lambda: jobs, kills=20 if LONG else 5)

    ended = fleet.assert_at_rest(result.acknowledged)
    effects = Counter(job_id for (job_id,) in fleet.query("select job_id from charges"))
    assert set(effects.values()) == {1}
    assert effects.keys() == {job_id for job_id, state in ended.items() if state == "completed"}
    assert result.hits > 0


def test_a_job_that_kills_its_worker_fails_after_three_crashes_and_hurts_no_other(fleet: Fleet) -> None:
    fleet.start(queues=["nothing"], lease=1.0)
    poison = kill_own_worker.enqueue(5).id
    innocent = [order.enqueue(0.3).id for _ in range(5)]

    def keep_a_worker() -> bool:
        if not any(worker.alive for worker in fleet.workers[1:]):
            fleet.start(registered=False, lease=1.0)  # It may be dead before anybody sees its row.
            if len(fleet.noted("begin", poison)) >= 2:
                Path(fleet.folder, "alone").touch()
        return fleet.live() == 0

    eventually(keep_a_worker, "the poison job lives", 120)

    assert fleet.query("select id, reason, crashes, attempt, error_type from {schema}.failed_jobs") == [
        (poison, "crashed", 3, 3, "pgqueue.errors.ProcessCrashed")
    ]
    completed = fleet.query("select id, attempt, errors from {schema}.completed_jobs order by id")
    assert completed == [(id_, 1, None) for id_ in innocent]
    deaths = sum(1 for worker in fleet.workers if not worker.alive)
    assert deaths == len(fleet.noted("begin", poison)) == 5


def test_a_process_that_segfaults_loses_only_its_own_job(fleet: Fleet) -> None:
    worker = fleet.start()
    crashing = crash_own_process.enqueue().id
    others = [order.enqueue(0.05).id for _ in range(20)]
    fleet.drained()

    assert worker.alive
    assert fleet.query("select id, reason, crashes, attempt from {schema}.failed_jobs") == [(crashing, "crashed", 3, 3)]
    assert fleet.query("select id, attempt from {schema}.completed_jobs order by id") == [(id_, 1) for id_ in others]
    assert not fleet.unexplained().keys() - {crashing}


def test_a_worker_killed_while_idle_leaves_nothing(fleet: Fleet) -> None:
    idle, other = fleet.start(lease=1.0), fleet.start(lease=1.0)
    idle.kill()
    job = order.enqueue().id

    fleet.assert_at_rest_soon([job])
    assert [entry.pid for entry in fleet.noted("begin")] == [other.pid]


def test_a_worker_killed_while_it_stops_loses_no_job(fleet: Fleet, tmp_path: Path) -> None:
    stopping = fleet.start(lease=1.0)
    job = wait_for.enqueue(str(tmp_path / "gate")).id
    eventually(lambda: fleet.noted("begin", job), "the job has not begun")
    stopping.signal(signal.SIGTERM)
    eventually(lambda: fleet.value("select state from {schema}.workers") == "stopping", "it is not stopping")
    stopping.kill()
    other = fleet.start(lease=1.0)
    fleet.open_gate(tmp_path / "gate", other)

    fleet.assert_at_rest_soon([job])
    assert [entry.pid for entry in fleet.noted("end")] == [other.pid]


def test_a_worker_killed_before_its_finish_was_written_has_its_job_run_again(fleet: Fleet) -> None:
    dying = fleet.start(lease=1.0)
    with psycopg.connect(fleet.dsn) as locker:
        locker.execute("lock table pgqueue.completed_jobs in access exclusive mode")
        job = order.enqueue().id
        eventually(lambda: fleet.noted("end", job), "the job has not run")
        eventually(lambda: fleet.value(FINISHES_WAITING), "no finish is in flight")
        dying.kill()
        eventually(lambda: not fleet.value(FINISHES_WAITING), "the finish of the dead worker still waits")
    other = fleet.start(lease=1.0)

    fleet.assert_at_rest_soon([job])
    assert {entry.pid for entry in fleet.noted("end", job)} == {dying.pid, other.pid}
    assert fleet.value("select result::int from {schema}.completed_jobs") == other.pid


def test_a_worker_killed_after_its_finish_was_written_has_its_claim_removed(fleet: Fleet, tmp_path: Path) -> None:
    dying = fleet.start(lease=1.0)
    job = wait_for.enqueue(str(tmp_path / "gate")).id
    eventually(lambda: fleet.noted("begin", job), "the job has not begun")
    with psycopg.connect(fleet.dsn) as locker:
        locker.execute("select from pgqueue.claims for update")
        fleet.open_gate(tmp_path / "gate", dying)
        fleet.drained()
        dying.kill()
    fleet.start(lease=1.0)

    assert fleet.assert_at_rest_soon([job]) == {job: "completed"}
    assert len(fleet.noted("begin", job)) == 1
