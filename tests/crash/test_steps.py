"""kill -9 between steps and within calls: what has committed is not done again, and what is held comes free."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from uuid import uuid4

import pytest

from pgqueue import NewJob, Task
from tests.crash.fleet import LONG, Fleet, eventually
from tests.crash.shop import (
    charge_once,
    export,
    step_in_a_coroutine,
    step_in_a_process,
    step_in_a_thread,
    steps_and_charges,
)
from tests.crash.storm import storm

pytestmark = pytest.mark.crash


@pytest.mark.parametrize("task", [step_in_a_coroutine, step_in_a_thread, step_in_a_process], ids=lambda task: task.name)
def test_a_worker_killed_between_steps_has_the_next_one_go_on_behind_them(
    fleet: Fleet, tmp_path: Path, task: Task[[str], None]
) -> None:
    gate = tmp_path / "gate"
    dying = fleet.start(lease=1.0)
    job = task.enqueue(str(gate)).id
    eventually(lambda: fleet.noted("waits", job), "the job has not come to its gate")
    dying.kill()
    fleet.start(lease=1.0)
    gate.touch()

    assert fleet.assert_at_rest_soon([job]) == {job: "completed"}
    did = Counter(entry.what for entry in fleet.ledger())
    assert did == {"first": 1, "second": 1, "waits": 2, "third": 1, **({"rescued": 1} if did["rescued"] else {})}
    [third] = fleet.noted("third")
    assert third.attempt == 2
    eventually(lambda: fleet.value("select count(*) from {schema}.job_steps") == 0, "steps are left")


def test_a_worker_killed_within_a_call_leaves_its_key_to_the_next_one(fleet: Fleet, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    dying = fleet.start(lease=1.0)
    first = charge_once.enqueue("order-7", str(gate)).id
    eventually(lambda: fleet.noted("calls", first), "nobody calls")
    other = fleet.start(lease=1.0)
    second = charge_once.enqueue("order-7", str(gate)).id
    eventually(lambda: fleet.noted("asks", second), "the second job has not begun")
    assert not fleet.noted("calls", second)
    dying.kill()
    eventually(lambda: len(fleet.noted("calls")) == 2, "the key is held by the dead")
    gate.touch()

    assert set(fleet.assert_at_rest_soon([first, second]).values()) == {"completed"}
    assert Counter(entry.pid for entry in fleet.noted("calls")) == {dying.pid: 1, other.pid: 1}
    assert fleet.value("select result::int from {schema}.effects") == other.pid


def test_a_step_that_writes_in_its_transaction_writes_once_however_often_it_is_killed(fleet: Fleet) -> None:
    fleet.query("create table charges (job_id bigint not null)")
    result = storm(fleet, lambda: [steps_and_charges.job(0.03) for _ in range(20)], kills=20 if LONG else 5)

    ended = fleet.assert_at_rest(result.acknowledged)
    effects = Counter(job_id for (job_id,) in fleet.query("select job_id from charges"))
    completed = {job_id for job_id, state in ended.items() if state == "completed"}
    assert set(effects.values()) == {1}
    assert effects.keys() >= completed
    assert result.hits > 0


def test_a_chain_of_parts_goes_on_exactly_once_however_often_it_is_killed(fleet: Fleet) -> None:
    fleet.query("create table parts (chain text not null, part int not null)")
    chains: list[str] = []

    def begin() -> list[NewJob]:
        begun = [uuid4().hex for _ in range(20)]
        chains.extend(begun)
        return [export.job(chain, 1, 3) for chain in begun]

    result = storm(fleet, begin, kills=20 if LONG else 5)

    ended = fleet.ended()
    assert ended.keys() >= result.acknowledged
    parts = Counter(fleet.query("select chain, part from parts"))
    completed = sum(1 for state in ended.values() if state == "completed")
    assert set(parts.values()) == {1}
    assert len(parts) == completed
    # One that was blamed for the death of its worker has ended its chain.
    failed = len(ended) - completed
    assert 3 * len(chains) - 2 * failed <= completed + failed <= 3 * len(chains)
    assert result.hits > 0
