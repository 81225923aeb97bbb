"""Serial keys that halt: after a job of one failed for good nothing of it runs until somebody has seen to it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pgqueue import Backoff, ConfigurationError, PgQueue, Task
from pgqueue.queries.limits import HaltedKey
from pgqueue.testing import adrain, drain
from tests.integration.waiting import until


class Shipping:
    """A task that fails for the orders in `broken`; `shipped` is what it has done, in order."""

    def __init__(self, app: PgQueue, **options: Any) -> None:
        self.broken: set[int] = {7}
        self.shipped: list[tuple[int, int]] = []

        declare: Any = app.task(
            name="ship", serial_key="{order}", **({"halt_on_failed": True, "max_attempts": 1} | options)
        )

        def ship(order: int, part: int) -> None:
            if order in self.broken:
                raise OSError(f"order {order}")
            self.shipped.append((order, part))

        self.task: Task[..., None] = declare(ship)


def only(app: PgQueue) -> HaltedKey:
    [key] = app.limits.halted()
    return key


def fill(app: PgQueue, shipping: Shipping, parts: int = 3) -> list[int]:
    jobs = [shipping.task.job(order, part) for part in range(parts) for order in (7, 8)]
    return [job.id for job in app.enqueue_many(jobs)]


def test_the_others_of_the_key_wait_and_other_keys_go_on(app: PgQueue) -> None:
    shipping = Shipping(app)
    first, *_ = fill(app, shipping)
    report = drain(app)
    assert (report.failed, report.completed) == (1, 3)
    assert shipping.shipped == [(8, 0), (8, 1), (8, 2)]
    key = only(app)
    assert (key.queue, key.serial_key, key.job_id, key.task, key.blocked) == ("default", "7", first, "ship", 2)
    shipping.task.enqueue(7, 3)
    assert drain(app).attempts == 0
    assert only(app).blocked == 3


def test_a_redriven_job_runs_first(app: PgQueue) -> None:
    shipping = Shipping(app)
    first, *_ = fill(app, shipping)
    drain(app)
    assert app.failed.redrive([first]) == [first]
    assert drain(app).failed == 1
    shipping.broken.clear()
    shipping.shipped.clear()
    app.failed.redrive([only(app).job_id])
    assert app.limits.halted() == []
    assert drain(app).completed == 3
    assert shipping.shipped == [(7, 0), (7, 1), (7, 2)]


@pytest.mark.parametrize("how", ["purged", "purged by state", "resumed"])
def test_the_others_go_on_without_one_that_is_purged_or_whose_key_is_resumed(app: PgQueue, how: str) -> None:
    shipping = Shipping(app)
    first, *_ = fill(app, shipping)
    drain(app)
    shipping.broken.clear()
    shipping.shipped.clear()
    match how:
        case "purged":
            app.failed.purge([first])
        case "purged by state":
            app.jobs.purge("failed")
        case _:
            app.limits.resume(queue="default", serial_key="7")
    # Nobody was told of it: the worker that starts now looks, and does not wait for its next recount.
    assert drain(app, timeout=20).completed == 2
    assert shipping.shipped == [(7, 1), (7, 2)]
    assert app.failed.count() == (how == "resumed")
    assert app.limits.halted() == []


async def test_a_worker_that_runs_hears_of_it(app: PgQueue) -> None:
    shipping = Shipping(app)
    fill(app, shipping)

    async def halted() -> bool:
        return [key.blocked for key in app.limits.halted()] == [2]

    async def all_shipped() -> bool:
        return len(shipping.shipped) == 6

    async with app.worker(queues={"default": 4}):
        await until(halted)
        shipping.broken.clear()
        await app.failed.aredrive([only(app).job_id])
        await until(all_shipped)
    assert [part for order, part in shipping.shipped if order == 7] == [0, 1, 2]


async def test_a_worker_that_drains_does_not_wait_for_halted_keys(app: PgQueue) -> None:
    fill(app, Shipping(app))
    async with asyncio.timeout(20):
        await app.worker(queues={"default": 4}, drain=True).run()
    assert only(app).blocked == 2


async def test_with_several_workers_each_key_stops_where_it_failed_and_goes_on_from_there(app: PgQueue) -> None:
    keys, parts = 12, 6
    done: dict[int, list[int]] = {order: [] for order in range(keys)}
    fixed = False

    @app.task(name="ship", serial_key="{order}", halt_on_failed=True, max_attempts=1)
    async def ship(order: int, part: int) -> None:
        await asyncio.sleep(0)
        if part == order % parts and not fixed:
            raise OSError(part)
        done[order].append(part)

    app.enqueue_many([ship.job(order, part) for part in range(parts) for order in range(keys)])

    async def all_halted() -> bool:
        return len(app.limits.halted()) == keys

    async def all_done() -> bool:
        return all(len(one) == parts for one in done.values())

    async with app.worker(queues={"default": 3}), app.worker(queues={"default": 3}), app.worker(queues={"default": 3}):
        await until(all_halted)
        assert done == {order: list(range(order % parts)) for order in range(keys)}
        fixed = True
        await app.failed.aredrive(all=True)
        await until(all_done)
    assert done == {order: list(range(parts)) for order in range(keys)}
    assert app.limits.halted() == []


async def test_retries_keep_the_key_as_before_and_only_the_last_failure_halts_it(app: PgQueue) -> None:
    shipping = Shipping(app, max_attempts=3, backoff=Backoff.fixed(3600))
    fill(app, shipping)
    assert (await adrain(app)).retried == 1
    assert app.limits.halted() == []
    assert (await adrain(app, with_scheduled=True)).failed == 1
    assert only(app).blocked == 2


def test_code_that_no_longer_asks_for_it_halts_no_more_keys(app: PgQueue, dsn: str) -> None:
    shipping = Shipping(app, halt_on_failed=False)
    fill(app, shipping)
    report = drain(app)
    assert (report.failed, report.completed) == (3, 3)
    assert app.limits.halted() == []


def test_a_job_with_a_key_of_its_own_halts_that(app: PgQueue) -> None:
    @app.task(name="send", halt_on_failed=True, max_attempts=1)
    def send(n: int) -> None:
        raise ValueError(n)

    app.enqueue_many([send.using(serial_key="k").job(n) for n in range(2)])
    send.enqueue(2)
    assert drain(app).failed == 2
    assert only(app).serial_key == "k"


def test_what_is_no_answer_is_refused(app: PgQueue) -> None:
    with pytest.raises(ConfigurationError, match="halt_on_failed='yes'"):
        Shipping(app, halt_on_failed="yes")


def test_an_obliterated_queue_leaves_no_key_halted(app: PgQueue) -> None:
    shipping = Shipping(app)
    fill(app, shipping)
    drain(app)
    assert app.queues.obliterate("default").failed == 1
    shipping.broken.clear()
    shipping.task.enqueue(7, 9)
    assert drain(app).completed == 1
