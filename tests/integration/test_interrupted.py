"""A run that the end of its worker cuts short: again, unless it must not repeat."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from pgqueue import Job, PgQueue, Task
from pgqueue.testing import adrain
from tests.integration.waiting import Gate, until


class ThreadGate:
    """A thread task that waits inside until the test opens it."""

    def __init__(self, app: PgQueue, max_attempts: int) -> None:
        self.entered = 0
        self.opened = threading.Event()

        @app.task(name="wait", max_attempts=max_attempts)
        def wait() -> None:
            self.entered += 1
            self.opened.wait()

        self.task: Task[[], None] = wait

    async def has_entered(self) -> bool:
        return self.entered > 0


@pytest.fixture
def thread_gates() -> Iterator[list[ThreadGate]]:
    """Their threads end with the test, whatever it found."""
    made: list[ThreadGate] = []
    yield made
    for gate in made:
        gate.opened.set()


async def interrupted_coroutine(app: PgQueue, gate: Gate) -> Job:
    """The job after it had begun, and its worker was told to give it back."""
    job = await gate.task.aenqueue()
    async with app.worker() as worker:
        await gate.enters()
        worker.give_back()
    gate.opened.set()
    return await job.arefresh()


async def interrupted_thread(app: PgQueue, gate: ThreadGate) -> Job:
    """As `interrupted_coroutine`; the thread goes on until the gate opens."""
    job = await gate.task.aenqueue()
    async with app.worker() as worker:
        await until(gate.has_entered)
        worker.give_back()
    after = await job.arefresh()
    gate.opened.set()
    return after


async def test_a_coroutine_that_must_not_repeat_fails_as_interrupted_and_is_not_run_again(app: PgQueue) -> None:
    gate = Gate(app, "wait", max_attempts=1)
    after = await interrupted_coroutine(app, gate)
    assert (after.state, after.reason, after.attempt) == ("failed", "interrupted", 1)
    [failed] = app.failed.list()
    assert (failed.id, failed.reason) == (after.id, "interrupted")
    assert (await adrain(app)).completed == 0
    assert gate.entered.empty()


async def test_a_coroutine_with_more_attempts_goes_back_with_its_attempt_and_is_run_again(app: PgQueue) -> None:
    gate = Gate(app, "wait", max_attempts=2)
    after = await interrupted_coroutine(app, gate)
    assert (after.state, after.attempt, after.errors) == ("available", 0, ())
    assert (await adrain(app)).completed == 1
    assert (await after.arefresh()).attempt == 1


async def test_a_thread_that_must_not_repeat_fails_as_interrupted_and_is_not_run_again(
    app: PgQueue, thread_gates: list[ThreadGate]
) -> None:
    gate = ThreadGate(app, max_attempts=1)
    thread_gates.append(gate)
    after = await interrupted_thread(app, gate)
    assert (after.state, after.reason, after.attempt) == ("failed", "interrupted", 1)
    assert (await adrain(app)).completed == 0
    assert gate.entered == 1


async def test_a_thread_with_more_attempts_goes_back_with_its_attempt_and_is_run_again(
    app: PgQueue, thread_gates: list[ThreadGate]
) -> None:
    gate = ThreadGate(app, max_attempts=2)
    thread_gates.append(gate)
    after = await interrupted_thread(app, gate)
    assert (after.state, after.attempt, after.errors) == ("available", 0, ())
    assert (await adrain(app)).completed == 1
    assert gate.entered == 2
