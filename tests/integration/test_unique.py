"""What an enqueue does while a job holds its unique key, and for how long the key is held."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from pgqueue import ArgumentError, Backoff, ConfigurationError, Job, KeyHeld, PgQueue, Task, Unique
from pgqueue.queries import pruning
from tests.integration.waiting import Gate, default_to_serializable, states, until

LATER = timedelta(hours=1)
FAR = datetime(2100, 1, 1, tzinfo=UTC)


def execute(dsn: str, statement: str) -> list[Any]:
    with psycopg.connect(dsn, autocommit=True) as conn:
        cursor = conn.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def declared(app: PgQueue, unique: Unique) -> Task[..., Any]:
    @app.task(name="sync", unique=unique)
    async def sync(customer: int, what: str = "all") -> None: ...

    return sync


async def registered(dsn: str, unique: Unique) -> PgQueue:
    """An app without the task's code, once a worker has registered the task."""
    owner = PgQueue(dsn)
    declared(owner, unique)
    async with owner.worker({"other": 1}):
        pass
    await owner.aclose()
    return PgQueue(dsn)


Enqueue = Callable[..., Job]


@pytest.fixture(params=["single", "many", "by_name", "sql"])
async def enqueue(request: pytest.FixtureRequest, app: PgQueue, dsn: str) -> Callable[[Unique], Any]:
    """Makes an enqueue of `sync` with that Unique: each way in which a job can be enqueued."""

    async def made(unique: Unique) -> Enqueue:
        match request.param:
            case "single":
                task = declared(app, unique)
                return lambda what, **options: task.using(**options).enqueue(1, what)
            case "many":
                task = declared(app, unique)
                other = app.task(name="other")(lambda: None)
                return lambda what, **options: app.enqueue_many(
                    [other.job(), task.using(**options).job(1, what), other.job()]
                )[1]
            case "by_name":
                stranger = await registered(dsn, unique)
                return lambda what, **options: stranger.enqueue("sync", {"customer": 1, "what": what}, **options)
            case _:
                stranger = await registered(dsn, unique)

                def by_sql(what: str, delay: timedelta | None = None) -> Job:
                    before = {job.id for job in stranger.jobs.list(task="sync")}
                    with psycopg.connect(dsn, autocommit=True) as conn:
                        args = f'{{"customer": 1, "what": "{what}"}}'
                        row = conn.execute("select pgqueue.enqueue('sync', %s, delay => %s)", [args, delay]).fetchone()
                    assert row
                    job = stranger.jobs.get(row[0])
                    object.__setattr__(job, "created", job.id not in before)
                    return job

                return by_sql

    return made


async def test_skip_leaves_the_job_that_waits(enqueue: Any, app: PgQueue) -> None:
    again = await enqueue(Unique("sync:{customer}"))
    first = again("a", delay=LATER)
    second = again("b")
    assert (first.created, second.created, second.id) == (True, False, first.id)
    assert app.jobs.get(first.id).args == {"customer": 1, "what": "a"}


async def test_replace_gives_the_waiting_job_new_data_time_and_attempts(enqueue: Any, app: PgQueue, dsn: str) -> None:
    again = await enqueue(Unique("sync:{customer}", on_conflict="replace"))
    first = again("a", delay=LATER)
    execute(dsn, f"update pgqueue.jobs set attempt = 3, errors = '[]' where id = {first.id}")
    second = again("b")
    now = app.jobs.get(first.id)
    assert (second.created, second.id) == (False, first.id)
    assert (now.args["what"], now.state, now.attempt, now.errors) == ("b", "available", 0, ())
    third = again("c", delay=LATER)
    now = app.jobs.get(first.id)
    assert (third.id, now.args["what"], now.state) == (first.id, "c", "scheduled")
    assert app.jobs.count(task="sync") == 1


async def test_reschedule_only_moves_the_waiting_job(enqueue: Any, app: PgQueue) -> None:
    again = await enqueue(Unique("sync:{customer}", on_conflict="reschedule"))
    first = again("a", delay=timedelta(minutes=1))
    again("b", delay=LATER)
    now = app.jobs.get(first.id)
    assert (now.args["what"], now.state) == ("a", "scheduled")
    assert timedelta(minutes=59) < now.run_at - first.run_at + timedelta(minutes=1) < timedelta(minutes=62)
    again("c")
    assert app.jobs.get(first.id).state == "available"


