"""Limits as workers keep them: never more at once, never more often, in the order of a key; changed while all runs."""

from __future__ import annotations

import asyncio
import threading
from bisect import bisect_left
from collections.abc import Sequence
from functools import partial
from typing import Any

import psycopg
import pytest

from pgqueue import ArgumentError, Backoff, ConfigurationError, Context, Limit, PgQueue
from pgqueue.queries import gates
from pgqueue.queries.limits import LimitRow
from pgqueue.testing import adrain
from tests.integration.waiting import DEADLINE, Gate, states, until


async def completed(app: PgQueue, count: int) -> bool:
    return (await states(app))["completed"] == count


async def blocked(app: PgQueue, count: int) -> bool:
    return (await states(app))["blocked"] == count


def settings(app: PgQueue) -> list[tuple[Any, ...]]:
    return [(row.scope, row.name, row.key, row.concurrency, row.rate, row.burst) for row in app.limits.list()]


def execute(dsn: str, statement: str) -> list[Any]:
    with psycopg.connect(dsn, autocommit=True) as conn:
        cursor = conn.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def counted(app: PgQueue, dsn: str) -> list[Any]:
    """Places taken, jobs parked and jobs on their way, by gate, once what was freed has been taken back."""
    app.database.run(gates.hand_over("pgqueue", all_gates=True), atomic=True)
    return execute(dsn, "select taken, waiting, loose from pgqueue.gates order by name")


async def test_no_more_run_at_once_than_the_queue_allows_on_all_workers(app: PgQueue, dsn: str) -> None:
    app.queue("default", limit=Limit(concurrency=3))
    gate = Gate(app, "wait")
    await app.aenqueue_many([gate.task.job(n) for n in range(20)])
    async with app.worker({"default": 10}), app.worker({"default": 10}):
        assert [await gate.enters() for _ in range(3)] == [0, 1, 2]
        # The others stay where they are: nothing of the queue could pass them.
        assert execute(dsn, "select state, count(*) from pgqueue.jobs group by 1 order by 1") == [
            ("available", 17),
            ("running", 3),
        ]
        gate.opened.set()
        await until(partial(completed, app, 20))
    assert gate.most == 3


async def test_a_worker_that_waits_for_the_limit_of_its_queue_is_told_by_another(app: PgQueue, dsn: str) -> None:
    app.queue("default", limit=Limit(concurrency=1))
    first = Gate(app, "first")
    other = PgQueue(dsn)
    second = Gate(other, "second")
    second.opened.set()
    async with app.worker({"default": 2}, poll_interval=600), other.worker({"default": 2}, poll_interval=600):
        await first.task.aenqueue(1)
        assert await first.enters() == 1
        await second.task.aenqueue(2)
        await until(partial(idle, dsn, 2))
        first.opened.set()
        assert await second.enters() == 2
    await other.aclose()


async def idle(dsn: str, workers: int) -> bool:
    """Whether so many workers wait for jobs of the queue."""
    return execute(dsn, "select count(*) from pgqueue.idle_workers where queue = 'default'") == [(workers,)]


async def test_each_value_of_a_key_has_its_own_places_and_the_task_others(app: PgQueue) -> None:
    gate = Gate(app, "wait", limit=[Limit(concurrency=1, key="{n}"), Limit(concurrency=2)])
    await app.aenqueue_many([gate.task.job(n) for n in (1, 1, 2, 2, 3)])
    async with app.worker({"default": 10}):
        assert {await gate.enters(), await gate.enters()} == {1, 2}
        await until(partial(blocked, app, 3))
        gate.opened.set()
        await until(partial(completed, app, 5))
    assert gate.most == 2


@pytest.mark.parametrize("workers", [1, 2])
async def test_jobs_begin_no_more_often_than_their_rate(app: PgQueue, workers: int) -> None:
    began: list[float] = []

    @app.task(name="note", limit=Limit(rate="200/s"))
    async def note() -> None:
        began.append(asyncio.get_running_loop().time())

    await app.aenqueue_many([note.job() for _ in range(300)])
    async with asyncio.TaskGroup() as group:
        running = [app.worker({"default": 10}) for _ in range(workers)]
        for worker in running:
            await worker.start()
        await until(partial(completed, app, 300))
        for worker in running:
            worker.stop()
            group.create_task(worker.wait())
    began.sort()
    for first, time in enumerate(began):
        assert bisect_left(began, time + 0.5) - first <= 200 * 0.55 + 1


