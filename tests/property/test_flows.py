"""Random graphs with random failures, crashes and redrives, over the real statements: all is as the model says."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, cast, get_args
from uuid import uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgqueue.database import Database, fetch, run
from pgqueue.flow import Flow, OnFailure, WaitForChildren
from pgqueue.job import ClaimedJob, NewJob
from pgqueue.outcome import AttemptError, Cancelled, Completed, Failed, Outcome, Retry, Wait
from pgqueue.queries import claiming, failures, finishing, fleet, inspecting, joining, settling
from pgqueue.queries.failures import FailureFilter
from pgqueue.queries.finishing import Finished

SCHEMA = "pgqueue"
LONG = os.environ.get("PGQUEUE_CHAOS") == "long"
ERROR = AttemptError("KeyError", "'x'", "Traceback …")
POLICIES: tuple[OnFailure, ...] = get_args(OnFailure)
ENDS: dict[str, Outcome | None] = {
    "completed": Completed('{"n": 1}'),
    "failed": Failed("fail_job", ERROR),
    "cancelled": Cancelled("no longer wanted"),
    "retried": Retry(0.0, ERROR),
    "given back": None,
}
_fences = itertools.count(2**62)
_queues = itertools.count()


# One step that meets a lock is left out; in a transaction the next cannot go on.
HELD = (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected, psycopg.errors.InFailedSqlTransaction)


class Crash(Exception):
    """Whoever ran the statements is gone: nothing of their transaction is kept."""


@dataclass
class Member:
    """A job as the model has it. `ends` are what its runs come to, the last of them again and again."""

    ends: list[str]
    after: dict[int, OnFailure] = field(default_factory=dict)
    grows: int = 0
    state: str | None = None
    began: int = 0
    # Failed unrun, for a child; and may begin whatever its children are.
    doomed: bool = False
    released: bool = False


def edge(policy: str, state: str | None) -> str:
    """What a child in this state is to its parent."""
    match state, policy:
        case None, _:
            return "waits"
        case ("completed", _) | (_, "ignore"):
            return "done"
        case _, "run_parent":
            return "hurries"
        case "failed", "wait":
            return "waits"
    return "fails"


class World:
    """One flow, what happens to it, and a ledger of what was seen."""

    def __init__(self, dsn: str, draw: Any) -> None:
        options = Database(dsn).session_options("test", statement_timeout="30s", lock_timeout="100ms")
        self.db: psycopg.Connection[Any] = psycopg.Connection.connect(dsn, autocommit=True, **options)
        self.other: psycopg.Connection[Any] = psycopg.Connection.connect(dsn, autocommit=True, **options)
        # What an example before has left behind would be somebody else's news.
        for table in (
            "jobs",
            "claims",
            "workers",
            "failed_jobs",
            "flow_jobs",
            "flow_waits",
            "flow_edges",
            "flow_news",
            "flow_turns",
            "flows",
        ):
            self.db.execute(f"delete from {SCHEMA}.{table}".encode())
        self.draw = draw
        self.worker = uuid4()
        row = fleet.register_worker(
            SCHEMA, worker=self.worker, name="w", host="h", pid=1, version="1", queues={}, tasks=["work"], lease=3600.0
        )
        fetch(self.db, row)
        self.queue = f"q{next(_queues)}-{uuid4().hex[:8]}"
        self.members: dict[int, Member] = {}
        self.held: list[ClaimedJob] = []
        self.flow = 0
        self.ended: set[int] = set()

    def close(self) -> None:
        self.db.close()
        self.other.close()

    def job(self) -> NewJob:
        return NewJob("work", "{}", self.queue)

    def maybe(self, percent: int) -> bool:
        return bool(self.draw(CHANCE) < percent)

    def enqueue(self) -> None:
        size = self.draw(st.integers(1, 9))
        policies = self.draw(st.sampled_from([POLICIES, ("fail_parent",), ("fail_parent", "ignore", "wait")]))
        flow = Flow("any")
        members = []
        for n in range(size):
            after = self.draw(st.lists(st.integers(0, n - 1), unique=True, max_size=4)) if n else []
            edges = {parent: self.draw(st.sampled_from(policies)) for parent in after}
            ends = self.draw(st.lists(st.sampled_from(list(ENDS)), max_size=2))
            ends.append(self.draw(st.sampled_from(["completed", "completed", "failed", "cancelled"])))
            grows = self.draw(st.sampled_from([0, 0, 0, 2]))
            members.append(Member(ends, edges, grows))
            flow.add(self.job(), after={flow.nodes[child]: policy for child, policy in edges.items()})
        plan = flow.plan()
        with self.db.transaction():
            self.flow, made = run(self.db, joining.enqueue_plan(SCHEMA, plan, plan.jobs, 25))
        ids = [made[place].id for place in plan.places]
        for id_, member in zip(ids, members, strict=True):
            member.after = {ids[child]: policy for child, policy in member.after.items()}
            self.members[id_] = member

    # What happens

    def crashing(self, conn: psycopg.Connection[Any], operation: Any, percent: int = 15) -> Any:
        """Run it in a transaction, or crash before its commit; None then, and where a lock is held."""
        try:
            with conn.transaction():
                result = run(conn, operation)
                if self.maybe(percent):
                    raise Crash
        except (Crash, *HELD):
            return None
        return result

    def claim(self) -> None:
        operation = claiming.claim(
            SCHEMA,
            queue=self.queue,
            priority=0,
            mark=0,
            known=0,
            tasks=["work"],
            count=self.draw(st.integers(1, 4)),
            slots=4,
            fence=next(_fences),
            worker=self.worker,
            lifo=False,
        )
        for job in run(self.db, operation).jobs:
            self.began(job.id)
            self.held.append(job)

    def began(self, id_: int) -> None:
        """A job begins only once it was let go."""
        member = self.members[id_]
        assert member.state is None, f"{id_} began after its end"
        # What has begun once does not wait again, unless it grows; what failed for a child may be redriven by itself.
        assert member.doomed or member.released or not member.after, f"{id_} began and was never let go"

    def let_go(self, id_: int) -> None:
        """A job is let go when nothing that it waits for is left, as it was counted; a child may live again since."""
        member = self.members[id_]
        states = {child: self.counted(child, id_) for child in member.after}
        found = [edge(policy, states[child]) for child, policy in member.after.items()]
        left = {"waits", "fails"} & set(found)
        assert "hurries" in found or not left, f"{id_} was let go: {found}"
        for child, counted in states.items():
            assert counted is None or child in self.ended, f"{child} counts as {counted} and has never ended"
        member.released = True

    def counted(self, id_: int, parent: int) -> str | None:
        """The state from which what the parent is still to be told leads to the one that it has."""
        [[state]] = self.db.execute("select state from pgqueue.flow_jobs where job_id = %s", [id_]).fetchall()
        steps = Counter({state: 1})
        untold = "select was, state from pgqueue.flow_news where job_id = %s and told < %s"
        for was, then in self.db.execute(untold, [id_, parent]).fetchall():
            steps[was] += 1
            steps[then] -= 1
        [before] = [state for state, times in steps.items() if times > 0]
        return cast("str | None", before)

    def finish(self) -> None:
        if not self.held:
            return
        job = self.held.pop(self.draw(st.integers(0, len(self.held) - 1)))
        member = self.members[job.id]
        name = member.ends[min(member.began, len(member.ends) - 1)]
        outcome = ENDS[name]
        policy = self.draw(st.sampled_from(POLICIES))
        if member.grows:
            wait = WaitForChildren([self.job() for _ in range(member.grows)], on_failure=policy)
            outcome = Wait(wait.plan, policy, 25)
        written = self.crashing(
            self.db,
            finishing.finish(SCHEMA, uuid4(), [Finished(job.id, job.fence, "work", outcome, kept=self.maybe(50))]),
        )
        if written is None:
            # The worker died before its commit; the claim is rescued, and the job runs again.
            run(self.db, claiming_release(job))
            self.see()
            return
        assert written.stale == 0
        if isinstance(outcome, Wait):
            self.grew(job.id, policy)
            return
        if name == "given back":
            member.began += 1
            return
        member.began += 1
        state = self.state_of(job.id)
        if state in ("completed", "failed", "cancelled"):
            member.state = state
            self.ended.add(job.id)
            assert state == name or (state == "cancelled" and name == "retried")
        else:
            assert name == "retried"
            self.db.execute("update pgqueue.jobs set run_at = clock_timestamp() where id = %s", [job.id])

    def grew(self, id_: int, policy: OnFailure) -> None:
        member = self.members[id_]
        state = self.state_of(id_)
        if state == "cancelled":
            member.state = state
            return
        query = "select child_id from pgqueue.flow_edges where parent_id = %s"
        new = {child for (child,) in self.db.execute(query, [id_])} - set(member.after)
        assert len(new) == member.grows
        member.grows, member.released = 0, False
        for child in sorted(new):
            self.members[child] = Member([self.draw(st.sampled_from(["completed", "completed", "failed"]))])
        # What it waited for before counts no more, however that ends or is redriven.
        member.after = dict.fromkeys(new, policy)

    def turn(self) -> None:
        """A keeper's look, statement by statement, with another keeper in between."""
        if self.maybe(30):
            with self.other.transaction(force_rollback=self.maybe(50)):
                fetch(self.other, settling.settle(SCHEMA, self.draw(st.integers(1, 3))))
                self.crashing(self.db, settling.turn(SCHEMA, self.draw(st.integers(1, 5))))
        else:
            self.crashing(self.db, settling.turn(SCHEMA, self.draw(st.sampled_from([1, 3, 100]))))
        self.see()

    def see(self) -> None:
        """What keepers, cancellations and redrives have done; each only as it may."""
        for id_, member in list(self.members.items()):
            state = self.state_of(id_)
            live = state not in ("completed", "failed", "cancelled", "gone")
            if not live:
                self.ended.add(id_)
            if live and member.state is not None:
                # A child of it was redriven.
                assert member.doomed, f"{id_} lives again"
                member.state, member.doomed = None, False
            if state in ("available", "scheduled", "running") and not (member.released or member.doomed):
                self.let_go(id_)
            elif not live and member.state is None:
                if state == "failed":
                    # A child may live again since; at rest it does not stay so.
                    query = "select reason from pgqueue.failed_jobs where id = %s"
                    assert self.db.execute(query, [id_]).fetchall() == [("child_failed",)]
                    member.doomed = True
                else:
                    assert state in ("cancelled", "gone"), f"{id_} is {state} without a run"
                member.state = state

    def seen(self, id_: int) -> str | None:
        state = self.state_of(id_)
        return state if state in ("completed", "failed", "cancelled", "gone") else None

    def cancel(self) -> None:
        id_ = self.draw(st.sampled_from(sorted(self.members)))
        self.crashing(self.db, single(inspecting.cancel(SCHEMA, [id_], "not wanted")))
        self.see()

    def promote(self) -> None:
        fetch(self.db, claiming.promote(SCHEMA, queue=self.queue, count=100))

    def redrive(self) -> None:
        """Some of the failed jobs; of those that failed for a child none, unless by themselves."""
        failed = [id_ for id_, member in self.members.items() if member.state == "failed"]
        if not failed:
            return
        chosen = self.draw(st.lists(st.sampled_from(failed), unique=True, min_size=1))
        if self.maybe(50):
            chosen = [id_ for id_ in chosen if not self.members[id_].doomed]
        which = FailureFilter(ids=tuple(chosen))
        went = self.crashing(self.db, single(failures.redrive(SCHEMA, which))) or []
        for id_ in went:
            member = self.members[id_]
            member.state = None
            # Without its children, where it was doomed.
            member.doomed = member.doomed or not member.after
            if self.maybe(70):
                member.ends = ["completed"]
        self.see_redriven(set(went))

    def see_redriven(self, went: set[int]) -> None:
        for id_, member in self.members.items():
            live = self.state_of(id_) not in ("completed", "failed", "cancelled", "gone")
            assert live is (member.state is None), f"{id_} is {self.state_of(id_)}, after {went} were redriven"

    def state_of(self, id_: int) -> str:
        query = (
            "select coalesce(n.state, j.state, 'gone') from pgqueue.flow_jobs n "
            "left join pgqueue.jobs j on j.id = n.job_id where n.job_id = %s"
        )
        [[state]] = self.db.execute(query, [id_]).fetchall()
        return str(state)

    def rest(self) -> None:
        """Everything goes on, without crashes, until nothing moves."""
        for _ in range(200):
            while self.held:
                self.calm(self.finish)
            before = self.shape()
            self.calm(self.promote)
            self.calm(self.claim)
            moved = run(self.db, settling.turn(SCHEMA))
            self.see()
            if not (moved or self.held) and self.shape() == before:
                return
        raise AssertionError(f"it goes on and on: {self.shape()}")

    def calm(self, what: Any) -> None:
        draw, self.draw = self.draw, Calm(self.draw)
        try:
            what()
        finally:
            self.draw = draw

    def shape(self) -> Any:
        states = "select job_id, state from pgqueue.flow_jobs where flow_id = %s order by 1"
        moving = "select (select count(*) from pgqueue.flow_news), (select count(*) from pgqueue.flow_turns)"
        rows = [*self.db.execute(states, [self.flow]), *self.db.execute(moving)]
        return rows, {i: m.began for i, m in self.members.items()}

    def check(self) -> None:
        """At rest: who has not run is held, or has failed, for a reason; what is counted is what there is."""
        assert self.db.execute("select count(*) from pgqueue.flow_jobs where flow_id = %s", [self.flow]).fetchall() == [
            (len(self.members),)
        ]
        for id_, member in self.members.items():
            found = [edge(policy, self.seen(child)) for child, policy in member.after.items()]
            state = self.state_of(id_)
            if state == "blocked":
                assert "waits" in found, f"{id_} waits for nobody: {found}"
                assert not {"fails", "hurries"} & set(found), f"{id_} waits though its children are {found}"
            else:
                assert state in ("completed", "failed", "cancelled"), f"{id_} is {state} at rest"
            if member.doomed and state == "failed" and member.began == 0 and member.after:
                assert "fails" in found, f"{id_} stays failed while its children are {found}"
        query = (
            "select w.job_id, w.pending, w.failing, w.urgent, "
            "count(*) filter (where s = 'waits'), count(*) filter (where s = 'fails'), "
            "count(*) filter (where s = 'hurries') "
            "from pgqueue.flow_waits w join pgqueue.flow_edges e on e.parent_id = w.job_id and e.round = w.round "
            "join pgqueue.flow_jobs n on n.job_id = e.child_id "
            "cross join lateral pgqueue.edge_state(e.on_failure, n.state) s "
            "where n.flow_id = %s group by 1, 2, 3, 4"
        )
        for id_, *counts in self.db.execute(query, [self.flow]).fetchall():
            assert counts[:3] == counts[3:], f"{id_} counted {counts[:3]} where there are {counts[3:]}"


