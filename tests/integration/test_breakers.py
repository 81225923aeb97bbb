"""Circuit breakers as workers keep them: nothing begins while one is open, one job is tried, all go on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import psycopg
import pytest

from pgqueue import (
    ArgumentError,
    Backoff,
    Breaker,
    CancelJob,
    ConfigurationError,
    Context,
    FailJob,
    Limit,
    PgQueue,
    RetryJob,
    SnoozeJob,
)
from pgqueue.client.breakers import BreakerRow
from pgqueue.testing import adrain
from pgqueue.worker import Worker
from tests.integration.waiting import Gate, states, until

HOUR = 3600.0
SOON = Backoff.fixed(0.01)
MAKE_HALF_OPEN = """
    with opened as (update pgqueue.breakers set open_until = clock_timestamp())
    update pgqueue.gates set closed_until = clock_timestamp()
"""


class Service:
    """What a task calls; it can be down."""

    def __init__(self, app: PgQueue, **options: Any) -> None:
        self.down = True
        self.error: Callable[[], BaseException] = ConnectionError
        self.calls: list[tuple[int, int]] = []

        @app.task(name="call", bind=True, backoff=SOON, **options)
        async def call(ctx: Context, n: int = 0) -> None:
            self.calls.append((n, ctx.attempt))
            if self.down:
                raise self.error()

        self.task = call


def only(app: PgQueue) -> BreakerRow:
    [row] = app.breakers.list()
    return row


async def is_(app: PgQueue, state: str) -> bool:
    return only(app).state == state


async def count(app: PgQueue, state: str, number: int) -> bool:
    return (await states(app))[state] == number


async def knows(worker: Worker) -> bool:
    return worker.breakers.watched


async def operate(verb: Callable[..., Any], *given: Any, **options: Any) -> None:
    """In a thread: it may wait for a lock that a worker has on this event loop."""
    await asyncio.to_thread(verb, *given, **options)


def execute(dsn: str, statement: str) -> list[Any]:
    with psycopg.connect(dsn, autocommit=True) as conn:
        cursor = conn.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


async def test_too_many_failures_stop_a_task_and_leave_the_others_alone(app: PgQueue) -> None:
    service = Service(app, breaker=Breaker(failures=3, open_for=HOUR))

    @app.task(name="other")
    async def other() -> None: ...

    async with app.worker({"default": 1}):
        first = await service.task.aenqueue()
        await until(partial(is_, app, "open"))
        failed = len(service.calls)
        assert failed >= 3
        more = await app.aenqueue_many([service.task.job(n) for n in range(1, 50)])
        await app.aenqueue_many([other.job() for _ in range(20)])
        await until(partial(count, app, "completed", 20))
        await until(partial(count, app, "blocked", 50))
        assert len(service.calls) == failed
        assert {app.jobs.get(job.id).attempt for job in more} == {0}
        assert app.jobs.get(first.id).attempt == failed
    row = only(app)
    assert (row.scope, row.name, row.state, row.blocked, row.trials) == ("task", "call", "open", 50, 0)
    assert row.reason in [f"{number} attempts failed within 60 s" for number in range(3, row.failed + 1)]
    assert row.opened_at is not None
    assert row.tries_at is not None
    assert timedelta(seconds=HOUR - 1) < row.tries_at - row.opened_at < timedelta(seconds=HOUR + 1)


async def test_one_job_is_tried_and_when_it_completes_all_go_on(app: PgQueue, dsn: str) -> None:
    service = Service(app, breaker=Breaker(failures=3, open_for=HOUR))
    async with app.worker({"default": 10}), app.worker({"default": 10}):
        await app.aenqueue_many([service.task.job(n) for n in range(40)])
        await until(partial(is_, app, "open"))
        await until(partial(count, app, "blocked", 40))
        calls = len(service.calls)
        service.down = False
        await operate(app.breakers.reset, task="call")
        await until(partial(count, app, "completed", 40))
    assert len(service.calls) == calls + 40
    row = only(app)
    assert (row.state, row.failed, row.blocked) == ("closed", 0, 0)
    assert execute(dsn, "select * from pgqueue.limits") == []


async def test_exactly_one_job_is_tried_and_each_that_fails_doubles_the_pause(app: PgQueue, dsn: str) -> None:
    gate = Gate(app, "wait", breaker=Breaker(failures=1, open_for=100, cap=300), backoff=Backoff.fixed(HOUR))
    gate.fails = True
    pauses = []
    async with app.worker({"default": 10}), app.worker({"default": 10}):
        await app.aenqueue_many([gate.task.job(0)])
        assert await gate.enters() == 0
        gate.opened.set()
        await until(partial(is_, app, "open"))
        gate.opened.clear()
        gate.most = 0
        await app.aenqueue_many([gate.task.job(n) for n in range(1, 20)])
        await until(partial(count, app, "blocked", 19))
        for trial in range(1, 4):
            # As if its time had come.
            await operate(execute, dsn, MAKE_HALF_OPEN)
            assert await gate.enters() == trial
            assert only(app).state == "half_open"
            gate.opened.set()
            await until(partial(is_, app, "open"))
            gate.opened.clear()
            row = only(app)
            assert row.opened_at is not None
            assert row.tries_at is not None
            pauses.append(round((row.tries_at - row.opened_at).total_seconds()))
            assert (row.trials, row.reason) == (trial, "the job that was tried failed")
        assert gate.most == 1
        assert await states(app) == {"blocked": 16, "scheduled": 4}
        gate.opened.set()
    assert pauses == [200, 300, 300]


async def test_it_opens_and_closes_by_itself_in_its_time(app: PgQueue) -> None:
    service = Service(app, breaker=Breaker(failures=2, open_for=0.2, cap=0.4))
    async with app.worker({"default": 10}):
        await app.aenqueue_many([service.task.job(n) for n in range(10)])

        async def tried() -> bool:
            return only(app).trials >= 2

        await until(tried)
        service.down = False
        await until(partial(count, app, "completed", 10))
        assert only(app).state == "closed"


async def test_a_breaker_of_a_queue_stops_all_its_tasks_and_no_other_queue(app: PgQueue) -> None:
    app.queue("partner", breaker=Breaker(failures=2, open_for=HOUR))
    service = Service(app, queue="partner")

    @app.task(name="beside", queue="partner")
    async def beside() -> None: ...

    @app.task(name="other")
    async def other() -> None: ...

    async with app.worker({"default": 5, "partner": 5}):
        await app.aenqueue_many([service.task.job() for _ in range(2)])
        await until(partial(is_, app, "open"))
        await app.aenqueue_many([beside.job(), other.job()])
        await until(partial(count, app, "completed", 1))
        await until(partial(count, app, "blocked", 3))
        service.down = False
        await operate(app.breakers.close, queue="partner")
        await until(partial(count, app, "completed", 4))


async def test_a_half_open_breaker_is_closed_by_a_transactional_task(app: PgQueue, dsn: str) -> None:
    execute(dsn, "create table if not exists breaker_charges (n int)")
    try:
        down = [True]

        @app.task(
            name="charge", transactional=True, bind=True, breaker=Breaker(failures=1, open_for=HOUR), backoff=SOON
        )
        async def charge(ctx: Context) -> None:
            await ctx.connection.execute("insert into breaker_charges values (1)")
            if down[0]:
                raise ConnectionError

        async with app.worker({"default": 5}):
            await charge.aenqueue()
            await until(partial(is_, app, "open"))
            down[0] = False
            await operate(app.breakers.reset, task="charge")
            await until(partial(count, app, "completed", 1))
            assert only(app).state == "closed"
        assert execute(dsn, "select count(*) from breaker_charges") == [(1,)]
    finally:
        execute(dsn, "drop table breaker_charges")


@pytest.mark.parametrize(
    "error",
    [
        lambda: SnoozeJob(0.01),
        lambda: CancelJob(),
        lambda: FailJob("no such order"),
        lambda: RetryJob(delay=0.01),
        lambda: ValueError("not one of those"),
    ],
    ids=["snooze", "cancel", "fail", "retry", "another class"],
)
async def test_what_does_not_count_opens_nothing(app: PgQueue, error: Callable[[], BaseException]) -> None:
    service = Service(app, breaker=Breaker(failures=1, open_for=HOUR, on=(ConnectionError, TimeoutError)))
    service.error = error
    async with app.worker({"default": 5}):
        await app.aenqueue_many([service.task.job(n) for n in range(5)])

        async def called() -> bool:
            return len(service.calls) >= 5

        await until(called)
        service.error = TimeoutError
        await service.task.aenqueue()
        await until(partial(is_, app, "open"))
    # The timeout alone has been counted; while it was under way others may have raised another.
    assert only(app).failed == only(app).attempts


async def test_a_trial_that_decides_nothing_is_followed_by_the_next(app: PgQueue) -> None:
    service = Service(app, breaker=Breaker(failures=1, open_for=HOUR))
    async with app.worker({"default": 5}):
        await service.task.aenqueue(0)
        await until(partial(is_, app, "open"))
        tried: list[int] = []

        def decides_nothing() -> BaseException:
            tried.append(len(service.calls))
            if len(tried) == 3:
                service.down = False
            return SnoozeJob(HOUR)

        service.error = decides_nothing
        await app.aenqueue_many([service.task.job(n) for n in range(1, 8)])
        await until(partial(count, app, "blocked", 8))
        await operate(app.breakers.reset, task="call")
        await until(partial(count, app, "completed", 5))
        await until(partial(is_, app, "closed"))
    assert len(tried) == 3


async def test_a_share_of_the_attempts_counts_those_that_complete_too(app: PgQueue, dsn: str) -> None:
    service = Service(app, breaker=Breaker(ratio=0.4, minimum=20, open_for=HOUR))
    service.down = False
    async with app.worker({"default": 10}):
        await app.aenqueue_many([service.task.job(n) for n in range(30)])
        await until(partial(count, app, "completed", 30))

        async def counted() -> bool:
            return only(app).attempts == 30

        await until(counted)
        service.down = True
        await service.task.aenqueue()
        await until(partial(is_, app, "open"))
        row = only(app)
        assert row.failed >= 20
        assert row.reason is not None
        assert "attempts failed within 60 s" in row.reason
        assert " of " in row.reason


async def test_no_row_is_written_for_what_completes_where_only_failures_count(app: PgQueue, dsn: str) -> None:
    service = Service(app, breaker=Breaker(failures=3, open_for=HOUR))
    service.down = False
    async with app.worker({"default": 10}) as worker:
        await app.aenqueue_many([service.task.job(n) for n in range(200)])
        await until(partial(count, app, "completed", 200))
        assert worker.breakers.completed() == {}
        assert not worker.serving.claimers["default"].limited
    assert execute(dsn, "select count(*) from pgqueue.breaker_counts") == [(0,)]
    assert execute(dsn, "select count(*) from pgqueue.gates") == [(0,)]


async def test_what_is_prefetched_when_it_opens_goes_back_without_an_attempt(app: PgQueue) -> None:
    gate = Gate(app, "wait", breaker=Breaker(failures=100, open_for=HOUR))
    async with app.worker({"default": 2}) as worker:
        slots = worker.serving.slots["default"]
        jobs = await app.aenqueue_many([gate.task.job(n) for n in range(100)])
        assert {await gate.enters(), await gate.enters()} == {0, 1}

        async def prefetched() -> bool:
            # As if it had run a thousand in the last tenth of a second.
            slots.target = 1000
            slots.fill()
            return slots.waiting == 98

        await until(prefetched)
        await operate(app.breakers.open, task="wait")
        await until(partial(count, app, "available", 98))
        assert {app.jobs.get(job.id).attempt for job in jobs[2:]} == {0}
        gate.opened.set()
        await until(partial(count, app, "blocked", 98))
        assert gate.entered.empty()
        await operate(app.breakers.close, task="wait")
        await until(partial(count, app, "completed", 100))
    assert {app.jobs.get(job.id).attempt for job in jobs} == {1}


async def test_jobs_that_run_when_it_opens_run_to_their_end_and_keep_their_retry(app: PgQueue) -> None:
    gate = Gate(app, "wait", breaker=Breaker(failures=100, open_for=HOUR), backoff=Backoff.fixed(HOUR))
    async with app.worker({"default": 4}):
        await app.aenqueue_many([gate.task.job(n) for n in range(2)])
        assert {await gate.enters(), await gate.enters()} == {0, 1}
        await operate(app.breakers.open, task="wait")
        gate.fails = True
        gate.opened.set()
        await until(partial(count, app, "scheduled", 2))
        # They had no part in a trial.
        row = only(app)
        assert (row.state, row.trials, row.tries_at) == ("open", 0, None)


async def test_a_person_s_pause_is_another_thing_and_stays(app: PgQueue) -> None:
    service = Service(app, breaker=Breaker(failures=1, open_for=HOUR), limit=Limit(concurrency=2))
    async with app.worker({"default": 5}):
        await service.task.aenqueue(0)
        await until(partial(count, app, "blocked", 1))
        app.limits.pause(task="call")
        service.down = False
        await operate(app.breakers.close, task="call")
        await service.task.aenqueue(1)
        await until(partial(count, app, "blocked", 2))
        [limit] = app.limits.list()
        assert (limit.paused, limit.concurrency, limit.key) == (True, 2, None)
        app.limits.resume(task="call")
        await until(partial(count, app, "completed", 2))
        assert app.limits.list()[0].concurrency == 2


async def test_both_the_breaker_of_a_task_and_that_of_its_queue_are_to_be_satisfied(app: PgQueue) -> None:
    app.queue("partner", breaker=Breaker(failures=1, open_for=HOUR))
    service = Service(app, queue="partner", breaker=Breaker(failures=1, open_for=HOUR))
    async with app.worker({"partner": 5}):
        await app.aenqueue_many([service.task.job(n) for n in range(5)])

        async def both(state: str) -> bool:
            return {row.state for row in app.breakers.list()} == {state}

        await until(partial(both, "open"))
        await until(partial(count, app, "blocked", 5))
        calls = len(service.calls)
        service.down = False
        await operate(app.breakers.reset, queue="partner")
        await asyncio.gather(*(until(partial(count, app, "blocked", 5)),))
        assert len(service.calls) == calls
        await operate(app.breakers.reset, task="call")
        await until(partial(count, app, "completed", 5))
        await until(partial(both, "closed"))


async def test_what_is_declared_holds_until_the_code_says_something_else_and_can_be_changed(
    app: PgQueue, dsn: str
) -> None:
    async def start(breaker: Breaker | None) -> list[tuple[Any, ...]]:
        again = PgQueue(dsn)
        Gate(again, "wait", breaker=breaker)
        async with again.worker({"default": 1}):
            rows = again.breakers.list()
        await again.aclose()
        return [(row.failures, row.ratio, row.within, row.errors, row.declared) for row in rows]

    declared = Breaker(failures=5, on=(TimeoutError, OSError))
    assert await start(declared) == [(5, None, 60, ("OSError", "TimeoutError"), True)]
    await operate(app.breakers.set, Breaker(ratio=0.25, within=10), task="wait")
    assert await start(declared) == [(None, 0.25, 10, None, True)]
    assert await start(Breaker(failures=7)) == [(7, None, 60, None, True)]
    await operate(app.breakers.open, task="wait")
    assert await start(None) == []
    assert execute(dsn, "select * from pgqueue.limits") == []
    await operate(app.breakers.set, Breaker(failures=2), task="wait")
    assert await start(None) == [(2, None, 60, None, False)]
    await operate(app.breakers.remove, task="wait")
    assert app.breakers.list() == []


async def test_a_threshold_is_changed_while_everything_runs(app: PgQueue) -> None:
    service = Service(app)
    async with app.worker({"default": 5}) as worker:
        await operate(app.breakers.set, Breaker(failures=3, open_for=HOUR), task="call")
        await until(partial(knows, worker))
        await service.task.aenqueue()
        await until(partial(is_, app, "open"))
        row = only(app)
        assert (row.failures, row.declared) == (3, False)
        service.down = False
        await operate(app.breakers.remove, task="call")
        await until(partial(count, app, "completed", 1))


async def test_closing_by_hand_counts_from_then_on(app: PgQueue) -> None:
    service = Service(app, breaker=Breaker(failures=3, open_for=HOUR))
    async with app.worker({"default": 1}):
        await service.task.aenqueue()
        await until(partial(is_, app, "open"))
        calls = len(service.calls)
        await operate(app.breakers.close, task="call")
        await until(partial(is_, app, "open"))
        assert len(service.calls) >= calls + 3


async def test_opened_by_hand_for_a_time_it_tries_a_job_then(app: PgQueue) -> None:
    service = Service(app, breaker=Breaker(failures=3, open_for=HOUR))
    service.down = False
    async with app.worker({"default": 1}):
        await operate(app.breakers.open, task="call", duration=0.3)
        await service.task.aenqueue()
        await until(partial(count, app, "completed", 1))
        assert only(app).state == "closed"


async def test_a_job_that_is_let_go_where_nobody_takes_it_does_not_keep_the_others_waiting(
    app: PgQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgqueue.services.breakers.UNTRIED", 0.2)
    service = Service(app, breaker=Breaker(failures=1, open_for=HOUR))
    service.down = False
    async with app.worker({"one": 2, "two": 2}) as worker:
        await operate(app.breakers.open, task="call")
        first = await service.task.using(queue="one", priority=-1).aenqueue(1)
        await service.task.using(queue="two").aenqueue(2)
        await until(partial(count, app, "blocked", 2))
        slots = worker.serving.slots["one"]
        slots.open = False
        slots.fill()
        await operate(app.breakers.reset, task="call")

        async def let_go() -> bool:
            return (await first.arefresh()).state == "available"

        await until(let_go)
        await operate(app.queues["one"].pause)
        await until(partial(count, app, "completed", 1))
    assert service.calls == [(2, 1)]


async def test_a_test_leaves_what_an_open_breaker_stops(app: PgQueue) -> None:
    service = Service(app, breaker=Breaker(failures=2, open_for=HOUR))
    await app.aenqueue_many([service.task.job(n) for n in range(3)])
    report = await adrain(app, with_scheduled=True, slots=1)
    assert 2 <= report.retried < 20
    assert only(app).state == "open"


@pytest.mark.parametrize("verb", ["open", "close", "reset", "remove"])
def test_a_breaker_that_there_is_not_cannot_be_operated(app: PgQueue, verb: str) -> None:
    with pytest.raises(ArgumentError, match="there is no circuit breaker of task call: declare it"):
        getattr(app.breakers, verb)(task="call")
    with pytest.raises(ArgumentError, match="give one of the two"):
        getattr(app.breakers, verb)()
    with pytest.raises(ArgumentError, match="give one of the two"):
        getattr(app.breakers, verb)(queue="a", task="b")


def test_a_declaration_that_is_no_breaker_is_refused(app: PgQueue) -> None:
    with pytest.raises(ConfigurationError, match="task wait: breaker=3 must be a Breaker"):
        Gate(app, "wait", breaker=3)
    with pytest.raises(ConfigurationError, match="queue email: breaker='x' must be a Breaker"):
        app.queue("email", breaker="x")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="above 0 seconds"):
        app.breakers.open(task="wait", duration=0)


def test_the_gate_of_a_breaker_is_not_removed_as_a_limit(app: PgQueue, dsn: str) -> None:
    app.breakers.set(Breaker(failures=3), task="pay")
    app.breakers.open(task="pay")
    with pytest.raises(ArgumentError, match=r"key='breaker' is that of a circuit breaker: use app\.breakers\.close"):
        app.limits.remove(task="pay", key="breaker")
    with psycopg.connect(dsn) as conn, pytest.raises(psycopg.errors.InvalidParameterValue, match="circuit breaker"):
        conn.execute("select pgqueue.remove_limit('task', 'pay', 'breaker')")
    app.breakers.close(task="pay")
    assert [row.state for row in app.breakers.list()] == ["closed"]
