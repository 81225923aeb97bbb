"""Chunks, with real workers: how jobs come together, what each of them comes to, and what happens to them meanwhile."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial
from typing import Any

import psycopg
import pytest

from pgqueue import Backoff, Breaker, ChunkJob, Event, JobFailed, Limit, PgQueue, Task
from pgqueue.job import Job
from pgqueue.journal import Progress
from pgqueue.testing import adrain, assert_enqueued
from pgqueue.worker import Worker
from pgqueue.worker.slots import Slots
from tests.integration import process_app
from tests.integration.process_app import Item, act
from tests.integration.waiting import DEADLINE, states, until

KINDS = ["coroutine", "thread", "process"]
NEVER = 3600


def declare(app: PgQueue, kind: str, **options: Any) -> Task[..., Any]:
    """A task that acts on its jobs, in each kind."""
    options = {"name": "act", "chunk": 10, "wait": NEVER, "max_attempts": 3, **options}
    if kind == "thread":

        @app.task(**options)
        def in_a_thread(jobs: list[ChunkJob[Item]]) -> None:
            act(jobs)

        made: Task[..., Any] = in_a_thread
        return made

    @app.task(**options)
    async def in_a_coroutine(jobs: list[ChunkJob[Item]]) -> None:
        act(jobs)

    declared: Task[..., Any] = in_a_coroutine
    return declared


@pytest.fixture(params=KINDS)
async def acting(request: pytest.FixtureRequest, dsn: str) -> AsyncIterator[tuple[PgQueue, Task[..., Any]]]:
    app = process_app.app if request.param == "process" else PgQueue(dsn, backoff=Backoff.fixed(0))
    app.database.point_at(dsn)
    yield app, process_app.process_chunk if request.param == "process" else declare(app, request.param)
    await app.aclose()


class Chunks:
    """A coroutine task that notes the chunks that it gets, and waits inside until the test opens it."""

    def __init__(self, app: PgQueue, name: str = "note", **options: Any) -> None:
        self.seen: list[list[int]] = []
        self.entered: asyncio.Queue[list[ChunkJob[Item]]] = asyncio.Queue()
        self.opened = asyncio.Event()
        self.returns: Callable[[list[ChunkJob[Item]]], Any] = lambda jobs: None

        @app.task(name=name, **{"chunk": 10, "wait": NEVER, **options})
        async def note(jobs: list[ChunkJob[Item]]) -> Any:
            self.seen.append([job.args.n for job in jobs])
            self.entered.put_nowait(jobs)
            await self.opened.wait()
            return self.returns(jobs)

        self.task: Task[..., Any] = note

    async def enters(self) -> list[ChunkJob[Item]]:
        """The jobs of the next chunk that begins."""
        async with asyncio.timeout(DEADLINE):
            return await self.entered.get()


async def enqueue(app: PgQueue, task: Task[..., Any], *dos: str) -> list[Job]:
    return list(await app.aenqueue_many([task.job(n, do) for n, do in enumerate(dos)]))


async def has(app: PgQueue, **counts: int) -> bool:
    found = await states(app)
    return all(found[state] == count for state, count in counts.items())


async def claimed(worker: Worker, count: int) -> bool:
    return len(worker.serving.gathered()) == count


async def runs(worker: Worker, count: int) -> bool:
    return worker.executor.running == count


def hurried(app: PgQueue) -> Worker:
    """A worker whose chunks do not wait for jobs that are not there."""
    worker = Worker(app, {"default": 1})
    worker.hurries = True
    return worker


def execute(dsn: str, statement: str, *params: Any) -> list[Any]:
    with psycopg.connect(dsn, autocommit=True) as conn:
        cursor = conn.execute(statement.encode(), params)
        return cursor.fetchall() if cursor.description else []


# How they come together


async def test_jobs_come_together_until_the_chunk_is_full(app: PgQueue) -> None:
    chunks = Chunks(app)
    chunks.opened.set()
    async with app.worker({"default": 2}) as worker:
        for n in range(20):
            await chunks.task.aenqueue(n)
        await until(partial(has, app, completed=20))
        assert chunks.seen == [list(range(10)), list(range(10, 20))]
        await chunks.task.aenqueue(20)
        await until(partial(claimed, worker, 1))
        assert len(chunks.seen) == 2


async def test_jobs_come_together_for_as_long_as_the_task_waits(app: PgQueue) -> None:
    chunks = Chunks(app, wait=0.3)
    chunks.opened.set()
    await app.aenqueue_many([chunks.task.job(n) for n in range(3)])
    async with app.worker({"default": 1}):
        await until(partial(has, app, completed=3))
    assert chunks.seen == [[0, 1, 2]]


@pytest.mark.parametrize(("slots", "size"), [(1, 100), (10, 100), (3, 700), (10, 1)])
async def test_a_backlog_is_claimed_in_whole_chunks_whatever_the_slots(app: PgQueue, slots: int, size: int) -> None:
    chunks = Chunks(app, chunk=size)
    chunks.opened.set()
    count = 3 * size
    await app.aenqueue_many([chunks.task.job(n) for n in range(count)])
    async with app.worker({"default": slots}):
        await until(partial(has, app, completed=count))
    assert [len(chunk) for chunk in chunks.seen] == [size] * 3
    assert sorted(n for chunk in chunks.seen for n in chunk) == list(range(count))


async def test_while_every_slot_is_taken_no_more_is_claimed(app: PgQueue) -> None:
    chunks = Chunks(app)
    await app.aenqueue_many([chunks.task.job(n) for n in range(50)])
    async with app.worker({"default": 2}):
        await chunks.enters()
        await chunks.enters()
        assert await has(app, running=20, available=30)
        chunks.opened.set()
        await until(partial(has, app, completed=50))
    assert [len(chunk) for chunk in chunks.seen] == [10] * 5


async def test_plain_jobs_of_the_queue_go_on_beside_a_chunk_that_is_gathered(app: PgQueue) -> None:
    chunks = Chunks(app)
    ran: list[int] = []

    @app.task(name="plain")
    async def plain(n: int) -> None:
        ran.append(n)

    jobs = [task.job(n) for n in range(30) for task in (plain, chunks.task)]
    chunks.opened.set()
    await app.aenqueue_many(jobs[:-10])
    async with app.worker({"default": 2}) as worker:
        await until(partial(has, app, completed=25 + 20))
        await until(partial(claimed, worker, 5))
        await app.aenqueue_many(jobs[-10:])
        await until(partial(has, app, completed=60))
    assert ran == list(range(30))
    assert [len(chunk) for chunk in chunks.seen] == [10, 10, 10]


async def test_an_app_without_chunks_gathers_nothing(app: PgQueue) -> None:
    app.task(name="plain")(lambda: None)
    async with app.worker() as worker:
        assert [type(slots) for slots in worker.serving.slots.values()] == [Slots]


async def test_a_drain_does_not_wait_for_jobs_that_do_not_come(app: PgQueue) -> None:
    chunks = Chunks(app)
    chunks.opened.set()
    await app.aenqueue_many([chunks.task.job(n) for n in range(25)])
    async with asyncio.timeout(DEADLINE):
        await Worker(app, {"default": 3}, drain=True).run()
    assert [len(chunk) for chunk in chunks.seen] == [10, 10, 5]
    assert await has(app, completed=25)


async def test_jobs_are_enqueued_one_by_one_as_for_any_task(app: PgQueue, dsn: str) -> None:
    task = declare(app, "thread")
    first = task.using(key="k", tags=["x"]).enqueue(1, "complete")
    again = task.using(key="k").enqueue(1)
    assert (first.created, again.created) == (True, False)
    execute(dsn, """select pgqueue.enqueue('act', '{"n": 2, "do": "complete"}')""")
    await app.aenqueue("act", {"n": 3, "do": "complete"})
    await app.aenqueue_many([task.job(n, "complete") for n in range(4, 2_005)])
    assert_enqueued(app, task, n=4, do="complete")
    assert (await adrain(app)).completed == 2_004
    assert (await first.arefresh()).value == [1, 10, 1]


# What each comes to


async def test_each_job_has_an_outcome_of_its_own(acting: Any) -> None:
    app, task = acting
    jobs = await enqueue(app, task, "complete", "fail", "cancel", "snooze", "error", "retry", "nothing")
    report = await adrain(app)
    after = [await job.arefresh() for job in jobs]
    assert [job.state for job in after][:4] == ["completed", "failed", "cancelled", "scheduled"]
    assert after[0].value == [0, 7, 1]
    assert [job.reason for job in after[1:3]] == ["fail_job", "not needed"]
    assert after[3].attempt == 0
    assert (after[4].errors[0]["type"], after[5].errors[0]["message"]) == ("KeyError", "once more")
    assert after[6].state == "completed"
    assert {event.attempt for event in report.events} >= {1}


async def test_only_the_jobs_that_failed_run_again(acting: Any) -> None:
    app, task = acting
    jobs = await enqueue(app, task, "complete", "retry", "complete", "retry")
    report = await adrain(app, with_scheduled=True)
    assert (report.completed, report.retried, report.attempts) == (4, 2, 6)
    after = [await job.arefresh() for job in jobs]
    assert [job.attempt for job in after] == [1, 2, 1, 2]
    assert [job.value for job in after] == [[0, 4, 1], "at last", [2, 4, 1], "at last"]


async def test_what_the_call_raises_is_the_error_of_the_jobs_that_are_not_marked(acting: Any) -> None:
    app, task = acting
    jobs = await enqueue(app, task, "complete", "fail", "raise", "complete")
    await adrain(app, with_scheduled=True)
    after = [await job.arefresh() for job in jobs]
    assert [(job.state, job.attempt) for job in after[:3]] == [("completed", 1), ("failed", 1), ("failed", 3)]
    for job in after[2:]:
        assert (job.errors[0]["type"], job.errors[0]["message"]) == ("OSError", "at job 2")
        assert job.errors[0]["traceback"].startswith("Traceback")


async def test_a_call_returns_results_and_errors_in_order(app: PgQueue, dsn: str) -> None:
    chunks = Chunks(app, max_attempts=1)
    chunks.opened.set()
    chunks.returns = lambda jobs: [ValueError(job.args.n) if job.args.n % 2 else job.args.n for job in jobs]
    process_app.app.database.point_at(dsn)
    for one, task in ((app, chunks.task), (process_app.app, process_app.process_returns)):
        jobs = await enqueue(one, task, *["nothing"] * 4)
        await adrain(one)
        after = [await job.arefresh() for job in jobs]
        assert [(job.state, job.value) for job in after] == [
            ("completed", 0),
            ("failed", None),
            ("completed", 2),
            ("failed", None),
        ]
        assert after[3].errors[0]["message"] == "3"
    await process_app.app.aclose()


async def test_a_call_that_returns_too_few_results_has_failed(app: PgQueue) -> None:
    chunks = Chunks(app, max_attempts=1)
    chunks.opened.set()
    chunks.returns = lambda jobs: [1]
    jobs = await enqueue(app, chunks.task, "nothing", "nothing")
    await adrain(app)
    for job in jobs:
        with pytest.raises(JobFailed, match="returned 1 results for 2 jobs"):
            await job.aresult()


async def test_bad_arguments_fail_their_job_alone(acting: Any, dsn: str) -> None:
    app, task = acting
    good = await enqueue(app, task, "complete", "complete")
    bad = [
        await app.jobs.aget(execute(dsn, "select pgqueue.enqueue(%s, %s::jsonb)", task.name, text)[0][0])
        for text in ('{"n": "one"}', '{"m": 1}', '{"n": -1}', '{"n": 1, "do": null}')
    ]
    await adrain(app)
    assert [(await job.arefresh()).value for job in good] == [[0, 2, 1], [1, 2, 1]]
    for job in bad:
        after = await job.arefresh()
        assert (after.state, after.reason, after.attempt) == ("failed", "bad_arguments", 1)


async def test_a_chunk_of_bad_arguments_is_not_called(app: PgQueue, dsn: str) -> None:
    chunks = Chunks(app)
    for _ in range(3):
        execute(dsn, """select pgqueue.enqueue('note', '{"n": "one"}')""")
    assert (await adrain(app)).failed == 3
    assert chunks.seen == []


async def test_headers_that_cannot_be_read_are_the_error_of_their_job_alone(acting: Any, dsn: str) -> None:
    app, task = acting
    jobs = await enqueue(app, task, "complete", "complete")
    execute(dsn, "update pgqueue.jobs set headers = %s::jsonb where id = %s", "[" * 70 + "]" * 70, jobs[0].id)
    await adrain(app)
    after = [await job.arefresh() for job in jobs]
    assert after[0].errors[0]["type"] == "pgqueue.errors.ArgumentError"
    assert after[1].value == [1, 1, 1]


async def test_each_job_tells_its_own_progress_and_lines(acting: Any) -> None:
    app, task = acting
    jobs = await enqueue(app, task, "nothing", "tell", "tell")
    await adrain(app)
    assert app.jobs.progress(jobs[0].id) is None
    for n, job in enumerate(jobs[1:], start=1):
        assert app.jobs.progress(job.id) == Progress(n, f"item {n}")
        assert [line.message for line in app.jobs.logs(job.id)] == [f"attempt 1 of {n}"]


async def test_a_call_of_many_jobs_has_no_current_job(acting: Any) -> None:
    app, task = acting
    single = process_app.process_pid if task.run_in == "process" else app.task(name="single")(lambda: None)
    # In the same process or thread before.
    await single.aenqueue()
    job = await task.aenqueue(1, "no current job")
    await adrain(app, slots=1)
    assert await job.aresult() == "none"


async def test_each_job_has_its_events_and_the_duration_of_the_call(app: PgQueue, dsn: str) -> None:
    events: list[Event] = []
    for name in ("started", "completed", "failed"):
        app.on(name, events.append)
    jobs = await enqueue(app, declare(app, "coroutine"), "complete", "fail", "complete")
    await adrain(app)
    counts = Counter(event.name for event in events)
    assert counts == {"started": 3, "completed": 2, "failed": 1}
    assert len({event.duration for event in events if event.name != "started"}) == 1
    assert len(execute(dsn, "select id from pgqueue.completed_jobs where started_at is not null")) == 2
    assert {event.job_id for event in events} == {job.id for job in jobs}


# What happens to them meanwhile


async def test_a_stop_gives_back_what_is_gathered_and_lets_the_call_end(app: PgQueue) -> None:
    chunks = Chunks(app)
    jobs = await enqueue(app, chunks.task, *["nothing"] * 13)
    worker = app.worker({"default": 2})
    async with worker:
        await chunks.enters()
        await until(partial(claimed, worker, 3))
        worker.stop()
        await until(partial(has, app, available=3))
        chunks.opened.set()
    after = [await job.arefresh() for job in jobs]
    assert [(job.state, job.attempt) for job in after] == [("completed", 1)] * 10 + [("available", 0)] * 3
    assert len(chunks.seen) == 1


@pytest.mark.parametrize("max_attempts", [3, 1])
async def test_a_call_that_is_given_back_keeps_what_it_has_marked(app: PgQueue, max_attempts: int) -> None:
    chunks = Chunks(app, max_attempts=max_attempts)
    jobs = await enqueue(app, chunks.task, *["nothing"] * 3)
    worker = hurried(app)
    await worker.start()
    first, second, _ = await chunks.enters()
    first.complete("done")
    second.fail("no use")
    worker.give_back()
    await asyncio.wait_for(worker.wait(), DEADLINE)
    after = [await job.arefresh() for job in jobs]
    last = ("available", 0) if max_attempts > 1 else ("failed", 1)
    assert [(job.state, job.attempt) for job in after] == [("completed", 1), ("failed", 1), last]


async def test_a_cancel_drops_a_job_from_the_chunk_that_is_gathered(app: PgQueue) -> None:
    chunks = Chunks(app, chunk=3)
    chunks.opened.set()
    cancelled: list[Event] = []
    app.on("cancelled", cancelled.append)
    jobs = await enqueue(app, chunks.task, "nothing", "nothing")
    async with app.worker({"default": 1}) as worker:
        await until(partial(claimed, worker, 2))
        await jobs[0].acancel()
        await until(partial(has, app, cancelled=1))
        assert worker.serving.gathered() == [jobs[1].id]
        await app.aenqueue_many([chunks.task.job(n) for n in (2, 3)])
        await until(partial(has, app, completed=3))
    assert chunks.seen == [[1, 2, 3]]
    assert [event.job_id for event in cancelled] == [jobs[0].id]


@pytest.mark.parametrize("acting", ["thread", "process"], indirect=True)
async def test_the_cancel_of_a_running_job_is_told_and_the_others_go_on(acting: Any) -> None:
    app, task = acting
    jobs = await enqueue(app, task, "complete", "until stopped", "complete")
    async with hurried(app) as worker:
        await until(partial(runs, worker, 1))
        await app.jobs.acancel(jobs[1].id)
        await until(partial(has, app, completed=2, cancelled=1))
    after = [await job.arefresh() for job in jobs]
    assert [(job.state, job.value) for job in after] == [
        ("completed", [0, 3, 1]),
        ("cancelled", None),
        ("completed", [2, 3, 1]),
    ]


async def test_a_running_job_is_told_of_its_cancel_by_its_handle(app: PgQueue) -> None:
    chunks = Chunks(app)
    jobs = await enqueue(app, chunks.task, "nothing", "nothing")
    async with hurried(app):
        handles = await chunks.enters()
        await jobs[0].acancel()

        async def told() -> bool:
            return handles[0].stopped

        await until(told)
        assert not handles[1].stopped
        handles[0].complete("all the same")
        chunks.opened.set()
    assert [(await job.arefresh()).state for job in jobs] == ["cancelled", "completed"]


async def test_a_call_is_stopped_when_all_its_jobs_are_cancelled(app: PgQueue) -> None:
    chunks = Chunks(app)
    jobs = await enqueue(app, chunks.task, "nothing", "nothing")
    async with hurried(app) as worker:
        await chunks.enters()
        await app.jobs.acancel([job.id for job in jobs])
        await until(partial(has, app, cancelled=2))
        assert worker.executor.running == 0


async def test_a_worker_that_lost_its_jobs_gives_up_what_it_has_gathered(app: PgQueue, dsn: str) -> None:
    chunks = Chunks(app, chunk=2)
    chunks.opened.set()
    job = await chunks.task.aenqueue(0)
    async with app.worker({"default": 1}, lease=1.0) as worker:
        await until(partial(claimed, worker, 1))
        before = worker.id
        execute(dsn, "update pgqueue.workers set id = gen_random_uuid()")

        async def lives_anew() -> bool:
            return worker.id != before and worker.life.registered.is_set()

        await until(lives_anew)
        assert chunks.seen == []
        # What belonged to the worker that is no more is rescued, and gathered again.
        await until(partial(claimed, worker, 1))
        await chunks.task.aenqueue(1)
        await until(partial(has, app, completed=2))
    assert (await job.arefresh()).state == "completed"


# Timeouts


@pytest.mark.parametrize("acting", ["thread", "process"], indirect=True)
async def test_the_timeout_is_that_of_the_call_the_shortest_that_a_job_of_it_has(acting: Any) -> None:
    app, task = acting
    first = await task.aenqueue(0, "complete")
    async with hurried(app):
        # The process has imported its tasks then.
        await first.aresult(DEADLINE)
        dos = [("complete", 60), ("complete", 0.5), ("hang", 60), ("nothing", 60)]
        once = [task.using(max_attempts=1, timeout=timeout).job(n, do) for n, (do, timeout) in enumerate(dos)]
        jobs = await app.aenqueue_many(once)
        await until(partial(has, app, completed=3, failed=2))
    for job in jobs[2:]:
        after = await app.jobs.aget(job.id)
        assert after.errors[0]["type"] == "pgqueue.errors.TaskTimeout"
        assert "0.5 s" in after.errors[0]["message"]


async def test_a_coroutine_that_takes_too_long_keeps_what_it_has_marked(app: PgQueue) -> None:
    ended = asyncio.Event()

    @app.task(name="slow", chunk=10, wait=NEVER, timeout=0.05, max_attempts=1)
    async def slow(jobs: list[ChunkJob[Item]]) -> None:
        jobs[0].complete("in time")
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    jobs = await enqueue(app, slow, "nothing", "nothing")
    await adrain(app)
    assert ended.is_set()
    assert await jobs[0].aresult() == "in time"
    with pytest.raises(JobFailed, match=r"slow ran longer than its timeout of 0.05 s"):
        await jobs[1].aresult()


async def test_a_thread_that_takes_too_long_is_told_and_its_marks_are_refused(app: PgQueue) -> None:
    go, refused = threading.Event(), threading.Event()

    @app.task(name="slow", chunk=10, wait=NEVER, timeout=0.05, max_attempts=1)
    def slow(jobs: list[ChunkJob[Item]]) -> None:
        assert go.wait(DEADLINE)
        try:
            jobs[0].complete("too late")
        finally:
            if all(job.stopped for job in jobs):
                refused.set()

    jobs = await enqueue(app, slow, "nothing", "nothing")
    async with hurried(app):
        await until(partial(has, app, failed=2))
        go.set()
        assert await asyncio.to_thread(refused.wait, DEADLINE)
    assert [(await job.arefresh()).value for job in jobs] == [None, None]


# Crashes


async def test_a_process_that_crashes_takes_no_other_job_with_it(dsn: str) -> None:
    app, task = process_app.app, process_app.process_chunk
    app.database.point_at(dsn)
    jobs = await enqueue(app, task, "complete", "nothing", "crash", "complete", "fail")
    report = await adrain(app, with_scheduled=True)
    after = [await job.arefresh() for job in jobs]
    await app.aclose()
    # What was marked before holds; the others run alone, with the attempt that they had.
    assert after[0].value == [0, 5, 1]
    assert [(job.state, job.attempt) for job in after] == [
        ("completed", 1),
        ("completed", 1),
        ("failed", 3),
        ("completed", 1),
        ("failed", 1),
    ]
    assert after[3].value == [3, 1, 1]
    assert (after[2].reason, len(after[2].errors)) == ("crashed", 3)
    assert "SIGSEGV" in after[2].errors[0]["message"]
    assert (report.retried, report.failed) == (2, 2)


async def test_jobs_that_must_not_repeat_are_not_run_again_after_the_crash_of_their_process(dsn: str) -> None:
    app, task = process_app.app, process_app.process_chunk
    app.database.point_at(dsn)
    once = [task.using(max_attempts=1).job(n, do) for n, do in enumerate(["complete", "crash", "nothing"])]
    jobs = await app.aenqueue_many(once)
    await adrain(app)
    after = [await app.jobs.aget(job.id) for job in jobs]
    await app.aclose()
    assert [(job.state, job.reason) for job in after] == [
        ("completed", None),
        ("failed", "crashed"),
        ("failed", "crashed"),
    ]


@pytest.mark.parametrize("kind", ["coroutine", "process"])
@pytest.mark.parametrize(("suspicions", "crashes"), [(2, 0), (0, 1), (1, 0)])
async def test_suspects_run_alone(dsn: str, kind: str, suspicions: int, crashes: int) -> None:
    app = process_app.app if kind == "process" else PgQueue(dsn)
    app.database.point_at(dsn)
    task = process_app.process_chunk if kind == "process" else declare(app, kind)
    jobs = await enqueue(app, task, *["complete"] * 4)
    suspect = jobs[1].id
    execute(dsn, "update pgqueue.jobs set suspicions = %s, crashes = %s where id = %s", suspicions, crashes, suspect)
    await adrain(app, with_scheduled=True)
    values = [(await job.arefresh()).value for job in jobs]
    await app.aclose()
    # The death of one worker makes nobody run alone; the crash of a process does.
    together = kind == "coroutine" and suspicions == 1
    assert values[1] == [1, 4 if together else 1, 1]
    assert [value[1] for value in values[:1] + values[2:]] == [4 if together else 3] * 3


# Limits


async def test_no_more_are_in_one_call_than_their_limit_allows_at_once(app: PgQueue) -> None:
    chunks = Chunks(app, wait=0.05, limit=Limit(concurrency=4))
    jobs = await enqueue(app, chunks.task, *["nothing"] * 10)
    async with app.worker({"default": 3}):
        first = await chunks.enters()
        assert len(first) <= 4
        # Places are freed by job, with its outcome.
        chunks.opened.set()
        await until(partial(has, app, completed=10))
    assert max(len(chunk) for chunk in chunks.seen) <= 4
    assert {(await job.arefresh()).state for job in jobs} == {"completed"}


@pytest.mark.parametrize("limit", [Limit(concurrency=3), Limit(rate="100/s"), Limit(key="{do}", fair=True)])
async def test_a_drain_does_not_wait_for_jobs_that_a_limit_keeps_back(app: PgQueue, limit: Limit) -> None:
    app.queue("default", limit=limit)
    chunks = Chunks(app)
    chunks.opened.set()
    await enqueue(app, chunks.task, *["a", "b"] * 7)
    async with asyncio.timeout(DEADLINE):
        await Worker(app, {"default": 4}, drain=True).run()
    assert await has(app, completed=14)
    if limit.concurrency is not None:
        assert max(len(chunk) for chunk in chunks.seen) == 3


async def test_two_jobs_of_one_serial_key_are_never_in_one_call(app: PgQueue) -> None:
    order: list[tuple[int, int]] = []

    @app.task(name="step", chunk=10, wait=0.02, serial_key="{do}", backoff=Backoff.fixed(0))
    async def step(jobs: list[ChunkJob[Item]]) -> None:
        keys = [job.args.do for job in jobs]
        assert len(set(keys)) == len(keys)
        for job in jobs:
            order.append((job.args.n, job.attempt))
            if job.args.n == 2 and job.attempt == 1:
                job.retry(0)

    await app.aenqueue_many([step.job(n, "ab"[n % 2]) for n in range(12)])
    async with app.worker({"default": 5}):
        await until(partial(has, app, completed=12))
    of_a = [(n, attempt) for n, attempt in order if n % 2 == 0]
    assert of_a == [(0, 1), (2, 1), (2, 2), (4, 1), (6, 1), (8, 1), (10, 1)]
    assert [n for n, _ in order if n % 2] == [1, 3, 5, 7, 9, 11]


async def test_jobs_join_a_chunk_at_their_rate(app: PgQueue) -> None:
    chunks = Chunks(app, chunk=5, limit=Limit(rate="100/s"))
    chunks.opened.set()
    await app.aenqueue_many([chunks.task.job(n) for n in range(20)])
    async with app.worker({"default": 2}):
        await until(partial(has, app, completed=20))
    assert [len(chunk) for chunk in chunks.seen] == [5] * 4
    assert sorted(n for chunk in chunks.seen for n in chunk) == list(range(20))


async def test_a_hit_limit_pauses_the_value_of_the_job_that_met_it(app: PgQueue) -> None:
    calls = Limit(rate="1000/s", key="{do}")

    @app.task(name="call", chunk=10, wait=0.05, limit=calls)
    async def call(jobs: list[ChunkJob[Item]]) -> None:
        for job in jobs:
            try:
                if job.args.do == "busy":
                    calls.hit(retry_after=30)
            except Exception as error:
                job.raised(error)

    jobs = await enqueue(app, call, "busy", "free")
    async with app.worker({"default": 5}):
        await until(partial(has, app, completed=1, scheduled=1))
        await app.aenqueue_many([call.job(2, "busy"), call.job(3, "free")])
        await until(partial(has, app, completed=2, scheduled=1, blocked=1))
    assert (await jobs[0].arefresh()).attempt == 0


async def test_the_failures_of_a_chunk_open_a_breaker_which_gives_back_what_is_gathered(app: PgQueue) -> None:
    chunks = Chunks(app, max_attempts=5, breaker=Breaker(failures=5, open_for=NEVER))
    chunks.returns = lambda jobs: [OSError(job.args.n) for job in jobs]
    jobs = await enqueue(app, chunks.task, *["nothing"] * 12)

    async def is_open() -> bool:
        return [row.state for row in app.breakers.list()] == ["open"]

    async with app.worker({"default": 2}) as worker:
        await chunks.enters()
        await until(partial(claimed, worker, 2))
        chunks.opened.set()
        await until(is_open)
        await until(partial(claimed, worker, 0))
    assert [len(chunk) for chunk in chunks.seen] == [10]
    assert [(await job.arefresh()).attempt for job in jobs] == [1] * 10 + [0] * 2


# In one transaction


@pytest.mark.parametrize("kind", ["coroutine", "thread"])
async def test_the_writes_of_a_call_commit_with_its_completions(app: PgQueue, dsn: str, kind: str) -> None:
    execute(dsn, "create table if not exists indexed (n int primary key)")
    execute(dsn, "truncate indexed")
    write = "insert into indexed values (%s)"
    options: dict[str, Any] = {
        "name": "index", "chunk": 10, "wait": NEVER, "transactional": True, "backoff": Backoff.fixed(NEVER),
    }  # fmt: skip

    def end(jobs: Sequence[ChunkJob[Item]]) -> None:
        for job in jobs:
            match job.args.do:
                case "complete":
                    job.complete()
                case "fail":
                    job.fail("no use")
                case "raise" if job.attempt == 1:
                    raise OSError

    if kind == "coroutine":

        @app.task(**options)
        async def in_a_coroutine(jobs: list[ChunkJob[Item]]) -> None:
            await jobs[0].connection.cursor().executemany(write, [(job.args.n,) for job in jobs])
            end(jobs)

        task: Task[..., Any] = in_a_coroutine
    else:

        @app.task(**options)
        def in_a_thread(jobs: list[ChunkJob[Item]]) -> None:
            jobs[0].connection.cursor().executemany(write, [(job.args.n,) for job in jobs])
            end(jobs)

        task = in_a_thread
    jobs = await enqueue(app, task, "complete", "fail", "raise", "nothing")
    await adrain(app)
    # All is rolled back: what it had marked as completed too. What it had marked as failed stays so.
    assert execute(dsn, "select n from indexed") == []
    assert [(await job.arefresh()).state for job in jobs][1] == "failed"
    await adrain(app, with_scheduled=True)
    assert execute(dsn, "select n from indexed order by n") == [(0,), (2,), (3,)]
    after = [await job.arefresh() for job in jobs]
    assert [(job.state, job.attempt) for job in after] == [
        ("completed", 2),
        ("failed", 1),
        ("completed", 2),
        ("completed", 2),
    ]
    execute(dsn, "drop table indexed")


async def test_a_cancel_during_a_call_takes_back_nothing_that_has_committed(app: PgQueue, dsn: str) -> None:
    entered, opened = asyncio.Event(), asyncio.Event()

    @app.task(name="index", chunk=10, wait=NEVER, transactional=True)
    async def index(jobs: list[ChunkJob[Item]]) -> None:
        entered.set()
        await opened.wait()
        while not jobs[0].stopped:  # noqa: ASYNC110 - it is told by the worker
            await asyncio.sleep(0.01)
        jobs[1].cancel()

    jobs = await enqueue(app, index, "nothing", "nothing", "nothing")
    async with hurried(app):
        await entered.wait()
        await app.jobs.acancel([jobs[0].id, jobs[1].id])
        opened.set()
        await until(partial(has, app, completed=2, cancelled=1))
    assert [(await job.arefresh()).state for job in jobs] == ["completed", "cancelled", "completed"]


async def test_a_call_with_a_stale_claim_commits_nothing(app: PgQueue, dsn: str) -> None:
    execute(dsn, "create table if not exists indexed (n int primary key)")
    execute(dsn, "truncate indexed")

    @app.task(name="index", chunk=10, wait=NEVER, transactional=True, max_attempts=1)
    def index(jobs: list[ChunkJob[Item]]) -> None:
        jobs[0].connection.execute("insert into indexed values (1)")
        execute(dsn, "update pgqueue.jobs set claim_id = 1 where id = %s", jobs[1].id)

    jobs = await enqueue(app, index, "nothing", "nothing")
    async with hurried(app):
        await until(partial(has, app, failed=1))
    assert execute(dsn, "select n from indexed") == []
    after = await jobs[0].arefresh()
    assert "is no longer held by this worker" in after.errors[0]["message"]
    execute(dsn, "drop table indexed")


# Transactions that the worker has lost


def effects(dsn: str) -> list[tuple[int, int]]:
    return [tuple(row) for row in execute(dsn, "select n, attempt from effects order by n, attempt")]


@pytest.fixture
def with_effects(dsn: str) -> Iterator[None]:
    execute(dsn, "create table effects (n int, attempt int)")
    yield
    execute(dsn, "drop table effects")


@pytest.mark.usefixtures("with_effects")
@pytest.mark.parametrize("how", ["timeout", "stop", "lost"])
async def test_a_thread_that_comes_back_too_late_commits_nothing_of_its_chunk(app: PgQueue, dsn: str, how: str) -> None:
    entered, back = threading.Event(), threading.Event()
    ended: asyncio.Queue[int] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    options: dict[str, Any] = {"timeout": 0.3} if how == "timeout" else {}

    @app.task(
        name="write", chunk=2, wait=NEVER, transactional=True, max_attempts=3, backoff=Backoff.fixed(0), **options
    )
    def write(jobs: list[ChunkJob[Item]]) -> None:
        for job in jobs:
            job.connection.execute("insert into effects values (%s, %s)", [job.args.n, job.attempt])
        if not entered.is_set():
            entered.set()
            assert back.wait(DEADLINE)
            loop.call_soon_threadsafe(ended.put_nowait, 1)

    await enqueue(app, write, "nothing", "nothing")
    async with app.worker({"default": 2}, shutdown_timeout=0.1) as worker:
        await asyncio.to_thread(entered.wait, DEADLINE)
        if how == "timeout":
            await until(partial(has, app, completed=2))
        elif how == "lost":
            execute(dsn, "update pgqueue.jobs set claim_id = 1")
            back.set()
            await ended.get()
            await until(partial(runs, worker, 0))
    back.set()
    if how == "stop":
        async with app.worker({"default": 2}):
            await until(partial(has, app, completed=2))
    await until(partial(no_transaction, dsn))
    # The first call has left nothing, whatever the second has.
    expected = {"timeout": [(0, 2), (1, 2)], "stop": [(0, 1), (1, 1)], "lost": []}
    assert effects(dsn) == expected[how]


async def no_transaction(dsn: str) -> bool:
    return not execute(
        dsn,
        "select from pg_stat_activity where datname = current_database() and starts_with(state, 'idle in transaction') "
        "and position('effects' in query) > 0",
    )


@pytest.mark.usefixtures("with_effects")
async def test_a_chunk_without_a_completion_commits_nothing_when_its_claim_is_lost(app: PgQueue, dsn: str) -> None:
    @app.task(name="write", chunk=2, wait=NEVER, transactional=True)
    async def write(jobs: list[ChunkJob[Item]]) -> None:
        for job in jobs:
            await job.connection.execute("insert into effects values (%s, %s)", [job.args.n, job.attempt])
            job.snooze(3600)
        execute(dsn, "update pgqueue.jobs set claim_id = 1")

    await enqueue(app, write, "nothing", "nothing")
    async with app.worker({"default": 1}) as worker:
        await until(partial(has, app, running=2))
        await until(partial(runs, worker, 0))
    assert effects(dsn) == []


async def test_a_pause_gives_back_what_is_gathered(app: PgQueue) -> None:
    chunks = Chunks(app)
    await enqueue(app, chunks.task, "nothing", "nothing")
    async with app.worker({"default": 1}) as worker:
        await until(partial(claimed, worker, 2))
        app.queues["default"].pause()
        await until(partial(has, app, available=2))
        assert await claimed(worker, 0)
        assert chunks.seen == []


async def test_a_call_is_stopped_when_what_is_not_cancelled_has_its_outcome(app: PgQueue) -> None:
    entered = asyncio.Event()

    @app.task(name="half", chunk=2, wait=NEVER)
    async def half(jobs: list[ChunkJob[Item]]) -> None:
        jobs[0].complete()
        entered.set()
        await asyncio.Event().wait()

    first, second = await enqueue(app, half, "nothing", "nothing")
    async with app.worker({"default": 1}):
        await entered.wait()
        await second.acancel()
        await until(partial(has, app, completed=1, cancelled=1))
    assert ((await first.arefresh()).state, (await second.arefresh()).state) == ("completed", "cancelled")
