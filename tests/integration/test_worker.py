"""The worker: what it takes, in which slots it runs, and when it stops."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from functools import partial
from typing import Any
from uuid import UUID

import psycopg
import pytest

from pgqueue import Backoff, ConfigurationError, Context, PgQueue, Task, current_job
from pgqueue.services.service import Runner, Service
from pgqueue.testing import adrain, aenqueued
from pgqueue.worker import Worker, claimer
from pgqueue.worker.connection import WorkerConnection
from pgqueue.worker.upkeep import UnknownTasks
from tests.integration import process_app
from tests.integration.waiting import DEADLINE, Gate, states, until

marker: contextvars.ContextVar[str] = contextvars.ContextVar("marker", default="clean")


class Colour(Enum):
    RED = "red"


@dataclass
class Item:
    name: str
    price: Decimal
    tags: list[str]


async def test_coroutine_and_thread_tasks_run_side_by_side(app: PgQueue) -> None:
    here, there = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    @app.task(name="coroutine")
    async def coroutine() -> int:
        await here.wait()
        there.set()
        return threading.get_ident()

    @app.task(name="thread")
    def thread() -> int:
        loop.call_soon_threadsafe(here.set)
        assert there.wait(DEADLINE)
        return threading.get_ident()

    first, second = await coroutine.aenqueue(), await thread.aenqueue()
    async with app.worker():
        assert await first.aresult(DEADLINE) == threading.get_ident() != await second.aresult(DEADLINE)


async def test_process_tasks_run_with_typed_arguments_and_their_context(dsn: str) -> None:
    app = process_app.app
    app.database.point_at(dsn)
    typed = await process_app.process_typed.aenqueue(process_app.Photo(7, datetime(2024, 1, 1, tzinfo=UTC)))
    context = await process_app.process_context.using(headers={"x": 1}).aenqueue()
    pids = [await process_app.process_pid.aenqueue() for _ in range(3)]
    async with app.worker({"default": 1}):
        assert await typed.aresult(DEADLINE) == ["Photo", "datetime", 7]
        assert await context.aresult(DEADLINE) == {
            "id": context.id,
            "queue": "default",
            "attempt": 1,
            "headers": {"x": 1},
        }
        assert len({await job.aresult(DEADLINE) for job in pids}) == 1
    await app.aclose()


async def test_no_more_jobs_run_at_once_than_there_are_slots(app: PgQueue) -> None:
    gate = Gate(app, "wait")
    await app.aenqueue_many([gate.task.job(n) for n in range(10)])
    async with app.worker({"default": 3}):
        assert [await gate.enters() for _ in range(3)] == [0, 1, 2]
        assert (await states(app))["running"] == 3
        gate.opened.set()
        assert [await gate.enters() for _ in range(7)] == list(range(3, 10))
    assert gate.most == 3
    assert await states(app) == {"completed": 10}


async def test_a_full_slow_queue_does_not_hold_up_another(app: PgQueue) -> None:
    slow, quick = Gate(app, "slow", queue="slow"), Gate(app, "quick", queue="quick")
    quick.opened.set()
    await app.aenqueue_many([slow.task.job(n) for n in range(50)])
    async with app.worker({"slow": 2, "quick": 2}):
        await slow.enters()
        await app.aenqueue_many([quick.task.job(n) for n in range(50)])
        assert [await quick.enters() for _ in range(50)] == list(range(50))
        assert slow.inside == 2
        slow.opened.set()


async def test_jobs_that_must_not_repeat_run_one_after_the_other_without_waiting_for_a_poll(app: PgQueue) -> None:
    @app.task(name="once", max_attempts=1)
    async def once() -> None:
        # Long enough for a claim while every slot is taken.
        await asyncio.sleep(0.02)

    await app.aenqueue_many([once.job() for _ in range(40)])
    async with app.worker({"default": 2}, poll_interval=2 * DEADLINE):
        await until(partial(has, app, completed=40))


async def test_a_slow_tasks_worker_hoards_no_jobs(app: PgQueue) -> None:
    gate = Gate(app, "wait")
    await app.aenqueue_many([gate.task.job(n) for n in range(4)])
    async with app.worker({"default": 1}), app.worker({"default": 1}):
        assert {await gate.enters(), await gate.enters()} == {0, 1}
        assert await states(app) == {"running": 2, "available": 2}
        gate.opened.set()


async def test_what_was_prefetched_goes_to_another_worker_when_a_slot_gets_stuck(app: PgQueue) -> None:
    gate = Gate(app, "stuck")
    done: list[int] = []
    all_done = asyncio.Event()

    @app.task(name="quick")
    async def quick(n: int) -> None:
        done.append(n)
        if len(done) == 400:
            all_done.set()

    await app.aenqueue_many([quick.job(n) for n in range(300)])
    await app.aenqueue_many([gate.task.job(), *(quick.job(n) for n in range(300, 400))])
    async with app.worker({"default": 1}) as first:
        await gate.enters()
        assert isinstance(first, Worker)
        async with app.worker({"default": 1}):
            await asyncio.wait_for(all_done.wait(), DEADLINE)
        gate.opened.set()
    assert sorted(done) == list(range(400))


async def test_arguments_arrive_typed(app: PgQueue) -> None:
    seen: list[Any] = []

    @app.task(name="typed")
    async def typed(
        item: Item,
        colour: Colour,
        when: datetime,
        id: UUID,
        price: Decimal,
        maybe: int | None,
        pairs: dict[str, list[int]],
    ) -> None:
        seen.extend([item, colour, when, id, price, maybe, pairs])

    given: list[Any] = [
        Item("x", Decimal("1.10"), ["a"]),
        Colour.RED,
        datetime(2024, 1, 1, 12, tzinfo=UTC),
        UUID(int=7),
        Decimal("2.50"),
        None,
        {"a": [1]},
    ]
    await typed.aenqueue(*given)
    assert (await adrain(app)).completed == 1
    assert seen == given
    assert [type(value) for value in seen] == [type(value) for value in given]


async def test_the_context_says_what_runs(app: PgQueue) -> None:
    seen: list[Context] = []

    @app.task(name="look", bind=True, queue="email", max_attempts=1)
    async def look(ctx: Context, n: int) -> None:
        assert current_job() is ctx
        seen.append(ctx)

    @app.task(name="look_in_a_thread", max_attempts=2)
    def look_in_a_thread() -> None:
        seen.append(current_job())

    first = await look.using(headers={"trace": "x"}).aenqueue(1)
    second = await look_in_a_thread.aenqueue()
    await adrain(app)
    contexts = {context.job_id: context for context in seen}
    context = contexts[first.id]
    assert (context.task, context.queue, context.attempt, context.max_attempts) == ("look", "email", 1, 1)
    assert (dict(context.headers), context.is_last_attempt) == ({"trace": "x"}, True)
    assert (context.scheduled_for, context.schedule, context.connection) == (None, None, None)
    assert not contexts[second.id].is_last_attempt
    with pytest.raises(LookupError, match="outside of a running job"):
        current_job()


async def test_whoever_asks_for_the_running_job_is_told_of_the_same_one(app: PgQueue) -> None:
    async def deeper() -> Context:
        await asyncio.sleep(0)
        return current_job()

    @app.task(name="look")
    async def look(n: int) -> None:
        first = current_job()
        assert (first.task, first.attempt, dict(first.headers)) == ("look", 1, {})
        assert first is current_job() is await deeper() is await asyncio.create_task(deeper())
        first.progress(n)

    jobs = [await look.aenqueue(n) for n in (10, 20)]
    await adrain(app)
    assert [(await job.arefresh()).state for job in jobs] == ["completed", "completed"]
    told = [app.jobs.progress(job.id) for job in jobs]
    assert [one and one.percent for one in told] == [10, 20]
    with pytest.raises(LookupError):
        current_job()


@pytest.mark.parametrize("kind", ["coroutine", "thread"])
async def test_what_a_job_sets_in_its_context_does_not_reach_the_next(app: PgQueue, kind: str) -> None:
    seen: list[str] = []

    def look() -> None:
        seen.append(marker.get())
        marker.set("dirty")

    async def alook() -> None:
        look()

    task: Task[[], Any] = app.task(name="look")(alook if kind == "coroutine" else look)
    await app.aenqueue_many([task.job() for _ in range(5)])
    await adrain(app, slots=1)
    assert seen == ["clean"] * 5


async def test_a_job_of_a_task_that_this_app_does_not_have_is_left_alone(app: PgQueue) -> None:
    gate = Gate(app, "known")
    gate.opened.set()
    unknown = await app.aenqueue("unknown")
    await gate.task.aenqueue(1)
    async with app.worker():
        assert await gate.enters() == 1
    assert (await unknown.arefresh()).state == "available"


async def test_a_worker_names_the_tasks_of_its_queues_that_no_running_worker_has(
    app: PgQueue, dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    app.task(name="known")(nothing)
    other = PgQueue(dsn)
    other.task(name="elsewhere")(nothing)
    for task in ("renamed", "forgotten", "renamed", "known", "elsewhere"):
        await app.aenqueue(task, delay=3600)
    await app.aenqueue("waiting", queue="mail")
    await app.aenqueue("unserved", queue="other")

    async def has_warned() -> bool:
        return len(warnings()) == 2

    def warnings() -> list[str]:
        return sorted(line.partition(". ")[0] for line in caplog.messages if "no running worker has" in line)

    async with other.worker(["elsewhere"]), app.worker(["default", "mail"]):
        await until(has_warned)
    await other.aclose()
    assert warnings() == [
        "queue default holds jobs of tasks that no running worker has: forgotten, renamed",
        "queue mail holds jobs of tasks that no running worker has: waiting",
    ]


async def test_a_name_that_turns_up_later_is_warned_of_once(app: PgQueue, caplog: pytest.LogCaptureFixture) -> None:
    connection = WorkerConnection(app.database, "test")
    service = UnknownTasks(Runner(connection.fetch, connection.run), app.schema, lambda: ["default"])

    async def warned() -> list[str]:
        caplog.clear()
        await service.run_once()
        return [line.partition(". ")[0].partition(": ")[2] for line in caplog.messages]

    await app.aenqueue("renamed")
    assert await warned() == ["renamed"]
    assert await warned() == []
    await app.aenqueue("mistyped")
    assert await warned() == ["mistyped"]
    await connection.close()


async def test_globs_and_exclusions_choose_the_queues(app: PgQueue) -> None:
    for queue in ("thumb.small", "thumb.large", "thumb.slow", "email"):
        app.task(name=f"task.{queue}", queue=queue)(nothing)
        await app.aenqueue(f"task.{queue}")
    async with app.worker(["thumb*:4", "-*.slow"]) as worker:
        assert worker.queues == {"thumb.large": 4, "thumb.small": 4}
        await until(partial(has, app, completed=2))
    assert {job.queue for job in await aenqueued(app, state="available")} == {"thumb.slow", "email"}


async def test_a_glob_serves_a_queue_that_appears_later(app: PgQueue) -> None:
    app.task(name="nothing")(nothing)
    async with app.worker(["*:2"]):
        job = await app.aenqueue("nothing", queue="new")
        await job.aresult(DEADLINE)

        async def is_listed() -> bool:
            [listed] = app.workers.list()
            return dict(listed.queues) == {"default": 2, "new": 2}

        await until(is_listed)


async def test_the_first_worker_serves_every_queue_of_the_app(app: PgQueue) -> None:
    app.task(name="nothing", queue="one")(nothing)
    app.queue("two")
    async with app.worker() as worker:
        assert worker.queues == {"default": 10, "one": 10, "two": 10}
        [known] = app.workers.list()
        assert (known.id, known.alive, dict(known.queues)) == (worker.id, True, worker.queues)
    assert app.workers.list() == []


async def test_a_paused_queue_is_left_alone_until_it_is_resumed(app: PgQueue) -> None:
    gate = Gate(app, "wait")
    gate.opened.set()
    app.queues["default"].pause()
    job = await gate.task.aenqueue(1)
    async with app.worker(poll_interval=60):
        other = await app.aenqueue("wait", {"n": 2}, queue="other")
        assert (await job.arefresh()).state == (await other.arefresh()).state == "available"
        app.queues["default"].resume()
        assert await gate.enters() == 1
    assert (await job.arefresh()).state == "completed"


async def test_pausing_stops_a_worker_that_runs(app: PgQueue) -> None:
    gate = Gate(app, "wait")
    await app.aenqueue_many([gate.task.job(n) for n in range(3)])
    async with app.worker({"default": 1}):
        await gate.enters()
        app.queues["default"].pause()
        gate.opened.set()
        await until(partial(has, app, completed=1))
        assert await states(app) == {"completed": 1, "available": 2}


async def test_drain_waits_for_retries_and_for_nothing_else(app: PgQueue) -> None:
    runs: list[int] = []

    @app.task(name="flaky", bind=True, backoff=Backoff.fixed(0.2))
    async def flaky(ctx: Context) -> None:
        runs.append(ctx.attempt)
        if ctx.attempt < 3:
            raise ValueError

    await flaky.aenqueue()
    await flaky.using(delay=3600).aenqueue()
    await flaky.using(queue="other").aenqueue()
    await asyncio.wait_for(Worker(app, {"default": 2}, drain=True).run(), DEADLINE)
    assert runs == [1, 2, 3]
    assert await states(app) == {"completed": 1, "scheduled": 1, "available": 1}


async def test_drain_leaves_what_waits_in_paused_queues_and_says_so(
    app: PgQueue, caplog: pytest.LogCaptureFixture
) -> None:
    app.task(name="nothing")(nothing)
    app.queues["paused"].pause()
    app.queues["empty"].pause()
    for queue in ("paused", "open"):
        await app.aenqueue("nothing", queue=queue)
    with caplog.at_level("INFO", "pgqueue.worker"):
        await asyncio.wait_for(Worker(app, ["paused", "open", "empty"], drain=True).run(), DEADLINE)
    assert await states(app) == {"completed": 1, "available": 1}
    assert [line for line in caplog.messages if "paused" in line] == ["drained, but for the paused queue paused"]


async def test_drain_runs_what_the_jobs_enqueue(app: PgQueue) -> None:
    @app.task(name="count")
    async def count(n: int) -> None:
        if n:
            await app.aenqueue("count", {"n": n - 1})

    await count.aenqueue(5)
    await asyncio.wait_for(Worker(app, drain=True).run(), DEADLINE)
    assert await states(app) == {"completed": 6}


async def test_a_worker_stops_when_it_has_been_idle_for_long_enough(app: PgQueue) -> None:
    app.task(name="nothing")(nothing)
    await app.aenqueue("nothing")
    await asyncio.wait_for(Worker(app, idle_timeout=0.3).run(), DEADLINE)
    assert await states(app) == {"completed": 1}


async def test_a_worker_stops_after_its_number_of_jobs_and_gives_the_rest_back(app: PgQueue) -> None:
    gate = Gate(app, "wait")
    await app.aenqueue_many([gate.task.job(n) for n in range(20)])
    worker = Worker(app, {"default": 1}, max_jobs=2)
    run = asyncio.create_task(worker.run())
    await gate.enters()
    gate.opened.set()
    await asyncio.wait_for(run, DEADLINE)
    after = await states(app)
    assert after["completed"] >= 2
    assert after["running"] == 0
    assert worker.ended == after["completed"]
    assert sum(after.values()) == 20


async def test_leaving_lets_running_jobs_end_and_gives_the_others_back(app: PgQueue) -> None:
    gate = Gate(app, "wait")
    await app.aenqueue_many([gate.task.job(n) for n in range(5)])
    async with app.worker({"default": 2}) as worker:
        await gate.enters()
        await gate.enters()
        worker.stop()
        gate.opened.set()
    assert await states(app) == {"completed": 2, "available": 3}
    assert all(job.attempt == 0 for job in await aenqueued(app, state="available"))


async def test_a_claim_that_was_cut_off_by_the_stop_is_given_back_while_running_jobs_still_end(
    app: PgQueue, dsn: str
) -> None:
    gate = Gate(app, "wait")
    await gate.task.aenqueue(1)
    async with app.worker() as worker:
        await gate.enters()
        async with await psycopg.AsyncConnection.connect(dsn) as connection:
            cut_off = await app.aenqueue("wait", {"n": 2}, using=connection)
            await connection.execute(
                "update pgqueue.jobs set state = 'running', attempt = 1, claim_id = 77 where id = %s", [cut_off.id]
            )
            await connection.execute(
                "insert into pgqueue.claims (id, worker_id, queue, job_ids) values (77, %s, 'default', %s)",
                [worker.id, [cut_off.id]],
            )
        worker.stop()

        async def is_given_back() -> bool:
            return (await cut_off.arefresh()).state == "available"

        await until(is_given_back)
        assert gate.inside == 1
        gate.opened.set()
    assert (await cut_off.arefresh()).attempt == 0


async def test_giving_back_interrupts_and_uses_no_attempt(app: PgQueue) -> None:
    gate = Gate(app, "wait")
    job = await gate.task.aenqueue()
    async with app.worker() as worker:
        await gate.enters()
        worker.give_back()
    after = await job.arefresh()
    assert (after.state, after.attempt, after.errors) == ("available", 0, ())
    [line] = await asyncio.to_thread(app.jobs.logs, job.id)
    assert (line.level, line.attempt, "runs again as the same attempt" in line.message) == ("warning", 1, True)


async def test_what_outlasts_the_shutdown_timeout_is_given_back(app: PgQueue) -> None:
    gate = Gate(app, "wait")
    job = await gate.task.aenqueue()
    async with app.worker(shutdown_timeout=0.05):
        await gate.enters()
    after = await job.arefresh()
    assert (after.state, after.attempt) == ("available", 0)


async def test_cancelling_whoever_waits_for_a_worker_stops_it(app: PgQueue) -> None:
    gate = Gate(app, "wait")
    tasks = asyncio.all_tasks()
    running = await gate.task.aenqueue(1)
    run = asyncio.create_task(Worker(app).run())
    await gate.enters()
    run.cancel()
    gate.opened.set()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(run, DEADLINE)
    assert (await running.arefresh()).state == "completed"
    assert app.workers.list() == []
    late = await gate.task.aenqueue(2)
    await app.database.aclose()
    assert asyncio.all_tasks() == tasks
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("pgqueue-heartbeat")]
    assert (await late.arefresh()).state == "available"


async def test_a_claimer_goes_on_as_soon_as_the_outcomes_that_wait_are_written(
    app: PgQueue, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claimer, "BACKLOG", 5)
    task = app.task(name="nothing")(nothing)
    await app.aenqueue_many([task.job() for _ in range(3_000)])
    worker = Worker(app, drain=True, poll_interval=DEADLINE * 10, listen=False)
    async with await psycopg.AsyncConnection.connect(dsn) as holder:
        await holder.execute("lock table pgqueue.completed_jobs in share mode")
        await worker.start()
        async with asyncio.timeout(DEADLINE):
            while worker.finisher.backlog <= claimer.BACKLOG:  # noqa: ASYNC110 - the worker tells nobody
                await asyncio.sleep(0.01)
    await asyncio.wait_for(worker.wait(), DEADLINE)
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        found = await connection.execute("select count(*) from pgqueue.completed_jobs")
        assert await found.fetchone() == (3_000,)


async def test_a_stopped_worker_leaves_no_trace(fresh_dsn: str) -> None:
    dsn, app = fresh_dsn, PgQueue(fresh_dsn)
    app.task(name="nothing")(nothing)
    app.task(name="blocking")(nothing_blocking)
    tasks = asyncio.all_tasks()
    await app.aenqueue_many([app.new_job(name) for name in ("nothing", "blocking") for _ in range(20)])
    await asyncio.wait_for(Worker(app, drain=True).run(), DEADLINE)
    await app.database.aclose()
    assert asyncio.all_tasks() == tasks

    async def nothing_is_left() -> bool:
        async with await psycopg.AsyncConnection.connect(dsn) as connection:
            found = await connection.execute(
                "select (select count(*) from pgqueue.claims) + (select count(*) from pg_stat_activity where "
                "datname = current_database() and pid <> pg_backend_pid() and application_name like 'pgqueue%')"
            )
            return await found.fetchone() == (0,)

    # A server process takes a moment to end once its client has hung up.
    await until(nothing_is_left)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("pgqueue-heartbeat")]


async def test_a_start_that_is_given_up_while_it_registers_leaves_no_worker(fresh_dsn: str) -> None:
    app = PgQueue(fresh_dsn)
    app.task(name="nothing")(nothing)
    async with await psycopg.AsyncConnection.connect(fresh_dsn) as other, other.transaction():
        await other.execute("lock table pgqueue.workers in share mode")
        starting = asyncio.create_task(Worker(app).start())

        async def registers() -> bool:
            await other.execute("select pg_stat_clear_snapshot()")
            waits = await other.execute(
                "select from pg_stat_activity where datname = current_database() "
                "and application_name = 'pgqueue heartbeat' and wait_event_type = 'Lock'"
            )
            return waits.rowcount == 1

        await until(registers)
        starting.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(starting, DEADLINE)

    async def nobody_is_registered() -> bool:
        return await asyncio.to_thread(app.workers.list) == []

    await until(nobody_is_registered)
    await app.aclose()


async def test_a_service_that_is_woken_and_stopped_at_once_ends() -> None:
    class Idle(Service):
        name = "idle"

        async def run_once(self) -> float:
            return 3600.0

    runner = Runner(None, None)  # type: ignore[arg-type]
    for turns in range(8):
        service = Idle(runner, "pgqueue")
        running = asyncio.create_task(service.run())
        for _ in range(4):
            await asyncio.sleep(0)
        service.wake()
        for _ in range(turns):
            await asyncio.sleep(0)
        running.cancel()
        done, _ = await asyncio.wait({running}, timeout=DEADLINE)
        assert done, turns


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (psycopg.OperationalError("the server went\nDETAIL: away"), "failing: the server went; trying again"),
        (psycopg.OperationalError(), "failing: OperationalError; trying again"),
    ],
    ids=["text", "no text"],
)
async def test_a_service_that_fails_says_why_in_a_line(
    caplog: pytest.LogCaptureFixture, error: Exception, line: str
) -> None:
    class Failing(Service):
        name = "failing"

        async def run_once(self) -> float:
            ran.set()
            raise error

    ran = asyncio.Event()
    running = asyncio.create_task(Failing(Runner(None, None), "pgqueue").run())  # type: ignore[arg-type]
    await ran.wait()
    running.cancel()
    await asyncio.wait({running}, timeout=DEADLINE)
    assert caplog.messages == [line]


def test_an_app_without_tasks_has_nothing_to_run(dsn: str) -> None:
    with pytest.raises(ConfigurationError, match="the app has no tasks"):
        Worker(PgQueue(dsn))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"queues": {"email": 0}}, "queue 'email' was given 0 slots"),
        ({"queues": ["email:x"]}, "queue 'email:x' cannot be read"),
        ({"queues": ["no spaces"]}, "queue name 'no spaces'"),
        ({"lease": 0.5}, "lease=0.5 must be a number of seconds, at least 1$"),
        ({"lease": "30s"}, "lease='30s' must be a number of seconds, at least 1$"),
        ({"poll_interval": 0}, "poll_interval=0 must be a number of seconds, at least 0.001$"),
        ({"slots": 0}, "slots=0 must be a whole number, at least 1$"),
        ({"slots": True}, "slots=True must be a whole number, at least 1$"),
        ({"max_jobs": 0}, "max_jobs=0 must be a whole number, at least 1, or None for no limit"),
        ({"max_jobs": 2.5}, "max_jobs=2.5 must be a whole number"),
        ({"max_memory": 0}, "max_memory=0 must be a whole number of bytes, at least 1, or None for no limit"),
        ({"max_memory": "512M"}, "max_memory='512M' must be a whole number of bytes"),
        ({"idle_timeout": -1}, "idle_timeout=-1 must be a number of seconds, at least 0, or None for no limit"),
        ({"idle_timeout": float("nan")}, "idle_timeout=nan must be a number"),
        ({"shutdown_timeout": -0.1}, "shutdown_timeout=-0.1 must be a number of seconds, at least 0$"),
        ({"blocked_limit": 0}, "blocked_limit=0 must be a number of seconds, at least 1$"),
    ],
    ids=str,
)
def test_options_that_cannot_work_are_refused(app: PgQueue, options: dict[str, Any], message: str) -> None:
    app.task(name="nothing")(nothing)
    with pytest.raises(ConfigurationError, match=message):
        Worker(app, **options)


async def has(app: PgQueue, **counts: int) -> bool:
    found = await states(app)
    return all(found[state] == count for state, count in counts.items())


async def nothing() -> None: ...


def nothing_blocking() -> None: ...
