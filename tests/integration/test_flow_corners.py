"""Flows where something comes in between: keys, redrives, cancels, another transaction, a process that dies."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Generator, Sequence
from typing import Any

import psycopg
import pytest

from pgqueue import (
    ArgumentError,
    ChunkJob,
    Context,
    Flow,
    Job,
    JobNotFound,
    KeyHeld,
    Middleware,
    NewJob,
    PgQueue,
    Unique,
    WaitForChildren,
    batch,
    chain,
    chord,
)
from pgqueue.database import running
from pgqueue.middleware import with_headers
from pgqueue.queries import flows
from pgqueue.services.flowkeeper import FlowKeeper
from pgqueue.services.service import runner_of
from pgqueue.testing import adrain
from tests.integration.test_flows import Page, Work
from tests.integration.waiting import until


@pytest.fixture
def work(app: PgQueue) -> Work:
    return Work(app)


# Between two statements


async def test_who_comes_to_wait_while_an_end_is_still_to_be_counted_hears_of_it(
    app: PgQueue, work: Work, dsn: str
) -> None:
    made = app.flows.enqueue(chain(work("first"), work("second"), on_failure="ignore"))
    made.jobs[0].cancel()
    with psycopg.connect(dsn) as conn:
        late = work.task.using(conn, after=made.jobs[0], on_failure="ignore").enqueue("late")
        # The service looks while that is open: what it counted now would leave the job out.
        assert await app.database.afetch(flows.settle(app.schema)) == [(0, False)]
    await adrain(app)
    assert sorted(work.ran) == ["late", "second"]
    assert late.refresh().state == "completed"


async def test_who_comes_to_wait_after_some_were_told_and_others_not_is_told_once(app: PgQueue, work: Work) -> None:
    first = work.task.using(delay=3600).enqueue("first")
    parents = [work.task.using(after=first, on_failure="ignore").enqueue(str(n)) for n in range(5)]
    first.cancel()
    # Three of five have heard of it.
    [settled] = await app.database.afetch(flows.settle(app.schema, 3))
    assert settled.told == 3
    late = work.task.using(after=first, on_failure="ignore").enqueue("late")
    await adrain(app)
    assert sorted(work.ran) == ["0", "1", "2", "3", "4", "late"]
    assert [job.refresh().state for job in (*parents, late)] == ["completed"] * 6


async def test_siblings_are_cancelled_though_the_service_dies_in_between_and_one_of_them_is_held(
    app: PgQueue, work: Work, dsn: str
) -> None:
    siblings = [work.task.using(delay=3600).job(name) for name in ("b", "c")]
    made = app.flows.enqueue(chord([work("a"), *siblings], work("end"), on_failure="cancel_siblings"))
    made.jobs[0].cancel()
    await app.database.afetch(flows.settle(app.schema))
    # Here the process dies: its parent has failed, and nobody was cancelled.
    assert await app.database.afetch(flows.fail(app.schema)) == [1]
    assert [job.refresh().state for job in made.jobs[1:3]] == ["scheduled", "scheduled"]
    with psycopg.connect(dsn) as conn:
        conn.execute("select from pgqueue.jobs where id = %s for update", [made.jobs[1].id])
        await app.database.arun(flows.turn(app.schema))
        assert [job.refresh().state for job in made.jobs[1:3]] == ["scheduled", "cancelled"]
    await app.database.arun(flows.turn(app.schema))
    assert made.jobs[1].refresh().state == "cancelled"


# Waiting again


async def test_a_job_that_began_for_a_failed_child_waits_anew_for_what_it_brings(app: PgQueue, work: Work) -> None:
    work.fails = {"bad"}
    seen: list[list[str | None]] = []

    @app.task(name="mend", bind=True, max_attempts=1)
    async def mend(ctx: Context) -> str:
        seen.append([child.state for child in ctx.children()])
        if len(seen) == 1:
            raise WaitForChildren(work("mended"))
        return "done"

    late = work.task.using(delay=3600).job("late")
    made = app.flows.enqueue(chord([work("bad"), late], mend.job(), on_failure="run_parent"))
    await adrain(app)
    # It has waited for the new one, and not for those of before.
    assert seen == [["failed", None], ["failed", None, "completed"]]
    assert made.jobs[-1].refresh().value == "done"


async def test_a_job_that_was_redriven_by_itself_may_wait_for_others(app: PgQueue, work: Work) -> None:
    work.fails = {"bad"}

    @app.task(name="mend", bind=True, max_attempts=1)
    async def mend(ctx: Context) -> int:
        if len(ctx.children()) < 2:
            raise WaitForChildren(work("mended"))
        return len(ctx.children())

    made = app.flows.enqueue(chain(work("bad"), mend.job()))
    await adrain(app)
    app.failed.redrive([made.jobs[1].id])
    await adrain(app)
    assert (made.jobs[1].refresh().state, made.jobs[1].refresh().value) == ("completed", 2)
    # What it waited for before is nothing to it any more.
    work.fails = set()
    app.failed.redrive([made.jobs[0].id])
    await adrain(app)
    assert (work.ran, made.jobs[1].refresh().value) == (["bad", "mended", "bad"], 2)


async def test_a_job_that_waits_for_itself_through_a_key_fails_and_says_so(app: PgQueue, work: Work) -> None:
    @app.task(name="outer", bind=True, max_attempts=1)
    async def outer(ctx: Context) -> None:
        if not ctx.children():
            raise WaitForChildren(inner.job())

    @app.task(name="inner", unique=Unique("one"))
    async def inner() -> None: ...

    first = outer.enqueue()
    # The key is held by a job that waits for the one which is to bring it.
    held = inner.using(after=first).enqueue()
    await adrain(app)
    [error] = app.failed.get(first.id).errors
    assert error["type"] == "pgqueue.errors.ArgumentError"
    assert f"job {held.id} waits for job {first.id}" in error["message"]
    assert app.failed.get(held.id).reason == "child_failed"


async def test_what_a_job_may_not_bring_fails_it_with_that_error(app: PgQueue, work: Work) -> None:
    @app.task(name="sync", unique=Unique("sync", on_conflict="error"))
    async def sync() -> None: ...

    @app.task(name="outer", bind=True, max_attempts=1)
    async def outer(ctx: Context) -> None:
        raise WaitForChildren(sync.using(after=999).job() if not work.ran else sync.job())

    missing = outer.enqueue()
    await adrain(app)
    [error] = app.failed.get(missing.id).errors
    assert error["type"] == "pgqueue.errors.JobNotFound"
    assert "no job with id 999 to wait for" in error["message"]
    work.ran.append("again")
    sync.using(delay=3600).enqueue()
    held = outer.enqueue()
    await adrain(app)
    [error] = app.failed.get(held.id).errors
    assert error["type"] == "pgqueue.errors.KeyHeld"


async def test_what_a_job_brings_goes_through_the_middleware_of_enqueues(app: PgQueue, work: Work) -> None:
    class Tenant(Middleware):
        def enqueue(self, jobs: Sequence[NewJob]) -> Generator[Sequence[NewJob], Sequence[Job], None]:
            yield with_headers(jobs, {"tenant": "acme"})

    app.add_middleware(Tenant())
    seen: list[Any] = []

    @app.task(name="inner", bind=True)
    async def inner(ctx: Context) -> None:
        seen.append(ctx.headers["tenant"])

    @app.task(name="outer", bind=True)
    async def outer(ctx: Context) -> None:
        if not ctx.children():
            raise WaitForChildren(inner.job())

    outer.enqueue()
    await adrain(app)
    assert seen == ["acme"]


async def test_a_job_whose_heir_is_gone_waits_for_its_children(app: PgQueue, work: Work) -> None:
    entered, go = asyncio.Event(), asyncio.Event()

    @app.task(name="sync", bind=True, unique=Unique("sync", on_conflict="replace"))
    async def sync(ctx: Context) -> int:
        if ctx.children():
            return len(ctx.children())
        entered.set()
        await go.wait()
        raise WaitForChildren(work("part"))

    async with app.worker():
        job = sync.enqueue()
        await entered.wait()
        heir = sync.enqueue()
        assert heir.created
        heir.cancel()
        go.set()
        await until(lambda: _ended(app, job.id))
    assert (job.refresh().state, job.refresh().value) == ("completed", 1)


async def _ended(app: PgQueue, job_id: int) -> bool:
    return app.jobs.get(job_id).state in ("completed", "failed", "cancelled")


# Keys


async def test_a_job_and_what_it_waits_for_may_have_one_serial_key(app: PgQueue) -> None:
    ran: list[str] = []

    @app.task(name="step", bind=True, serial_key="account")
    async def step(ctx: Context, name: str) -> None:
        ran.append(name)
        if name == "outer" and not ctx.children():
            raise WaitForChildren(step.job("inner"))

    step.enqueue("outer")
    step.enqueue("next")
    await adrain(app)
    # A job that goes back to wait gives its place up: who is next in order goes before it.
    assert sorted(ran) == ["inner", "next", "outer", "outer"]
    assert ran[0] == "outer"
    assert ran.index("inner") < len(ran) - 1 - ran[::-1].index("outer")


async def test_a_parent_that_is_replaced_still_sees_its_children(app: PgQueue, work: Work) -> None:
    seen: list[Any] = []

    @app.task(name="sync", bind=True, unique=Unique("sync", on_conflict="replace"))
    async def sync(ctx: Context, n: int) -> None:
        seen.append((n, [child.result for child in ctx.children()]))

    app.flows.enqueue(chain(work("child"), sync.job(1)))
    assert not sync.enqueue(2).created
    await adrain(app)
    assert seen == [(2, ["CHILD"])]


@pytest.mark.parametrize("mode", ["replace", "keep_last_if_running"])
async def test_a_parent_changes_no_job_that_would_not_wait_for_its_children(
    app: PgQueue, work: Work, mode: Any
) -> None:
    @app.task(name="sync", unique=Unique("sync", on_conflict=mode))
    async def sync(n: int) -> None: ...

    held = sync.using(delay=3600).enqueue(1)
    with pytest.raises(KeyHeld, match=f"by job {held.id}"):
        app.flows.enqueue(chain(work("child"), sync.job(2)))
    assert held.refresh().args == {"n": 1}
    assert app.flows.list() == []


async def test_a_parent_whose_key_is_taken_stays_failed_and_nothing_else_stands_still(app: PgQueue, work: Work) -> None:
    work.fails = {"child"}

    @app.task(name="sync", unique=Unique("sync"))
    async def sync() -> None: ...

    made = app.flows.enqueue(chain(work("child"), sync.job()))
    await adrain(app)
    taken = sync.using(delay=3600).enqueue()
    assert taken.created
    work.fails = set()
    app.flows.retry(made.id)
    await adrain(app)
    assert made.jobs[1].refresh().state == "failed"
    # It is redriven like any other once the key is free.
    taken.cancel()
    assert app.flows.retry(made.id) == [made.jobs[1].id]
    await adrain(app)
    assert app.flows.get(made.id).state == "completed"


async def test_two_jobs_of_a_flow_with_one_key_are_one_that_is_waited_for(app: PgQueue, work: Work) -> None:
    @app.task(name="sync", unique=Unique("sync:{n}"))
    async def sync(n: int) -> None:
        work.ran.append(f"sync {n}")

    made = app.flows.enqueue(chord([sync.job(1), sync.job(1)], work("end")))
    assert [job.created for job in made.jobs] == [True, False, True]
    await adrain(app)
    assert work.ran == ["sync 1", "end"]


async def test_many_jobs_go_back_to_wait_together_in_few_statements(app: PgQueue, work: Work) -> None:
    @app.task(name="outer", bind=True)
    async def outer(ctx: Context, n: int) -> list[str]:
        if not ctx.children():
            raise WaitForChildren([work(f"{n}.{part}") for part in range(3)])
        return [child.result for child in ctx.children()]

    jobs = app.enqueue_many([outer.job(n) for n in range(40)])
    statements = 0
    execute = running.afetch

    async def counted(*args: Any, **options: Any) -> Any:
        nonlocal statements
        statements += 1
        return await execute(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "afetch", counted)
        await adrain(app)
    assert [app.jobs.get(job.id).value for job in jobs] == [[f"{n}.{part}" for part in range(3)] for n in range(40)]
    assert statements < 200


# What people do


@pytest.mark.parametrize("gone", ["cancelled", "deleted"])
async def test_a_flow_whose_child_cannot_come_back_is_retried_without_it(
    app: PgQueue, work: Work, dsn: str, gone: str
) -> None:
    made = app.flows.enqueue(chain(work("child"), work("parent"), work("end")))
    if gone == "cancelled":
        made.jobs[0].cancel()
    else:
        with psycopg.connect(dsn) as conn:
            conn.execute("delete from pgqueue.jobs where id = %s", [made.jobs[0].id])
        times = itertools.count(0.0, 100.0)
        await FlowKeeper(runner_of(app.database), app.schema, clock=lambda: next(times)).run_once()
    await adrain(app)
    assert app.flows.get(made.id).state == "failed"
    # The end comes back with what it waits for.
    assert app.flows.retry(made.id) == [made.jobs[1].id]
    await adrain(app)
    assert work.ran == ["parent", "end"]


async def test_a_redrive_of_all_takes_those_along_whose_child_cannot_come_back(app: PgQueue, work: Work) -> None:
    work.fails = {"bad"}
    lost = app.flows.enqueue(chain(work("lost"), work("parent")))
    lost.jobs[0].cancel()
    bad = app.flows.enqueue(chain(work("bad"), work("other")))
    await adrain(app)
    assert sorted(app.failed.redrive(all=True)) == [lost.jobs[1].id, bad.jobs[0].id]


async def test_a_flow_is_cancelled_without_the_jobs_that_were_there_before(app: PgQueue, work: Work) -> None:
    before = work.task.enqueue("before")
    made = app.flows.enqueue(_after(work, before))
    assert app.flows.cancel(made.id) == [made.jobs[0].id]
    await adrain(app)
    assert work.ran == ["before"]


def _after(work: Work, job: Any) -> Flow:
    flow = Flow()
    flow.add(work("after"), after=job)
    return flow


async def test_the_jobs_of_a_chunk_see_what_they_have_waited_for(app: PgQueue, work: Work) -> None:
    seen: dict[int, list[Any]] = {}

    @app.task(name="chunked", chunk=2)
    async def chunked(jobs: list[ChunkJob[Page]]) -> None:
        for job in jobs:
            seen[job.args.n] = [child.result for child in job.children()]

    flow = Flow()
    for n in range(2):
        flow.add(chunked.job(n=n), after=flow.add(work(str(n))))
    app.flows.enqueue(flow)
    await adrain(app)
    assert seen == {0: ["0"], 1: ["1"]}


# Bad input


@pytest.mark.parametrize("after", [None, 2**63, "name", 1.5, True])
def test_what_is_no_job_to_wait_for_is_refused(work: Work, after: Any) -> None:
    with pytest.raises(ArgumentError):
        work.task.using(after=after)


@pytest.mark.parametrize("after", [0, -1])
def test_an_id_that_no_job_has_is_told_when_it_is_enqueued(work: Work, after: int) -> None:
    with pytest.raises(JobNotFound, match=f"no job with id {after} to wait for"):
        work.task.using(after=after).enqueue("a")


def test_an_unknown_policy_is_refused_though_nothing_is_waited_for(work: Work) -> None:
    with pytest.raises(ArgumentError, match="on_failure='explode' is not known"):
        work.task.using(on_failure="explode")  # type: ignore[arg-type]


@pytest.mark.parametrize("limit", [-1, "x", 2**63, None])
def test_a_limit_of_a_listing_is_a_number(app: PgQueue, limit: Any) -> None:
    for call in (lambda: app.flows.list(limit=limit), lambda: app.flows.jobs(1, limit=limit)):
        with pytest.raises(ArgumentError, match=f"limit={limit!r}"):
            call()


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda work: WaitForChildren([]), "WaitForChildren"),
        (lambda work: chord([], work("end")), "chord"),
        (lambda work: batch([]), "batch"),
        (lambda work: chain(), "chain"),
    ],
)
def test_a_shape_without_jobs_says_which_it_is(work: Work, make: Any, name: str) -> None:
    with pytest.raises(ArgumentError, match=rf"^{name}\(\) was given no jobs"):
        make(work)
