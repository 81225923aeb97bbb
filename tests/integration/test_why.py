"""Why a job is where it is, in each situation, as the tables have it."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from pgqueue import Backoff, Breaker, CancelJob, JobNotFound, Limit, PgQueue, SnoozeJob, chain
from pgqueue.testing import adrain
from tests.integration.test_cli import Invoke, invoke, records
from tests.integration.waiting import until

__all__ = ["invoke"]


def codes(app: PgQueue, job_id: int) -> list[str]:
    return [reason.code for reason in app.jobs.why(job_id).reasons]


def text(app: PgQueue, job_id: int) -> str:
    return app.jobs.why(job_id).reasons[0].text


@pytest.fixture
def registered(dsn: str) -> Any:
    """Adds the row of a live worker, which does nothing."""

    def add(queues: str, *tasks: str, state: str = "running", expires: str = "1 hour") -> None:
        with psycopg.connect(dsn) as conn:
            conn.execute(
                "insert into pgqueue.workers (id, name, host, pid, version, state, queues, tasks, expires_at) "
                "values (%s, 'w1', 'host', 7, '1', %s, %s::jsonb, %s, clock_timestamp() + %s::interval)",
                [uuid4(), state, queues, list(tasks), expires],
            )

    return add


# It has ended


async def test_what_has_ended_says_how(app: PgQueue) -> None:
    @app.task(name="work", max_attempts=1)
    async def work(how: str) -> None:
        if how == "fail":
            raise ValueError("no such card")
        if how == "cancel":
            raise CancelJob("no longer wanted")

    jobs = {how: work.enqueue(how) for how in ("complete", "fail", "cancel")}
    await adrain(app)
    assert codes(app, jobs["complete"].id) == ["completed"]
    assert codes(app, jobs["cancel"].id) == ["cancelled"]
    assert "no longer wanted" in text(app, jobs["cancel"].id)
    [reason] = app.jobs.why(jobs["fail"].id).reasons
    assert reason.code == "failed"
    assert "ValueError: no such card" in reason.text
    assert reason.fix == f"Mend the cause, then: pgqueue failed redrive {jobs['fail'].id}"


def test_a_job_that_is_not_there_is_not_found(app: PgQueue) -> None:
    with pytest.raises(JobNotFound, match="there is no job 99"):
        app.jobs.why(99)


# Nobody is there for it


def test_no_worker_is_alive(app: PgQueue, registered: Any) -> None:
    job = app.enqueue("work", queue="email")
    registered('{"email": 1}', "work", expires="-1 second")
    assert codes(app, job.id) == ["no_worker"]


def test_no_worker_serves_the_queue_and_the_likely_one_is_named(app: PgQueue, registered: Any) -> None:
    job = app.enqueue("work", queue="emial")
    registered('{"email": 5, "images": 2}', "work")
    assert codes(app, job.id) == ["queue_unserved"]
    assert "did the enqueue mean email?" in text(app, job.id)


def test_no_worker_knows_the_task(app: PgQueue, registered: Any) -> None:
    job = app.enqueue("shop.send_mail")
    registered('{"default": 5}', "shop.send_email", "shop.other")
    assert codes(app, job.id) == ["task_unknown"]
    assert "is it shop.send_email now?" in text(app, job.id)
    elsewhere = app.enqueue("shop.gone", queue="nobody")
    assert codes(app, elsewhere.id) == ["queue_unserved", "task_unknown"]


def test_every_worker_is_stopping(app: PgQueue, registered: Any) -> None:
    job = app.enqueue("work")
    registered('{"default": 5}', "work", state="stopping")
    assert codes(app, job.id) == ["workers_stopping"]


# It is not its time


async def test_it_is_to_run_later_or_again(app: PgQueue, registered: Any) -> None:
    @app.task(name="work", max_attempts=5, backoff=Backoff.fixed(600))
    async def work(how: str) -> None:
        raise SnoozeJob(600) if how == "snooze" else ValueError("try again")

    later = work.using(delay=10_000).enqueue("later")
    again, snoozed = work.enqueue("fail"), work.enqueue("snooze")
    await adrain(app)
    registered('{"default": 5}', "work")
    assert codes(app, later.id) == ["scheduled"]
    assert "in 2.8 h" in text(app, later.id)
    assert codes(app, again.id) == ["retrying"]
    assert "attempt 1 of 5 failed (ValueError: try again): it is tried again in 10 min" in text(app, again.id)
    assert codes(app, snoozed.id) == ["scheduled"]


# Something lets nothing begin


def test_its_queue_is_paused(app: PgQueue, registered: Any) -> None:
    job = app.enqueue("work", queue="email")
    registered('{"email": 5}', "work")
    app.queues["email"].pause()
    assert codes(app, job.id) == ["queue_paused"]
    assert app.jobs.why(job.id).reasons[0].fix == "pgqueue queues resume email"


async def test_the_circuit_breaker_of_its_task_is_open(app: PgQueue, registered: Any) -> None:
    @app.task(name="work", breaker=Breaker(failures=5))
    async def work() -> None: ...

    await adrain(app)
    app.breakers.open(task="work")
    job = work.enqueue()
    registered('{"default": 5}', "work")
    assert codes(app, job.id)[0] == "breaker_open"
    assert text(app, job.id) == "the circuit breaker of task work is open: by hand"


def test_another_transaction_holds_its_row(app: PgQueue, registered: Any, dsn: str) -> None:
    job = app.enqueue("work")
    registered('{"default": 5}', "work")
    with psycopg.connect(dsn) as conn:
        conn.execute("select from pgqueue.jobs where id = %s for update", [job.id])
        assert codes(app, job.id) == ["locked"]
        assert f"server process {conn.info.backend_pid}" in text(app, job.id)
    assert codes(app, job.id) == ["soon"]


def test_others_come_first(app: PgQueue, registered: Any) -> None:
    app.enqueue("work", priority=-1)
    job = app.enqueue("work")
    app.enqueue("work")
    registered('{"default": 5}', "work")
    assert codes(app, job.id) == ["line"]
    assert text(app, job.id).startswith("1 job of the queue comes before it")


async def test_all_slots_are_busy(app: PgQueue) -> None:
    go = asyncio.Event()

    # What must not repeat is claimed when a slot is free, and not before.
    @app.task(name="work", max_attempts=1)
    async def work() -> None:
        await go.wait()

    first, second = work.enqueue(), work.enqueue()
    async with app.worker({"default": 1}):
        await until(lambda: _running(app, first.id))
        [reason] = app.jobs.why(first.id).reasons
        assert reason.code == "running"
        assert reason.text.startswith("attempt 1 of 1 runs in worker ")
        assert codes(app, second.id) == ["busy"]
        assert text(app, second.id) == "1 job of queue default runs in 1 slot of 1 worker"
        go.set()


async def _running(app: PgQueue, job_id: int) -> bool:
    return app.jobs.get(job_id).state == "running"


# Its worker


def test_it_runs_in_a_worker_that_is_dead_or_gone(app: PgQueue, registered: Any, dsn: str) -> None:
    job = app.enqueue("work")
    registered('{"default": 5}', "work", expires="-5 seconds")
    with psycopg.connect(dsn) as conn:
        conn.execute(
            "insert into pgqueue.claims (id, worker_id, queue, job_ids) "
            "select 5, id, 'default', array[%s] from pgqueue.workers",
            [job.id],
        )
        conn.execute("update pgqueue.jobs set state = 'running', claim_id = 5, attempt = 1 where id = %s", [job.id])
    assert codes(app, job.id) == ["worker_dead"]
    with psycopg.connect(dsn) as conn:
        conn.execute("delete from pgqueue.workers")
    assert codes(app, job.id) == ["worker_gone"]
    app.jobs.cancel(job.id)
    assert codes(app, job.id) == ["worker_gone", "cancelling"]


# It is blocked


async def test_it_waits_at_a_limit(app: PgQueue) -> None:
    go = asyncio.Event()

    @app.task(name="work", limit=Limit(concurrency=1, key="{customer}"))
    async def work(customer: str) -> None:
        await go.wait()

    first = work.enqueue("acme")
    async with app.worker({"default": 5}):
        await until(lambda: _running(app, first.id))
        second = work.enqueue("acme")
        await until(lambda: _blocked(app, second.id))
        assert codes(app, second.id) == ["concurrency"]
        assert text(app, second.id) == "1 job of task work for acme runs, as many as its limit allows, and 1 waits"
        go.set()


async def _blocked(app: PgQueue, job_id: int) -> bool:
    return app.jobs.get(job_id).state == "blocked"


async def test_a_rate_is_used_up(app: PgQueue) -> None:
    @app.task(name="work", limit=Limit(rate="1/h"))
    async def work() -> None: ...

    jobs = [work.enqueue() for _ in range(2)]
    async with app.worker({"default": 5}):
        await until(lambda: _blocked(app, jobs[1].id))
        assert codes(app, jobs[1].id) == ["rate"]
        assert "the next begins within" in text(app, jobs[1].id)


async def test_a_job_of_its_serial_key_is_before_it(app: PgQueue) -> None:
    @app.task(name="work", serial_key="{account}", max_attempts=2, backoff=Backoff.fixed(600))
    async def work(account: str) -> None:
        raise ValueError

    jobs = [work.enqueue("acme") for _ in range(2)]
    async with app.worker({"default": 5}):
        await until(lambda: _blocked(app, jobs[1].id))
        await until(lambda: _scheduled(app, jobs[0].id))
        assert codes(app, jobs[1].id) == ["serial_key"]
        assert text(app, jobs[1].id).startswith(f"job {jobs[0].id} of its serial key acme waits for its retry")


async def _scheduled(app: PgQueue, job_id: int) -> bool:
    return app.jobs.get(job_id).state == "scheduled"


async def test_its_serial_key_is_halted(app: PgQueue) -> None:
    @app.task(name="work", serial_key="{account}", max_attempts=1, halt_on_failed=True)
    async def work(account: str) -> None:
        raise ValueError

    jobs = [work.enqueue("acme") for _ in range(2)]
    async with app.worker({"default": 5}):
        await until(lambda: _blocked(app, jobs[1].id))
        await until(lambda: _failed(app, jobs[0].id))
        assert codes(app, jobs[1].id) == ["serial_halted"]
        assert f"pgqueue failed redrive {jobs[0].id}" in str(app.jobs.why(jobs[1].id).reasons[0].fix)


async def _failed(app: PgQueue, job_id: int) -> bool:
    return app.jobs.get(job_id).state == "failed"


async def test_its_task_is_paused(app: PgQueue) -> None:
    @app.task(name="work", limit=Limit(concurrency=5))
    async def work() -> None: ...

    await adrain(app)
    app.limits.pause(task="work")
    job = work.enqueue()
    async with app.worker({"default": 5}):
        await until(lambda: _blocked(app, job.id))
        assert codes(app, job.id) == ["paused"]


async def test_what_resumes_a_value_or_a_serial_key_is_named_whole(app: PgQueue) -> None:
    @app.task(name="work", limit=Limit(concurrency=5, key="{customer}"), serial_key="{customer}")
    async def work(customer: str) -> None: ...

    await adrain(app)
    app.limits.pause(task="work", key="{customer}", value="acme")
    job = work.enqueue("acme")
    async with app.worker({"default": 5}):
        await until(lambda: _blocked(app, job.id))
        fix = "pgqueue limits resume --task work --key '{customer}' --value 'acme'"
        assert [reason.fix for reason in app.jobs.why(job.id).reasons] == [fix]
        app.limits.resume(task="work", key="{customer}", value="acme")
        app.limits.pause(queue="default", serial_key="other")
        halted = work.enqueue("other")
        await until(lambda: _blocked(app, halted.id))
        fix = "pgqueue limits resume --queue default --serial-key 'other'"
        assert [reason.fix for reason in app.jobs.why(halted.id).reasons] == [fix]


async def test_it_waits_for_its_children_or_for_one_that_failed(app: PgQueue) -> None:
    @app.task(name="work", max_attempts=1)
    async def work(name: str) -> None:
        if name == "bad":
            raise ValueError("no such video")

    waits = app.flows.enqueue(chain(work.using(delay=timedelta(hours=1)).job("late"), work.job("end")))
    holds = app.flows.enqueue(chain(work.job("bad"), work.job("end"), on_failure="wait"))
    fails = app.flows.enqueue(chain(work.job("bad"), work.job("end")))
    await adrain(app)
    child, parent = waits.jobs
    assert codes(app, parent.id) == ["children"]
    assert text(app, parent.id) == f"it waits for 1 job: {child.id} (work, scheduled)"
    assert codes(app, holds.jobs[1].id) == ["child_failed"]
    assert f"pgqueue failed redrive {holds.jobs[0].id}" in str(app.jobs.why(holds.jobs[1].id).reasons[0].fix)
    assert codes(app, fails.jobs[1].id) == ["child_failed"]
    assert "no such video" in text(app, fails.jobs[1].id)
    assert app.jobs.why(fails.jobs[1].id).reasons[0].fix == f"Mend the cause, then: pgqueue flows retry {fails.id}"


# On the command line


def test_the_command_says_the_reasons_and_what_to_do(invoke: Invoke, app: PgQueue, registered: Any) -> None:
    job = app.enqueue("work", queue="emial")
    registered('{"email": 5}', "work")
    shown = invoke("why", job.id).stdout
    assert f"job {job.id}  work  in queue emial  is available" in shown
    assert "- no live worker serves queue emial (did the enqueue mean email?)" in shown
    assert "  Start one: pgqueue worker -q emial" in shown
    [record] = records(invoke("why", job.id, "--json"))
    assert (record["id"], record["state"]) == (job.id, "available")
    assert record["reasons"][0]["code"] == "queue_unserved"
    assert invoke("why", 999, exit_code=3).stderr.startswith("Error: there is no job 999")


async def test_it_is_the_same_in_async_code(app: PgQueue) -> None:
    job = app.enqueue("work")
    assert [reason.code for reason in (await app.jobs.awhy(job.id)).reasons] == ["no_worker"]
