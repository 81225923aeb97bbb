"""Events: what happens to jobs, told to subscribers in the same process."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from pgqueue import Backoff, CancelJob, ConfigurationError, Context, Event, FailJob, PgQueue, SnoozeJob, Task
from pgqueue.journal import Progress
from pgqueue.outcome import Completed, Failed, Retry
from pgqueue.services.scheduler import Scheduler
from pgqueue.testing import adrain
from tests.integration import process_app
from tests.integration.waiting import DEADLINE, Gate
from tests.sql.rows import claim, connect, worker

NAMES: list[Any] = ["enqueued", "started", "completed", "retried", "snoozed", "cancelled", "failed", "released"]
QUEUE_NAMES: list[Any] = ["paused", "resumed", "drained"]


@pytest.fixture
def heard(app: PgQueue) -> list[Event]:
    events: list[Event] = []
    for name in NAMES:
        app.on(name, events.append)
    return events


class Heard:
    """Events of some names, as they come."""

    def __init__(self, app: PgQueue, names: list[Any]) -> None:
        self.events: list[Event] = []
        self._arrived: asyncio.Queue[Event] = asyncio.Queue()
        for name in names:
            app.on(name, self._hear)

    def _hear(self, event: Event) -> None:
        self.events.append(event)
        self._arrived.put_nowait(event)

    async def next(self) -> Event:
        async with asyncio.timeout(DEADLINE):
            return await self._arrived.get()

    @property
    def names(self) -> list[str]:
        return [event.name for event in self.events]


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


KINDS = ["coroutine", "thread", "process"]


@pytest.mark.parametrize("kind", KINDS)
async def test_the_last_progress_is_told_before_the_end(app: PgQueue, dsn: str, kind: str) -> None:
    task: Task[..., Any]
    if kind == "process":
        app, task = process_app.app, process_app.process_tells
        app.database.point_at(dsn)
    elif kind == "thread":
        task = app.task(name="tell", bind=True)(process_app.tell)
    else:

        async def tell(ctx: Context, times: int) -> None:
            process_app.tell(ctx, times)

        task = app.task(name="tell", bind=True)(tell)
    heard = Heard(app, ["progress", "completed"])
    job = await task.using(queue="email").aenqueue(3)
    await adrain(app)
    assert heard.names[-2:] == ["progress", "completed"]
    last = heard.events[-2]
    assert (last.job_id, last.task, last.queue, last.attempt) == (job.id, task.name, "email", 1)
    assert last.detail == Progress(100, "3 of 3")
    app.subscribers.callbacks.clear()
    await app.aclose()


async def test_a_job_that_only_logs_tells_no_progress(app: PgQueue) -> None:
    @app.task(name="log", bind=True)
    async def log(ctx: Context) -> None:
        ctx.log("x")

    heard = Heard(app, ["progress"])
    await log.aenqueue()
    await adrain(app)
    assert heard.events == []


async def test_a_schedules_job_is_enqueued_where_it_is_fired(app: PgQueue, dsn: str, heard: list[Event]) -> None:
    app.every(timedelta(hours=1), name="hourly")(app.task(name="report")(nothing))
    schedulers = [Scheduler.of(app), Scheduler.of(app)]
    await schedulers[0].run_once()
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("update pgqueue.schedules set next_run_at = clock_timestamp() - interval '1 hour'")
    await asyncio.gather(*(scheduler.run_once() for scheduler in schedulers))
    assert [(event.name, event.task) for event in heard] == [("enqueued", "report")]


@pytest.mark.parametrize("cancel", ["python", "sql"])
async def test_a_waiting_job_that_is_cancelled_has_no_event(
    app: PgQueue, heard: list[Event], dsn: str, cancel: str
) -> None:
    job = await app.aenqueue("nothing")
    app.task(name="nothing")(nothing)
    if cancel == "python":
        await job.acancel()
    else:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("select * from pgqueue.cancel(%s)", [[job.id]])
    await adrain(app)
    assert [event.name for event in heard] == ["enqueued"]


async def test_a_running_job_that_is_cancelled_in_sql_is_told_by_its_worker(app: PgQueue, dsn: str) -> None:
    heard = Heard(app, NAMES)
    gate = Gate(app, "wait")
    job = await gate.task.aenqueue()
    async with app.worker():
        await gate.enters()
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("select * from pgqueue.cancel(%s)", [[job.id]])
        while (await heard.next()).name != "cancelled":
            pass
    assert heard.names == ["enqueued", "started", "cancelled"]


@pytest.mark.parametrize(
    ("max_attempts", "count", "names"),
    [
        (1, 1, ["rescued", "failed"]),
        (2, 1, ["rescued", "retried"]),
        (2, 2, ["rescued", "rescued"]),
    ],
    ids=["must not repeat", "blamed", "not blamed"],
)
async def test_a_rescue_is_told_with_what_became_of_the_job(
    app: PgQueue, dsn: str, max_attempts: int, count: int, names: list[str]
) -> None:
    app.task(name="nothing", backoff=Backoff.fixed(3600), max_attempts=max_attempts)(nothing)
    jobs = [await app.aenqueue("nothing") for _ in range(count)]
    with connect(dsn) as connection:
        dead = worker(connection, lease=-1.0)
        assert len(claim(connection, dead, queue="default", tasks=["nothing"]).jobs) == count
    heard = Heard(app, ["rescued", "retried", "failed"])
    async with app.worker({"other": 1}, lease=1):
        for _ in names:
            await heard.next()
    assert heard.names == names
    assert {event.job_id for event in heard.events} == {job.id for job in jobs}
    assert heard.events[0].detail == dead
    last = heard.events[-1].detail
    assert isinstance(last, Failed if "failed" in names else Retry if "retried" in names else type(dead))


async def test_a_queue_is_drained_once_when_its_last_job_has_ended(app: PgQueue) -> None:
    heard = Heard(app, [*QUEUE_NAMES, "completed"])
    gate = Gate(app, "wait", queue="email")
    async with app.worker({"email": 2, "other": 2}):
        for _ in range(2):
            gate.opened.clear()
            jobs = [await gate.task.aenqueue() for _ in range(5)]
            await gate.enters()
            gate.opened.set()
            for _ in jobs:
                assert (await heard.next()).name == "completed"
            assert await heard.next() == Event("drained", 0, "", "email")
    assert heard.names.count("drained") == 2


async def test_a_queue_whose_job_still_runs_or_that_is_paused_is_not_drained(app: PgQueue) -> None:
    heard = Heard(app, [*QUEUE_NAMES, "completed"])
    gate = Gate(app, "wait")
    async with app.worker({"default": 2}) as worker:
        await gate.task.aenqueue()
        await gate.enters()
        app.queues["default"].pause()
        await gate.task.aenqueue()
        worker.duties.settings.wake()
        assert await heard.next() == Event("paused", 0, "", "default")
        gate.opened.set()
        assert (await heard.next()).name == "completed"
        app.queues["default"].resume()
        rest = [(await heard.next()).name for _ in range(3)]
    assert sorted(rest) == ["completed", "drained", "resumed"]
    assert rest.index("completed") < rest.index("drained")


async def test_a_queue_that_was_paused_before_the_worker_began_is_not_told(app: PgQueue) -> None:
    app.queues["default"].pause()
    app.queues["other"].pause()
    app.task(name="nothing")(nothing)
    heard = Heard(app, QUEUE_NAMES)
    async with app.worker({"default": 1}):
        app.queues["other"].resume()
        app.queues["default"].resume()
        assert await heard.next() == Event("resumed", 0, "", "default")
    assert heard.names == ["resumed"]


def test_an_event_that_does_not_exist_is_refused_with_those_that_do(app: PgQueue) -> None:
    with pytest.raises(ConfigurationError, match="there is no event 'finished': use one of cancelled, completed"):
        app.on("finished", print)  # type: ignore[arg-type]


def nothing() -> None: ...
