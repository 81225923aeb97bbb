"""Jobs that wait for others, end to end: a worker runs them, and people look at them and operate on them."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from pgqueue import (
    ArgumentError,
    Backoff,
    ChildFailed,
    ChunkJob,
    ConfigurationError,
    Context,
    Flow,
    JobFailed,
    JobNotFound,
    Limit,
    Middleware,
    NewJob,
    PgQueue,
    Task,
    Unique,
    WaitForChildren,
    batch,
    chain,
    chord,
    group,
    tree,
)
from pgqueue.middleware import with_headers
from pgqueue.queries import settling
from pgqueue.services.flowkeeper import FlowKeeper
from pgqueue.services.pruner import Pruner
from pgqueue.services.service import runner_of
from pgqueue.testing import adrain
from tests.integration.conftest import AJoined, Joined
from tests.integration.waiting import Gate, states, until


@dataclass
class Page:
    n: int


class Work:
    """A task that records its runs, and fails while its argument is in `fails`."""

    def __init__(self, app: PgQueue, **options: Any) -> None:
        self.ran: list[str] = []
        self.fails: set[str] = set()
        self.children: dict[str, list[tuple[str, str | None]]] = {}

        @app.task(name="work", bind=True, max_attempts=1, **options)
        async def work(ctx: Context, name: str) -> str:
            self.ran.append(name)
            self.children[name] = [(str(child.value), child.state) for child in ctx.children()]
            if name in self.fails:
                raise ValueError(name)
            return name.upper()

        self.task: Task[..., Any] = work

    def __call__(self, name: str) -> NewJob:
        return self.task.job(name)


@pytest.fixture
def work(app: PgQueue) -> Work:
    return Work(app)


def state_of(app: PgQueue, *ids: int) -> list[str]:
    return [app.jobs.get(id_).state for id_ in ids]


# Order


async def test_children_run_first_and_their_parent_has_their_results(app: PgQueue, work: Work) -> None:
    made = app.flows.enqueue(tree(work("book"), tree(work("chapter"), work("page 1"), work("page 2")), work("cover")))
    assert [job.state for job in made.jobs].count("blocked") == 2
    await adrain(app)
    assert work.ran.index("book") == 4
    assert work.ran.index("chapter") > max(work.ran.index("page 1"), work.ran.index("page 2"))
    assert work.children["chapter"] == [('"PAGE 1"', "completed"), ('"PAGE 2"', "completed")]
    assert [value for value, _ in work.children["book"]] == ['"CHAPTER"', '"COVER"']
    assert app.flows.get(made.id).state == "completed"


async def test_a_chord_of_a_chain_and_groups_runs_in_the_order_of_its_graph(app: PgQueue, work: Work) -> None:
    await app.flows.aenqueue(chain(work("a"), chord([work("b"), chain(work("c"), work("d"))], work("e")), work("f")))
    await adrain(app)
    assert (work.ran[0], work.ran[-2:]) == ("a", ["e", "f"])
    assert work.ran.index("c") < work.ran.index("d")


async def test_a_diamond_by_names_runs_each_job_once(app: PgQueue, work: Work) -> None:
    flow = Flow("diamond")
    flow.add(work("end"), after=["left", "right"], name="end")
    flow.add(work("left"), after="top", name="left")
    flow.add(work("right"), after="top", name="right")
    flow.add(work("top"), name="top")
    made = app.flows.enqueue(flow)
    await adrain(app)
    assert (work.ran[0], sorted(work.ran[1:3]), work.ran[3:]) == ("top", ["left", "right"], ["end"])
    assert made["end"].refresh().value == "END"
    with pytest.raises(JobNotFound, match="'nothing' is no job of flow"):
        made["nothing"]


async def test_a_parent_with_a_time_waits_for_both(app: PgQueue, work: Work) -> None:
    flow = Flow()
    child = flow.add(work("child"))
    flow.add(work.task.using(delay=timedelta(hours=1)).job("late"), after=child)
    made = app.flows.enqueue(flow)
    await adrain(app)
    assert (work.ran, made.jobs[1].refresh().state) == (["child"], "scheduled")
    app.jobs.reschedule(made.jobs[1].id)
    await adrain(app)
    assert work.ran == ["child", "late"]


async def test_a_blocked_parent_can_be_rescheduled_and_still_waits(app: PgQueue, work: Work) -> None:
    made = app.flows.enqueue(chain(work("child"), work("parent")))
    assert app.jobs.reschedule(made.jobs[1].id, delay=3600)
    assert made.jobs[1].refresh().state == "blocked"
    await adrain(app)
    assert made.jobs[1].refresh().state == "scheduled"


async def test_a_parent_of_ten_thousand_waits_for_all_of_them(app: PgQueue) -> None:
    done = 0

    @app.task(name="part", keep_completed=0)
    async def part(n: int) -> int:
        nonlocal done
        done += 1
        return n

    @app.task(name="total", bind=True)
    async def total(ctx: Context) -> int:
        assert done == 10_000
        return sum(child.result for child in ctx.children())

    made = await app.flows.aenqueue(chord([part.job(n) for n in range(10_000)], total.job()))
    await adrain(app, slots=100)
    assert made.jobs[-1].refresh().value == sum(range(10_000))


# The caller's transaction


def test_a_flow_joins_the_callers_transaction(app: PgQueue, work: Work, joined: Joined) -> None:
    with joined() as using:
        made = app.flows.enqueue(chain(work("a"), work("b")), using=using)
        with pytest.raises(JobNotFound):
            app.flows.get(made.id)
    assert app.flows.get(made.id).jobs == 2


async def test_a_flow_joins_the_callers_async_transaction(app: PgQueue, work: Work, ajoined: AJoined) -> None:
    async with ajoined() as using:
        made = await app.flows.aenqueue(chain(work("a"), work("b")), using=using)
    assert (await app.flows.aget(made.id)).jobs == 2


def test_a_flow_that_is_rolled_back_leaves_nothing(app: PgQueue, work: Work, dsn: str) -> None:
    with psycopg.connect(dsn) as conn:
        app.flows.enqueue(chain(work("a"), work("b")), using=conn)
        conn.rollback()
        assert (app.jobs.list(), app.flows.list()) == ([], [])
        counts = "select (select count(*) from pgqueue.flow_jobs), (select count(*) from pgqueue.flow_edges)"
        assert conn.execute(counts).fetchone() == (0, 0)


def test_a_flow_is_enqueued_whole_or_not_at_all(app: PgQueue, work: Work) -> None:
    flow = chain(work("a"), work("b"))
    flow.add(work("c"), after=999)
    with pytest.raises(JobNotFound, match="no job with id 999 to wait for"):
        app.flows.enqueue(flow)
    assert (app.jobs.list(), app.flows.list()) == ([], [])


def test_what_is_no_flow_is_refused(app: PgQueue, work: Work) -> None:
    with pytest.raises(ArgumentError, match="takes a Flow"):
        app.flows.enqueue([work("a")])  # type: ignore[arg-type]


def test_middleware_wraps_a_flow_as_any_enqueue(app: PgQueue, work: Work) -> None:
    class Traced(Middleware):
        def enqueue(self, jobs: Any) -> Any:
            yield with_headers(jobs, {"trace": "t1"})

    app.add_middleware(Traced())
    made = app.flows.enqueue(chain(work("a"), work("b")))
    assert [app.jobs.get(job.id).headers for job in made.jobs] == [{"trace": "t1"}] * 2


# After jobs that exist


@pytest.mark.parametrize("how", ["job", "id", "list", "mapping"])
async def test_a_job_waits_for_jobs_that_were_enqueued_before(app: PgQueue, work: Work, how: str) -> None:
    first, second = work.task.enqueue("first"), work.task.enqueue("second")
    given: Any = {"job": first, "id": first.id, "list": [first, second], "mapping": {first: "ignore"}}[how]
    ship = work.task.using(after=given).enqueue("ship")
    assert ship.state == "blocked"
    await adrain(app, slots=1)
    assert work.ran[-1] == "ship"
    assert len(work.children["ship"]) == (2 if how == "list" else 1)
    assert app.flows.of(ship.id).id == app.flows.of(first.id).id


async def test_a_job_waits_for_one_of_the_same_transaction(app: PgQueue, work: Work, dsn: str) -> None:
    with psycopg.connect(dsn) as conn:
        charge = work.task.using(conn).enqueue("charge")
        work.task.using(conn, after=[charge]).enqueue("ship")
    await adrain(app)
    assert work.ran == ["charge", "ship"]


@pytest.mark.parametrize("end", ["completed", "failed", "cancelled"])
async def test_a_job_that_waits_for_one_that_has_ended_goes_on_or_fails_as_it_ended(
    app: PgQueue, work: Work, end: str
) -> None:
    work.fails = {"first"} if end == "failed" else set()
    first = work.task.enqueue("first")
    if end == "cancelled":
        first.cancel()
    await adrain(app)
    ship = work.task.using(after=first).enqueue("ship")
    await adrain(app)
    assert ship.refresh().state == ("completed" if end == "completed" else "failed")


async def test_a_job_that_ends_while_another_comes_to_wait_for_it_is_heard_of(
    app: PgQueue, work: Work, dsn: str
) -> None:
    gate = Gate(app, "gate", keep_completed=0)
    async with app.worker({"default": 2}):
        first = gate.task.enqueue(1)
        await gate.enters()
        with psycopg.connect(dsn) as conn:
            ship = work.task.using(conn, after=first).enqueue("ship")
            gate.opened.set()
            # Its end waits for this transaction, and for nobody else.
            other = work.task.enqueue("other")
            await until(lambda: _completed(app, other.id))
            assert app.jobs.get(first.id).state == "running"
        await until(lambda: _completed(app, ship.id))
    assert work.ran == ["other", "ship"]


async def _completed(app: PgQueue, id_: int) -> bool:
    return (await app.jobs.aget(id_)).state == "completed"


async def test_many_jobs_wait_for_one_in_one_enqueue(app: PgQueue, work: Work) -> None:
    first = work.task.enqueue("first")
    after = work.task.using(after=first)
    made = app.enqueue_many([after.job("b"), after.job("c"), work("free")])
    assert [job.state for job in made] == ["blocked", "blocked", "available"]
    await adrain(app, slots=1)
    assert sorted(work.ran[2:]) == ["b", "c"]


async def test_a_job_by_name_waits_too(app: PgQueue, work: Work, dsn: str) -> None:
    other = PgQueue(dsn)
    first = other.enqueue("work", {"name": "first"})
    second = await other.aenqueue("work", {"name": "second"}, after=first, on_failure="ignore")
    assert second.state == "blocked"
    await adrain(app)
    assert work.ran == ["first", "second"]
    await other.aclose()


def test_a_schedule_refuses_a_job_that_waits(app: PgQueue, work: Work) -> None:
    with pytest.raises(ConfigurationError, match="let its task enqueue a flow"):
        app.schedules.upsert("nightly", "0 2 * * *", work.task.using(after=1).job("x"))


def test_a_job_to_wait_for_that_nobody_knows_is_refused(app: PgQueue, work: Work) -> None:
    with pytest.raises(JobNotFound, match="Enqueue both in one transaction, or as a flow"):
        work.task.using(after=12345).enqueue("x")
    with pytest.raises(ArgumentError, match="jobs to come go into a Flow"):
        work.task.using(after="first")
    with pytest.raises(ArgumentError, match="on_failure='x' is not known"):
        work.task.using(after=1, on_failure="x")  # type: ignore[arg-type]
    assert app.jobs.list() == []


# A child that does not complete


async def test_a_parent_fails_unrun_with_its_child_and_so_do_those_above(app: PgQueue, work: Work) -> None:
    work.fails = {"a"}
    made = app.flows.enqueue(chain(work("a"), work("b"), work("c")))
    await adrain(app)
    assert work.ran == ["a"]
    for job in made.jobs[1:]:
        failed = app.failed.get(job.id)
        assert (failed.reason, failed.attempt) == ("child_failed", 0)
        assert failed.errors[-1]["message"] == f"job {made.jobs[0].id} (work) failed: ValueError: a"
    with pytest.raises(JobFailed, match=r"failed for a job that it waited for: pgqueue\.errors\.ChildFailed"):
        await made.jobs[2].aresult(timeout=5)
    assert app.failed.count(error="ChildFailed") == 2
    assert len(app.failed.groups()) == 2


async def test_an_ignored_child_counts_as_done_and_its_error_is_there(app: PgQueue, work: Work) -> None:
    work.fails = {"a"}
    app.flows.enqueue(chain(group(work("a"), work("b")), work("end"), on_failure="ignore"))
    await adrain(app, slots=1)
    assert work.ran == ["a", "b", "end"]
    assert work.children["end"] == [("None", "failed"), ('"B"', "completed")]


async def test_a_child_that_was_cancelled_counts_as_one_that_failed(app: PgQueue, work: Work) -> None:
    made = app.flows.enqueue(chain(work("a"), work("b")))
    made.jobs[0].cancel()
    await adrain(app)
    assert "was cancelled" in app.failed.get(made.jobs[1].id).errors[-1]["message"]


async def test_run_parent_begins_at_once_without_the_other_children(app: PgQueue, work: Work) -> None:
    work.fails = {"a"}
    flow = Flow()
    bad = flow.add(work("a"))
    slow = flow.add(work.task.using(delay=3600).job("slow"))
    flow.add(work("parent"), after=[bad, slow], on_failure="run_parent")
    app.flows.enqueue(flow)
    await adrain(app)
    assert work.ran == ["a", "parent"]
    assert work.children["parent"] == [("None", "failed"), ("None", None)]


async def test_cancel_siblings_cancels_what_else_the_parent_waits_for(app: PgQueue, work: Work) -> None:
    work.fails = {"a"}
    flow = Flow()
    bad = flow.add(work("a"))
    slow = flow.add(work.task.using(delay=3600).job("slow"))
    flow.add(work("parent"), after={bad: "cancel_siblings", slow: "fail_parent"})
    made = app.flows.enqueue(flow)
    await adrain(app)
    assert state_of(app, *(job.id for job in made.jobs)) == ["failed", "cancelled", "failed"]


async def test_a_running_sibling_is_cancelled_too(app: PgQueue, work: Work) -> None:
    gate = Gate(app, "gate")
    work.fails = {"a"}
    flow = Flow()
    running = flow.add(gate.task.using(priority=-1).job())
    bad = flow.add(work("a"))
    flow.add(work("parent"), after=[running, bad], on_failure="cancel_siblings")
    made = app.flows.enqueue(flow)
    async with app.worker({"default": 1}):
        await gate.enters()
        async with app.worker({"default": 1}):
            await until(lambda: _ended(app, made.jobs[0].id))
    assert state_of(app, *(job.id for job in made.jobs)) == ["cancelled", "failed", "failed"]


async def _ended(app: PgQueue, id_: int) -> bool:
    return (await app.jobs.aget(id_)).state in ("completed", "cancelled", "failed")


async def test_wait_holds_the_parent_until_the_child_is_redriven(app: PgQueue, work: Work) -> None:
    work.fails = {"a"}
    made = app.flows.enqueue(chain(work("a"), work("b"), on_failure="wait"))
    await adrain(app)
    assert state_of(app, *(job.id for job in made.jobs)) == ["failed", "blocked"]
    work.fails = set()
    app.failed.redrive(all=True)
    await adrain(app)
    assert work.ran == ["a", "a", "b"]


async def test_a_child_that_is_redriven_later_revives_its_flow(app: PgQueue, work: Work) -> None:
    work.fails = {"a", "b"}
    made = app.flows.enqueue(chord([work("a"), work("b")], chain(work("c"), work("d"))))
    await adrain(app, slots=1)
    assert app.flows.get(made.id).failed == 4
    work.fails = set()
    app.failed.redrive([made.jobs[0].id])
    await adrain(app)
    # The other child still fails it.
    assert (work.ran, app.failed.count()) == (["a", "b", "a"], 3)
    app.failed.redrive(task="work")
    await adrain(app)
    assert work.ran[3:] == ["b", "c", "d"]
    assert (app.flows.get(made.id).state, app.failed.count()) == ("completed", 0)


async def test_redrive_leaves_those_out_that_failed_for_a_child_unless_they_are_chosen(
    app: PgQueue, work: Work
) -> None:
    work.fails = {"a"}
    made = app.flows.enqueue(chain(work("a"), work("b")))
    await adrain(app)
    parent = made.jobs[1].id
    assert app.failed.redrive([made.jobs[0].id, parent]) == [made.jobs[0].id]
    await adrain(app)
    assert app.failed.redrive([parent]) == [parent]
    await adrain(app)
    assert work.ran == ["a", "a", "b"]
    assert work.children["b"] == [("None", "failed")]


async def test_a_retry_of_the_whole_flow_runs_what_failed_and_what_waited_for_it(app: PgQueue, work: Work) -> None:
    work.fails = {"a"}
    made = app.flows.enqueue(chain(work("a"), work("b")))
    await adrain(app)
    work.fails = set()
    assert await app.flows.aretry(made.id) == [made.jobs[0].id]
    await adrain(app)
    assert work.ran == ["a", "a", "b"]
    assert app.flows.retry(made.id) == []


async def test_children_that_retry_hold_their_parent_until_they_end(app: PgQueue, work: Work) -> None:
    tries: list[int] = []

    @app.task(name="flaky", bind=True, backoff=Backoff.fixed(0))
    async def flaky(ctx: Context) -> None:
        tries.append(ctx.attempt)
        if ctx.attempt < 3:
            raise ValueError

    app.flows.enqueue(chain(flaky.job(), work("end")))
    await adrain(app, with_scheduled=True)
    assert (tries, work.ran) == ([1, 2, 3], ["end"])


async def test_a_job_that_was_deleted_by_hand_fails_its_parent(app: PgQueue, work: Work, dsn: str) -> None:
    made = app.flows.enqueue(chain(work("a"), work("b")))
    with psycopg.connect(dsn) as conn:
        conn.execute("delete from pgqueue.jobs where id = %s", [made.jobs[0].id])
    times = itertools.count(0.0, 100.0)
    keeper = FlowKeeper(runner_of(app.database), app.schema, clock=lambda: next(times))
    await keeper.run_once()
    await adrain(app)
    assert "was deleted" in app.failed.get(made.jobs[1].id).errors[-1]["message"]


async def test_failed_jobs_that_are_purged_let_nobody_wait_for_ever(app: PgQueue, work: Work) -> None:
    work.fails = {"a"}
    made = app.flows.enqueue(chain(work("a"), work("b"), on_failure="wait"))
    await adrain(app)
    app.failed.purge(all=True)
    await app.database.afetch(settling.sweep(app.schema, 0, 100))
    await adrain(app)
    assert app.failed.get(made.jobs[1].id).reason == "child_failed"


# Unique and limited jobs


async def test_a_job_whose_key_is_held_stands_for_its_holder(app: PgQueue, work: Work) -> None:
    @app.task(name="sync", unique=Unique("sync:{customer}"))
    async def sync(customer: int) -> int:
        work.ran.append(f"sync {customer}")
        return customer

    held = sync.enqueue(1)
    made = app.flows.enqueue(chain(sync.job(1), work("after")))
    assert (made.jobs[0].id, made.jobs[0].created) == (held.id, False)
    await adrain(app)
    assert work.ran == ["sync 1", "after"]


async def test_a_parent_whose_key_is_held_stands_for_a_holder_that_waits_for_nobody_new(
    app: PgQueue, work: Work
) -> None:
    @app.task(name="sync", unique=Unique("sync"))
    async def sync() -> None:
        work.ran.append("sync")

    sync.enqueue()
    app.flows.enqueue(chain(work.task.using(delay=3600).job("late"), sync.job(), work("after")))
    await adrain(app)
    assert work.ran == ["sync", "after"]


async def test_a_blocked_parent_that_is_replaced_still_waits(app: PgQueue, work: Work) -> None:
    @app.task(name="sync", unique=Unique("sync", on_conflict="replace"))
    async def sync(n: int) -> None:
        work.ran.append(f"sync {n}")

    app.flows.enqueue(chain(work("child"), sync.job(1)))
    assert not sync.enqueue(2).created
    assert (await states(app))["blocked"] == 1
    await adrain(app)
    assert work.ran == ["child", "sync 2"]


async def test_limits_and_serial_keys_hold_in_flows(app: PgQueue) -> None:
    most = inside = 0
    order: list[int] = []

    @app.task(name="limited", limit=Limit(concurrency=2), serial_key="{key}")
    async def limited(key: str, n: int) -> int:
        nonlocal most, inside
        inside += 1
        most = max(most, inside)
        order.append(n)
        await asyncio.sleep(0)
        inside -= 1
        return n

    made = app.flows.enqueue(chain(group(*(limited.job("k", n) for n in range(6))), limited.job("k", 99)))
    await adrain(app)
    assert (order, most) == ([0, 1, 2, 3, 4, 5, 99], 1)
    assert app.flows.get(made.id).state == "completed"


# Growing


@pytest.mark.parametrize("kind", ["coroutine", "thread", "process", "transactional"])
async def test_a_running_job_adds_children_and_waits_for_them(app: PgQueue, kind: str) -> None:
    from tests.integration import flow_app

    flow_app.app.database = app.database
    runner = PgQueue(app.database.dsn)
    try:
        task = flow_app.declare(runner, kind)
        job = task.enqueue(3)
        await adrain(runner)
        done = job.refresh()
        assert (done.state, done.value, done.attempt) == ("completed", [0, 10, 20], 1)
    finally:
        await runner.aclose()


async def test_a_job_may_grow_again_and_again(app: PgQueue, work: Work) -> None:
    @app.task(name="grow", bind=True, max_attempts=1)
    async def grow(ctx: Context) -> int:
        done = len(ctx.children())
        if done < 3:
            raise WaitForChildren(work(f"part {done}"))
        return done

    job = grow.enqueue()
    await adrain(app)
    assert (job.refresh().value, work.ran) == (3, ["part 0", "part 1", "part 2"])


async def test_children_that_fail_fail_the_job_that_added_them(app: PgQueue, work: Work) -> None:
    work.fails = {"part"}

    @app.task(name="grow", bind=True)
    async def grow(ctx: Context) -> None:
        if not ctx.children():
            raise WaitForChildren([work("part")])

    job = grow.enqueue()
    await adrain(app)
    assert app.failed.get(job.id).reason == "child_failed"
    work.fails = set()
    app.flows.retry(app.flows.of(job.id).id)
    await adrain(app)
    assert job.refresh().state == "completed"


async def test_a_job_that_was_cancelled_while_it_ran_adds_no_children(app: PgQueue, work: Work) -> None:
    entered, go = asyncio.Event(), asyncio.Event()

    @app.task(name="grow", bind=True)
    async def grow(ctx: Context) -> None:
        entered.set()
        try:
            await go.wait()
        except asyncio.CancelledError:
            raise WaitForChildren([work("part")]) from None

    async with app.worker():
        job = grow.enqueue()
        await entered.wait()
        job.cancel()
        await until(lambda: _ended(app, job.id))
    assert (job.refresh().state, work.ran) == ("cancelled", [])


async def test_a_transactional_task_that_waits_for_children_writes_nothing_before(
    app: PgQueue, work: Work, dsn: str
) -> None:
    @app.task(name="grow", bind=True, transactional=True)
    def grow(ctx: Context) -> int:
        ctx.connection.execute("insert into grown values (1)")
        if not ctx.children():
            raise WaitForChildren([work("part")])
        return 7

    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("create table grown (n integer)")
        try:
            job = grow.enqueue()
            await adrain(app)
            assert (await job.aresult(), work.ran) == (7, ["part"])
            assert conn.execute("select count(*) from grown").fetchone() == (1,)
        finally:
            conn.execute("drop table grown")


async def test_a_drain_counts_the_runs_that_failed(app: PgQueue) -> None:
    @app.task(name="bad", max_attempts=1)
    async def bad() -> None:
        raise ValueError

    await app.flows.aenqueue(chain(bad.job(), bad.job()))
    assert ((await adrain(app)).failed, app.failed.count()) == (1, 2)


@pytest.mark.parametrize("marked", [False, True])
async def test_a_task_of_chunks_cannot_wait_for_children_and_is_not_retried(
    app: PgQueue, work: Work, marked: bool
) -> None:
    @app.task(name="chunked", chunk=2)
    async def chunked(jobs: list[ChunkJob[Page]]) -> None:
        if marked:
            jobs[0].raised(WaitForChildren([work("part")]))
        else:
            raise WaitForChildren([work("part")])

    job = chunked.enqueue(n=1)
    await adrain(app)
    failed = app.failed.get(job.id)
    assert (failed.attempt, len(failed.errors), failed.reason) == (1, 1, "fail_job")
    assert "a chunk cannot wait for children; leave out chunk=" in failed.errors[-1]["message"]


# Batches


@pytest.mark.parametrize(
    ("fails", "called"),
    [
        (set(), {"success", "complete"}),
        ({"a"}, {"complete", "failure"}),
        ({"a", "b", "c"}, {"complete", "failure"}),
    ],
)
async def test_a_batch_calls_back_as_it_ended(app: PgQueue, work: Work, fails: set[str], called: set[str]) -> None:
    work.fails = fails
    members = [work("a"), work("b"), work("c")]
    made = app.flows.enqueue(
        batch(members, on_success=work("success"), on_complete=work("complete"), on_failure=work("failure"))
    )
    await adrain(app)
    assert set(work.ran) - {"a", "b", "c"} == called
    row = app.flows.get(made.id)
    assert (row.completed, row.failed) == (3 - len(fails) + 2, len(fails))
    assert row.live == (1 if fails else 0)
    assert row.state == ("running" if fails else "completed")


async def test_a_batch_succeeds_once_what_failed_was_redriven(app: PgQueue, work: Work) -> None:
    work.fails = {"a"}
    made = app.flows.enqueue(batch([work("a"), work("b")], on_success=work("done"), on_failure=work("alarm")))
    await adrain(app)
    work.fails = set()
    app.flows.retry(made.id)
    await adrain(app)
    assert (work.ran.count("done"), work.ran.count("alarm")) == (1, 1)
    assert app.flows.get(made.id).state == "completed"


async def test_a_batch_that_cannot_succeed_any_more_drops_the_callback(app: PgQueue, work: Work) -> None:
    made = app.flows.enqueue(batch([work("a"), work("b")], on_success=work("done")))
    made.jobs[0].cancel()
    await adrain(app)
    assert made.jobs[2].refresh().state == "cancelled"
    assert (app.flows.get(made.id).skipped, app.flows.jobs(made.id)[2].state) == (1, "skipped")
    assert app.failed.count() == 0


# Whole flows


async def test_a_flow_is_cancelled_whole(app: PgQueue, work: Work) -> None:
    made = app.flows.enqueue(chain(work("a"), group(work("b"), work("c")), work("d")))
    assert sorted(await app.flows.acancel(made.id)) == sorted(job.id for job in made.jobs)
    await adrain(app)
    assert (work.ran, app.flows.get(made.id).state) == ([], "cancelled")
    assert app.flows.cancel(made.id) == []
    for call in (app.flows.cancel, app.flows.retry, app.flows.get):
        with pytest.raises(JobNotFound, match="there is no flow 999"):
            call(999)


async def test_a_flow_is_listed_with_its_jobs_and_whom_they_wait_for(app: PgQueue, work: Work) -> None:
    flow = Flow("order 7")
    charge = flow.add(work("charge"), name="charge")
    flow.add(work("ship"), after=charge, name="ship")
    made = app.flows.enqueue(flow)
    [first, second] = app.flows.jobs(made.id)
    assert (first.name, first.state, first.children) == ("charge", "available", ())
    assert (second.name, second.state, second.children) == ("ship", "blocked", (first.job_id,))
    [row] = app.flows.list(name="order 7")
    assert (row.name, row.state, row.jobs, row.live) == ("order 7", "running", 2, 2)
    assert app.flows.list(name="other") == []


async def test_an_ended_flow_goes_with_the_history_and_one_with_failed_jobs_stays(app: PgQueue, work: Work) -> None:
    work.fails = {"bad"}
    ended = app.flows.enqueue(chain(work("a"), work("b")))
    failed = app.flows.enqueue(chain(work("bad"), work("c")))
    live = app.flows.enqueue(chain(work.task.using(delay=3600).job("later"), work("d")))
    await adrain(app)
    _, gone = await app.database.arun(settling.prune(app.schema, 0, 100, timedelta(hours=1)), atomic=True)
    assert gone == 0
    _, gone = await app.database.arun(settling.prune(app.schema, 0, 100, timedelta()), atomic=True)
    assert gone == 1
    assert sorted(row.id for row in app.flows.list()) == [failed.id, live.id]
    with pytest.raises(JobNotFound):
        app.flows.get(ended.id)
    rows = await app.database.afetch(_counts(app))
    assert rows == [(4, 2, 2)]


def _counts(app: PgQueue) -> Any:
    from pgqueue.queries.statement import Statement

    return Statement(
        "select (select count(*) from pgqueue.flow_jobs), (select count(*) from pgqueue.flow_edges), "
        "(select count(*) from pgqueue.flow_waits)"
    )


async def test_the_pruner_sees_to_ended_flows(app: PgQueue, work: Work) -> None:
    app.flows.enqueue(chain(work("a"), work("b")))
    await adrain(app)
    pruner = Pruner(runner_of(app.database), app.schema)
    await pruner.run_once()
    assert len(app.flows.list()) == 1


async def test_a_child_that_lives_again_before_its_parent_fails_loses_nobody(app: PgQueue, work: Work) -> None:
    work.fails = {"a"}
    first = work.task.enqueue("a")
    await adrain(app)
    ship = work.task.using(after=first).enqueue("ship")
    # As between two statements of the service: the failure is counted, and the parent has not failed yet.
    await app.database.afetch(settling.settle(app.schema))
    work.fails = set()
    assert app.failed.redrive([first.id]) == [first.id]
    [failed] = await app.database.afetch(settling.fail(app.schema))
    assert (failed, ship.refresh().state) == (0, "blocked")
    await adrain(app)
    assert (work.ran, ship.refresh().state) == (["a", "a", "ship"], "completed")


async def test_a_flow_whose_job_another_flow_waits_for_is_kept(app: PgQueue, work: Work) -> None:
    made = app.flows.enqueue(chain(work("a"), work("b")))
    late = work.task.using(delay=3600).enqueue("late")
    flow = Flow()
    flow.add(work("c"), after=[made.jobs[0], late])
    app.flows.enqueue(flow)
    await adrain(app)
    _, gone = await app.database.arun(settling.prune(app.schema, 0, 100, timedelta()), atomic=True)
    assert (gone, app.flows.get(made.id).state) == (0, "completed")


async def test_on_failed_hears_of_parents_that_failed_for_a_child(app: PgQueue) -> None:
    told: list[tuple[str, str]] = []

    @app.task(name="hook")
    async def hook(**failed: Any) -> None:
        told.append((failed["task"], failed["reason"]))

    work = Work(app, on_failed="hook")
    work.fails = {"a"}
    app.flows.enqueue(chain(work("a"), work("b")))
    await adrain(app)
    assert sorted(told) == [("work", "attempts_used"), ("work", "child_failed")]


@pytest.mark.parametrize("stop", ["drain"])
async def test_a_worker_that_drains_runs_the_whole_flow(app: PgQueue, work: Work, stop: str) -> None:
    app.flows.enqueue(chain(*(work(str(n)) for n in range(5))))
    async with asyncio.timeout(20):
        await app.worker(drain=True).run()
    assert work.ran == ["0", "1", "2", "3", "4"]


async def test_a_result_of_a_child_that_failed_raises_in_the_parent(app: PgQueue, work: Work) -> None:
    work.fails = {"a"}
    raised: list[str] = []

    @app.task(name="reads", bind=True)
    async def reads(ctx: Context) -> None:
        try:
            _ = ctx.children()[0].result
        except ChildFailed as error:
            raised.append(str(error))

    app.flows.enqueue(chain(work("a"), reads.job(), on_failure="ignore"))
    await adrain(app)
    assert "is failed, and has no result: ValueError: a" in raised[0]


def test_sql_shows_flows_to_people(app: PgQueue, work: Work, dsn: str) -> None:
    made = app.flows.enqueue(chain(work("a"), work("b"), name="order 7"))
    with psycopg.connect(dsn) as conn:
        query = "select id, name, state, jobs, live, completed, failed, cancelled from pgqueue.all_flows"
        assert conn.execute(query).fetchall() == [(made.id, "order 7", "running", 2, 2, 0, 0, 0)]
