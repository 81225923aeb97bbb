"""Events across processes: what workers publish, and what those who watch hear."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from pgqueue import ConnectionFailed, Event, FailJob, PgQueue, PgQueueError
from pgqueue.config import sqlalchemy_url
from pgqueue.queries import watching
from pgqueue.worker.publishing import KEPT, Publisher
from tests.integration.waiting import DEADLINE

TASKS = """
from pgqueue import FailJob, PgQueue
app = PgQueue()

@app.task(name="send", queue="mail")
def send(n: int) -> int:
    if n < 0:
        raise FailJob("no")
    return n
"""


@pytest.fixture
async def watched(dsn: str) -> Any:
    """An app of the other process, so to say: it shares nothing but the database."""
    made = PgQueue(dsn)
    yield made
    await made.aclose()


def declare(app: PgQueue) -> Any:
    @app.task(name="send", queue="mail")
    async def send(n: int) -> int:
        if n < 0:
            raise FailJob("no")
        return n

    return send


async def test_a_worker_that_publishes_tells_others_what_happens(app: PgQueue, watched: PgQueue) -> None:
    send = declare(app)
    async with watched.watch(timeout=DEADLINE) as events, app.worker({"mail": 1}, name="w1", publish_events=True):
        good, bad = await send.aenqueue(1), await send.aenqueue(-1)
        heard = [await anext(events)]
        while heard[-1].name != "drained" or len(heard) < 5:
            heard.append(await anext(events))
    heard = [event for event in heard if event.name != "drained"] + heard[-1:]
    lives = [
        [(event.name, event.detail) for event in heard if event.job_id == job_id] for job_id in (good.id, bad.id, 0)
    ]
    failed = ("failed", "pgqueue.errors.FailJob")
    assert lives == [[("started", None), ("completed", None)], [("started", None), failed], [("drained", None)]]
    assert {(event.queue, event.worker) for event in heard} == {("mail", "w1")}


async def test_what_is_watched_can_be_chosen_and_a_break_loses_nothing(app: PgQueue, watched: PgQueue) -> None:
    send = declare(app)
    jobs = await app.aenqueue_many([send.job(-n) for n in (1, 2, 3)] + [send.job(1)])
    heard: list[Event] = []
    async with watched.watch("failed", timeout=DEADLINE) as events, app.worker({"mail": 1}, publish_events=True):
        for _ in range(3):
            async for event in events:
                heard.append(event)
                break
    assert [(event.name, event.job_id) for event in heard] == [("failed", job.id) for job in jobs[:3]]


async def test_a_worker_that_does_not_publish_tells_nobody(app: PgQueue, watched: PgQueue, dsn: str) -> None:
    send = declare(app)
    async with watched.watch(timeout=DEADLINE) as events:
        async with app.worker({"mail": 1}):
            assert await (await send.aenqueue(1)).aresult(timeout=DEADLINE) == 1
        with psycopg.connect(dsn, autocommit=True) as connection:
            payload = watching.pack("test", [Event("paused", 0, "", "mark")])
            connection.execute("select pg_notify('pgqueue:events', 'x'), pg_notify('pgqueue:events', %s)", [payload])
        assert await anext(events) == Event("paused", 0, "", "mark", worker="test")


async def test_each_worker_of_an_app_tells_its_own(app: PgQueue, watched: PgQueue) -> None:
    send = declare(app)
    async with watched.watch("completed", timeout=DEADLINE) as events:
        async with (
            app.worker({"mail": 1}, name="w1", publish_events=True),
            app.worker({"other": 1}, name="w2", publish_events=True),
        ):
            jobs = [await send.aenqueue(1), await send.using(queue="other").aenqueue(1)]
            heard = [await anext(events) for _ in range(2)]
        # A third would be one too many.
        async with app.worker({"mail": 1}, name="w3", publish_events=True):
            jobs.append(await send.aenqueue(1))
            heard.append(await anext(events))
    assert sorted((event.job_id, event.worker) for event in heard) == [
        (job.id, f"w{n}") for n, job in enumerate(jobs, 1)
    ]


@pytest.mark.parametrize("kind", ["dsn", "engine"])
def test_a_watch_ends_at_its_time(app: PgQueue, dsn: str, kind: str) -> None:
    if kind == "engine":
        app = PgQueue(engine=create_engine(sqlalchemy_url(dsn), poolclass=NullPool))
    with app.watch(timeout=0) as events:
        assert list(events) == []


def test_a_sync_watch_hears_a_worker_of_another_process(app: PgQueue, dsn: str, tmp_path: Path) -> None:
    (tmp_path / "watch_tasks.py").write_text(TASKS)
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])
    command = [sys.executable, "-m", "pgqueue", "worker", "watch_tasks:app", "--name", "w", "--publish-events"]
    env = {**os.environ, "PGQUEUE_DSN": dsn, "PYTHONPATH": path}
    with app.watch("completed", "failed", timeout=60) as events:
        worker = subprocess.Popen(command, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True)
        try:
            jobs = [app.enqueue("send", {"n": n}, queue="mail") for n in (1, -1)]
            heard = {event.job_id: (event.name, event.worker) for _, event in zip(jobs, events, strict=False)}
        finally:
            worker.send_signal(signal.SIGTERM)
            _, said = worker.communicate(timeout=60)
    assert heard == {jobs[0].id: ("completed", "w"), jobs[1].id: ("failed", "w")}, said


def test_a_connection_that_breaks_is_an_error_that_says_so(app: PgQueue, dsn: str) -> None:
    def kill() -> None:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where application_name = 'pgqueue watch' and datname = current_database()"
            )

    def watch() -> None:
        with app.watch(timeout=DEADLINE) as events:
            killer = threading.Thread(target=kill)
            killer.start()
            killer.join()
            list(events)

    with pytest.raises(ConnectionFailed, match="listening to PostgreSQL failed"):
        watch()


def test_a_watch_that_is_not_open_says_how_to_open_it(app: PgQueue) -> None:
    with pytest.raises(PgQueueError, match=r"use `with app.watch\(\) as events` around the loop"):
        next(app.watch())


async def test_an_async_watch_that_is_not_open_says_how_to_open_it(app: PgQueue) -> None:
    with pytest.raises(PgQueueError, match=r"use `async with app.watch\(\) as events` around the loop"):
        await anext(app.watch())


async def test_many_events_make_one_small_notification(app: PgQueue, watched: PgQueue) -> None:
    """However many jobs end, what is sent is bounded, and what is rare is among it."""
    declare(app)
    async with watched.watch(timeout=DEADLINE) as events, app.worker({"mail": 1}, publish_events=True) as worker:
        publisher = Publisher(worker.services, app.schema, "busy")
        for n in range(10_000):
            publisher.take(Event("completed", n, "send", "mail", 1, 0.1))
        publisher.take(Event("failed", 7, "send", "mail", 1, 0.1))
        await publisher.flush()
        await publisher.flush()
        heard = [await anext(events)]
        while heard[-1].name != "failed":
            heard.append(await anext(events))
    assert [event.worker for event in heard] == ["busy"] * len(heard)
    assert 10 < len(heard) <= KEPT + 1


async def test_events_that_cannot_be_sent_are_lost_and_hurt_nothing(app: PgQueue, dsn: str) -> None:
    send = declare(app)
    async with app.worker({"mail": 1}, publish_events=True) as worker:
        connection = await worker.services.get()
        with psycopg.connect(dsn, autocommit=True) as other:
            other.execute(sql.SQL("select pg_terminate_backend({})").format(connection.info.backend_pid))
        assert worker.publisher is not None
        worker.publisher.take(Event("failed", 7, "send", "mail"))
        await worker.publisher.flush()
        assert await (await send.aenqueue(1)).aresult(timeout=DEADLINE) == 1
