"""An alert of rescues, over a worker's death and another's restart: said once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.crash.fleet import Fleet, eventually
from tests.crash.shop import wait_for

pytestmark = pytest.mark.crash

LOOKED = "select evaluated_at from {schema}.alerts"


def test_a_death_is_told_once_by_those_who_live_on_and_start_anew(fleet: Fleet, tmp_path: Path) -> None:
    dying = fleet.start(lease=1.0, alerts=True)
    job = wait_for.enqueue(str(tmp_path / "gate")).id
    eventually(lambda: fleet.noted("begin", job), "the job has not begun")
    others = [fleet.start(lease=1.0, alerts=True, queues=["alerts:5"]) for _ in range(2)]
    dying.kill()
    [paged] = eventually(lambda: fleet.noted("paged"), "nobody was told")

    for worker in others:
        assert worker.stop() == 0
    stopped_at = fleet.value("select clock_timestamp()")
    fleet.start(lease=1.0, alerts=True, queues=["alerts:5"])
    eventually(lambda: fleet.value(LOOKED) > stopped_at, "nobody has looked since")
    assert fleet.noted("paged") == [paged]
    assert fleet.query(
        "select args ->> 'status', count(*) from {schema}.all_jobs where queue = 'alerts' group by 1"
    ) == [("firing", 1)]
    assert fleet.value("select firing_since is not null from {schema}.alerts")