async def test_a_job_that_waits_for_its_retry_keeps_its_serial_key(app: PgQueue) -> None:
    order: list[tuple[int, int]] = []

    @app.task(name="step", serial_key="{order_id}", bind=True, backoff=Backoff.fixed(0.05))
    async def step(ctx: Any, n: int, order_id: int = 7) -> None:
        order.append((n, ctx.attempt))
        if n == 1 and ctx.attempt < 3:
            raise ValueError(n)

    jobs = await app.aenqueue_many([step.job(n) for n in range(4)])
    assert {job.serial_key for job in jobs} == {"7"}
    async with app.worker({"default": 10}):
        await until(partial(completed, app, 4))
    assert order == [(0, 1), (1, 1), (1, 2), (1, 3), (2, 1), (3, 1)]


@pytest.mark.parametrize("slots", [1, 10])
async def test_the_jobs_of_a_serial_key_run_first_in_first_out_also_where_the_newest_are_first(
    app: PgQueue, slots: int
) -> None:
    app.queue("default", lifo=True)
    order: dict[int, list[int]] = {}

    @app.task(name="step", serial_key="{order_id}")
    async def step(n: int, order_id: int) -> None:
        order.setdefault(order_id, []).append(n)

    await app.aenqueue_many([step.job(n, n % 3) for n in range(120)])
    async with app.worker({"default": slots}, poll_interval=0.1):
        await until(partial(completed, app, 120))
    assert order == {key: list(range(key, 120, 3)) for key in range(3)}


@pytest.mark.parametrize("way", ["single", "many", "thousands", "by_name", "sql"])
async def test_a_serial_key_comes_from_the_task_however_the_job_is_enqueued(app: PgQueue, dsn: str, way: str) -> None:
    @app.task(name="step", serial_key="order-{order_id}")
    async def step(order_id: int) -> None: ...

    async with app.worker({"other": 1}):
        # It has registered the task, and does not run it.
        stranger = PgQueue(dsn)
        match way:
            case "single":
                await step.aenqueue(7)
            case "many":
                await app.aenqueue_many([step.job(7), step.job(7)])
            case "thousands":
                await app.aenqueue_many([step.job(7) for _ in range(2_000)])
            case "by_name":
                await stranger.aenqueue("step", {"order_id": 7})
                await stranger.aenqueue_many(
                    [stranger.new_job("step", {"order_id": 7}, queue="default") for _ in range(2_000)]
                )
            case "sql":
                execute(dsn, """select pgqueue.enqueue('step', '{"order_id": 7}')""")
        await stranger.aclose()
        assert execute(dsn, "select distinct serial_key from pgqueue.jobs") == [("order-7",)]


async def test_one_enqueue_can_name_its_serial_key(app: PgQueue, dsn: str) -> None:
    @app.task(name="step", serial_key="{n}")
    async def step(n: int) -> None: ...

    assert step.using(serial_key="mine").enqueue(1).serial_key == "mine"
    [(id_,)] = execute(dsn, "select pgqueue.enqueue('other', serial_key => 'its')")
    assert app.jobs.get(id_).serial_key == "its"
    with pytest.raises(ArgumentError, match="serial_key '' is not valid"):
        step.using(serial_key="")
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="serial_key ''"):
        execute(dsn, "select pgqueue.enqueue('other', serial_key => '')")


async def test_a_failed_job_lets_the_next_of_its_serial_key_go_and_comes_back_with_it(app: PgQueue) -> None:
    ran: list[int] = []

    @app.task(name="step", max_attempts=1)
    async def step(n: int) -> None:
        ran.append(n)
        if ran == [0]:
            raise ValueError(n)

    await app.aenqueue_many([step.using(serial_key="k").job(n) for n in range(2)])
    async with app.worker({"default": 10}):
        await until(partial(completed, app, 1))
        [redriven] = app.failed.redrive(queue="default")
        assert app.jobs.get(redriven).serial_key == "k"
        await until(partial(completed, app, 2))
    assert ran == [0, 1, 0]


