"""What an enqueue writes: options, keys, defaults and bulks, as the table shows them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import psycopg
import pytest
from psycopg import sql

from pgqueue import Backoff, Job, NewJob, PgQueue, Task, Unique
from pgqueue.testing import drain, enqueued

COPIED = 2_000
FAR = datetime(2100, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def send(app: PgQueue) -> Task[[int], int]:
    @app.task(name="send")
    def send(n: int) -> int:
        return n

    return send


def stored(app: PgQueue) -> Job:
    [job] = enqueued(app)
    return job


def ran_in_order(app: PgQueue) -> list[Any]:
    """The arguments `n` of the jobs, in the order in which one slot runs them."""
    order: list[Any] = []
    app.on("completed", lambda event: order.append(app.jobs.get(event.job_id).args["n"]))
    drain(app, slots=1)
    return order


def test_a_job_without_options_is_available_at_once(app: PgQueue, send: Task[[int], int]) -> None:
    made = send.enqueue(7)
    job = stored(app)
    assert job == made
    assert (job.task, job.queue, job.state, job.args) == ("send", "default", "available", {"n": 7})
    assert (job.priority, job.attempt, job.max_attempts, job.key, job.tags, job.headers) == (0, 0, 25, None, (), {})
    assert job.created_at is not None
    assert abs(job.run_at - job.created_at) < timedelta(seconds=5)


def test_a_plain_call_runs_the_function_and_enqueues_nothing(app: PgQueue, send: Task[[int], int]) -> None:
    assert send(3) == 3
    assert enqueued(app) == []


@pytest.mark.parametrize("delay", [90, 90.0, timedelta(seconds=90)], ids=["int", "float", "timedelta"])
def test_a_delay_counts_from_the_servers_clock(app: PgQueue, send: Task[[int], int], delay: float | timedelta) -> None:
    send.using(delay=delay).enqueue(1)
    job = stored(app)
    assert job.state == "scheduled"
    assert job.created_at is not None
    assert abs(job.run_at - job.created_at - timedelta(seconds=90)) < timedelta(seconds=5)


def test_run_at_is_kept_to_the_microsecond(app: PgQueue, send: Task[[int], int]) -> None:
    when = FAR.replace(microsecond=123456)
    assert send.using(run_at=when).enqueue(1).run_at == when
    assert stored(app).run_at == when


def test_a_time_in_the_past_is_now(app: PgQueue, send: Task[[int], int]) -> None:
    assert send.using(run_at=datetime(2020, 1, 1, tzinfo=UTC)).enqueue(1).state == "available"
    assert send.using(delay=0).enqueue(2).state == "available"


def test_every_option_is_stored(app: PgQueue, send: Task[[int], int]) -> None:
    tags, headers = ["a", "é \"'\\,{}"], {"traceparent": "00-1", "deep": {"x": [1, None]}}
    send.using(
        queue="other", priority=-5, key="k-1", max_attempts=3, timeout=timedelta(minutes=1), tags=tags, headers=headers
    ).enqueue(1)
    job = stored(app)
    assert (job.queue, job.priority, job.key, job.max_attempts) == ("other", -5, "k-1", 3)
    assert (job.tags, job.headers) == (tuple(tags), headers)
    assert enqueued(app, tag="a") == [job]


def test_every_option_is_stored_by_copy_too(app: PgQueue, send: Task[[int], int]) -> None:
    tags, headers = ["a", "é \"'\\,{}\t\n\\N"], {"text": "tab\t line\n \\N back\\slash \\\\ é 😀"}
    options: dict[str, Any] = {"queue": "other", "priority": -5, "max_attempts": 3, "timeout": 60}
    job = send.using(tags=tags, headers=headers, run_at=FAR, **options).job(1)
    made = app.enqueue_many([job] * COPIED)
    first = app.jobs.get(made[0].id)
    assert (first.queue, first.priority, first.max_attempts, first.run_at) == ("other", -5, 3, FAR)
    assert (first.tags, first.headers, first.state) == (tuple(tags), headers, "scheduled")
    assert first == made[0]


def test_arguments_survive_copy_as_they_are(app: PgQueue) -> None:
    @app.task(name="note")
    def note(n: str) -> None: ...

    texts = ["tab\t", "line\nfeed", "back\\slash", "\\N", "\\.", "é 😀 \u2028", "", "\x7f\x01"]
    app.enqueue_many([note.job(text) for text in texts] + [note.job("x")] * COPIED)
    assert [job.args["n"] for job in enqueued(app)][: len(texts)] == texts


def test_lower_priorities_run_first_and_equal_ones_in_order(app: PgQueue, send: Task[[int], int]) -> None:
    app.enqueue_many([send.using(priority=priority).job(n) for n, priority in enumerate([5, 0, -5, 0, -5, 5])])
    assert ran_in_order(app) == [2, 4, 1, 3, 0, 5]


def test_a_last_in_first_out_queue_runs_the_newest_first_within_a_priority(
    app: PgQueue, send: Task[[int], int]
) -> None:
    app.queue("stack", lifo=True)
    jobs = [send.using(queue="stack", priority=priority).job(n) for n, priority in enumerate([1, 0, 0, 1])]
    app.enqueue_many(jobs)
    drain(app, ["nothing-there"])
    assert ran_in_order(app) == [2, 1, 3, 0]


def test_a_key_is_held_until_the_job_has_ended(app: PgQueue, send: Task[[int], int]) -> None:
    first = send.using(key="k").enqueue(1)
    again = send.using(key="k").enqueue(2)
    assert (again.id, again.created, again.args, again.state) == (first.id, False, {"n": 1}, "available")
    drain(app)
    after = send.using(key="k").enqueue(3)
    assert after.created
    assert after.id != first.id


def test_a_job_that_was_not_created_can_be_waited_for(app: PgQueue, send: Task[[int], int]) -> None:
    send.using(key="k").enqueue(1)
    again = send.using(key="k").enqueue(2)
    drain(app)
    assert again.result(timeout=10) == 1


def test_a_key_belongs_to_its_queue(app: PgQueue, send: Task[[int], int]) -> None:
    assert send.using(key="k", queue="one").enqueue(1).created
    assert send.using(key="k", queue="two").enqueue(1).created
    assert app.jobs.find("k", queue="two") == enqueued(app)[1]


def test_a_unique_task_makes_its_key_of_its_arguments(app: PgQueue) -> None:
    @app.task(name="thumb", unique=Unique("thumb:{image}:{size}"))
    def thumb(image: int, size: str = "s") -> None: ...

    assert thumb.enqueue(1).key == "thumb:1:s"
    assert not thumb.enqueue(image=1, size="s").created
    assert thumb.enqueue(1, "l").created
    assert not app.enqueue("thumb", {"image": 1}).created
    assert thumb.using(key="mine").enqueue(1).key == "mine"


def test_concurrent_enqueues_of_one_key_make_one_job(app: PgQueue, send: Task[[int], int]) -> None:
    barrier = threading.Barrier(4)
    made: list[Job] = []

    def enqueue() -> None:
        barrier.wait()
        for n in range(20):
            made.append(send.using(key=f"k{n}").enqueue(n))

    threads = [threading.Thread(target=enqueue) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(job.created for job in made) == 20
    assert len({job.id for job in made}) == len(enqueued(app)) == 20


def test_concurrent_bulks_with_the_same_keys_neither_deadlock_nor_double(app: PgQueue, send: Task[[int], int]) -> None:
    barrier = threading.Barrier(4)
    results: list[Sequence[Job]] = []

    def enqueue(keys: list[int]) -> None:
        barrier.wait()
        for _ in range(5):
            results.append(app.enqueue_many([send.using(key=f"k{key}").job(key) for key in keys]))

    orders = [list(range(40)), list(range(39, -1, -1)), [*range(20, 40), *range(20)], list(range(0, 40, 2))]
    threads = [threading.Thread(target=enqueue, args=[order]) for order in orders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 20
    assert sum(job.created for jobs in results for job in jobs) == len(enqueued(app)) == 40


@pytest.mark.parametrize("joined", [False, True], ids=["own transaction", "transaction of the caller"])
def test_concurrent_bulks_do_not_fail_while_the_holders_of_their_keys_end(fresh_dsn: str, joined: bool) -> None:
    with psycopg.connect(fresh_dsn, autocommit=True) as connection:
        name = sql.Identifier(connection.info.dbname)
        # Deadlocks are to be found soon: they cost no more than this here.
        connection.execute(sql.SQL("alter database {} set deadlock_timeout = '5ms'").format(name))
    app = PgQueue(fresh_dsn, pool_size=9)
    app.task(name="noop")(noop)
    barrier = threading.Barrier(9)
    ended = threading.Event()
    failed: list[Exception] = []
    made: list[Job] = []

    def enqueue(seed: int) -> None:
        random = Random(seed)
        barrier.wait()
        try:
            for _ in range(40):
                jobs = [app.new_job("noop", key=f"k{key}") for key in random.sample(range(12), 8)]
                with psycopg.connect(fresh_dsn) if joined else nullcontext() as using:
                    made.extend(app.enqueue_many(jobs, using=using))
        except Exception as error:
            failed.append(error)

    def end() -> None:
        barrier.wait()
        while not ended.is_set():
            app.jobs.cancel([job.id for job in enqueued(app, state="available")][::2])

    threads = [threading.Thread(target=enqueue, args=[seed]) for seed in range(8)]
    ender = threading.Thread(target=end)
    for thread in [*threads, ender]:
        thread.start()
    for thread in threads:
        thread.join()
    ended.set()
    ender.join()
    assert failed == []
    created = {job.id for job in made if job.created}
    assert len(made) == 8 * 40 * 8
    assert {job.id for job in made} == created
    assert {job.id for state in ("available", "cancelled") for job in enqueued(app, state=state)} == created
    app.close()


def test_a_bulk_returns_its_jobs_in_order(app: PgQueue, send: Task[[int], int]) -> None:
    made = app.enqueue_many([send.job(n) for n in range(1_500)])
    assert [job.args["n"] for job in made] == list(range(1_500))
    assert [job.id for job in made] == sorted(job.id for job in made)
    assert [job.id for job in enqueued(app)] == [job.id for job in made]


def test_a_copied_bulk_returns_its_jobs_in_order_and_runs_in_it(app: PgQueue, send: Task[[int], int]) -> None:
    made = app.enqueue_many([send.job(n) for n in range(COPIED)])
    assert [job.args["n"] for job in made] == list(range(COPIED))
    assert [job.id for job in made] == sorted(job.id for job in made)
    assert made[5].refresh() == made[5]
    order: list[int] = []
    app.on("completed", lambda event: order.append(event.job_id))
    drain(app, slots=1)
    assert order == [job.id for job in made]


def test_an_empty_bulk_is_nothing(app: PgQueue) -> None:
    assert app.enqueue_many([]) == []


def test_a_bulk_with_keys_keeps_its_order_and_its_duplicates(app: PgQueue, send: Task[[int], int]) -> None:
    held = send.using(key="b").enqueue(0)
    keys = ["c", "b", None, "a", "c", None]
    made = app.enqueue_many([send.using(key=key).job(n) for n, key in enumerate(keys)])
    assert [job.created for job in made] == [True, False, True, True, False, True]
    assert made[1].id == held.id
    assert made[4].id == made[0].id
    assert [made[n].id for n in (0, 2, 3, 5)] == sorted(made[n].id for n in (0, 2, 3, 5))
    assert ran_in_order(app) == [0, 0, 2, 3, 5]


def test_a_large_bulk_with_keys_is_enqueued_whole(app: PgQueue, send: Task[[int], int]) -> None:
    made = app.enqueue_many([send.using(key=f"k{n % 2_500}").job(n) for n in range(3_000)])
    assert [job.created for job in made] == [True] * 2_500 + [False] * 500
    assert [job.id for job in made[2_500:]] == [job.id for job in made[:500]]


@pytest.mark.parametrize("count", [5, COPIED], ids=["insert", "copy"])
def test_a_spread_staggers_a_bulk(app: PgQueue, send: Task[[int], int], count: int) -> None:
    made = app.enqueue_many([send.job(n) for n in range(count)], spread=timedelta(seconds=2))
    assert (made[0].state, made[1].state) == ("available", "scheduled")
    assert made[4].run_at - made[0].run_at == pytest.approx(timedelta(seconds=8), abs=timedelta(seconds=1))
    assert [job.run_at for job in enqueued(app)] == [job.run_at for job in made]


def test_a_spread_adds_to_the_times_that_jobs_have(app: PgQueue, send: Task[[int], int]) -> None:
    jobs = [send.using(run_at=FAR).job(1), send.using(run_at=FAR).job(2), send.using(delay=60).job(3)]
    made = app.enqueue_many(jobs, spread=1)
    assert [job.run_at - FAR for job in made[:2]] == [timedelta(), timedelta(seconds=1)]
    assert made[2].created_at is not None
    assert made[2].run_at - made[2].created_at == pytest.approx(timedelta(seconds=62), abs=timedelta(seconds=5))


def test_a_new_job_can_be_enqueued_any_number_of_times(app: PgQueue, send: Task[[int], int]) -> None:
    job: NewJob = send.job(1)
    app.enqueue_many([job, job])
    app.enqueue_many([job])
    assert [each.args for each in enqueued(app)] == [{"n": 1}] * 3


def test_a_name_enqueues_without_the_tasks_code(app: PgQueue) -> None:
    job = app.enqueue("shop.tasks.send_email", {"to": "a@b.c", "at": FAR}, queue="email", delay=60, tags=["x"])
    assert (job.task, job.queue, job.state, job.tags) == ("shop.tasks.send_email", "email", "scheduled", ("x",))
    assert job.args["to"] == "a@b.c"
    assert datetime.fromisoformat(job.args["at"]) == FAR


async def test_a_name_enqueues_asynchronously(app: PgQueue) -> None:
    job = await app.aenqueue("shop.tasks.send_email", {"to": "a@b.c"})
    assert (await app.jobs.aget(job.id)).args == {"to": "a@b.c"}


def test_a_name_takes_the_defaults_that_a_worker_registered(app: PgQueue, dsn: str) -> None:
    app.task(name="email", queue="slow", priority=3, max_attempts=4)(noop)
    app.queue("slow", priority=9, max_attempts=9)
    drain(app)
    web = PgQueue(dsn)
    job = web.enqueue("email")
    assert (job.queue, job.priority, job.max_attempts) == ("slow", 3, 4)
    other = web.enqueue("unheard-of", queue="slow")
    assert (other.priority, other.max_attempts) == (9, 9)
    assert web.enqueue("unheard-of").queue == "default"
    web.close()


def test_a_bulk_by_name_takes_the_same_defaults(app: PgQueue, dsn: str) -> None:
    app.task(name="email", queue="slow", priority=3, max_attempts=4)(noop)
    drain(app)
    web = PgQueue(dsn)
    made = web.enqueue_many([web.new_job("email")] * COPIED)
    assert {(job.queue, job.priority, job.max_attempts) for job in made} == {("slow", 3, 4)}
    web.close()


@pytest.mark.parametrize("count", [1, 2, COPIED], ids=["one", "insert", "copy"])
def test_defaults_go_job_over_task_over_queue_over_app(dsn: str, count: int) -> None:
    app = PgQueue(dsn, max_attempts=7)
    app.queue("with", priority=2, max_attempts=5)
    plain = app.task(name="plain", queue="with")(noop)
    own = app.task(name="own", queue="with", priority=-1, max_attempts=3)(noop)
    without = app.task(name="without", queue="without")(noop)

    def figures(job: NewJob) -> set[tuple[int, int]]:
        return {(made.priority, made.max_attempts) for made in app.enqueue_many([job] * count)}

    assert figures(without.job()) == {(0, 7)}
    assert figures(plain.job()) == {(2, 5)}
    assert figures(own.job()) == {(-1, 3)}
    assert figures(own.using(priority=0, max_attempts=1).job()) == {(0, 1)}
    assert figures(plain.using(queue="without").job()) == {(0, 7)}
    app.close()


def test_settings_of_a_queue_in_the_table_are_its_defaults_too(app: PgQueue, send: Task[[int], int]) -> None:
    app.queue("default", max_attempts=5)
    drain(app)
    app.declared_queues.clear()
    assert send.enqueue(1).max_attempts == 5
    assert app.enqueue_many([send.job(1)] * COPIED)[0].max_attempts == 5


def test_the_schema_can_have_another_name(fresh_dsn: str) -> None:
    from pgqueue import migrate

    migrate.upgrade(fresh_dsn, schema="jobs_of_shop")
    app = PgQueue(fresh_dsn, schema="jobs_of_shop", backoff=Backoff.fixed(0))
    app.task(name="noop")(noop)
    job = app.enqueue("noop")
    app.enqueue_many([app.new_job("noop", queue="default")] * COPIED)
    assert drain(app).completed == COPIED + 1
    assert job.refresh().state == "completed"
    assert enqueued(PgQueue(fresh_dsn)) == []
    app.close()


def noop() -> None: ...
