"""Any order of the real statements leaves each acknowledged job in one place, and all as a simple model says."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from typing import Any, ClassVar
from uuid import UUID, uuid4

import psycopg
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pgqueue.database import Database, fetch, run
from pgqueue.job import NewJob
from pgqueue.outcome import AttemptError, Cancelled, Completed, Failed, Outcome, Retry, Snooze
from pgqueue.queries import claiming, enqueuing, failures, finishing, fleet, inspecting, rescuing
from pgqueue.queries.failures import FailureFilter
from pgqueue.queries.finishing import Finished
from tests.property.model import Model, ModelJob

SCHEMA = "pgqueue"
TASK = "shop.pack"
LATER = 3600.0
LONG = os.environ.get("PGQUEUE_CHAOS") == "long"
ERROR = AttemptError("KeyError", "'x'", "Traceback …")

QUEUES = st.sampled_from(["email", "thumbs"])
KEYS = st.sampled_from([None, None, "a", "b", "c"])
WORKERS = st.sampled_from(["ann", "bob"])
EVERY_OUTCOME: list[Outcome | None] = [
    None,
    Completed('{"n": 1}'),
    Completed(),
    Retry(LATER, ERROR),
    Retry(LATER, ERROR, crashed=True),
    Snooze(LATER),
    Cancelled("no longer wanted"),
    Failed("fail_job", ERROR),
    Failed("crashed", ERROR, crashed=True),
]
OUTCOMES = st.sampled_from(EVERY_OUTCOME)
NEW_JOBS = st.lists(
    st.tuples(QUEUES, KEYS, st.sampled_from([1, 2, 3, 25]), st.booleans()),
    min_size=1,
    max_size=5,
    unique_by=lambda job: (job[0], job[1]) if job[1] else object(),
)
_fences = itertools.count(2**62 + 1)

WHERE_JOBS_ARE = f"""
    select id, state, queue, unique_key, attempt, max_attempts, crashes, suspicions, cancel_requested,
           coalesce(jsonb_array_length(errors), 0), position, claim_id from {SCHEMA}.jobs
    union all
    select id, state, queue, unique_key, attempt, max_attempts, null, null, null,
           coalesce(jsonb_array_length(errors), 0), null, null from {SCHEMA}.completed_jobs
    union all
    select id, 'failed', queue, unique_key, attempt, max_attempts, crashes, null, null,
           coalesce(jsonb_array_length(errors), 0), null, null from {SCHEMA}.failed_jobs