async def test_too_many_requests_pause_that_value_and_use_no_attempt(app: PgQueue) -> None:
    calls = Limit(rate="1000/s", key="{customer}")
    ran: list[tuple[str, int]] = []

    @app.task(name="call", limit=calls, bind=True)
    async def call(ctx: Any, customer: str, n: int) -> None:
        ran.append((customer, n))
        if ran.count(("a", 0)) == 1 and (customer, n) == ("a", 0):
            calls.hit(retry_after=30)
        assert ctx.attempt == 1

    first = await call.aenqueue("a", 0)
    async with app.worker({"default": 10}):

        async def snoozed() -> bool:
            return (await first.arefresh()).state == "scheduled"

        await until(snoozed)
        await app.aenqueue_many([call.job("a", 1), call.job("b", 2)])
        await until(partial(completed, app, 1))
        await until(partial(blocked, app, 1))
        assert ran == [("a", 0), ("b", 2)]
        app.limits.pause(task="call", key="{customer}", value="a")
        app.limits.resume(task="call", key="{customer}", value="a")
        await until(partial(completed, app, 2))
    assert ran == [("a", 0), ("b", 2), ("a", 1)]


@pytest.mark.parametrize(
    "what",
    [
        {"task": "wait"},
        {"task": "wait", "key": "{n}", "value": 1},
        {"queue": "default", "key": "{n}", "value": 1},
        {"queue": "default", "serial_key": "k"},
    ],
    ids=lambda what: "-".join(what),
)
async def test_what_is_paused_does_not_begin_until_it_is_resumed(app: PgQueue, what: dict[str, Any]) -> None:
    gate = Gate(app, "wait")
    gate.opened.set()

    @app.task(name="other")
    async def other() -> None: ...

    async with app.worker({"default": 10}) as worker:
        app.limits.pause(**what)

        async def heard() -> bool:
            return worker.serving.has_limits() or "serial_key" in what

        await until(heard)
        await gate.task.using(serial_key="k").aenqueue(1)
        await other.aenqueue()
        await until(partial(blocked, app, 1))
        await until(partial(completed, app, 1))
        app.limits.resume(**what)
        await until(partial(completed, app, 2))
    assert settings(app) == []


async def test_a_limit_is_changed_while_jobs_wait_for_it_and_holds_at_once(app: PgQueue) -> None:
    gate = Gate(app, "wait", limit=Limit(concurrency=1))
    await app.aenqueue_many([gate.task.job(n) for n in range(9)])
    async with app.worker({"default": 10}):
        assert await gate.enters() == 0
        await until(partial(blocked, app, 8))
        app.limits.set(Limit(concurrency=4), task="wait")
        assert sorted([await gate.enters() for _ in range(3)]) == [1, 2, 3]
        assert (await states(app))["blocked"] == 5
        assert app.limits.remove(task="wait")
        assert sorted([await gate.enters() for _ in range(5)]) == [4, 5, 6, 7, 8]
        gate.opened.set()
        await until(partial(completed, app, 9))
    assert not app.limits.remove(task="wait")


async def test_a_change_outlives_a_restart_until_the_code_says_something_else(app: PgQueue, dsn: str) -> None:
    async def start(limit: Limit | Sequence[Limit] | None) -> list[tuple[Any, ...]]:
        again = PgQueue(dsn)
        Gate(again, "wait", limit=limit)
        async with again.worker({"default": 1}):
            found = settings(again)
        await again.aclose()
        return found

    declared = Limit(concurrency=2)
    assert await start(declared) == [("task", "wait", None, 2, None, 1)]
    app.limits.set(Limit(rate="90/min", burst=3), task="wait")
    app.limits.set(Limit(concurrency=5, key="{n}"), task="wait")
    changed = [("task", "wait", None, None, 1.5, 3), ("task", "wait", "{n}", 5, None, 1)]
    assert await start(declared) == changed
    assert await start([Limit(concurrency=7), Limit(concurrency=8, key="{n}")]) == [
        ("task", "wait", None, 7, None, 1),
        ("task", "wait", "{n}", 8, None, 1),
    ]
    assert await start(None) == []


