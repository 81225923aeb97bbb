"""The metrics of a process that enqueues and runs jobs, and those of the database."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import Counter as Counted
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.parser import text_string_to_metric_families as parsed

from pgqueue import Backoff, CancelJob, ChunkJob, ConfigurationError, Context, Limit, PgQueue, SnoozeJob
from pgqueue.metrics import DatabaseMetrics, Metrics, exposition
from pgqueue.metrics.tallies import MOST_ERRORS
from pgqueue.testing import adrain
from tests.integration.waiting import Gate, until
from tests.sql.rows import claim, connect, open_transaction, worker

Sample = Callable[..., float | None]


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def metrics(app: PgQueue, registry: CollectorRegistry) -> Metrics:
    return Metrics(app, registry)


@pytest.fixture
def value(registry: CollectorRegistry, metrics: Metrics) -> Sample:
    """The sample of that name and those labels, without the prefix of them all; None where there is none."""
    return lambda name, **labels: registry.get_sample_value(f"pgqueue_{name}", labels)


async def test_what_ran_is_counted_by_task_queue_and_outcome(app: PgQueue, value: Sample) -> None:
    @app.task(name="flaky", queue="mail", bind=True, backoff=Backoff.fixed(0))
    async def flaky(ctx: Context, fails: bool) -> None:
        if fails and ctx.attempt == 1:
            raise KeyError("x")

    @app.task(name="ends", max_attempts=1)
    def ends(how: str) -> None:
        raise {"cancel": CancelJob("no"), "snooze": SnoozeJob(3600)}.get(how, ValueError(how))

    app.enqueue_many([flaky.job(False), flaky.job(False), flaky.job(True)])
    app.enqueue_many([ends.job(how) for how in ("cancel", "snooze", "fail")])
    await adrain(app)
    mail, default = {"queue": "mail", "task": "flaky"}, {"queue": "default", "task": "ends"}
    assert (value("jobs_enqueued_total", **mail), value("jobs_enqueued_total", **default)) == (3, 3)
    assert value("jobs_processed_total", **mail, outcome="completed") == 3
    assert value("jobs_processed_total", **mail, outcome="retried") == 1
    assert value("jobs_processed_total", **mail, outcome="failed") == 0
    for outcome in ("cancelled", "snoozed", "failed"):
        assert value("jobs_processed_total", **default, outcome=outcome) == 1
    assert value("job_errors_total", **mail, error="KeyError") == 1
    assert value("job_errors_total", **default, error="ValueError") == 1
    # Four runs of three jobs.
    assert value("job_duration_seconds_count", **mail) == 4
    assert value("job_wait_seconds_count", **mail) == 4
    assert value("job_total_seconds_count", **mail) == 3
    assert value("job_total_seconds_count", **default) == 2
    claims = value("claim_duration_seconds_count", queue="mail")
    assert claims is not None
    assert claims >= 2


async def test_a_job_has_waited_since_it_could_run_and_is_there_since_its_enqueue(
    app: PgQueue, dsn: str, value: Sample
) -> None:
    @app.task(name="nothing")
    async def nothing() -> None: ...

    job = nothing.enqueue()
    with psycopg.connect(dsn) as conn:
        conn.execute(
            "update pgqueue.jobs set run_at = run_at - interval '20 s', created_at = created_at - interval '200 s' "
            "where id = %s",
            [job.id],
        )
    await adrain(app)
    lane = {"queue": "default", "task": "nothing"}
    assert value("job_wait_seconds_bucket", **lane, le="10.0") == 0
    assert value("job_wait_seconds_bucket", **lane, le="60.0") == 1
    assert value("job_total_seconds_bucket", **lane, le="60.0") == 0
    assert value("job_total_seconds_bucket", **lane, le="300.0") == 1
    total = value("job_total_seconds_sum", **lane)
    assert total is not None
    assert total > 200


async def test_jobs_with_limits_are_measured_too(app: PgQueue, value: Sample) -> None:
    app.queue("narrow", limit=Limit(concurrency=1))

    @app.task(name="one", queue="narrow")
    async def one(n: int) -> None: ...

    app.enqueue_many([one.job(n) for n in range(5)])
    await adrain(app)
    for name in ("wait", "duration", "total"):
        assert value(f"job_{name}_seconds_count", queue="narrow", task="one") == 5


async def test_each_job_of_a_chunk_is_counted(app: PgQueue, value: Sample) -> None:
    @app.task(name="many", chunk=10)
    async def many(jobs: list[ChunkJob[dict[str, int]]]) -> None:
        assert value("jobs_in_flight") == len(jobs)

    app.enqueue_many([many.job(n=n) for n in range(10)])
    await adrain(app)
    assert value("jobs_processed_total", queue="default", task="many", outcome="completed") == 10
    assert value("job_duration_seconds_count", queue="default", task="many") == 10
    assert value("jobs_in_flight") == 0


async def test_slots_and_jobs_in_flight_are_those_of_now(app: PgQueue, value: Sample) -> None:
    gate = Gate(app, "wait", queue="mail")
    await gate.task.aenqueue()
    async with app.worker(queues={"mail": 3}):
        await gate.enters()
        assert value("worker_slots", state="running") == 1
        assert value("worker_slots", state="idle") == 2
        assert value("jobs_in_flight") == 1
        gate.opened.set()
    assert value("jobs_in_flight") == 0
    assert value("worker_slots", state="idle") == 0


async def test_what_may_come_is_zero_before_it_does(app: PgQueue, value: Sample) -> None:
    @app.task(name="mine", queue="mail")
    async def mine() -> None: ...

    @app.task(name="elsewhere", queue="other")
    async def elsewhere() -> None: ...

    assert value("jobs_enqueued_total", queue="mail", task="mine") == 0
    assert value("jobs_processed_total", queue="mail", task="mine", outcome="failed") is None
    async with app.worker({"mail": 1}):
        assert value("jobs_processed_total", queue="mail", task="mine", outcome="failed") == 0
        assert value("jobs_processed_total", queue="other", task="elsewhere", outcome="failed") is None
        assert value("rescued_total", queue="mail", reason="lease_ended") == 0


async def test_a_bulk_is_counted_without_making_its_jobs(app: PgQueue, value: Sample) -> None:
    made = app.enqueue_many([app.new_job("a" if n % 3 else "b", {"n": n}, queue="mail") for n in range(3000)])
    assert type(made).__name__ == "Copied"
    assert value("jobs_enqueued_total", queue="mail", task="a") == 2000
    assert value("jobs_enqueued_total", queue="mail", task="b") == 1000


def test_an_enqueue_that_finds_its_key_held_is_not_counted(app: PgQueue, value: Sample) -> None:
    for _ in range(3):
        app.enqueue("x", key="one")
    assert value("jobs_enqueued_total", queue="default", task="x") == 1


def test_enqueues_of_many_threads_are_all_counted(app: PgQueue, value: Sample, metrics: Metrics) -> None:
    def enqueue() -> None:
        for _ in range(5000):
            metrics.made(Counted({("q", "t"): 1}))

    threads = [threading.Thread(target=enqueue) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert value("jobs_enqueued_total", queue="q", task="t") == 40_000


async def test_classes_of_errors_are_bounded(app: PgQueue, value: Sample) -> None:
    @app.task(name="inventive", max_attempts=1)
    async def inventive(n: int) -> None:
        raise type(f"Error{n:03}", (Exception,), {"__module__": "builtins"})

    app.enqueue_many([inventive.job(n) for n in range(MOST_ERRORS + 5)])
    await adrain(app)
    lane = {"queue": "default", "task": "inventive"}
    assert value("job_errors_total", **lane, error="other") == 5
    assert value("job_errors_total", **lane, error="Error000") == 1


async def test_rescued_jobs_are_counted_with_what_was_blamed_on_them(app: PgQueue, dsn: str, value: Sample) -> None:
    @app.task(name="send", queue="mail", backoff=Backoff.fixed(3600))
    async def send() -> None: ...

    send.enqueue()
    with connect(dsn) as conn:
        assert len(claim(conn, worker(conn, lease=-1.0)).jobs) == 1
    async with app.worker({"other": 1}, lease=1.0):

        async def is_rescued() -> bool:
            return value("rescued_total", queue="mail", reason="lease_ended") == 1

        await until(is_rescued)
    assert value("job_errors_total", queue="mail", task="send", error="pgqueue.errors.ProcessCrashed") == 1
    assert value("jobs_processed_total", queue="mail", task="send", outcome="retried") == 1
    assert value("job_duration_seconds_count", queue="mail", task="send") is None


def test_an_app_has_metrics_once_and_a_registry_those_of_one_app(registry: CollectorRegistry, dsn: str) -> None:
    app = PgQueue(dsn)
    Metrics(app, registry)
    with pytest.raises(ConfigurationError, match="this app has metrics already"):
        Metrics(app, CollectorRegistry())
    with pytest.raises(ConfigurationError, match="give each a CollectorRegistry of its own"):
        Metrics(PgQueue(dsn), registry)


@pytest.mark.parametrize("buckets", [(), (1, 1), (2, 1), (0, 1)])
def test_buckets_must_rise(registry: CollectorRegistry, dsn: str, buckets: Any) -> None:
    with pytest.raises(ConfigurationError, match="must be seconds above 0 that rise"):
        Metrics(PgQueue(dsn), registry, buckets=buckets)


def test_the_exposition_has_the_users_metrics_and_those_of_the_database(
    app: PgQueue, registry: CollectorRegistry, metrics: Metrics
) -> None:
    Counter("orders", "Orders.", registry=registry).inc()
    body, content_type = exposition(registry, DatabaseMetrics(app))
    names = {family.name for family in parsed(body.decode())}
    assert {"orders", "pgqueue_build_info", "pgqueue_jobs_processed", "pgqueue_up"} <= names
    assert content_type.startswith("text/plain; version=0.0.4")


def database_values(collector: DatabaseMetrics) -> dict[tuple[str, ...], float]:
    """By name without the prefix, and the values of the labels."""
    body, _ = collector.exposition()
    return {
        (sample.name.removeprefix("pgqueue_"), *sample.labels.values()): sample.value
        for family in parsed(body.decode())
        for sample in family.samples
    }


def test_the_database_is_counted_by_queue_and_state(app: PgQueue, dsn: str) -> None:
    for _ in range(3):
        app.enqueue("send", queue="mail")
    app.enqueue("send", queue="mail", delay=3600)
    app.enqueue("later", queue="only-scheduled", delay=3600)
    parent = app.enqueue("parent", queue="mail", after=[app.enqueue("child", queue="other").id])
    with connect(dsn) as conn:
        claim(conn, worker(conn), count=2)
        conn.execute(
            "update pgqueue.jobs set run_at = run_at - interval '90 s' where queue = 'mail' and state = 'available'"
        )
    app.queues["other"].pause()
    found = database_values(DatabaseMetrics(app))
    assert app.jobs.get(parent.id).state == "blocked"
    states = ("available", "running", "scheduled", "blocked")
    assert [found["queue_depth", "mail", state] for state in states] == [1, 2, 1, 1]
    assert [found["queue_depth", "other", state] for state in states] == [1, 0, 0, 0]
    assert [found["queue_depth", "only-scheduled", state] for state in states] == [0, 0, 1, 0]
    assert 90 <= found["queue_oldest_seconds", "mail"] < 900
    assert found["queue_oldest_seconds", "only-scheduled"] == 0
    assert (found["queue_paused", "other"], found["queue_paused", "mail"]) == (1, 0)
    assert (found["workers", "mail"], found["workers", "other"]) == (1, 0)
    assert found["up",] == 1


async def test_failed_jobs_and_schedules_are_shown(app: PgQueue, dsn: str) -> None:
    @app.task(name="broken", max_attempts=1, queue="mail")
    async def broken() -> None:
        raise ValueError

    app.enqueue_many([broken.job(), broken.job()])
    await adrain(app)
    at = datetime(2031, 5, 6, 7, tzinfo=UTC)
    app.schedules.upsert("nightly", "0 2 * * *", app.new_job("broken"))
    with psycopg.connect(dsn) as conn:
        conn.execute("update pgqueue.schedules set last_run_at = %s", [at])
    found = database_values(DatabaseMetrics(app))
    assert found["failed_jobs", "mail"] == 2
    assert found["schedule_last_run_timestamp_seconds", "nightly"] == at.timestamp()
    assert found["dead_tuples", "jobs"] >= 0
    assert ("dead_tuples", "completed_jobs") in found
    assert not any("2" in name[1] for name in found if name[0] == "dead_tuples")


def test_a_held_snapshot_shows_its_age(app: PgQueue, dsn: str) -> None:
    with open_transaction(dsn) as conn:
        conn.execute("set transaction isolation level repeatable read")
        [(began,)] = conn.execute(
            "select extract(epoch from xact_start)::float8 from pg_stat_activity where pid = pg_backend_pid()"
        )
        found = database_values(DatabaseMetrics(app))
        [(now,)] = conn.execute("select extract(epoch from clock_timestamp())::float8")
    assert 0 < found["xmin_age_seconds",] <= now - began


def test_scrapes_within_the_time_ask_the_database_once(app: PgQueue) -> None:
    kept, asked = DatabaseMetrics(app, every=3600), DatabaseMetrics(app, every=0)
    for collector in (kept, asked):
        assert ("queue_depth", "mail", "available") not in database_values(collector)
    app.enqueue("send", queue="mail")
    assert ("queue_depth", "mail", "available") not in database_values(kept)
    assert database_values(asked)["queue_depth", "mail", "available"] == 1


def test_a_database_that_does_not_answer_is_said_and_nothing_else() -> None:
    gone = PgQueue("postgresql://nobody@127.0.0.1:1/none")
    assert database_values(DatabaseMetrics(gone)) == {("up",): 0}


def test_a_database_without_tables_is_said(empty_dsn: str) -> None:
    assert database_values(DatabaseMetrics(PgQueue(empty_dsn))) == {("up",): 0}


def test_what_takes_too_long_is_left_out(app: PgQueue, dsn: str) -> None:
    app.enqueue("send", queue="mail")
    with open_transaction(dsn) as conn:
        conn.execute("lock table pgqueue.failed_jobs in access exclusive mode")
        found = database_values(DatabaseMetrics(app))
    assert found["up",] == 0
    assert found["queue_depth", "mail", "available"] == 1
    assert not any(name[0] == "failed_jobs" for name in found)


def test_behind_a_pooler_each_statement_has_its_timeout_too(app: PgQueue, dsn: str) -> None:
    app.enqueue("send", queue="mail")
    pooled = PgQueue(dsn, pooler=True)
    assert database_values(DatabaseMetrics(pooled))["queue_depth", "mail", "available"] == 1
    with open_transaction(dsn) as conn:
        conn.execute("lock table pgqueue.failed_jobs in access exclusive mode")
        assert database_values(DatabaseMetrics(pooled))["up",] == 0


def test_a_web_server_that_forks_counts_its_enqueues_together(dsn: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PGQUEUE_DSN": dsn, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    code = """
import os
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from pgqueue import PgQueue
from pgqueue.metrics import Metrics
app = PgQueue()
Metrics(app)
for _ in range(3):
    if (child := os.fork()) == 0:
        app.enqueue("send", queue="mail")
        os._exit(0)
    os.waitpid(child, 0)
registry = CollectorRegistry()
MultiProcessCollector(registry)
print(generate_latest(registry).decode())
"""
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert 'pgqueue_jobs_enqueued_total{queue="mail",task="send"} 3.0' in done.stdout, done.stderr


def test_without_prometheus_client_the_extra_is_named(dsn: str, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(
        "from pgqueue import PgQueue\napp = PgQueue()\napp.task(name='a')(lambda: None)\n"
    )
    code = """
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *of: None if name == "prometheus_client" else find(name, *of)
from pgqueue.cli import main
main(["worker", "shop:app", "--metrics-port", "0"])
"""
    environment = {**os.environ, "PGQUEUE_DSN": dsn}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "install pgqueue with the extra `metrics`" in done.stderr


def test_counts_stop_at_the_share_of_the_queue(app: PgQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgqueue.queries.counting.COUNTED", 10)
    monkeypatch.setattr("pgqueue.queries.counting.COUNTED_EACH", 5)
    app.enqueue_many([app.new_job("send", queue=queue) for queue in ("a", "b") for _ in range(20)])
    found = database_values(DatabaseMetrics(app))
    assert (found["queue_depth", "a", "available"], found["queue_depth", "b", "available"]) == (5, 5)
