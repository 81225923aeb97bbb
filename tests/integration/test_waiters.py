"""Waiting for results: the job's end notifies, on one connection of the process; without it, polling is left."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from pgqueue import Backoff, CancelJob, FailJob, Job, JobCancelled, JobFailed, JobNotFound, PgQueue, ResultTimeout
from pgqueue.config import sqlalchemy_url
from pgqueue.database import hearing
from pgqueue.testing import drain
from tests.integration.test_fork import in_a_fork
from tests.integration.waiting import DEADLINE, Gate, until
from tests.sql.rows import until as eventually

NEVER = (3600.0, 1.0, 3600.0)
RESULTS = "pgqueue results"

Waits = Callable[[Job], Coroutine[Any, Any, Any]]


@pytest.fixture(autouse=True)
def threads_for_all() -> Iterator[None]:
    """`to_thread` of the tests: a hundred may wait at once."""
    with ThreadPoolExecutor(110) as pool:
        THREADS.append(pool)
        yield
        THREADS.remove(pool)


THREADS: list[ThreadPoolExecutor] = []


async def waits_in_a_coroutine(job: Job) -> Any:
    return await job.aresult(DEADLINE)


async def waits_in_a_thread(job: Job) -> Any:
    return await asyncio.get_running_loop().run_in_executor(THREADS[-1], job.result, DEADLINE)


kinds = pytest.mark.parametrize("wait", [waits_in_a_coroutine, waits_in_a_thread])


@pytest.fixture
def only_notified(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who hears does not poll: what arrives was notified."""
    monkeypatch.setattr(hearing, "HEARD", NEVER)


def count(dsn: str, query: str, *params: object) -> int:
    with psycopg.connect(dsn, autocommit=True) as conn:
        [[found]] = conn.execute(query, params).fetchall()
    return int(found)


def recorded(dsn: str) -> int:
    # Those that wait for one job and begin at once may be recorded each.
    return count(dsn, "select count(distinct (job_id, channel)) from pgqueue.waiters")


def listening(dsn: str) -> int:
    query = "select count(*) from pg_stat_activity where datname = current_database() and application_name = %s"
    return count(dsn, query, RESULTS)


async def until_recorded(dsn: str, jobs: int = 1) -> None:
    """They wait for a notification, and look at nothing else."""

    async def are_recorded() -> bool:
        return await asyncio.to_thread(recorded, dsn) == jobs

    await until(are_recorded)


@contextmanager
def role_that_may_only_read(dsn: str) -> Iterator[str]:
    """The DSN of a user who may see jobs and write nothing."""
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute("create role pgqueue_reader login password 'reads'")
        admin.execute("grant usage on schema pgqueue to pgqueue_reader")
        admin.execute("grant select on all tables in schema pgqueue to pgqueue_reader")
        try:
            yield make_conninfo(dsn, user="pgqueue_reader", password="reads")
        finally:
            admin.execute("drop owned by pgqueue_reader")
            admin.execute("drop role pgqueue_reader")


@kinds
async def test_a_completed_job_wakes_who_waits(app: PgQueue, dsn: str, only_notified: None, wait: Waits) -> None:
    gate = Gate(app, "wait")
    job = await gate.task.aenqueue(7)
    async with app.worker():
        waiting = asyncio.create_task(wait(job))
        await gate.enters()
        await until_recorded(dsn)
        gate.opened.set()
        assert await waiting == 7
    assert recorded(dsn) == 0


@kinds
async def test_a_result_that_is_there_is_returned_without_a_connection_to_wait_on(
    app: PgQueue, dsn: str, wait: Waits
) -> None:
    job = await app.task(name="send")(lambda: 1).aenqueue()
    await asyncio.to_thread(drain, app)
    assert await wait(job) == 1
    assert listening(dsn) == 0


@kinds
async def test_a_cancelled_job_wakes_who_waits(app: PgQueue, dsn: str, only_notified: None, wait: Waits) -> None:
    gate = Gate(app, "wait")
    running = await gate.task.aenqueue()
    waits = [asyncio.create_task(wait(running))]
    async with app.worker({"default": 1}):
        await gate.enters()
        scheduled = await gate.task.using(delay=3600).aenqueue()
        waits.append(asyncio.create_task(wait(scheduled)))
        await until_recorded(dsn, 2)
        assert await app.jobs.acancel([running.id, scheduled.id], why="sold out")
        errors = await asyncio.gather(*waits, return_exceptions=True)
    for error, job, why in zip(errors, (running, scheduled), ("cancelled while it ran", "sold out"), strict=True):
        assert isinstance(error, JobCancelled)
        assert error.job is not None
        assert (error.job.id, error.job.state, error.job.reason) == (job.id, "cancelled", why)
        assert str(error) == f"job {job.id} (wait) was cancelled: {why}"


