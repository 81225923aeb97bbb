"""Ageing as workers do it: what has waited runs, however much comes before it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import psycopg
import pytest

from pgqueue import ConfigurationError, PgQueue
from tests.integration.waiting import Gate, states, until


def settings(dsn: str) -> tuple[Any, ...]:
    with psycopg.connect(dsn) as conn:
        row = conn.execute("select ageing, ageing_floor from pgqueue.queues where name = 'default'").fetchone()
    assert row is not None
    return row


def grow_old(dsn: str) -> None:
    """As if everything had waited for an hour."""
    with psycopg.connect(dsn) as conn:
        conn.execute(
            "update pgqueue.jobs set run_at = run_at - interval '1 h', created_at = created_at - interval '1 h'"
        )


@pytest.mark.parametrize("listen", [True, False], ids=["notified", "polling"])
async def test_what_has_waited_runs_though_its_slots_are_never_free_of_what_is_sooner(
    app: PgQueue, dsn: str, listen: bool
) -> None:
    """Each urgent job enqueues another, so that some always wait; one that must not repeat is not prefetched."""
    app.queue("default", ageing=1)
    ran: list[str] = []

    @app.task(name="urgent", priority=-5, max_attempts=1)
    async def urgent() -> None:
        ran.append("urgent")
        if "low" not in ran:
            await urgent.aenqueue()

    @app.task(name="low", priority=5, max_attempts=1)
    async def low() -> None:
        ran.append("low")

    await app.aenqueue_many([low.job(), *(urgent.job() for _ in range(20))])
    async with app.worker({"default": 1}, listen=listen):

        async def busy() -> bool:
            return len(ran) > 50

        await until(busy)
        assert "low" not in ran
        grow_old(dsn)

        async def has_run() -> bool:
            return "low" in ran

        await until(has_run)
        await until(partial(nothing_waits, app))
    assert ran.count("low") == 1


async def nothing_waits(app: PgQueue) -> bool:
    return set(await states(app)) == {"completed"}


async def test_without_ageing_nothing_is_moved(app: PgQueue, dsn: str) -> None:
    gate = Gate(app, "wait", priority=5)
    app.queue("other", ageing=1)
    await app.aenqueue_many([gate.task.job(n) for n in range(3)])
    grow_old(dsn)
    async with app.worker({"default": 1, "other": 1}) as worker:
        await gate.enters()
        assert worker.serving.ageing() == {"other": (timedelta(seconds=1), None)}
        gate.opened.set()
        await until(partial(nothing_waits, app))
    assert {job.priority for job in app.jobs.list()} == {5}


async def test_ageing_is_changed_while_everything_runs(app: PgQueue, dsn: str) -> None:
    gate = Gate(app, "wait", priority=5)
    await app.aenqueue_many([gate.task.job(n) for n in range(3)])
    grow_old(dsn)
    async with app.worker({"default": 1}):
        await gate.enters()
        assert {job.priority for job in app.jobs.list()} == {5}
        app.queues["default"].age(60, floor=-2)

        async def aged() -> bool:
            return sorted(job.priority for job in app.jobs.list()) == [-2, -2, 5]

        await until(aged)
        assert settings(dsn) == (timedelta(minutes=1), -2)
        app.queues["default"].age(None)
        assert settings(dsn) == (None, None)
        gate.opened.set()
        await until(partial(nothing_waits, app))
        assert [gate.entered.get_nowait() for _ in range(2)] == [1, 2]


async def test_what_the_code_declares_is_set_at_a_worker_s_start_and_what_it_leaves_open_stays(
    app: PgQueue, dsn: str
) -> None:
    async def start(**options: Any) -> tuple[Any, ...]:
        again = PgQueue(dsn)
        again.queue("default", **options)
        Gate(again, "wait")
        async with again.worker({"default": 1}):
            pass
        await again.aclose()
        return settings(dsn)

    assert await start(ageing=timedelta(minutes=10), ageing_floor=0) == (timedelta(minutes=10), 0)
    assert await start() == (timedelta(minutes=10), 0)
    app.queues["default"].age(5.0)
    assert await start() == (timedelta(seconds=5), None)
    assert await start(ageing=600) == (timedelta(minutes=10), None)


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda app: app.queue("q", ageing=0.5), "ageing=0.5 must be at least a second"),
        (lambda app: app.queue("q", ageing="1h"), "ageing must be a number of seconds or a timedelta"),
        (lambda app: app.queue("q", ageing_floor=1), "ageing_floor=1 needs ageing"),
        (lambda app: app.queue("q", ageing=60, ageing_floor=1.5), "ageing_floor=1.5 must be a whole number"),
        (lambda app: app.queue("q", ageing=60, ageing_floor=40_000), "ageing_floor=40000 must be a whole number"),
        (lambda app: app.queues["q"].age(-1), "ageing must be between 0"),
        (lambda app: app.queues["q"].age(None, floor=1), "needs ageing"),
    ],
)
def test_an_ageing_that_cannot_be_is_refused(app: PgQueue, declare: Callable[[PgQueue], Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        declare(app)