async def test_keep_last_gives_the_waiting_job_new_data_and_leaves_its_time(enqueue: Any, app: PgQueue) -> None:
    again = await enqueue(Unique("sync:{customer}", on_conflict="keep_last_if_running"))
    first = again("a", delay=LATER)
    second = again("b")
    now = app.jobs.get(first.id)
    assert (second.created, second.id) == (False, first.id)
    assert (now.args["what"], now.state, now.run_at) == ("b", "scheduled", first.run_at)


@pytest.mark.parametrize("enqueue", ["single", "many", "by_name"], indirect=True)
async def test_error_says_who_holds_the_key_and_enqueues_nothing(enqueue: Any, app: PgQueue) -> None:
    again = await enqueue(Unique("sync:{customer}", on_conflict="error"))
    first = again("a")
    before = app.jobs.count()
    with pytest.raises(KeyHeld, match=f"key 'sync:1' is held in queue default by job {first.id}"):
        again("b")
    assert app.jobs.count() == before


async def test_an_error_leaves_the_callers_transaction_usable(app: PgQueue, dsn: str) -> None:
    task = declared(app, Unique("sync:{customer}", on_conflict="error"))
    task.enqueue(1)
    with psycopg.connect(dsn) as conn:
        with pytest.raises(KeyHeld):
            task.using(conn).enqueue(1)
        with pytest.raises(KeyHeld):
            app.enqueue_many([task.job(2), task.job(1)], using=conn)
        task.using(conn).enqueue(3)
    assert sorted(job.key or "" for job in app.jobs.list()) == ["sync:1", "sync:3"]


async def test_sql_raises_unique_violation_where_a_held_key_is_an_error(app: PgQueue, dsn: str) -> None:
    stranger = await registered(dsn, Unique("sync:{customer}", on_conflict="error"))
    stranger.enqueue("sync", {"customer": 1})
    with pytest.raises(psycopg.errors.UniqueViolation, match="key 'sync:1' is held in queue default by job"):
        execute(dsn, """select pgqueue.enqueue('sync', '{"customer": 1}')""")


async def test_a_key_can_be_used_once_in_a_time_or_for_good(enqueue: Any, app: PgQueue, dsn: str) -> None:
    again = await enqueue(Unique("sync:{customer}", until=LATER))
    first = again("a")
    app.jobs.cancel(first.id)
    held = again("b")
    assert (held.created, held.id, held.state) == (False, first.id, "cancelled")
    execute(dsn, "update pgqueue.used_keys set expires_at = clock_timestamp()")
    assert again("c").created


async def test_a_key_that_is_used_for_good_outlives_the_history_of_its_job(app: PgQueue, dsn: str) -> None:
    task = declared(app, Unique("sync:{customer}", until="forever"))
    first = task.enqueue(1)
    app.jobs.cancel(first.id)
    execute(dsn, "delete from pgqueue.completed_jobs")
    held = task.enqueue(1)
    assert (held.created, held.id, held.state) == (False, first.id, "completed")
    assert execute(dsn, "select expires_at::text from pgqueue.used_keys") == [("infinity",)]


async def test_one_enqueue_can_say_what_happens_while_its_key_is_held(app: PgQueue, dsn: str) -> None:
    @app.task(name="pay")
    async def pay(order: int) -> None: ...

    first = pay.using(key=Unique("pay-7", until="forever")).enqueue(7)
    app.jobs.cancel(first.id)
    assert not pay.using(key=Unique("pay-{order}", until="forever")).enqueue(7).created
    assert not app.enqueue("pay", {"order": 7}, key=Unique("pay-{order}", until="forever")).created
    assert not app.enqueue("unknown", {"order": 7}, key=Unique("pay-{order}", until="forever")).created
    [(id_,)] = execute(
        dsn, "select pgqueue.enqueue('pay', key => 'pay-7', on_conflict => 'skip', keep_key => '1000 years')"
    )
    assert id_ == first.id
    assert pay.using(key="pay-7").enqueue(7).created