async def test_the_limit_of_a_queue_stays_when_another_app_does_not_declare_it(app: PgQueue, dsn: str) -> None:
    app.queue("default", limit=Limit(concurrency=2))
    Gate(app, "wait")
    other = PgQueue(dsn)
    other.queue("default", max_attempts=3)
    Gate(other, "its")
    async with app.worker({"default": 1}), other.worker({"default": 1}):
        assert settings(app) == [("queue", "default", None, 2, None, 1)]
    await other.aclose()


async def test_limits_are_listed_with_what_they_let_through(app: PgQueue) -> None:
    gate = Gate(app, "wait", limit=Limit(concurrency=1, key="{n}"))
    await app.aenqueue_many([gate.task.job(n) for n in (1, 1, 2)])
    async with app.worker({"default": 10}):
        assert {await gate.enters(), await gate.enters()} == {1, 2}
        await until(partial(blocked, app, 1))
        assert app.limits.list() == [
            LimitRow(
                "task",
                "wait",
                "{n}",
                1,
                None,
                1,
                fair=False,
                paused=False,
                declared=True,
                values=2,
                running=2,
                blocked=1,
            )
        ]
        gate.opened.set()
        await until(partial(completed, app, 3))


async def test_one_with_many_jobs_does_not_hold_up_another_with_few(app: PgQueue) -> None:
    app.queue("default", limit=Limit(key="{tenant}", fair=True))
    began: list[str] = []

    @app.task(name="work")
    async def work(tenant: str) -> None:
        began.append(tenant)
        await asyncio.sleep(0)

    await app.aenqueue_many([work.job("many") for _ in range(200)])
    await app.aenqueue_many([work.job("few") for _ in range(10)])
    async with app.worker({"default": 4}):
        await until(partial(completed, app, 210))
    last = len(began) - 1 - began[::-1].index("few")
    assert began[:last].count("many") <= 60


@pytest.mark.parametrize(
    ("wrong", "why"),
    [({"concurrency": 3, "fair": True}, "needs a key"), ({"key": "a", "fair": True}, "name arguments")],
    ids=["without-a-key", "without-an-argument"],
)
def test_slots_are_shared_among_the_values_of_a_key(wrong: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        Limit(**wrong)


def test_slots_are_those_of_a_queue(app: PgQueue) -> None:
    shared = Limit(key="{n}", fair=True)
    with pytest.raises(ConfigurationError, match="slots are those of a queue"):
        app.task(name="work", limit=shared)(lambda n: n)
    with pytest.raises(ArgumentError, match="give queue"):
        app.limits.set(shared, task="work")
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="cannot be fair"):
        execute(app.database.dsn, "select pgqueue.set_limit('task', 'work', key => '{n}', fair => true)")


async def test_a_cancelled_job_gives_its_place_to_the_next(app: PgQueue, dsn: str) -> None:
    gate = Gate(app, "wait", limit=Limit(concurrency=1))
    jobs = await app.aenqueue_many([gate.task.job(n) for n in range(4)])
    async with app.worker({"default": 10}):
        assert await gate.enters() == 0
        await until(partial(blocked, app, 3))
        app.queues["default"].pause()
        assert app.jobs.cancel(jobs[1].id) == [jobs[1].id]
        gate.opened.set()
        await until(partial(completed, app, 1))
        # The next has the place, and cannot begin while its queue is paused.
        assert app.jobs.cancel(jobs[2].id) == [jobs[2].id]
        app.queues["default"].resume()
        await until(partial(completed, app, 2))
    assert counted(app, dsn) == [(0, 0, 0)]
    assert execute(dsn, "select * from pgqueue.freed_places") == []


async def test_a_cancelled_job_that_waits_for_its_retry_gives_its_serial_key_back(app: PgQueue) -> None:
    @app.task(name="step", serial_key="k", backoff=Backoff.fixed(3600))
    async def step(n: int) -> None:
        if n == 0:
            raise ValueError(n)

    first, _ = await app.aenqueue_many([step.job(n) for n in range(2)])
    async with app.worker({"default": 10}):

        async def waits() -> bool:
            return (await first.arefresh()).state == "scheduled"

        await until(waits)
        await until(partial(blocked, app, 1))
        assert await first.acancel()
        await until(partial(completed, app, 1))


