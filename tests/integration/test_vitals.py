"""How a worker says that it is: what makes it unready, and what does not."""

from __future__ import annotations

import asyncio
import math
import os
import socket
import time
from typing import Any

from pgqueue import PgQueue
from pgqueue.health import Health, together
from pgqueue.services.scheduler import LONGEST, Scheduler
from pgqueue.services.vitals import HUNG_SECONDS
from pgqueue.services.vitals import health_of as health_of_service
from pgqueue.worker.crew import Crew
from pgqueue.worker.heartbeat import BLOCKED_LIMIT
from pgqueue.worker.link import LINK, Link
from pgqueue.worker.vitals import health_of
from tests.integration.waiting import Gate, until

# So rarely that only the test itself moves the times.
POLL = 1_000.0


async def test_a_worker_that_looks_for_jobs_is_well(app: PgQueue) -> None:
    app.task(name="nothing")(lambda: None)
    made = app.worker()
    assert health_of(made) == Health(starting=("it waits for PostgreSQL",))
    async with made as worker:
        assert health_of(worker) == Health()
    assert health_of(worker).unready == ("it stops",)


async def test_a_worker_whose_looks_do_not_succeed_is_unready(app: PgQueue) -> None:
    app.task(name="nothing", queue="mail")(lambda: None)
    async with app.worker(poll_interval=POLL) as worker:
        claimer = worker.serving.claimers["mail"]
        await until(lambda: _has_nothing(claimer))
        claimer.looked_at -= 4 * POLL
        assert health_of(worker) == Health()
        claimer.looked_at -= 2 * POLL
        [why] = health_of(worker).unready
        assert why.startswith("no claim of queue mail has succeeded for 6")
        assert why.endswith("where 5000 are allowed")
        claimer.wake()
        await until(lambda: _is_well(worker))


async def test_a_worker_that_has_no_slot_free_need_not_look(app: PgQueue) -> None:
    gate = Gate(app, "wait", queue="mail")
    await gate.task.aenqueue()
    async with app.worker({"mail": 1}) as worker:
        await gate.enters()
        claimer = worker.serving.claimers["mail"]
        await until(lambda: _looks_for_nothing(claimer))
        assert health_of(worker) == Health()
        gate.opened.set()
        await until(lambda: _looks(claimer))
        assert health_of(worker) == Health()


async def test_a_loop_that_stands_still_is_unready_and_at_last_hung(app: PgQueue) -> None:
    app.task(name="nothing")(lambda: None)
    async with app.worker(blocked_limit=10) as worker:
        heartbeat = worker.life.heartbeat
        assert heartbeat is not None
        heartbeat.ticked_at -= 6
        [why] = health_of(worker).unready
        assert why == "its event loop has stood still for 6 s, where 5 are allowed"
        assert not health_of(worker).hung
        heartbeat.ticked_at -= 6
        assert health_of(worker).hung == ("its event loop has stood still for 12 s",)
        worker.life.tick()
        assert health_of(worker) == Health()


async def test_a_worker_that_lost_its_lease_is_unready_until_it_has_another(app: PgQueue) -> None:
    app.task(name="nothing")(lambda: None)
    async with app.worker() as worker:
        worker.life.registered.clear()
        assert health_of(worker).unready == ("its lease was lost, and it registers anew",)
        worker.life.registered.set()


async def test_a_scheduler_is_well_while_its_turns_succeed(app: PgQueue) -> None:
    scheduler = Scheduler.of(app)
    assert health_of_service(scheduler, LONGEST).starting == ("it waits for PostgreSQL",)
    running = asyncio.create_task(scheduler.run())
    await until(lambda: _has_turned(scheduler))
    running.cancel()
    assert health_of_service(scheduler, LONGEST) == Health()
    assert scheduler.turned_at is not None
    scheduler.turned_at -= 4 * LONGEST
    [why] = health_of_service(scheduler, LONGEST).unready
    assert why == "no turn of the scheduler has succeeded for 20 s, where 15 are allowed"
    scheduler.tried_at -= HUNG_SECONDS + 1
    assert health_of_service(scheduler, LONGEST).hung == ("a turn of the scheduler has not ended for 121 s",)


def test_several_processes_are_as_well_as_the_worst() -> None:
    found = together({1: Health(), 2: Health(unready=("it stops",)), 3: Health(starting=("it waits",))})
    assert found == Health((), ("process 3: it waits",), ("process 2: it stops",))


def test_a_process_that_is_silent_for_long_is_hung() -> None:
    crew = Crew(1)
    assert crew.health().starting == ("process 1: it is being started",)
    with crew.starting(1) as (descriptor, variables):
        assert variables == {LINK: str(descriptor)}
        theirs = socket.socket(fileno=os.dup(descriptor))
    answers: dict[str, Any] = {"health": lambda: [[], [], []]}
    link = Link(theirs, answers)
    assert crew.health() == Health()
    answers["health"] = lambda: None
    assert crew.health().unready == ("process 1: it does not answer",)
    [member] = crew.ask("health")
    assert member.silent_since is not None
    member.silent_since -= BLOCKED_LIMIT + 1
    [why] = crew.health().hung
    assert why == "process 1: it has not answered for 121 s"
    link.close()
    crew.left(1)
    assert crew.health().starting == ("process 1: it is being started",)


async def _has_nothing(claimer: Any) -> bool:
    return bool(claimer.is_empty)


async def _is_well(worker: Any) -> bool:
    return health_of(worker) == Health()


async def _looks_for_nothing(claimer: Any) -> bool:
    return bool(claimer.looked_at == math.inf)


async def _looks(claimer: Any) -> bool:
    return bool(claimer.looked_at <= time.monotonic())


async def _has_turned(scheduler: Scheduler) -> bool:
    return scheduler.turned_at is not None
