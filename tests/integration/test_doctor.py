"""What the doctor finds, each on a database where it is so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pgqueue import Breaker, Limit, PgQueue, SchemaOutOfDate, chain
from pgqueue.queries import checkup, scheduling
from pgqueue.queries.checkup import Finding
from pgqueue.services.scheduler import Scheduler
from pgqueue.testing import adrain, drain
from tests.integration.test_cli import Invoke, invoke, records

__all__ = ["invoke"]

# Emptied tables leave a sequence as it is.
NEVER_SEEN = "select setval('pgqueue.scheduler_seen', 1)"


@pytest.fixture(autouse=True)
def durable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server of the tests need not survive a crash, and the doctor says so."""
    monkeypatch.setattr(checkup, "CHECKS", tuple(one for one in checkup.CHECKS if one is not checkup.settings))


def found(app: PgQueue, check: str) -> list[Finding]:
    return [finding for finding in app.doctor.look() if finding.check == check]


def execute(dsn: str, *statements: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        for statement in statements:
            conn.execute(statement.encode())


def add_worker(dsn: str, queues: str = '{"default": 5}', *tasks: str, expires: str = "1 hour") -> None:
    with psycopg.connect(dsn) as conn:
        conn.execute(
            "insert into pgqueue.workers (id, name, host, pid, version, queues, tasks, expires_at) "
            "values (%s, 'w1', 'host', 7, '1', %s::jsonb, %s, clock_timestamp() + %s::interval)",
            [uuid4(), queues, list(tasks), expires],
        )


@contextmanager
def asked_with(dsn: str, options: str) -> Iterator[PgQueue]:
    # Through a pooler a connection brings no settings of its own.
    app = PgQueue(make_conninfo(dsn, options=options), pooler=True)
    yield app
    app.close()


def test_a_fresh_database_has_no_problem_and_each_check_says_so(app: PgQueue, dsn: str) -> None:
    add_worker(dsn)
    findings = app.doctor.look()
    assert {finding.level for finding in findings} == {"ok"}
    assert [finding.check for finding in findings] == [check.__name__ for check in checkup.CHECKS]
    assert not any(finding.fix for finding in findings)


def test_jobs_that_wait_where_nobody_works(app: PgQueue, dsn: str) -> None:
    app.enqueue("work", queue="emial")
    app.enqueue("work", queue="images")
    app.queues["images"].pause()
    add_worker(dsn, '{"email": 5}', "work")
    unserved, paused = found(app, "queues")
    assert (unserved.level, unserved.fix) == ("problem", "pgqueue worker -q emial")
    assert unserved.text == "1 job in queue emial, which no live worker serves"
    assert (paused.level, paused.fix) == ("warning", "pgqueue queues resume images")


async def test_what_keeps_jobs_from_beginning_is_named(app: PgQueue, dsn: str) -> None:
    add_worker(dsn, '{"default": 5}', "book", "count", "send")
    app.breakers.set(Breaker(failures=5, within=60), task="book")
    app.breakers.open(task="book", duration=600)
    app.limits.pause(task="count")
    app.limits.set(Limit(concurrency=5, key="{to}"), task="send")
    app.limits.pause(task="send", key="{to}", value="a b")
    app.limits.pause(queue="default", serial_key="k1")
    breaker, task, serial, value = found(app, "held")
    assert breaker.text == "the circuit breaker of task book is open, and tries a job in 10 min"
    assert breaker.fix == "Mend the cause, or: pgqueue breakers close --task book"
    assert (task.text, task.fix) == ("task count is paused", "pgqueue limits resume --task count")
    assert serial.fix == "pgqueue limits resume --queue default --serial-key k1"
    assert value.fix == "pgqueue limits resume --task send --key '{to}' --value 'a b'"


async def test_a_key_that_a_failed_job_halts_is_named(app: PgQueue) -> None:
    @app.task(name="ship", serial_key="{order}", halt_on_failed=True, max_attempts=1)
    async def ship(order: int) -> None:
        raise ValueError("no stock")

    first, _ = await app.aenqueue_many([ship.job(7), ship.job(7)])
    await adrain(app)
    [halted] = [one for one in await app.doctor.alook() if one.check == "held"]
    assert halted.text == f"serial key 7 of queue default is halted, since job {first.id} failed: 1 job waits"
    assert halted.fix == f"pgqueue failed redrive {first.id}, or pgqueue failed purge {first.id}"


def test_jobs_of_tasks_that_nobody_has(app: PgQueue, dsn: str) -> None:
    app.enqueue("shop.gone")
    add_worker(dsn, '{"default": 5}', "shop.here")
    [finding] = found(app, "tasks")
    assert finding.level == "problem"
    assert finding.text.endswith(": shop.gone")


async def test_tasks_that_may_run_for_ever(app: PgQueue) -> None:
    @app.task(name="endless")
    async def endless() -> None: ...

    @app.task(name="bounded", timeout=5)
    async def bounded() -> None: ...

    async with app.worker():
        [finding] = [one for one in await app.doctor.alook() if one.check == "tasks"]
    assert (finding.level, finding.text) == ("warning", "a run may last for ever, since no timeout is set: endless")


async def test_the_timeout_of_the_app_bounds_its_tasks(dsn: str) -> None:
    app = PgQueue(dsn, timeout=60)

    @app.task(name="bounded")
    async def bounded() -> None: ...

    async with app.worker():
        assert [one.level for one in await app.doctor.alook() if one.check == "tasks"] == ["ok"]
    await app.aclose()


def test_workers_that_died_and_that_nobody_buried(app: PgQueue, dsn: str) -> None:
    assert found(app, "workers")[0].level == "warning"
    add_worker(dsn, expires="-1 hour")
    assert [one.text for one in found(app, "workers")] == ["no worker is alive, and 1 that died still hold jobs"]
    add_worker(dsn)
    [finding] = found(app, "workers")
    assert finding.level == "problem"
    assert "though 1 live one should have taken them back" in finding.text


def test_schedules_that_are_broken_or_late(app: PgQueue, dsn: str) -> None:
    @app.task(name="digest")
    def digest() -> None: ...

    execute(dsn, NEVER_SEEN)
    for name in ("bad", "late", "paused"):
        app.schedules.upsert(name, "0 9 * * *", digest.job())
    execute(
        dsn,
        "update pgqueue.schedules set enabled = false, error = 'no such hour' where name = 'bad'",
        "update pgqueue.schedules set next_run_at = pgqueue.clock() - interval '1 hour'",
        "update pgqueue.schedules set enabled = false where name = 'paused'",
    )
    bad, late = found(app, "schedules")
    assert (bad.level, bad.text) == ("problem", "schedule bad is disabled: no such hour")
    nobody = "no scheduler has been seen ever, and 1 schedule is on; due for more than a minute and not fired: late"
    assert (late.level, late.text, late.fix) == ("problem", nobody, "pgqueue scheduler")
    app.database.fetch(scheduling.seen(app.schema))
    _, late = found(app, "schedules")
    assert (late.level, late.text) == ("problem", "due for more than a minute and not fired: late")


async def test_schedules_that_no_scheduler_fires(app: PgQueue, dsn: str) -> None:
    @app.task(name="digest")
    def digest() -> None: ...

    execute(dsn, NEVER_SEEN)
    for name in ("daily", "over"):
        app.schedules.upsert(name, "0 9 * * *", digest.job())
    execute(dsn, "update pgqueue.schedules set next_run_at = 'infinity' where name = 'over'")
    [finding] = found(app, "schedules")
    assert (finding.level, finding.fix) == ("warning", "pgqueue scheduler")
    assert finding.text == "no scheduler has been seen ever, and 1 schedule is on"
    await Scheduler.of(app).run_once()
    assert [one.level for one in found(app, "schedules")] == ["ok"]
    execute(dsn, "select setval('pgqueue.scheduler_seen', extract(epoch from now())::bigint - 600)")
    assert [one.text for one in found(app, "schedules")] == [
        "no scheduler has been seen for 10 min, and 1 schedule is on"
    ]
    await Scheduler.of(app).run_once()
    assert [one.level for one in found(app, "schedules")] == ["ok"]
    await app.aclose()


def test_flows_that_wait_until_somebody_redrives_what_failed(app: PgQueue, dsn: str) -> None:
    @app.task(name="work", max_attempts=1)
    def work(how: str) -> None:
        if how == "bad":
            raise ValueError(how)

    app.flows.enqueue(chain(work.job("bad"), work.job("then")))
    made = app.flows.enqueue(chain(work.job("bad"), work.job("then"), work.job("end"), on_failure="wait"))
    app.flows.enqueue(chain(work.using(delay=60).job("later"), work.job("end"), on_failure="wait"))
    drain(app)
    bad, waits, _ = (job.id for job in made.jobs)
    [finding] = found(app, "flows")
    assert (finding.level, finding.text) == (
        "warning",
        f"1 job waits until failed jobs are redriven: {waits} for {bad}",
    )
    redrive = f"pgqueue failed redrive {bad}"
    assert finding.fix == f"Mend the cause, then: {redrive}, or give them up: pgqueue flows cancel {made.id}"
    app.failed.redrive([bad])
    assert [one.level for one in found(app, "flows")] == ["ok"]


def test_a_transaction_that_keeps_dead_rows(app: PgQueue, dsn: str) -> None:
    with psycopg.connect(make_conninfo(dsn, application_name="report")) as conn:
        conn.execute("set transaction isolation level repeatable read")
        conn.execute("select 1")
        [finding] = app.database.run(checkup.snapshots("pgqueue", old=0.0, too_old=3600.0))
        assert finding.level == "warning"
        assert f"server process {conn.info.backend_pid} of" in finding.text
        assert "(report)" in finding.text
        assert str(finding.fix).endswith(f"select pg_terminate_backend({conn.info.backend_pid})")
        assert app.database.run(checkup.snapshots("pgqueue", old=0.0, too_old=0.0))[0].level == "problem"
        assert found(app, "snapshots")[0].level == "ok"


def test_partitions_that_are_missing_are_made(app: PgQueue, dsn: str, invoke: Invoke) -> None:
    with psycopg.connect(dsn) as conn:
        names = [
            name
            for (name,) in conn.execute(
                "select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid "
                "where i.inhparent = 'pgqueue.completed_jobs'::regclass"
            )
        ]
        for name in names:
            conn.execute(f"drop table pgqueue.{name}".encode())
    [finding] = found(app, "partitions")
    assert (finding.level, "made 0 days ahead" in finding.text) == ("warning", True)
    assert "made 8 partitions" in invoke("doctor", "--fix").stderr
    assert found(app, "partitions")[0].level == "ok"
    assert "nothing to mend" in invoke("doctor", "--fix").stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("-c synchronous_commit=off", "synchronous_commit is off"),
        ("-c default_transaction_isolation=serializable", "default_transaction_isolation is serializable"),
    ],
)
def test_settings_that_will_hurt(dsn: str, options: str, said: str) -> None:
    with asked_with(dsn, options) as app:
        findings = app.database.run(checkup.settings("pgqueue"))
    assert [finding.level for finding in findings if said in finding.text] == ["warning"]