async def test_places_of_jobs_deleted_by_hand_are_found_by_the_recount(app: PgQueue, dsn: str) -> None:
    gate = Gate(app, "wait", limit=Limit(concurrency=2))
    await app.aenqueue_many([gate.task.job(n) for n in range(3)])
    async with app.worker({"default": 10}):
        assert {await gate.enters(), await gate.enters()} == {0, 1}
        await until(partial(blocked, app, 1))
        assert counted(app, dsn) == [(2, 1, 0)]
        assert await app.database.arun(gates.recount("pgqueue"), atomic=True) == []
        execute(dsn, "delete from pgqueue.jobs where state = 'running'")
        [wrong] = await app.database.arun(gates.recount("pgqueue"), atomic=True)
        assert (wrong.gate, wrong.taken, wrong.held) == ("task:wait", 2, 0)
        assert await gate.enters() == 2
        gate.opened.set()
        await until(partial(completed, app, 1))


async def test_gates_that_nobody_needs_are_forgotten(app: PgQueue, dsn: str) -> None:
    gate = Gate(app, "wait", serial_key="{n}", limit=Limit(rate=1000, key="{n}"))
    gate.opened.set()
    await app.aenqueue_many([gate.task.job(n) for n in range(20)])
    async with app.worker({"default": 10}):
        await until(partial(completed, app, 20))
    app.limits.pause(queue="default", serial_key="7")
    app.database.run(gates.hand_over("pgqueue", all_gates=True), atomic=True)
    app.database.fetch(gates.forget("pgqueue"))
    assert execute(dsn, "select name from pgqueue.gates") == [("serial:default:7",)]


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"queue": "default", "task": "wait"},
        {"task": "wait", "key": "{n}"},
        {"task": "wait", "value": 1},
    ],
    ids=lambda wrong: "-".join(wrong) or "nothing",
)
def test_it_is_said_what_to_pause(app: PgQueue, wrong: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError, match="give"):
        app.limits.pause(**wrong)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("'queues', 'email', 1", "scope 'queues' is not valid"),
        ("'queue', 'e mail', 1", "queue name 'e mail' is not valid"),
        ("'queue', 'email'", "concurrency null, rate null"),
        ("'queue', 'email', 0", "concurrency 0"),
        ("'queue', 'email', rate => -1", "rate -1"),
        ("'queue', 'email', rate => 'NaN'", "rate NaN"),
        ("'queue', 'email', rate => 1, burst => 0", "burst 0"),
        ("'queue', 'email', 1, key => 'customer'", "key 'customer'"),
        ("'queue', 'email', 1, key => '{customer'", "key '{customer'"),
        ("'queue', 'email', 1, key => '{{customer}}'", "key '{{customer}}'"),
        ("'queue', 'email', 1, key => '{customer}}'", "key '{customer}}'"),
        ("'queue', 'email', 1, key => '{customer}' || repeat('x', 191)", "key '{customer}x"),
    ],
)
def test_sql_refuses_a_limit_that_cannot_be(app: PgQueue, dsn: str, arguments: str, told: str) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=told):
        execute(dsn, f"select pgqueue.set_limit({arguments})")


def test_sql_knows_doubled_braces_in_the_key_of_a_limit(app: PgQueue, dsn: str) -> None:
    execute(dsn, "select pgqueue.set_limit('queue', 'email', 1, key => '{{{customer}}}-{{x')")
    app.limits.set(Limit(concurrency=1, key="{customer}" + "x" * 190), queue="email")
    assert len(app.limits.list()) == 2


