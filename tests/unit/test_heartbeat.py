"""What a heartbeat tells of its lease, by the times of its beats."""

from __future__ import annotations

from uuid import UUID

import pytest

from pgqueue.database import Database
from pgqueue.queries import fleet
from pgqueue.worker.heartbeat import Heartbeat

# So long that what the test itself takes does not count.
LEASE = 1_000.0
WORKER = UUID(int=1)


@pytest.fixture
def heartbeat() -> Heartbeat:
    """It never starts: the test moves its times."""
    return Heartbeat(
        Database("postgresql:///x"),
        "pgqueue",
        WORKER,
        LEASE,
        fleet.heartbeat("pgqueue", WORKER, LEASE),
        on_registered=lambda: None,
        on_lost=lambda why: None,
    )


def age(heartbeat: Heartbeat, seconds: float) -> None:
    """As if its beats had been so much earlier."""
    heartbeat.beat_at -= seconds
    assert heartbeat.unbroken_since is not None
    heartbeat.unbroken_since -= seconds


def test_before_its_first_beat_nothing_is_unbroken_and_nothing_in_doubt(heartbeat: Heartbeat) -> None:
    assert heartbeat.unbroken_for() == 0.0
    assert not heartbeat.is_in_doubt()


def test_beats_in_time_add_up(heartbeat: Heartbeat) -> None:
    heartbeat._beaten()
    for beats in range(1, 5):
        age(heartbeat, LEASE / 3)
        heartbeat._beaten()
        assert heartbeat.unbroken_for() == pytest.approx(beats * LEASE / 3, abs=1)


def test_a_late_beat_starts_anew_although_nothing_raised(heartbeat: Heartbeat) -> None:
    heartbeat._beaten()
    age(heartbeat, LEASE / 3)
    heartbeat._beaten()
    age(heartbeat, LEASE * 0.61)
    heartbeat._beaten()
    assert heartbeat.unbroken_for() == pytest.approx(0, abs=1)
    age(heartbeat, LEASE / 3)
    heartbeat._beaten()
    assert heartbeat.unbroken_for() == pytest.approx(LEASE / 3, abs=1)


def test_while_a_beat_is_late_nothing_is_unbroken(heartbeat: Heartbeat) -> None:
    heartbeat._beaten()
    age(heartbeat, LEASE * 0.59)
    assert heartbeat.unbroken_for() == pytest.approx(LEASE * 0.59, abs=1)
    age(heartbeat, LEASE * 0.02)
    assert heartbeat.unbroken_for() == 0.0


def test_the_lease_is_in_doubt_when_eight_tenths_of_it_have_passed_until_the_next_beat(heartbeat: Heartbeat) -> None:
    heartbeat._beaten()
    age(heartbeat, LEASE * 0.79)
    assert not heartbeat.is_in_doubt()
    age(heartbeat, LEASE * 0.02)
    assert heartbeat.is_in_doubt()
    heartbeat._beaten()
    assert not heartbeat.is_in_doubt()