"""


class Transitions(RuleBasedStateMachine):
    """Producers, two workers, a promoter, a rescuer and an operator, one statement at a time."""

    dsn: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        options = Database(self.dsn).session_options("test")
        self.db: psycopg.Connection[Any] = psycopg.Connection.connect(self.dsn, autocommit=True, **options)
        for table in ("jobs", "claims", "workers", "completed_jobs", "failed_jobs", "queues"):
            self.db.execute(f"delete from {SCHEMA}.{table}".encode())
        self.model = Model()
        self.ids: dict[str, UUID] = {}
        self.dead: set[str] = set()
        self.past: list[tuple[int, int]] = []

    def teardown(self) -> None:
        self.db.close()

    @initialize()
    def start_workers(self) -> None:
        for name in ("ann", "bob"):
            self.register(name)

    def register(self, name: str) -> None:
        self.ids[name] = uuid4()
        row = fleet.register_worker(
            SCHEMA,
            worker=self.ids[name],
            name=name,
            host="h",
            pid=1,
            version="1",
            queues={},
            tasks=[TASK],
            lease=3600.0,
        )
        fetch(self.db, row)

    def life(self, name: str) -> str:
        return str(self.ids[name])

    def settle(self, commit: bool, change: Callable[[], None]) -> None:
        """Run `change` in a transaction that commits or rolls back."""
        with self.db.transaction(force_rollback=not commit):
            change()

    @rule(new=NEW_JOBS, commit=st.booleans())
    def enqueue(self, new: list[tuple[str, str | None, int, bool]], commit: bool) -> None:
        jobs = [
            NewJob(TASK, "{}", queue, max_attempts=attempts, key=key, delay=LATER if later else None)
            for queue, key, attempts, later in new
        ]

        def change() -> None:
            made = run(self.db, enqueuing.enqueue(SCHEMA, jobs, 25))
            for (queue, key, attempts, later), job in zip(new, made, strict=True):
                holder = self.model.holder(key, queue)
                assert job.created is (holder is None)
                if holder is not None:
                    assert job.id == holder.id
                elif commit:
                    self.model.enqueued(job.id, queue, key, attempts, later=later)

        self.settle(commit, change)

    @rule(queue=QUEUES, key=KEYS, later=st.booleans())
    def enqueue_by_sql(self, queue: str, key: str | None, later: bool) -> None:
        call = f"select {SCHEMA}.enqueue(%s, queue => %s, key => %s, delay => %s * interval '1 s')"
        [(id_,)] = self.db.execute(call.encode(), [TASK, queue, key, LATER if later else None]).fetchall()
        holder = self.model.holder(key, queue)
        if holder is not None:
            assert id_ == holder.id
        else:
            self.model.enqueued(id_, queue, key, 25, later=later)

    @rule(worker=WORKERS, queue=QUEUES, count=st.integers(1, 6), slots=st.integers(0, 2))
    def claim(self, worker: str, queue: str, count: int, slots: int) -> None:
        fence = next(_fences)
        operation = claiming.claim(
            SCHEMA,
            queue=queue,
            priority=0,
            mark=0,
            known=0,
            tasks=[TASK],
            count=count,
            slots=slots,
            fence=fence,
            worker=self.ids[worker],
            lifo=False,
        )
        scan = run(self.db, operation)
        expected = self.model.claimed(self.life(worker), queue, fence, count, slots)
        assert [job.id for job in scan.jobs] == expected
        assert [job.attempt for job in scan.jobs] == [self.model.jobs[id_].attempt for id_ in expected]
        self.past.extend((id_, fence) for id_ in expected)

    @precondition(lambda self: self.model.in_state("running"))
    @rule(data=st.data(), worker=WORKERS, kept=st.booleans())
    def finish(self, data: st.DataObject, worker: str, kept: bool) -> None:
        held = self.model.held_by(self.life(worker))
        if not held:
            return
        jobs = data.draw(st.lists(st.sampled_from(held), min_size=1, unique_by=lambda job: job.id))
        batch = [(job, data.draw(OUTCOMES)) for job in jobs]
        stale = self.stale_beside(jobs)
        extra = data.draw(st.lists(st.sampled_from(stale), max_size=2, unique_by=lambda pair: pair[0])) if stale else []
        refused = [Finished(id_, fence, TASK, data.draw(OUTCOMES), 0.1) for id_, fence in extra]
        fresh = [Finished(job.id, job.fence or 0, TASK, outcome, 0.1, kept) for job, outcome in batch]
        assert run(self.db, finishing.finish(SCHEMA, self.ids[worker], fresh + refused)).stale == len(refused)
        for job, outcome in batch:
            self.model.finished(job, outcome, kept=kept)

    def stale_beside(self, jobs: list[ModelJob]) -> list[tuple[int, int]]:
        """Outdated claims of other jobs; not of one that the batch's claims hold again, as the finisher sees to."""
        fences = {job.fence for job in jobs}
        return [
            (id_, fence)
            for id_, fence in self.past
            if self.model.jobs[id_].fence not in fences and self.model.jobs[id_].fence != fence
        ]

    @precondition(lambda self: any(self.model.jobs[id_].fence != fence for id_, fence in self.past))
    @rule(data=st.data(), worker=WORKERS)
    def finish_with_a_stale_fence(self, data: st.DataObject, worker: str) -> None:
        stale = self.stale_beside([])
        running_again = [(id_, fence) for id_, fence in stale if self.model.jobs[id_].state == "running"]
        id_, fence = data.draw(st.sampled_from(running_again or stale))
        before = self.snapshot()
        for outcome, kept in itertools.product(EVERY_OUTCOME, (True, False)):
            late = Finished(id_, fence, TASK, outcome, 0.1, kept)
            assert run(self.db, finishing.finish(SCHEMA, self.ids[worker], [late])).stale == 1
        assert self.snapshot() == before

    @precondition(lambda self: self.model.jobs)
    @rule(data=st.data(), commit=st.booleans())
    def cancel(self, data: st.DataObject, commit: bool) -> None:
        ids = data.draw(st.lists(st.sampled_from(sorted(self.model.jobs)), min_size=1, max_size=3, unique=True))

        def change() -> None:
            was = fetch(self.db, inspecting.cancel(SCHEMA, ids, "no longer wanted"))
            assert dict(was) == {id_: self.model.jobs[id_].state for id_ in ids if self.model.jobs[id_].live}
            if commit:
                for id_ in ids:
                    self.model.cancelled(self.model.jobs[id_])

        self.settle(commit, change)

    @precondition(lambda self: self.model.in_state("scheduled"))
    @rule(data=st.data())
    def time_comes(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(self.model.in_state("scheduled")))
        self.db.execute(f"update {SCHEMA}.jobs set run_at = clock_timestamp() where id = %s".encode(), [job.id])
        job.due = self.model.tick()

    @rule(queue=QUEUES)
    def promote(self, queue: str) -> None:
        [seen] = fetch(self.db, claiming.promote(SCHEMA, queue=queue, count=500))
        assert seen.promoted == self.model.promoted(queue)
        waits = any(job.queue == queue for job in self.model.in_state("scheduled"))
        assert (seen.due_in is not None) is waits

    @precondition(lambda self: self.model.in_state("available", "scheduled", "running"))
    @rule(data=st.data(), later=st.booleans())
    def reschedule(self, data: st.DataObject, later: bool) -> None:
        job = data.draw(st.sampled_from(self.model.in_state("available", "scheduled", "running")))
        moved = fetch(self.db, inspecting.reschedule(SCHEMA, [job.id], None, LATER if later else 0.0))
        assert bool(moved) is self.model.rescheduled(job, later=later)

    @rule(worker=WORKERS)
    def worker_dies(self, worker: str) -> None:
        """Its lease ends; another process starts in its place."""
        self.db.execute(
            f"update {SCHEMA}.workers set expires_at = '-infinity' where id = %s".encode(), [self.ids[worker]]
        )
        assert fetch(self.db, fleet.heartbeat(SCHEMA, uuid4(), 3600.0)) == []
        fetch(self.db, rescuing.bury(SCHEMA))
        assert fetch(self.db, fleet.heartbeat(SCHEMA, self.ids[worker], 3600.0)) == []
        self.dead.add(self.life(worker))
        self.register(worker)

    @precondition(lambda self: self.dead)
    @rule()
    def rescue(self) -> None:
        held = {job.id for worker in self.dead for job in self.model.held_by(worker)}
        with self.db.transaction():
            rescued = run(self.db, rescuing.rescue(SCHEMA, lambda task, attempt: LATER))
        assert {orphan.job_id for orphan in rescued} == held
        self.model.rescued(self.dead)
        self.dead.clear()

    @precondition(lambda self: self.model.in_state("failed"))
    @rule(data=st.data(), commit=st.booleans(), every=st.booleans())
    def redrive(self, data: st.DataObject, commit: bool, every: bool) -> None:
        failed = sorted(job.id for job in self.model.in_state("failed"))
        ids = failed if every else data.draw(st.lists(st.sampled_from(failed), min_size=1, unique=True))

        def change() -> None:
            which = FailureFilter(None if every else tuple(ids))
            back = fetch(self.db, failures.redrive(SCHEMA, which))
            if commit:
                assert sorted(back) == self.model.redriven(ids)

        self.settle(commit, change)

    @rule()
    def drop_claims(self) -> None:
        fetch(self.db, claiming.drop_claims(SCHEMA, list(self.model.claims)))
        held = {job.fence for job in self.model.in_state("running")}
        assert {fence for (fence,) in self.rows(f"select id from {SCHEMA}.claims")} == held

    @invariant()
    def the_database_is_as_the_model_says(self) -> None:
        found = self.snapshot()
        assert len({row[0] for row in found}) == len(found), "a job is in two places"
        expected = {job.id: self.row(job) for job in self.model.jobs.values() if job.state != "forgotten"}
        assert {row[0]: self.comparable(row) for row in found} == expected
        placed = [job for job in self.model.jobs.values() if job.place is not None]
        positions = {row[0]: row[10] for row in found if row[10] is not None}
        assert sorted(positions, key=positions.__getitem__) == [
            job.id for job in sorted(placed, key=lambda job: job.place or 0)
        ]

    @invariant()
    def every_running_job_has_the_claim_of_its_worker(self) -> None:
        rows = self.rows(f"select id, worker_id::text, job_ids from {SCHEMA}.claims")
        claims = {fence: (worker, set(job_ids)) for fence, worker, job_ids in rows}
        for job in self.model.in_state("running"):
            worker, ids = claims[job.fence]
            assert job.id in ids
            assert job.fence is not None
            assert worker == self.model.claims[job.fence]

    def row(self, job: ModelJob) -> tuple[Any, ...]:
        same = (job.state, job.queue, job.key, job.attempt, job.max_attempts)
        if job.live:
            return (
                *same,
                job.crashes,
                job.suspicions,
                job.cancel_requested,
                job.errors,
                job.place is not None,
                job.fence,
            )
        return (*same, job.crashes if job.state == "failed" else None, None, None, job.errors, False, None)

    def comparable(self, row: tuple[Any, ...]) -> tuple[Any, ...]:
        return (*row[1:10], row[10] is not None, row[11])

    def snapshot(self) -> list[tuple[Any, ...]]:
        return sorted(self.rows(WHERE_JOBS_ARE), key=lambda row: row[0])

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        return self.db.execute(query.encode()).fetchall()


def test_any_order_of_transitions_leaves_every_job_in_one_place(dsn: str) -> None:
    run_state_machine_as_test(
        type("Transitions", (Transitions,), {"dsn": dsn}),
        settings=settings(
            max_examples=2000 if LONG else 100,
            stateful_step_count=80 if LONG else 40,
            deadline=None,
            derandomize=not LONG,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