def test_a_table_that_is_not_vacuumed(app: PgQueue, dsn: str) -> None:
    execute(dsn, "alter table pgqueue.failed_jobs set (autovacuum_enabled = false)")
    try:
        [finding] = found(app, "dead_rows")
    finally:
        execute(dsn, "alter table pgqueue.failed_jobs reset (autovacuum_enabled)")
    assert (finding.level, finding.fix) == (
        "problem",
        "alter table pgqueue.failed_jobs reset (autovacuum_enabled)",
    )


def test_a_plan_that_reads_the_whole_table(dsn: str) -> None:
    execute(dsn, "update pg_class set reltuples = 50000 where oid = 'pgqueue.jobs'::regclass")
    try:
        with asked_with(dsn, "-c enable_indexscan=off -c enable_bitmapscan=off -c enable_indexonlyscan=off") as app:
            findings = app.database.run(checkup.plans("pgqueue"))
    finally:
        execute(dsn, "analyze pgqueue.jobs")
    assert {finding.level for finding in findings} == {"problem"}
    assert "the server reads the whole of jobs (50,000 rows)" in findings[0].text


def test_a_role_that_may_not_look_is_told_what_it_could_not_see(dsn: str) -> None:
    role = f"onlooker_{uuid4().hex[:8]}"
    execute(
        dsn,
        f"create role {role} login",
        f"grant usage on schema pgqueue to {role}",
        f"grant select on pgqueue.schema_version to {role}",
    )
    try:
        app = PgQueue(make_conninfo(dsn, user=role))
        refused = [one for one in app.doctor.look() if "may not look" in one.text]
        app.close()
    finally:
        execute(dsn, f"drop owned by {role}", f"drop role {role}")
    assert {finding.check for finding in refused} >= {"queues", "workers", "schedules"}
    assert {finding.level for finding in refused} == {"warning"}


def test_tables_of_another_version_are_an_error(app: PgQueue, dsn: str) -> None:
    execute(dsn, "update pgqueue.schema_version set version_num = '9999'")
    try:
        with pytest.raises(SchemaOutOfDate, match="9999"):
            app.doctor.look()
    finally:
        execute(dsn, "update pgqueue.schema_version set version_num = '0001'")


def test_the_command_ends_with_6_where_something_hurts(app: PgQueue, invoke: Invoke, dsn: str) -> None:
    add_worker(dsn, '{"email": 5}', "work")
    assert "problem" not in invoke("doctor").stdout
    app.enqueue("work", queue="emial")
    ended = invoke("doctor", exit_code=6)
    assert "problem  queues" in ended.stdout
    assert "pgqueue worker -q emial" in ended.stdout
    assert "Error: 1 of" in ended.stderr
    lines: list[dict[str, Any]] = records(invoke("doctor", "--json", exit_code=6))
    assert {"check", "level", "text", "fix"} == set(lines[0])
    assert [line["fix"] for line in lines if line["level"] == "problem"] == ["pgqueue worker -q emial"]