class Calm:
    """Draws as the test does, but for chances: nothing crashes."""

    def __init__(self, draw: Any) -> None:
        self.draw = draw

    def __call__(self, strategy: Any) -> Any:
        return 99 if strategy is CHANCE else self.draw(strategy)


CHANCE = st.integers(0, 99)


def claiming_release(job: ClaimedJob) -> Any:
    rows = yield claiming.release(SCHEMA, [job.id], [job.fence])
    if not rows:
        # It was cancelled: as the rescuer does.
        yield from finishing.finish(SCHEMA, None, [Finished(job.id, job.fence, "work", None)])


def single(statement: Any) -> Any:
    return (yield statement)


@pytest.fixture
def database(fresh_dsn: str) -> str:
    return fresh_dsn


@settings(
    max_examples=2_000 if LONG else 80,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_any_graph_runs_in_order_and_ends_as_the_model_says(database: str, data: st.DataObject) -> None:
    world = World(database, data.draw)
    try:
        world.enqueue()
        steps = [world.claim, world.claim, world.finish, world.finish, world.turn, world.turn, world.promote]
        for _ in range(data.draw(st.integers(0, 25))):
            data.draw(st.sampled_from([*steps, world.cancel, world.redrive]))()
        world.rest()
        world.check()
        for _ in range(data.draw(st.integers(0, 3))):
            world.redrive()
            world.rest()
            world.check()
    finally:
        world.close()
