"""What queues and tasks hold, counted by their indexes and no further than a bound."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from pgqueue import Limit, PgQueue
from pgqueue.queries import counting, fleet, overview, running
from pgqueue.queries.overview import QueueCounts
from pgqueue.queries.statement import Statement, inline
from pgqueue.testing import adrain
from pgqueue.worker import Worker
from tests.integration.waiting import Gate


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """All queues together are counted to twelve, each at least to two; tasks are to five."""
    monkeypatch.setattr(counting, "COUNTED", 12)
    monkeypatch.setattr(counting, "COUNTED_EACH", 2)
    monkeypatch.setattr(overview, "TASKS_COUNTED", 5)


def queues(app: PgQueue, name: str | None = None) -> dict[str, QueueCounts]:
    return {one.queue: one for one in app.database.run(overview.queues(app.schema, name))}


def enqueue(app: PgQueue, queue: str, count: int, **options: Any) -> None:
    app.enqueue_many([app.new_job("send", queue=queue, **options) for _ in range(count)])


async def test_every_state_is_counted_by_queue(app: PgQueue) -> None:
    enqueue(app, "mail", 3)
    enqueue(app, "mail", 2, priority=9)
    enqueue(app, "mail", 4, delay=3600)
    enqueue(app, "images", 1, delay=3600)
    app.limits.set(queue="parked", limit=Limit(concurrency=1))
    gate = Gate(app, "held", queue="parked")
    async with Worker(app, queues={"parked": 2}):
        await app.aenqueue_many([app.new_job("held") for _ in range(3)])
        await gate.enters()
        found = queues(app)
        gate.opened.set()
    mail, images, parked = found["mail"], found["images"], found["parked"]
    assert (mail.available, mail.scheduled, mail.running, mail.blocked, mail.capped) == (5, 4, 0, 0, frozenset())
    assert (mail.unserved, images.unserved, images.scheduled) == (True, False, 1)
    assert (parked.running, parked.workers, parked.slots) == (1, 1, 2)
    assert parked.available + parked.blocked == 2


async def test_what_a_queue_does_not_need_of_its_share_another_is_counted_with(app: PgQueue, few: None) -> None:
    enqueue(app, "a", 1)
    enqueue(app, "b", 10)
    enqueue(app, "c", 30)
    found = queues(app)
    assert [(one.available, one.capped) for one in found.values()] == [
        (1, frozenset()),
        (6, frozenset({"available"})),
        (6, frozenset({"available"})),
    ]
    alone = queues(app, "b")["b"]
    assert (alone.available, alone.capped) == (10, frozenset())


async def test_scheduled_jobs_beyond_the_bound_may_be_retries_but_are_not_due(app: PgQueue, few: None) -> None:
    enqueue(app, "later", 20, delay=3600)
    later = queues(app)["later"]
    assert (later.scheduled, later.due) == (12, 0)
    assert later.capped == {"scheduled", "retrying"}


async def test_failed_jobs_are_counted_to_a_bound_too(app: PgQueue, few: None) -> None:
    @app.task(name="breaks", queue="broken", max_attempts=1)
    async def breaks() -> None:
        raise ValueError("broken")

    await app.aenqueue_many([app.new_job("breaks") for _ in range(14)])
    await adrain(app)
    broken = queues(app)["broken"]
    assert (broken.failed, "failed" in broken.capped) == (12, True)


def test_a_queue_that_nothing_knows_is_none(app: PgQueue) -> None:
    assert queues(app, "nowhere") == {}


async def test_of_tasks_the_newest_jobs_are_counted_and_all_that_run(app: PgQueue, few: None) -> None:
    gate = Gate(app, "old", queue="old")
    await app.aenqueue("old")
    async with Worker(app, queues=["old"]):
        await gate.enters()
        enqueue(app, "mail", 20)
        found = {one.name: one for one in app.database.fetch(overview.tasks(app.schema))}
        gate.opened.set()
    assert (found["send"].live, found["send"].capped) == (5, frozenset({"live"}))
    assert (found["old"].live, found["old"].running) == (1, 1)


def test_the_doctor_says_of_a_long_queue_that_it_has_more(app: PgQueue, few: None) -> None:
    enqueue(app, "emial", 20)
    [finding] = [one for one in app.doctor.look() if one.check == "queues"]
    assert finding.text == "12 jobs or more in queue emial, which no live worker serves"


@pytest.mark.parametrize("which", ["counts", "tasks", "workers", "running"])
def test_what_runs_is_found_by_its_claims_however_much_waits(app: PgQueue, dsn: str, which: str) -> None:
    enqueue(app, "mail", 5_000)
    statements: dict[str, Statement[Any]] = {
        "counts": Statement(inline(counting._RUNNING, app.schema)),
        "tasks": overview.tasks(app.schema),
        "workers": fleet.list_workers(app.schema),
        "running": running.running(app.schema, 10),
    }
    with psycopg.connect(dsn) as conn:
        # As a planner sees them who takes claims for many and knows how many jobs there are.
        conn.execute(
            "insert into pgqueue.claims (id, worker_id, queue, job_ids) "
            "select n, gen_random_uuid(), 'mail', array[n] from generate_series(1, 2000) n"
        )
        conn.execute("analyze pgqueue.jobs, pgqueue.claims")
        statement = statements[which]
        told = psycopg.ClientCursor(conn).mogrify(statement.text, statement.params)
        plan = "\n".join(line for (line,) in conn.execute(b"explain " + told.encode()))
        conn.rollback()
    assert "Seq Scan on jobs" not in plan, plan
