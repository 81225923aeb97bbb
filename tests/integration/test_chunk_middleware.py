"""Middleware around the jobs of a chunk: each has its own, and hears of its own outcome."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextvars import ContextVar
from functools import partial
from typing import Any

import pytest

from pgqueue import Backoff, ChunkJob, Context, FailJob, Middleware, PgQueue, RetryJob, Task, current_job
from pgqueue.outcome import Outcome
from pgqueue.testing import adrain
from tests.integration import process_app
from tests.integration.process_app import Item
from tests.integration.test_chunks import NEVER, Chunks, declare, enqueue, has, runs
from tests.integration.waiting import until

KINDS = ["coroutine", "thread", "process"]
tenant: ContextVar[int] = ContextVar("tenant", default=0)


class Recorder(Middleware):
    """Notes the outcome and the error of each job; raises where a job's first argument says so."""

    def __init__(
        self, *, before: dict[int, BaseException] | None = None, after: dict[int, BaseException] | None = None
    ):
        self.before, self.after = before or {}, after or {}
        self.attempts: list[int] = []
        self.outcomes: dict[int, str] = {}
        self.errors: dict[int, str] = {}

    async def run(self, context: Context) -> AsyncGenerator[None, Outcome]:
        assert current_job() is context
        self.attempts.append(context.job_id)
        tenant.set(context.job_id)
        if context.job_id in self.before:
            raise self.before[context.job_id]
        try:
            outcome = yield
        except asyncio.CancelledError:
            self.outcomes[context.job_id] = "interrupted"
            raise
        assert tenant.get() == context.job_id
        self.outcomes[context.job_id] = type(outcome).__name__
        self.errors[context.job_id] = type(context.error).__name__
        if context.job_id in self.after:
            raise self.after[context.job_id]


@pytest.fixture(params=KINDS)
async def acting(request: pytest.FixtureRequest, dsn: str) -> AsyncIterator[tuple[PgQueue, Task[..., Any]]]:
    app = process_app.app if request.param == "process" else PgQueue(dsn, backoff=Backoff.fixed(0))
    app.database.point_at(dsn)
    yield app, process_app.process_chunk if request.param == "process" else declare(app, request.param)
    app.middleware.runs.clear()
    await app.aclose()


async def test_each_job_is_wrapped_and_hears_of_its_own_outcome(acting: tuple[PgQueue, Task[..., Any]]) -> None:
    app, task = acting
    recorder = Recorder()
    app.add_middleware(recorder)
    jobs = await enqueue(app, task, "complete", "snooze", "cancel", "fail", "nothing")
    await adrain(app)
    assert sorted(recorder.attempts) == [job.id for job in jobs]
    assert [recorder.outcomes[job.id] for job in jobs] == ["Completed", "Snooze", "Cancelled", "Failed", "Completed"]
    assert recorder.errors[jobs[0].id] == "NoneType"


async def test_a_job_that_a_layer_ends_is_not_in_the_call(acting: tuple[PgQueue, Task[..., Any]]) -> None:
    app, task = acting
    jobs = await enqueue(app, task, "complete", "complete", "complete")
    app.add_middleware(Recorder(before={jobs[1].id: FailJob("not this one")}))
    await adrain(app)
    assert [(await job.arefresh()).state for job in jobs] == ["completed", "failed", "completed"]
    # The call had the two others.
    assert (await jobs[0].aresult())[1] == 2


async def test_a_chunk_whose_jobs_are_all_ended_before_is_not_called(app: PgQueue) -> None:
    chunks = Chunks(app)
    jobs = await enqueue(app, chunks.task, "nothing", "nothing")
    app.add_middleware(Recorder(before={job.id: FailJob("none") for job in jobs}))
    await adrain(app)
    assert chunks.seen == []
    assert await has(app, failed=2)


async def test_what_is_raised_after_the_call_replaces_the_outcome_of_that_job(
    acting: tuple[PgQueue, Task[..., Any]],
) -> None:
    app, task = acting
    jobs = await enqueue(app, task, "complete", "complete", "fail")
    after: dict[int, BaseException] = {jobs[0].id: RetryJob(delay=3600), jobs[2].id: ValueError("broken")}
    app.add_middleware(Recorder(after=after))
    await adrain(app)
    assert [(await job.arefresh()).state for job in jobs] == ["scheduled", "completed", "failed"]


async def test_what_the_call_raises_is_the_error_of_each(app: PgQueue) -> None:
    recorder = Recorder()
    app.add_middleware(recorder)
    task = declare(app, "coroutine", max_attempts=1)
    jobs = await enqueue(app, task, "complete", "raise")
    await adrain(app)
    assert [recorder.outcomes[job.id] for job in jobs] == ["Completed", "Failed"]
    assert [recorder.errors[job.id] for job in jobs] == ["NoneType", "OSError"]


async def test_headers_that_a_middleware_changes_are_those_of_the_job(app: PgQueue) -> None:
    class Numbered(Middleware):
        async def run(self, context: Context) -> AsyncGenerator[None, Outcome]:
            context.headers = {"number": context.job_id}
            yield

    app.add_middleware(Numbered())
    seen: list[Any] = []

    @app.task(name="look", chunk=2, wait=NEVER)
    async def look(jobs: list[ChunkJob[Item]]) -> None:
        seen.extend((job.id, job.headers["number"]) for job in jobs)

    jobs = await enqueue(app, look, "nothing", "nothing")
    await adrain(app)
    assert seen == [(job.id, job.id) for job in jobs]


async def test_jobs_of_a_call_that_is_stopped_are_interrupted_and_given_back(app: PgQueue) -> None:
    recorder = Recorder()
    app.add_middleware(recorder)
    chunks = Chunks(app, chunk=2)
    jobs = await enqueue(app, chunks.task, "nothing", "nothing")
    async with app.worker({"default": 1}) as worker:
        await chunks.enters()
        worker.give_back()
    assert recorder.outcomes == {job.id: "interrupted" for job in jobs}
    assert [((found := await job.arefresh()).state, found.attempt) for job in jobs] == [("available", 0)] * 2
    for job in jobs:
        [line] = await asyncio.to_thread(app.jobs.logs, job.id)
        assert "given back while it ran" in line.message


@pytest.mark.parametrize(
    ("where", "ended"),
    [("before", ["available", "available", "failed"]), ("after", ["completed"] * 3)],
    ids=["before", "after"],
)
async def test_a_stop_while_layers_are_busy_gives_back_what_has_no_outcome_yet(
    app: PgQueue, where: str, ended: list[str]
) -> None:
    entered = asyncio.Event()

    class Slow(Middleware):
        async def run(self, context: Context) -> AsyncGenerator[None, Outcome]:
            if where == "after":
                yield
            entered.set()
            await asyncio.Event().wait()
            yield

    app.add_middleware(Slow())
    task = declare(app, "coroutine", chunk=2)
    once = declare(app, "coroutine", name="once", chunk=1, max_attempts=1)
    jobs = [*await enqueue(app, task, "complete", "complete"), *await enqueue(app, once, "complete")]
    async with app.worker({"default": 2}) as worker:
        await entered.wait()
        await until(partial(runs, worker, 2))
        worker.give_back()
    assert [(await job.arefresh()).state for job in jobs] == ended