@pytest.mark.parametrize("conflict", ["replace", "keep_last_if_running"])
async def test_a_running_job_is_left_alone_and_the_last_of_those_that_came_runs_too(
    app: PgQueue, conflict: Any
) -> None:
    gate = Gate(app, "wait", unique=Unique("k", on_conflict=conflict))
    first = await gate.task.aenqueue(1)
    async with app.worker({"default": 10}):
        assert await gate.enters() == 1
        made = [await gate.task.using(delay=0 if conflict != "replace" else LATER).aenqueue(n) for n in (2, 3, 4)]
        assert [job.created for job in made] == [True, False, False]
        assert len({first.id, *(job.id for job in made)}) == 2
        if conflict == "replace":
            assert await app.jobs.areschedule(made[0].id)
        gate.opened.set()
        assert await gate.enters() == 4

        async def both() -> bool:
            return (await states(app))["completed"] == 2

        await until(both)
    if conflict == "keep_last_if_running":
        assert gate.most == 1


@pytest.mark.parametrize("way", ["retry", "release"])
async def test_a_job_that_gave_its_key_away_does_not_run_again(app: PgQueue, way: str) -> None:
    gate = Gate(app, "wait", unique=Unique("k", on_conflict="keep_last_if_running"), backoff=Backoff.fixed(0))
    first = await gate.task.aenqueue(1)
    worker = app.worker({"default": 10})
    await worker.start()
    assert await gate.enters() == 1
    second = await gate.task.aenqueue(2)
    assert second.created
    if way == "release":
        worker.give_back()
        await worker.wait()
    else:
        gate.fails = True
        gate.opened.set()

    async def gone() -> bool:
        return (await first.arefresh()).state == "cancelled"

    await until(gone)
    assert (await first.arefresh()).reason == "a later job with its key took its place"
    worker.stop()
    await worker.wait()


@pytest.mark.parametrize("serializable", [False, True], ids=["read_committed", "serializable"])
@pytest.mark.parametrize("conflict", ["skip", "replace", "reschedule", "keep_last_if_running"])
def test_sixteen_producers_with_shuffled_keys_never_make_a_second_job(
    fresh_dsn: str, conflict: Any, serializable: bool
) -> None:
    if serializable:
        default_to_serializable(fresh_dsn)
    app = PgQueue(fresh_dsn)
    unique = Unique("sync:{customer}", on_conflict=conflict, until=LATER if conflict == "skip" else "ended")
    task = declared(app, unique)

    def produce(seed: int) -> list[Job]:
        customers = list(range(25))
        random.Random(seed).shuffle(customers)
        return list(app.enqueue_many([task.job(customer, str(seed)) for customer in customers]))

    with ThreadPoolExecutor(16) as pool:
        made = [job for jobs in pool.map(produce, range(32)) for job in jobs]
    assert len({job.id for job in made}) == 25
    assert sum(job.created for job in made) == 25
    assert app.jobs.count() == 25
    app.close()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"on_conflict": "ignore"}, "on_conflict='ignore'"),
        ({"until": "now"}, "until='now'"),
        ({"until": -LATER}, "until="),
        *(({"key": key}, "Unique.key.=") for key in ("{a[b]}", "{a.b}", "{x:.2f}", "{x!r}", "{}", "{a", "a}")),
        *(({"key": key}, "in 1 to 200 characters") for key in ("", "x" * 201, 7)),
    ],
)
def test_a_unique_that_cannot_be_is_refused(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        Unique(**{"key": "k", **wrong})


def test_a_key_that_cannot_be_filled_is_refused(app: PgQueue) -> None:
    task = declared(app, Unique("sync:{customer}"))
    with pytest.raises(ArgumentError, match="names order"):
        task.using(key=Unique("{order}")).enqueue(1)
    with pytest.raises(ArgumentError, match="names order"):
        app.enqueue("unknown", {"n": 1}, key=Unique("{order}"))


async def test_keys_that_are_no_longer_used_are_forgotten(app: PgQueue, dsn: str) -> None:
    task = declared(app, Unique("sync:{customer}", until=LATER))
    app.enqueue_many([task.job(customer) for customer in range(7)])
    execute(dsn, "update pgqueue.used_keys set expires_at = clock_timestamp() where key < 'sync:5'")
    assert app.database.fetch(pruning.forget_keys("pgqueue", 3)) == [3]
    assert app.database.fetch(pruning.forget_keys("pgqueue", 3)) == [2]
    assert execute(dsn, "select key from pgqueue.used_keys order by 1") == [("sync:5",), ("sync:6",)]
