"""The loop of a process that only runs jobs: what it asks of the garbage collector, and what it leaves alone."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from pgqueue.worker.loop import COLLECT_AFTER, run


@pytest.fixture(autouse=True)
def collector() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


async def threshold() -> int:
    return gc.get_threshold()[0]


@pytest.mark.parametrize("default", [700, 2000])
def test_the_collector_comes_less_often_than_python_lets_it(default: int) -> None:
    gc.set_threshold(default, 10, 10)
    assert run(threshold()) == COLLECT_AFTER


@pytest.mark.parametrize("own", [0, 500, 5000, 100_000])
def test_what_an_app_has_set_stays(own: int) -> None:
    gc.set_threshold(own, 10, 10)
    assert run(threshold()) == own


def test_what_was_imported_before_is_not_walked_again() -> None:
    async def frozen() -> int:
        return gc.get_freeze_count()

    assert run(frozen()) > 10_000
