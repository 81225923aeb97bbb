"""Flows where something comes in between: keys, redrives, cancels, another transaction, a process that dies."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Generator, Sequence
from functools import partial
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
from pgqueue.queries import settling
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
        assert await app.database.afetch(settling.settle(app.schema)) == [(0, False)]
    await adrain(app)
    assert sorted(work.ran) == ["late", "second"]
    assert late.refresh().state == "completed"


async def test_who_comes_to_wait_after_some_were_told_and_others_not_is_told_once(app: PgQueue, work: Work) -> None:
    first = work.task.using(delay=3600).enqueue("first")
    parents = [work.task.using(after=first, on_failure="ignore").enqueue(str(n)) for n in range(5)]
    first.cancel()
    # Three of five have heard of it.
    [settled] = await app.database.afetch(settling.settle(app.schema, 3))
    assert settled.told == 3
    late = work.task.using(after=first, on_failure="ignore").enqueue("late")
    await adrain(app)
    assert sorted(work.ran) == ["0", "1", "2", "3", "4", "late"]
    assert [job.refresh().state for job in (*parents, late)] == ["completed"] * 6


async def test_an_end_and_another_are_counted_with_the_redrive_in_between(app: PgQueue, work: Work, dsn: str) -> None:
    @app.task(name="bad", max_attempts=1)
    async def bad() -> None:
        if not work.ran:
            raise ValueError

    late = work.task.using(delay=3600).job("late")
    made = app.flows.enqueue(chord([bad.job(), late], work("end"), on_failure="wait"))
    child, _, end = made.jobs
    await adrain(app)
    # The child has failed, was redriven, and has completed, which others have written in another order.
    with psycopg.connect(dsn) as conn:
        conn.execute("delete from pgqueue.failed_jobs where id = %s", [child.id])
        conn.execute("update pgqueue.flow_jobs set state = 'completed' where job_id = %s", [child.id])
        conn.execute("update pgqueue.flow_waits set pending = 2 where job_id = %s", [end.id])
        for was, state in ((None, "completed"), (None, "failed"), ("failed", None)):
            conn.execute(
                "insert into pgqueue.flow_news (job_id, was, state) values (%s, %s, %s)", [child.id, was, state]
            )
    # Two of the three would be counted by one look, the third by another.
    for count in (2, 1, 2):
        await app.database.afetch(settling.settle(app.schema, count))
        assert end.refresh().state == "blocked"
    await app.database.afetch(settling.settle(app.schema))
    assert end.refresh().state == "blocked"
    with psycopg.connect(dsn) as conn:
        assert conn.execute("select pending from pgqueue.flow_waits where job_id = %s", [end.id]).fetchone() == (1,)


async def test_what_somebody_holds_keeps_no_other_flow_waiting(app: PgQueue, work: Work, dsn: str) -> None:
    batches = [app.flows.enqueue(batch([work(name)], on_success=work("done"))) for name in ("a", "b")]
    for one in batches:
        one.jobs[0].cancel()
    with psycopg.connect(dsn) as conn:
        conn.execute("select from pgqueue.jobs where id = %s for key share", [batches[0].jobs[1].id])
        await app.database.arun(settling.turn(app.schema))
        assert [one.jobs[1].refresh().state for one in batches] == ["blocked", "cancelled"]
    await app.database.arun(settling.turn(app.schema))
    assert batches[0].jobs[1].refresh().state == "cancelled"


async def test_only_siblings_of_the_own_flow_are_cancelled(app: PgQueue, work: Work) -> None:
    before = work.task.using(delay=3600).enqueue("before")
    other = app.flows.enqueue(chain(work.task.using(delay=3600).job("other"), work("end")))
    flow = Flow()
    bad = flow.add(work("bad"))
    flow.add(work("end"), after=[bad, before, other.jobs[0]], on_failure="cancel_siblings")
    work.fails = {"bad"}
    app.flows.enqueue(flow)
    await adrain(app)
    assert (before.refresh().state, other.jobs[0].refresh().state) == ("scheduled", "scheduled")


async def test_siblings_are_cancelled_though_the_service_dies_in_between_and_one_of_them_is_held(
    app: PgQueue, work: Work, dsn: str
) -> None:
    siblings = [work.task.using(delay=3600).job(name) for name in ("b", "c")]
    made = app.flows.enqueue(chord([work("a"), *siblings], work("end"), on_failure="cancel_siblings"))
    made.jobs[0].cancel()
    await app.database.afetch(settling.settle(app.schema))
    # Here the process dies: its parent has failed, and nobody was cancelled.
    assert await app.database.afetch(settling.fail(app.schema)) == [1]
    assert [job.refresh().state for job in made.jobs[1:3]] == ["scheduled", "scheduled"]
    with psycopg.connect(dsn) as conn:
        conn.execute("select from pgqueue.jobs where id = %s for update", [made.jobs[1].id])
        await app.database.arun(settling.turn(app.schema))
        assert [job.refresh().state for job in made.jobs[1:3]] == ["scheduled", "cancelled"]
    await app.database.arun(settling.turn(app.schema))
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


async def test_a_job_that_brings_a_batch_waits_for_its_members(app: PgQueue, work: Work) -> None:
    runs = 0

    @app.task(name="outer", bind=True)
    async def outer(ctx: Context) -> list[str]:
        nonlocal runs
        runs += 1
        if not ctx.children():
            raise WaitForChildren(batch([work("a"), work("b")], on_success=work("done"), on_failure=work("alarm")))
        return [child.result for child in ctx.children()]

    job = outer.enqueue()
    await adrain(app)
    assert (runs, job.refresh().value) == (2, ["A", "B"])
    assert sorted(work.ran) == ["a", "b", "done"]


async def test_a_job_whose_key_is_still_used_is_a_child_that_has_completed(app: PgQueue, work: Work) -> None:
    runs: list[int] = []

    @app.task(name="once", unique=Unique("once", until="forever"), keep_completed=False)
    async def once() -> None: ...

    @app.task(name="outer", bind=True)
    async def outer(ctx: Context) -> None:
        runs.append(len(ctx.children()))
        if not ctx.children():
            raise WaitForChildren(once.job())

    once.enqueue()
    await adrain(app)
    outer.enqueue()
    await adrain(app)
    assert runs == [0, 1]


@pytest.mark.parametrize("how", ["after", "chain"])
async def test_rings_through_what_is_brought_are_found(app: PgQueue, work: Work, dsn: str, how: str) -> None:
    @app.task(name="inner", unique=Unique("inner"))
    async def inner() -> None: ...

    @app.task(name="outer", bind=True, max_attempts=1)
    async def outer(ctx: Context, held: int) -> None:
        brought = work.task.using(after=held).job("new") if how == "after" else chain(inner.job(), work("new"))
        raise WaitForChildren(brought)

    # The job that it waits for will be one that waits for it.
    first = outer.using(delay=3600).enqueue(0)
    held = inner.using(after=first).enqueue()
    with psycopg.connect(dsn) as conn:
        conn.execute("update pgqueue.jobs set args = jsonb_build_object('held', %s) where id = %s", [held.id, first.id])
        conn.execute("update pgqueue.jobs set run_at = clock_timestamp() where id = %s", [first.id])
    await adrain(app, with_scheduled=True)
    [error] = app.failed.get(first.id).errors
    assert "neither would ever go on" in error["message"]
    assert work.ran == []


async def test_two_jobs_that_come_to_wait_for_each_other_at_once_do_not_stand_still(app: PgQueue) -> None:
    met = asyncio.Barrier(2)

    @app.task(name="one", bind=True, max_attempts=1, unique=Unique("key {n}"))
    async def one(ctx: Context, n: int) -> None:
        if ctx.children():
            return
        await met.wait()
        raise WaitForChildren(one.job(1 - n))

    jobs = [one.enqueue(n) for n in range(2)]
    async with app.worker():
        for job in jobs:
            await until(partial(_ended, app, job.id))
    errors = [error["message"] for job in jobs for error in app.jobs.get(job.id).errors]
    assert any("neither would ever go on" in message for message in errors)


async def test_a_callback_may_wait_for_children(app: PgQueue, work: Work) -> None:
    work.fails = {"a"}

    @app.task(name="alarm", bind=True, max_attempts=1)
    async def alarm(ctx: Context) -> int:
        if len(ctx.children()) < 2:
            raise WaitForChildren(work("page"))
        return len(ctx.children())

    made = app.flows.enqueue(batch([work("a")], on_failure=alarm.job()))
    await adrain(app)
    assert (made.jobs[1].refresh().state, made.jobs[1].refresh().value) == ("completed", 2)


async def test_a_job_that_cannot_wait_yet_keeps_no_other_outcome_waiting(app: PgQueue, work: Work, dsn: str) -> None:
    @app.task(name="sync", unique=Unique("sync"))
    async def sync() -> None: ...

    @app.task(name="outer", bind=True)
    async def outer(ctx: Context) -> None:
        if not ctx.children():
            raise WaitForChildren(sync.job())

    with psycopg.connect(dsn) as conn:
        # Whoever brings a job with this key waits for the end of this transaction.
        sync.using(conn).enqueue()
        async with app.worker():
            outer_job = outer.enqueue()
            plain = [work.task.enqueue(str(n)) for n in range(20)]
            for job in plain:
                await until(partial(_ended, app, job.id))
            assert outer_job.refresh().state == "running"
            conn.commit()
            await until(lambda: _ended(app, outer_job.id))
    assert outer_job.refresh().state == "completed"


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


async def test_a_parent_whose_key_was_taken_comes_back_with_the_next_redrive_of_its_child(
    app: PgQueue, work: Work
) -> None:
    work.fails = {"child"}

    @app.task(name="sync", unique=Unique("sync"))
    async def sync() -> None: ...

    made = app.flows.enqueue(chain(work("child"), sync.job()))
    await adrain(app)
    taken = sync.using(delay=3600).enqueue()
    app.flows.retry(made.id)
    await adrain(app)
    assert made.jobs[1].refresh().state == "failed"
    taken.cancel()
    work.fails = set()
    app.flows.retry(made.id)
    await adrain(app)
    assert [job.refresh().state for job in made.jobs] == ["completed", "completed"]


async def test_jobs_after_the_same_jobs_in_another_order_take_their_locks_in_one_order(
    app: PgQueue, work: Work, dsn: str
) -> None:
    one, two = (work.task.using(delay=3600).enqueue(name) for name in ("one", "two"))

    def enqueue(*after: Any) -> None:
        app.enqueue_many([work.task.using(after=job).job("x") for job in after])

    for _ in range(10):
        await asyncio.gather(asyncio.to_thread(enqueue, one, two), asyncio.to_thread(enqueue, two, one))
    assert app.jobs.count(state="blocked") == 40


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


@pytest.mark.parametrize("policy", ["ignore", "wait"])
async def test_what_failed_itself_waits_for_the_children_that_are_retried_with_it(
    app: PgQueue, work: Work, policy: Any
) -> None:
    work.fails = {"size", "publish"} if policy == "ignore" else {"publish"}
    made = app.flows.enqueue(chord([work("size"), work("other")], work("publish"), on_failure=policy))
    await adrain(app)
    assert made.jobs[2].refresh().state == "failed"
    work.fails, work.ran = set(), []
    app.flows.retry(made.id)
    await adrain(app)
    assert work.ran == (["size", "publish"] if policy == "ignore" else ["publish"])
    assert [state for _, state in work.children["publish"]] == ["completed", "completed"]
    assert app.flows.get(made.id).state == "completed"


async def test_what_began_for_a_failed_child_begins_at_once_again_when_it_alone_is_redriven(
    app: PgQueue, work: Work
) -> None:
    work.fails = {"a", "end"}
    flow = Flow()
    late = flow.add(work.task.using(delay=3600).job("late"))
    flow.add(work("end"), after={flow.add(work("a")): "run_parent", late: "fail_parent"})
    made = app.flows.enqueue(flow)
    await adrain(app)
    end = made.jobs[2]
    assert end.refresh().state == "failed"
    work.fails = {"a"}
    app.failed.redrive([end.id])
    await adrain(app)
    assert (work.ran, end.refresh().state) == (["a", "end", "end"], "completed")


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
