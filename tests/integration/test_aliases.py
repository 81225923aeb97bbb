"""Aliases: jobs that were enqueued under a former name of a task run as that task, and count as its jobs."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from pgqueue import (
    ArgumentError,
    Backoff,
    Breaker,
    ChunkJob,
    ConfigurationError,
    Context,
    FailJob,
    Limit,
    PgQueue,
    Unique,
)
from pgqueue.testing import adrain, assert_enqueued, drain, enqueued
from tests.integration.waiting import Gate, states, until

OLD, NEW = "old.mail.send", "mail.send"


def sql(dsn: str, query: str, *params: Any) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn, autocommit=True) as conn:
        return conn.execute(query, params or None).fetchall()


def test_jobs_under_former_names_run_as_the_task_and_keep_their_name(app: PgQueue, dsn: str) -> None:
    ran: list[tuple[str, str]] = []

    @app.task(name=NEW, bind=True, aliases=[OLD, "send"])
    def send(ctx: Context, to: str) -> None:
        ran.append((ctx.task, to))

    PgQueue(dsn).enqueue(OLD, {"to": "a"})
    sql(dsn, "select pgqueue.enqueue('send', '{\"to\": \"b\"}')")
    send.enqueue("c")
    report = drain(app)
    assert report.completed == 3
    assert sorted(ran) == [(NEW, "a"), (NEW, "b"), (NEW, "c")]
    assert {event.task for event in report.events} == {NEW}
    assert sorted(job.task for job in app.jobs.list(state="completed")) == sorted([OLD, "send", NEW])


def test_an_app_with_the_code_enqueues_under_the_name_that_the_task_has_now(app: PgQueue) -> None:
    @app.task(name=NEW, aliases=[OLD], queue="mail", unique=Unique("{to}"))
    def send(to: str) -> None: ...

    job = app.enqueue(OLD, {"to": "a"})
    assert (job.task, job.queue, job.key) == (NEW, "mail", "a")
    with pytest.raises(ArgumentError):
        app.enqueue(OLD, {"too": "a"})


async def test_sql_knows_the_defaults_and_keys_of_the_task_under_each_name(app: PgQueue, dsn: str) -> None:
    @app.task(name=NEW, aliases=[OLD], queue="mail", max_attempts=3, unique=Unique("{to}"), serial_key="{to}")
    def send(to: str) -> None: ...

    async with app.worker(queues={"other": 1}):
        pass
    job = send.enqueue("a")
    assert sql(dsn, f"select pgqueue.enqueue('{OLD}', '{{\"to\": \"a\"}}')") == [(job.id,)]
    [(second,)] = sql(dsn, f"select pgqueue.enqueue('{OLD}', '{{\"to\": \"b\"}}')")
    found = app.jobs.get(second)
    assert (found.task, found.queue, found.max_attempts, found.key, found.serial_key) == (OLD, "mail", 3, "b", "b")


@pytest.mark.parametrize("option", [{"limit": Limit(concurrency=1)}, {"limit": Limit(concurrency=1, key="{n}")}])
async def test_a_limit_counts_jobs_of_all_names(app: PgQueue, dsn: str, option: dict[str, Any]) -> None:
    gate = Gate(app, NEW, aliases=[OLD], **option)
    other = PgQueue(dsn)
    for name in (OLD, NEW, OLD):
        other.enqueue(name, {"n": 1})

    async def two_are_blocked() -> bool:
        return (await states(app))["blocked"] == 2

    async with app.worker(queues={"default": 5}):
        await gate.enters()
        await until(two_are_blocked)
        [row] = app.limits.list()
        assert (row.name, row.running, row.blocked) == (NEW, 1, 2)
        gate.opened.set()
        await until(lambda: completed(app, 3))
    assert gate.most == 1


async def completed(app: PgQueue, number: int) -> bool:
    return (await states(app))["completed"] == number


async def test_a_breaker_counts_and_stops_jobs_of_all_names(app: PgQueue, dsn: str) -> None:
    calls: list[str] = []

    @app.task(name=NEW, aliases=[OLD], backoff=Backoff.fixed(60), breaker=Breaker(failures=2, open_for=3600))
    async def call(who: str) -> None:
        calls.append(who)
        raise ConnectionError

    @app.task(name="other")
    async def other(who: str) -> None:
        calls.append(who)

    outside = PgQueue(dsn)
    for name in (OLD, NEW):
        outside.enqueue(name, {"who": "first"})

    async def is_open() -> bool:
        return [row.state for row in app.breakers.list()] == ["open"]

    async with app.worker(queues={"default": 2}):
        await until(is_open)
    began = len(calls)
    assert began >= 2
    outside.enqueue(OLD, {"who": "late"})
    outside.enqueue("other", {"who": "other"})
    await adrain(app)
    assert calls[began:] == ["other"]
    assert (await states(app))["blocked"] >= 1


def test_on_failed_and_retention_are_those_of_the_task(app: PgQueue, dsn: str) -> None:
    told: list[str] = []

    @app.task(name="notify")
    def notify(task: str, **rest: Any) -> None:
        told.append(task)

    @app.task(name=NEW, aliases=[OLD], on_failed=notify, keep_completed=False)
    def send(fails: bool) -> None:
        if fails:
            raise FailJob("no")

    for fails in (True, False):
        PgQueue(dsn).enqueue(OLD, {"fails": fails})
    report = drain(app)
    assert (report.failed, report.completed) == (1, 2)
    assert told == [OLD]
    assert app.jobs.count(task=OLD, state="completed") == 0


def test_a_redriven_job_runs_as_the_task(app: PgQueue, dsn: str) -> None:
    ok: list[int] = []

    @app.task(name=OLD, max_attempts=1)
    def before() -> None:
        raise ValueError

    job = before.enqueue()
    assert drain(app).failed == 1
    after = PgQueue(dsn)

    @after.task(name=NEW, aliases=[OLD])
    def send() -> None:
        ok.append(1)

    after.failed.redrive([job.id])
    assert (drain(after).completed, ok) == (1, [1])
    after.close()


def test_a_chunk_gathers_jobs_of_all_names(app: PgQueue, dsn: str) -> None:
    chunks: list[list[Any]] = []

    @app.task(name=NEW, aliases=[OLD], chunk=10)
    def send(jobs: list[ChunkJob[dict[str, int]]]) -> None:
        chunks.append(sorted(job.args["n"] for job in jobs))

    for n, name in enumerate([OLD, NEW, OLD]):
        PgQueue(dsn).enqueue(name, {"n": n})
    assert drain(app).completed == 3
    assert chunks == [[0, 1, 2]]


async def test_its_jobs_are_no_unknown_ones(app: PgQueue, dsn: str, caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate(app, NEW, aliases=[OLD])
    PgQueue(dsn).enqueue(OLD)
    async with app.worker(queues={"default": 1}) as worker:
        await gate.enters()
        [info] = app.workers.list()
        assert info.tasks == (NEW, OLD)
        assert not worker.idle
        gate.opened.set()
        await until(lambda: completed(app, 1))


def test_the_helpers_of_tests_find_jobs_of_all_names(app: PgQueue, dsn: str) -> None:
    @app.task(name=NEW, aliases=[OLD])
    def send(to: str) -> None: ...

    @app.task(name="other")
    def other(to: str) -> None: ...

    for name in (OLD, NEW, "other"):
        PgQueue(dsn).enqueue(name, {"to": "a"})
    assert [job.task for job in enqueued(app, send)] == [OLD, NEW]
    assert len(assert_enqueued(app, send, to="a", times=2)) == 2
    assert len(assert_enqueued(app, OLD, to="a", times=2)) == 2
    assert [job.task for job in enqueued(app, OLD)] == [OLD]


def test_what_names_a_task_by_its_former_name_is_checked_like_the_task(app: PgQueue) -> None:
    @app.task(name=NEW, aliases=[OLD])
    def send(to: str) -> None: ...

    @app.task(name="charge", on_failed=OLD)
    def charge() -> None: ...

    with pytest.raises(ConfigurationError, match=NEW):
        drain(app)


@pytest.mark.parametrize(
    ("first", "second", "wrong"),
    [
        ({"name": "a", "aliases": ["b"]}, {"name": "b"}, "two tasks are named b"),
        ({"name": "b"}, {"name": "a", "aliases": ["b"]}, "two tasks are named b"),
        ({"name": "a", "aliases": ["x"]}, {"name": "b", "aliases": ["x"]}, "two tasks are named x"),
        ({"name": "c"}, {"name": "a", "aliases": ["a"]}, "twice"),
        ({"name": "c"}, {"name": "a", "aliases": ["b", "b"]}, "twice"),
        ({"name": "c"}, {"name": "a", "aliases": "b"}, "list of the names"),
        ({"name": "c"}, {"name": "a", "aliases": ["b b"]}, "not valid"),
        ({"name": "c"}, {"name": "a", "aliases": [1]}, "not valid"),
    ],
)
def test_a_name_that_two_would_have_is_refused(
    app: PgQueue, first: dict[str, Any], second: dict[str, Any], wrong: str
) -> None:
    def send() -> None: ...

    declare: Any = app.task
    declare(**first)(send)
    with pytest.raises(ConfigurationError, match=wrong):
        declare(**second)(send)
    assert set(app.tasks) == {first["name"]}
