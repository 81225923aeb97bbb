"""Jobs that are deleted for good: by state and age, and with all of a queue."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from pgqueue import ArgumentError, Breaker, FailJob, Limit, PgQueue, QueueBusy, Unique
from pgqueue.queries import obliterating, purging
from pgqueue.testing import aenqueued, drain, enqueued
from tests.integration.waiting import Gate, until


@pytest.fixture(params=[10_000, 2])
def small_turns(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Turns that look at all, and at two rows."""
    monkeypatch.setattr(purging, "LOOK_AT", request.param)


@pytest.fixture
def conn(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


def shop(app: PgQueue, queue: str = "mail", **options: Any) -> Any:
    @app.task(name=f"send.{queue}", queue=queue, **options)
    def send(n: int = 0) -> None:
        if n < 0:
            raise FailJob("no")

    return send


def in_every_state(app: PgQueue, queue: str) -> None:
    """Three jobs that completed, two cancelled, two failed, four available and three scheduled."""
    send = shop(app, queue)
    app.enqueue_many([send.job(n) for n in (1, 2, 3, -1, -2)])
    drain(app, [queue])
    app.jobs.cancel([send.using(delay=60).enqueue().id for _ in range(2)])
    app.enqueue_many([send.job(n) for n in range(4)])
    app.enqueue_many([send.using(delay=60).job(n) for n in range(3)])


def counts(app: PgQueue, queue: str) -> Counter[str]:
    return Counter(job.state for job in enqueued(app, queue=queue))


WHOLE = Counter(completed=3, cancelled=2, failed=2, available=4, scheduled=3)


@pytest.mark.usefixtures("small_turns")
@pytest.mark.parametrize(
    "states",
    [["completed"], ["cancelled"], ["failed"], ["available"], ["scheduled"], ["completed", "failed", "scheduled"]],
)
def test_jobs_of_a_state_are_purged_and_others_stay(app: PgQueue, states: list[Any]) -> None:
    for queue in ("mail", "other"):
        in_every_state(app, queue)
    assert app.jobs.purge(states, queue="mail") == sum(WHOLE[state] for state in states)
    assert counts(app, "mail") == Counter({state: n for state, n in WHOLE.items() if state not in states})
    assert counts(app, "other") == WHOLE
    assert app.jobs.purge(states, task="send.other") == sum(WHOLE[state] for state in states)


def test_only_what_is_older_is_purged(app: PgQueue, conn: psycopg.Connection[Any]) -> None:
    in_every_state(app, "mail")
    conn.execute("update pgqueue.jobs set created_at = created_at - interval '2 h' where args ->> 'n' = '1'")
    conn.execute("update pgqueue.failed_jobs set failed_at = failed_at - interval '2 h' where args ->> 'n' = '-1'")
    states: Any = ["available", "scheduled", "failed", "completed"]
    assert app.jobs.purge(states, older_than=timedelta(hours=3)) == 0
    assert app.jobs.purge(states, older_than=3600) == 3
    assert counts(app, "mail") == Counter(completed=3, cancelled=2, failed=1, available=3, scheduled=2)


def test_what_purged_jobs_have_told_goes_with_them(app: PgQueue, conn: psycopg.Connection[Any]) -> None:
    in_every_state(app, "mail")
    conn.execute("insert into pgqueue.job_progress (job_id, percent) select id, 5 from pgqueue.all_jobs")
    conn.execute(
        "insert into pgqueue.job_logs (job_id, logged_at, attempt, level, message) "
        "select id, now(), 1, 'info', 'x' from pgqueue.all_jobs"
    )
    app.jobs.purge(["completed", "cancelled", "failed", "available", "scheduled"])
    for table in ("job_progress", "job_logs"):
        assert conn.execute(f"select count(*) from pgqueue.{table}").fetchone() == (0,)


@pytest.mark.parametrize("state", ["running", "done", [], ["completed", "running"]])
def test_a_state_that_cannot_be_purged_is_refused(app: PgQueue, state: Any) -> None:
    with pytest.raises(ArgumentError, match="cannot be purged"):
        app.jobs.purge(state)


@pytest.mark.usefixtures("small_turns")
async def test_a_purged_job_gives_back_its_places_and_its_key(app: PgQueue) -> None:
    gate = Gate(app, "wait", serial_key="s", unique=Unique("{n}"))
    for n in range(4):
        gate.task.enqueue(n)

    async def three_are_blocked() -> bool:
        return app.jobs.count(state="blocked") == 3

    async with app.worker(queues={"default": 4}):
        assert await gate.enters() == 0
        await until(three_are_blocked)
        assert await app.jobs.apurge("blocked") == 3
        again = await gate.task.aenqueue(3)
        assert again.created
        gate.opened.set()
        assert await gate.enters() == 3
        await again.aresult(timeout=20)


@pytest.mark.usefixtures("small_turns")
async def test_a_job_that_somebody_has_locked_is_waited_for_after_the_others(app: PgQueue, dsn: str) -> None:
    send = shop(app)
    jobs = app.enqueue_many([send.job(n) for n in range(5)])
    with psycopg.connect(dsn) as locks:
        locks.execute("select from pgqueue.jobs where id = %s for update", [jobs[2].id])
        purge = asyncio.create_task(app.jobs.apurge("available"))
        await until(lambda: is_left(app, jobs[2].id))
        assert not purge.done()
    assert await purge == 5


async def is_left(app: PgQueue, job_id: int) -> bool:
    return [job.id for job in await aenqueued(app)] == [job_id]


async def test_a_queue_is_obliterated_with_all_that_it_had_and_no_other(
    app: PgQueue, conn: psycopg.Connection[Any]
) -> None:
    app.queue("other", limit=Limit(concurrency=5))
    in_every_state_of_two(app)
    for queue in ("mail", "other"):
        app.queues[queue].age(60)
        app.limits.set(Limit(concurrency=3), queue=queue)
        app.limits.pause(queue=queue, serial_key="a:b")
        app.breakers.set(Breaker(failures=3), queue=queue)
        app.breakers.open(queue=queue)
        unique = Unique("order", until="forever")
        app.enqueue("any", queue=queue, key=unique)
    conn.execute("insert into pgqueue.lanes (queue, priority, mark, proven) values ('mail', 0, 1, true)")

    gone = await app.queues.aobliterate("mail")

    assert (gone.waiting, gone.running, gone.ended, gone.failed, gone.schedules) == (8, 0, 5, 2, ())
    assert counts(app, "mail") == Counter()
    assert counts(app, "other") == WHOLE + Counter(available=1)
    for table, name in (
        ("queues", "name"),
        ("limits", "name"),
        ("gates", "of"),
        ("breakers", "name"),
        ("lanes", "queue"),
    ):
        found = conn.execute(
            f"select distinct {name} from pgqueue.{table} where {name} in ('mail', 'other')"
        ).fetchall()
        assert found in ([("other",)], []), table
    assert app.enqueue("any", queue="mail", key=Unique("order", until="forever")).created
    assert not app.enqueue("any", queue="other", key=Unique("order", until="forever")).created
    assert (await app.queues.aobliterate("mail")).jobs == 1
    assert app.queues.obliterate("mail").jobs == 0


def in_every_state_of_two(app: PgQueue) -> None:
    def work() -> None:
        for queue in ("mail", "other"):
            in_every_state(app, queue)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


async def test_a_queue_whose_jobs_run_is_refused_and_left_as_it_is(app: PgQueue) -> None:
    gate = Gate(app, "wait", queue="mail")
    for n in range(5):
        gate.task.enqueue(n)
    async with app.worker(queues={"mail": 2}):
        await gate.enters()
        await gate.enters()
        with pytest.raises(QueueBusy, match="queue mail is not obliterated: 2 jobs of it run"):
            await app.queues.aobliterate("mail")
        stats = app.queues["mail"].stats()
        assert stats is not None
        assert (stats.paused, stats.available + stats.running) == (False, 5)
        gate.opened.set()
        await until(lambda: all_completed(app))


async def all_completed(app: PgQueue) -> bool:
    return {job.state for job in await aenqueued(app)} == {"completed"}


async def test_forced_running_jobs_go_too_and_their_workers_write_nothing(
    app: PgQueue, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate(app, "wait", queue="mail", limit=Limit(concurrency=3), serial_key="{n}")
    for n in (1, 1, 2, 3, 4):
        gate.task.enqueue(n)
    async with app.worker(queues={"mail": 10}) as worker:
        for _ in range(3):
            await gate.enters()
        gone = await app.queues.aobliterate("mail", force=True)
        assert gone.jobs == 5
        assert gone.running >= 3
        gate.opened.set()
        await until(lambda: is_idle(worker))
        assert await aenqueued(app) == []
        # What comes later finds every place free.
        later = [await gate.task.aenqueue(n) for n in (1, 1, 2, 3)]
        for job in later:
            await job.aresult(timeout=20)
    assert gate.most == 3


async def is_idle(worker: Any) -> bool:
    return bool(worker.idle)


def test_what_is_enqueued_meanwhile_stays_and_an_interrupted_one_is_taken_up_again(
    app: PgQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purging, "LOOK_AT", 2)
    send = shop(app)
    app.enqueue_many([send.job(n) for n in range(6)])
    steps = obliterating.obliterate("pgqueue", "mail", force=False)
    sent = None
    while app.jobs.count(queue="mail") > 2:
        sent = app.database.run(steps.send(sent), atomic=True)
    steps.close()
    stats = app.queues["mail"].stats()
    assert stats is not None
    assert stats.paused
    late = None
    steps = obliterating.obliterate("pgqueue", "mail", force=False)

    def with_one_more() -> Any:
        nonlocal late
        sent = None
        while True:
            try:
                step = steps.send(sent)
            except StopIteration as end:
                return end.value
            sent = yield step
            if late is None and app.jobs.count(queue="mail") == 0:
                late = send.enqueue(7)

    gone = app.database.run_each(with_one_more())
    assert gone.jobs == 2
    assert late is not None
    assert [job.id for job in app.jobs.list(queue="mail")] == [late.id]
    assert drain(app).completed == 1


def test_schedules_that_enqueue_into_it_are_named_and_go_on(app: PgQueue, conn: psycopg.Connection[Any]) -> None:
    conn.execute(
        "insert into pgqueue.schedules (name, task, queue, every, next_run_at) values "
        "('hourly', 't', 'mail', '1 h', now()), ('daily', 't', 'other', '1 h', now()), "
        "('plain', 't', null, '1 h', now())"
    )
    assert app.queues.obliterate("mail").schedules == ("hourly",)
    assert app.queues.obliterate("default").schedules == ("plain",)