@kinds
async def test_a_failed_job_wakes_who_waits_and_says_what_happened(
    app: PgQueue, dsn: str, only_notified: None, wait: Waits
) -> None:
    gate = Gate(app, "wait", max_attempts=2, backoff=Backoff.fixed(0))
    gate.fails = True
    job = await gate.task.aenqueue(7)
    async with app.worker():
        waiting = asyncio.create_task(wait(job))
        await gate.enters()
        await until_recorded(dsn)
        gate.opened.set()
        with pytest.raises(JobFailed, match=rf"job {job.id} \(wait\) failed after 2 attempts: ValueError: 7") as caught:
            await waiting
    error = caught.value
    assert (error.error_type, error.error_message) == ("ValueError", "7")
    assert error.job is not None
    assert (error.job.id, error.job.state, len(error.job.errors)) == (job.id, "failed", 2)
    await error.job.arefresh()


@kinds
async def test_a_rescue_that_gives_a_job_up_wakes_who_waits(
    app: PgQueue, dsn: str, only_notified: None, wait: Waits
) -> None:
    job = await app.task(name="once", max_attempts=1)(lambda: None).aenqueue()
    waiting = asyncio.create_task(wait(job))
    await until_recorded(dsn)
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(
            "update pgqueue.jobs set state = 'running', attempt = 1, claim_id = 5;"
            "insert into pgqueue.claims (id, worker_id, queue, job_ids) "
            "select 5, gen_random_uuid(), 'default', array_agg(id) from pgqueue.jobs"
        )
    async with app.worker(lease=1.0):
        with pytest.raises(JobFailed, match=r"ProcessCrashed: worker .* died while it ran this job"):
            await waiting


@kinds
async def test_a_job_without_history_wakes_who_waits_with_nothing_to_show(
    app: PgQueue, dsn: str, only_notified: None, wait: Waits
) -> None:
    gate = Gate(app, "wait", keep_completed=False)
    job = await gate.task.aenqueue()
    async with app.worker():
        waiting = asyncio.create_task(wait(job))
        await gate.enters()
        await until_recorded(dsn)
        gate.opened.set()
        with pytest.raises(JobNotFound):
            await waiting


@kinds
async def test_a_hundred_that_wait_share_one_connection(
    app: PgQueue, dsn: str, only_notified: None, wait: Waits
) -> None:
    gate = Gate(app, "wait")
    jobs = await app.aenqueue_many([gate.task.job(n) for n in range(100)])
    async with app.worker({"default": 100}):
        waiting = [asyncio.create_task(wait(job)) for job in jobs]
        await until_recorded(dsn, 100)
        assert listening(dsn) == 1
        query = "select count(*) from pg_stat_activity where datname = current_database() and application_name = %s"
        assert count(dsn, query, "pgqueue") <= 8
        gate.opened.set()
        assert await asyncio.gather(*waiting) == list(range(100))


async def test_several_may_wait_for_one_job_in_one_process(app: PgQueue, dsn: str, only_notified: None) -> None:
    gate = Gate(app, "wait")
    job = await gate.task.aenqueue(7)
    async with app.worker():
        waiting = [
            asyncio.create_task(wait(job)) for wait in (waits_in_a_coroutine, waits_in_a_thread) for _ in range(3)
        ]
        # One channel of the event loop, one of the threads.
        await until_recorded(dsn, 2)
        gate.opened.set()
        assert await asyncio.gather(*waiting) == [7] * 6


@kinds
async def test_a_listening_connection_that_breaks_comes_back_and_misses_nothing(
    app: PgQueue, dsn: str, only_notified: None, monkeypatch: pytest.MonkeyPatch, wait: Waits
) -> None:
    monkeypatch.setattr(hearing, "RETRY", (0.01, 0.01))
    monkeypatch.setattr(hearing, "UNHEARD", NEVER)
    gate = Gate(app, "wait")
    job = await gate.task.aenqueue(7)
    async with app.worker():
        waiting = asyncio.create_task(wait(job))
        await gate.enters()
        await until_recorded(dsn)
        with psycopg.connect(dsn, autocommit=True) as conn:
            # What is notified meanwhile is lost, and so is the record.
            conn.execute("delete from pgqueue.waiters")
            conn.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where datname = current_database() and application_name = %s",
                [RESULTS],
            )
        await until_recorded(dsn)
        gate.opened.set()
        assert await waiting == 7