def test_a_declaration_that_cannot_work_is_refused(app: PgQueue) -> None:
    with pytest.raises(ConfigurationError, match="names customer, which is no parameter"):
        Gate(app, "wait", limit=Limit(concurrency=1, key="{customer}"))
    with pytest.raises(ConfigurationError, match="names customer, which is no parameter"):
        Gate(app, "wait", serial_key="{customer}")
    with pytest.raises(ConfigurationError, match="has two limits without a key"):
        Gate(app, "wait", limit=[Limit(concurrency=1), Limit(rate=1)])
    with pytest.raises(ConfigurationError, match="must be a Limit"):
        app.queue("email", limit=["100/min"])  # type: ignore[list-item]


async def test_a_limit_that_the_job_does_not_have_only_snoozes_it(
    app: PgQueue, caplog: pytest.LogCaptureFixture
) -> None:
    @app.task(name="call")
    async def call() -> None:
        Limit(rate=1, key="{n}").hit(retry_after=3600)

    job = await call.aenqueue()
    async with app.worker({"default": 1}):

        async def snoozed() -> bool:
            return (await job.arefresh()).state == "scheduled"

        await until(snoozed)
    assert "hit a limit with key '{n}', which neither it nor its queue has" in caplog.text


async def test_a_worker_that_drains_waits_for_what_a_limit_blocks(app: PgQueue) -> None:
    ran: list[int] = []

    @app.task(name="step", serial_key="k", limit=Limit(rate=100))
    async def step(n: int) -> None:
        ran.append(n)

    await app.aenqueue_many([step.job(n) for n in range(5)])
    await app.worker({"default": 10}, drain=True).run()
    assert ran == [0, 1, 2, 3, 4]
    assert (await states(app))["completed"] == 5


async def test_a_test_drains_what_is_limited_and_leaves_what_is_paused(app: PgQueue) -> None:
    @app.task(name="step", limit=Limit(concurrency=1, key="{n}"))
    async def step(n: int) -> None: ...

    @app.task(name="later", serial_key="k", backoff=Backoff.fixed(3600))
    async def later() -> None:
        raise ValueError

    app.limits.pause(task="step", key="{n}", value=1)
    await app.aenqueue_many([step.job(n) for n in (0, 0, 1, 1, 2)])
    assert (await adrain(app)).completed == 3
    await app.aenqueue_many([later.job(), later.job()])
    assert (await adrain(app)).retried == 1
    assert await states(app) == {"completed": 3, "blocked": 3, "scheduled": 1}


async def test_a_blocked_job_can_be_moved_to_another_time(app: PgQueue, dsn: str) -> None:
    gate = Gate(app, "wait", limit=Limit(concurrency=1))
    jobs = await app.aenqueue_many([gate.task.job(n) for n in range(4)])
    async with app.worker({"default": 10}):
        assert await gate.enters() == 0
        await until(partial(blocked, app, 3))
        assert app.jobs.reschedule(jobs[1].id, delay=3600)
        app.queues["default"].pause()
        gate.opened.set()
        await until(partial(completed, app, 1))
        # The next has been let go, and cannot begin while its queue is paused.
        assert app.jobs.reschedule(jobs[2].id, delay=3600)
        app.queues["default"].resume()
        await until(partial(completed, app, 2))
        assert await states(app) == {"completed": 2, "scheduled": 2}
        assert app.jobs.reschedule(jobs[1].id)
        assert app.jobs.reschedule(jobs[2].id)
        await until(partial(completed, app, 4))
    assert counted(app, dsn) == [(0, 0, 0)]


async def test_a_serial_key_that_is_paused_while_its_job_waits_for_a_retry_goes_on(app: PgQueue) -> None:
    order: list[tuple[int, int]] = []

    @app.task(name="step", serial_key="k", bind=True, backoff=Backoff.fixed(3600))
    async def step(ctx: Any, n: int) -> None:
        order.append((n, ctx.attempt))
        if ctx.attempt == 1 and n == 0:
            raise ValueError(n)

    first, _ = await app.aenqueue_many([step.job(n) for n in range(2)])
    async with app.worker({"default": 10}):

        async def waits() -> bool:
            return (await first.arefresh()).state == "scheduled"

        await until(waits)
        app.limits.pause(queue="default", serial_key="k")
        assert app.jobs.reschedule(first.id)
        await until(partial(blocked, app, 2))
        app.limits.resume(queue="default", serial_key="k")
        await until(partial(completed, app, 2))
    assert order == [(0, 1), (0, 2), (1, 1)]


