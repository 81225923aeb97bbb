"""Events: what happens to jobs, told to subscribers in the same process."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from pgqueue import Backoff, CancelJob, ConfigurationError, Context, Event, FailJob, PgQueue, SnoozeJob
from pgqueue.outcome import Completed, Retry
from pgqueue.testing import adrain
from tests.integration.waiting import Gate

NAMES: list[Any] = ["enqueued", "started", "completed", "retried", "snoozed", "cancelled", "failed", "released"]


@pytest.fixture
def heard(app: PgQueue) -> list[Event]:
    events: list[Event] = []
    for name in NAMES:
        app.on(name, events.append)
    return events


async def test_a_job_that_is_retried_tells_its_life_in_order(app: PgQueue, heard: list[Event]) -> None:
    @app.task(name="flaky", bind=True, queue="email", backoff=Backoff.fixed(0))
    async def flaky(ctx: Context) -> str:
        if ctx.attempt == 1:
            raise ValueError("x")
        return "done"

    job = await flaky.aenqueue()
    await adrain(app)
    names = [(event.name, event.attempt) for event in heard]
    assert names == [("enqueued", 0), ("started", 1), ("retried", 1), ("started", 2), ("completed", 2)]
    assert {(event.job_id, event.task, event.queue) for event in heard} == {(job.id, "flaky", "email")}
    retried, completed = heard[2], heard[4]
    assert isinstance(retried.detail, Retry)
    assert retried.detail.error.type == "ValueError"
    assert completed.detail == Completed('"done"')
    assert completed.duration is not None
    assert completed.duration >= 0


@pytest.mark.parametrize(
    ("error", "name"),
    [(SnoozeJob(60), "snoozed"), (CancelJob("no"), "cancelled"), (FailJob("no"), "failed")],
    ids=["snooze", "cancel", "fail"],
)
async def test_each_outcome_has_its_event(app: PgQueue, heard: list[Event], error: Exception, name: str) -> None:
    @app.task(name="signals")
    async def signals() -> None:
        raise error

    await signals.aenqueue()
    await adrain(app)
    assert [event.name for event in heard] == ["enqueued", "started", name]


async def test_a_job_that_is_given_back_is_released(app: PgQueue, heard: list[Event]) -> None:
    gate = Gate(app, "wait")
    await gate.task.aenqueue()
    async with app.worker() as worker:
        await gate.enters()
        worker.give_back()
    assert [event.name for event in heard] == ["enqueued", "started", "released"]


def test_only_jobs_that_were_made_are_enqueued(app: PgQueue, heard: list[Event]) -> None:
    made = app.enqueue_many([app.new_job("x", key=key) for key in ("a", "b", "a")])
    assert [event.job_id for event in heard] == [made[0].id, made[1].id]


async def test_a_subscriber_that_raises_hurts_neither_the_job_nor_the_others(
    app: PgQueue, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(event: Event) -> None:
        raise ZeroDivisionError

    heard: list[Event] = []
    app.on("completed", broken)
    app.on("completed", heard.append)
    app.task(name="nothing")(nothing)
    job = await app.aenqueue("nothing")
    with caplog.at_level(logging.ERROR, "pgqueue.events"):
        await adrain(app)
    assert len(heard) == 1
    assert (await job.arefresh()).state == "completed"
    assert "a subscriber to 'completed' raised" in caplog.text


def test_an_event_that_does_not_exist_is_refused_with_those_that_do(app: PgQueue) -> None:
    with pytest.raises(ConfigurationError, match="there is no event 'finished': use one of cancelled, completed"):
        app.on("finished", print)  # type: ignore[arg-type]


def nothing() -> None: ...