@kinds
async def test_who_cannot_be_recorded_polls(app: PgQueue, dsn: str, only_notified: None, wait: Waits) -> None:
    gate = Gate(app, "wait")
    job = await gate.task.aenqueue(7)
    with role_that_may_only_read(dsn) as readers:
        reader = PgQueue(readers)
        seen = await reader.jobs.aget(job.id)
        async with app.worker():
            waiting = asyncio.create_task(wait(seen))
            await gate.enters()
            gate.opened.set()
            assert await waiting == 7
        assert recorded(dsn) == 0
        await reader.aclose()


@kinds
async def test_behind_a_pooler_it_polls_and_records_nothing(dsn: str, wait: Waits) -> None:
    app = PgQueue(dsn, pooler=True)
    gate = Gate(app, "wait")
    job = await gate.task.aenqueue(7)
    async with app.worker(poll_interval=0.05):
        waiting = asyncio.create_task(wait(job))
        await gate.enters()
        assert (recorded(dsn), listening(dsn)) == (0, 0)
        gate.opened.set()
        assert await waiting == 7
    await app.aclose()


@kinds
async def test_an_app_on_an_engine_is_notified_too(dsn: str, only_notified: None, wait: Waits) -> None:
    app = PgQueue(engine=create_engine(sqlalchemy_url(dsn), poolclass=NullPool))
    gate = Gate(app, "wait")
    job = await gate.task.aenqueue(7)
    async with app.worker():
        waiting = asyncio.create_task(wait(job))
        await gate.enters()
        await until_recorded(dsn)
        gate.opened.set()
        assert await waiting == 7
    await app.aclose()


@kinds
async def test_the_listening_connection_is_closed_when_nobody_has_waited_for_a_while(
    app: PgQueue, dsn: str, monkeypatch: pytest.MonkeyPatch, wait: Waits
) -> None:
    monkeypatch.setattr(hearing, "PING_AFTER", 0.02)
    monkeypatch.setattr(hearing, "LINGER", 0.05)
    gate = Gate(app, "wait")

    async def nobody_listens() -> bool:
        return await asyncio.to_thread(listening, dsn) == 0

    async with app.worker():
        for n in (1, 2):
            job = await gate.task.aenqueue(n)
            waiting = asyncio.create_task(wait(job))
            await gate.enters()
            await until_recorded(dsn)
            assert listening(dsn) == 1
            gate.opened.set()
            assert await waiting == n
            gate.opened.clear()
            await until(nobody_listens)


async def test_a_wait_that_was_cancelled_leaves_nobody_waiting(app: PgQueue, dsn: str, only_notified: None) -> None:
    gate = Gate(app, "wait")
    job = await gate.task.aenqueue()
    with pytest.raises(ResultTimeout, match=r"is still available after 0\.3 s"):
        await job.aresult(0.3)
    waiting = asyncio.create_task(waits_in_a_coroutine(job))
    await until_recorded(dsn)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    [listener] = app.database.waiters._loops.values()
    assert listener._waiters == {}


async def test_an_app_that_is_closed_while_somebody_waits_lets_it_poll(app: PgQueue, dsn: str) -> None:
    gate = Gate(app, "wait")
    job = await gate.task.aenqueue(7)
    async with app.worker():
        waiting = [asyncio.create_task(wait(job)) for wait in (waits_in_a_coroutine, waits_in_a_thread)]
        await gate.enters()
        await until_recorded(dsn, 2)
        await app.aclose()
        assert listening(dsn) == 0
        gate.opened.set()
        assert await asyncio.gather(*waiting) == [7, 7]


def test_a_forked_child_waits_on_a_connection_of_its_own(app: PgQueue, dsn: str) -> None:
    task = app.task(name="send")(lambda: 7)
    ended, waiting = task.enqueue(), task.using(delay=3600).enqueue()
    with pytest.raises(ResultTimeout):
        waiting.result(0.2)
    eventually(lambda: listening(dsn) == 1, "the parent listens")

    def child() -> None:
        with pytest.raises(ResultTimeout):
            waiting.result(0.2)
        drain(app)
        assert ended.result(DEADLINE) == 7
        app.close()

    assert in_a_fork(child) == 0
    assert listening(dsn) == 1
    assert ended.result(DEADLINE) == 7


@pytest.mark.parametrize("outcome", [FailJob("no use"), CancelJob("not needed")])
def test_what_a_job_came_to_can_be_sent_to_another_process(app: PgQueue, outcome: Exception) -> None:
    def end() -> None:
        raise outcome

    job = app.task(name="send")(end).enqueue()
    drain(app)
    with pytest.raises((JobFailed, JobCancelled)) as caught:
        job.result(0)
    error = pickle.loads(pickle.dumps(caught.value))
    assert (type(error), str(error)) == (type(caught.value), str(caught.value))
    assert (error.job, error.job.operations) == (caught.value.job, None)
