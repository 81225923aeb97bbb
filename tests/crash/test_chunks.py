"""kill -9 while chunks are gathered and run: nothing is lost, done twice in the database, or blamed on the innocent."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.crash.fleet import LONG, Fleet, eventually
from tests.crash.shop import bulk, charge_many
from tests.crash.storm import storm

pytestmark = pytest.mark.crash


def test_workers_that_are_killed_lose_no_job_of_a_chunk_and_commit_none_twice(fleet: Fleet) -> None:
    fleet.query("create table charges (job_id bigint not null)")
    jobs = [bulk.job(0.1), charge_many.job(0.1)] * 50
    result = storm(fleet, lambda: jobs, kills=30 if LONG else 5)

    ended = fleet.assert_at_rest(result.acknowledged)
    assert not fleet.unexplained()
    assert {entry.job_id for entry in fleet.noted("begin")} == set(ended)
    effects = Counter(job_id for (job_id,) in fleet.query("select job_id from charges"))
    assert set(effects.values()) == {1}
    charged = fleet.query("select id from {schema}.completed_jobs where task = %s", charge_many.name)
    assert effects.keys() == {job_id for (job_id,) in charged}
    assert result.hits > 0


def test_a_job_that_kills_its_worker_hurts_no_other_of_its_chunk(fleet: Fleet) -> None:
    fleet.start(queues=["nothing"], lease=1.0)
    innocent = [bulk.enqueue().id for _ in range(4)]
    poison = bulk.enqueue(kills=True).id

    def keep_a_worker() -> bool:
        if not any(worker.alive for worker in fleet.workers[1:]):
            fleet.start(registered=False, lease=1.0)  # It may be dead before anybody sees its row.
        return fleet.live() == 0

    eventually(keep_a_worker, "the poison job lives", 120)

    assert fleet.query("select id, reason, crashes, attempt, error_type from {schema}.failed_jobs") == [
        (poison, "crashed", 3, 3, "pgqueue.errors.ProcessCrashed")
    ]
    completed = fleet.query("select id, attempt, errors from {schema}.completed_jobs order by id")
    assert completed == [(id_, 1, None) for id_ in innocent]
    assert len(fleet.noted("begin", poison)) == 5