async def test_a_slow_rate_in_a_single_slot_does_not_hang(app: PgQueue) -> None:
    began: list[int] = []

    @app.task(name="slow", limit=Limit(rate=20))
    async def slow(n: int) -> None:
        began.append(n)

    async with app.worker({"default": 1}) as worker:
        worker.serving.slots["default"].moved_at -= 3600
        await app.aenqueue_many([slow.job(n) for n in range(10)])
        await until(partial(completed, app, 10))
    # One that would have begun too late went back.
    assert sorted(began) == list(range(10))


async def test_one_job_with_arguments_that_cannot_be_read_fails_alone(app: PgQueue, dsn: str) -> None:
    @app.task(name="call", limit=Limit(concurrency=1, key="{n}"), max_attempts=1)
    async def call(n: int) -> None: ...

    jobs = await app.aenqueue_many([call.job(n) for n in range(3)])
    execute(dsn, f"update pgqueue.jobs set args = '{{\"n\": {'9' * 5000}}}' where id = {jobs[1].id}")
    async with app.worker({"default": 10}):
        await until(partial(completed, app, 2))

        async def failed() -> bool:
            return (await jobs[1].arefresh()).state == "failed"

        await until(failed)


async def test_too_many_requests_close_the_gate_of_the_task_and_not_of_its_queue(app: PgQueue, dsn: str) -> None:
    calls = Limit(rate=1000)
    app.queue("default", limit=Limit(concurrency=5))

    @app.task(name="call", limit=calls)
    async def call() -> None:
        calls.hit(retry_after=3600)

    @app.task(name="other")
    async def other() -> None: ...

    first = await call.aenqueue()
    async with app.worker({"default": 10}):

        async def snoozed() -> bool:
            return (await first.arefresh()).state == "scheduled"

        await until(snoozed)
        await app.aenqueue_many([other.job(), call.job()])
        await until(partial(completed, app, 1))
        await until(partial(blocked, app, 1))
    closed = "select name from pgqueue.gates where closed_until > clock_timestamp()"
    assert execute(dsn, closed) == [("task:call",)]


async def test_a_limit_of_a_task_leaves_other_queues_of_the_worker_as_they_were(app: PgQueue) -> None:
    @app.task(name="limited", queue="one", limit=Limit(concurrency=1))
    async def limited() -> None: ...

    @app.task(name="plain", queue="two")
    async def plain() -> None: ...

    async with app.worker({"one": 2, "two": 2}) as worker:
        await app.aenqueue_many([limited.job(), plain.job(), plain.job()])
        await until(partial(completed, app, 3))
        assert not worker.serving.claimers["two"].limited


@pytest.mark.parametrize("how", ["timeout", "cancel"])
async def test_a_thread_that_outlasts_its_run_keeps_its_place_until_it_returns(app: PgQueue, how: str) -> None:
    entered: asyncio.Queue[Context] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    back = threading.Event()

    @app.task(
        limit=Limit(concurrency=1), timeout=0.2 if how == "timeout" else None, max_attempts=1, bind=True, name="slow"
    )
    def slow(ctx: Context) -> None:
        loop.call_soon_threadsafe(entered.put_nowait, ctx)
        back.wait(DEADLINE)

    marker = app.task(name="marker")(lambda: None)
    first, second = await slow.aenqueue(), await slow.aenqueue()
    async with app.worker({"default": 5}):
        context = await asyncio.wait_for(entered.get(), DEADLINE)
        if how == "cancel":
            await first.acancel()

        async def is_told() -> bool:
            return context.stopped

        await until(is_told)
        # Outcomes are written in their order: after this one that of the first would be there.
        await (await marker.aenqueue()).aresult()
        assert (await first.arefresh()).state == "running"
        assert entered.empty()
        back.set()
        await asyncio.wait_for(entered.get(), DEADLINE)
        # The marker and the second.
        await until(partial(completed, app, 2))
    assert (await first.arefresh()).state == ("failed" if how == "timeout" else "cancelled")
    assert (await second.arefresh()).state == "completed"
