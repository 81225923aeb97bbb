"""Schedules: one job per nominal time, reconciled with the code, however many schedulers run."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import psycopg
import pytest

from pgqueue import ConfigurationError, Context, JobNotFound, PgQueue, Unique
from pgqueue.services.scheduler import Scheduler, run_scheduler
from pgqueue.testing import adrain, aenqueued
from tests.integration.waiting import DEADLINE, until


@pytest.fixture
def connection(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(dsn, autocommit=True) as opened:
        yield opened


def make_due(connection: psycopg.Connection[Any], name: str, ago: timedelta = timedelta(hours=1)) -> None:
    connection.execute(
        "update pgqueue.schedules set next_run_at = clock_timestamp() - %s, last_run_at = null where name = %s",
        [ago, name],
    )


def declare(app: PgQueue, **rules: Any) -> None:
    """A schedule of each name: `every` a timedelta, `cron` a text."""
    for name, rule in rules.items():
        task = app.task(name=f"task.{name}")(nothing)
        decorate = app.cron(rule, name=name) if isinstance(rule, str) else app.every(rule, name=name)
        decorate(task)


def next_of(app: PgQueue, name: str) -> datetime:
    found = app.schedules.get(name).next_run_at
    assert found is not None
    return found


async def test_a_declared_schedule_is_written_with_its_next_time(app: PgQueue) -> None:
    declare(app, hourly=timedelta(hours=1), nightly="0 2 * * *")
    pause = await Scheduler.of(app).run_once()
    assert 0 <= pause <= 5
    hourly, nightly = app.schedules.list()
    assert (hourly.name, hourly.task, hourly.every, hourly.cron) == ("hourly", "task.hourly", timedelta(hours=1), None)
    assert (nightly.name, nightly.cron, nightly.tz, nightly.source) == ("nightly", "0 2 * * *", "UTC", "code")
    assert (next_of(app, "nightly").astimezone(UTC).hour, next_of(app, "nightly").minute) == (2, 0)
    assert next_of(app, "hourly") > datetime.now(UTC) - timedelta(hours=1)
    assert await aenqueued(app) == []


@pytest.mark.parametrize("rule", [timedelta(minutes=10), "*/10 * * * *"], ids=["every", "cron"])
async def test_a_due_schedule_enqueues_the_job_of_the_latest_nominal_time(
    app: PgQueue, connection: psycopg.Connection[Any], rule: Any
) -> None:
    seen: list[Context] = []

    @app.task(name="report", bind=True)
    async def report(ctx: Context, kind: str) -> None:
        seen.append(ctx)

    declare_report: Any = app.cron if isinstance(rule, str) else app.every
    declare_report(rule, name="tens", kind="x")(report)
    scheduler = Scheduler.of(app)
    await scheduler.run_once()
    make_due(connection, "tens")
    await scheduler.run_once()
    await scheduler.run_once()
    [job] = await aenqueued(app)
    row = app.schedules.get("tens")
    assert (job.task, job.args) == ("report", {"kind": "x"})
    await adrain(app)
    [context] = seen
    assert context.schedule == "tens"
    assert context.scheduled_for == row.last_run_at
    assert context.scheduled_for is not None
    assert context.scheduled_for + timedelta(minutes=10) == row.next_run_at
    assert next_of(app, "tens") > datetime.now(UTC) - timedelta(seconds=5)


async def test_a_schedules_job_has_what_its_task_declares_before_any_worker_ran(
    app: PgQueue, connection: psycopg.Connection[Any]
) -> None:
    task = app.task(name="report", queue="reports", priority=4, max_attempts=2, unique=Unique("report:{n}"))(numbered)
    app.every(timedelta(hours=1), name="hourly", n=7)(task)
    scheduler = Scheduler.of(app)
    await scheduler.run_once()
    make_due(connection, "hourly")
    await scheduler.run_once()
    [job] = await aenqueued(app)
    assert (job.queue, job.priority, job.max_attempts, job.key) == ("reports", 4, 2, "report:7")


async def test_schedulers_at_once_enqueue_one_job_per_nominal_time(
    dsn: str, connection: psycopg.Connection[Any]
) -> None:
    apps = [PgQueue(dsn) for _ in range(4)]
    # No nominal time passes by itself while the test runs, but at midnight.
    for app in apps:
        declare(app, **{f"s{n}": timedelta(days=1) for n in range(5)})
    schedulers = [Scheduler.of(app) for app in apps]
    await asyncio.gather(*(scheduler.run_once() for scheduler in schedulers))
    for _ in range(10):
        connection.execute("update pgqueue.schedules set next_run_at = next_run_at - interval '1 day'")
        await asyncio.gather(*(scheduler.run_once() for scheduler in schedulers * 2))
    nominal = [(job.headers["schedule"], job.headers["scheduled_for"]) for job in await aenqueued(apps[0])]
    assert len(nominal) == len(set(nominal)) == 5
    for app in apps:
        await app.aclose()


async def test_a_time_that_was_fired_is_not_fired_again_when_its_row_is_set_back(
    app: PgQueue, connection: psycopg.Connection[Any]
) -> None:
    declare(app, hourly=timedelta(hours=1))
    scheduler = Scheduler.of(app)
    await scheduler.run_once()
    make_due(connection, "hourly")
    await scheduler.run_once()
    connection.execute("update pgqueue.schedules set next_run_at = last_run_at")
    await scheduler.run_once()
    assert len(await aenqueued(app)) == 1
    assert next_of(app, "hourly") > datetime.now(UTC) - timedelta(seconds=5)


async def test_what_the_code_no_longer_declares_is_disabled_and_comes_back_with_it(dsn: str) -> None:
    old, new = PgQueue(dsn), PgQueue(dsn)
    declare(old, kept=timedelta(hours=1), dropped=timedelta(hours=1))
    declare(new, kept=timedelta(hours=1))
    await Scheduler.of(old).run_once()
    await Scheduler.of(new).run_once()
    rows = {row.name: (row.enabled, row.source) for row in old.schedules.list()}
    assert rows == {"kept": (True, "code"), "dropped": (False, "removed")}
    await Scheduler.of(old).run_once()
    assert all(row.enabled for row in old.schedules.list())
    await old.aclose()
    await new.aclose()


async def test_a_changed_rule_starts_from_its_own_next_time_and_an_unchanged_one_keeps_its_place(
    dsn: str, connection: psycopg.Connection[Any]
) -> None:
    old, new = PgQueue(dsn), PgQueue(dsn)
    declare(old, same=timedelta(hours=1), changed=timedelta(hours=1))
    declare(new, same=timedelta(hours=1), changed="0 2 * * *")
    await Scheduler.of(old).run_once()
    make_due(connection, "same")
    make_due(connection, "changed")
    before = old.schedules.get("same").next_run_at
    scheduler = Scheduler.of(new)
    await scheduler._reconcile()
    assert new.schedules.get("same").next_run_at == before
    changed = new.schedules.get("changed")
    assert (changed.cron, changed.every) == ("0 2 * * *", None)
    assert next_of(new, "changed") > datetime.now(UTC) - timedelta(seconds=5)
    await old.aclose()
    await new.aclose()


async def test_a_bad_row_is_disabled_with_its_error_and_the_others_go_on(
    app: PgQueue, connection: psycopg.Connection[Any], caplog: pytest.LogCaptureFixture
) -> None:
    declare(app, bad="0 2 * * *", good=timedelta(hours=1))
    scheduler = Scheduler.of(app)
    await scheduler.run_once()
    connection.execute("update pgqueue.schedules set cron = '99 99 * * *' where name = 'bad'")
    for name in ("bad", "good"):
        make_due(connection, name)
    await scheduler.run_once()
    assert [job.task for job in await aenqueued(app)] == ["task.good"]
    bad = app.schedules.get("bad")
    assert (bad.enabled, bad.error is not None) == (False, True)
    assert "schedule bad is disabled" in caplog.text
    await Scheduler.of(app).run_once()
    assert (app.schedules.get("bad").enabled, app.schedules.get("bad").error) == (True, None)


async def test_arguments_that_cannot_be_read_disable_their_schedule_and_the_others_go_on(
    app: PgQueue, connection: psycopg.Connection[Any], caplog: pytest.LogCaptureFixture
) -> None:
    declare(app, bad=timedelta(hours=1), good=timedelta(hours=1))
    scheduler = Scheduler.of(app)
    await scheduler.run_once()
    connection.execute(
        "update pgqueue.schedules set args = %s::jsonb where name = 'bad'", [f'{{"n": {"[" * 300 + "]" * 300}}}']
    )
    make_due(connection, "bad", timedelta(hours=2))
    make_due(connection, "good")
    listed = {row.name: (dict(row.args), row.unreadable is None) for row in app.schedules.list()}
    assert listed == {"bad": ({}, False), "good": ({}, True)}
    await scheduler.run_once()
    assert [job.task for job in await aenqueued(app)] == ["task.good"]
    bad = app.schedules.get("bad")
    assert not bad.enabled
    assert "schedule bad cannot be read: args: the stored JSON nests deeper than 65 levels" in (bad.error or "")
    assert "schedule bad is disabled" in caplog.text
    await Scheduler.of(app).run_once()
    mended = app.schedules.get("bad")
    assert (mended.enabled, mended.error, mended.unreadable) == (True, None, None)


async def test_a_schedule_that_cannot_fire_does_not_hold_up_those_after_it(
    app: PgQueue, connection: psycopg.Connection[Any], caplog: pytest.LogCaptureFixture
) -> None:
    declare(app, bad=timedelta(hours=1), good=timedelta(hours=1))
    scheduler = Scheduler.of(app)
    await scheduler.run_once()
    make_due(connection, "bad", timedelta(hours=2))
    make_due(connection, "good")
    connection.execute("alter table pgqueue.jobs add constraint no_bad check (task <> 'task.bad') not valid")
    try:
        pauses = [await scheduler.run_once() for _ in range(3)]
    finally:
        connection.execute("alter table pgqueue.jobs drop constraint no_bad")
    assert [job.task for job in await aenqueued(app)] == ["task.good"]
    assert all(pause >= 1 for pause in pauses)
    assert caplog.text.count("schedule bad was not fired") == 1
    assert "no_bad" in caplog.text
    assert app.schedules.get("bad").enabled
    await scheduler.run_once()
    assert {job.task for job in await aenqueued(app)} == {"task.good", "task.bad"}


@pytest.mark.parametrize("moment", ["infinity", "-infinity"])
async def test_a_schedule_without_a_date_is_listed_and_does_not_hold_up_the_others(
    app: PgQueue, connection: psycopg.Connection[Any], moment: str
) -> None:
    declare(app, odd=timedelta(hours=1), good=timedelta(hours=1))
    scheduler = Scheduler.of(app)
    await scheduler.run_once()
    make_due(connection, "good")
    connection.execute(
        "update pgqueue.schedules set next_run_at = %s::timestamptz, every = '1000000 years' where name = 'odd'",
        [moment],
    )
    assert next_of(app, "odd").astimezone(UTC).year in (1, 9999)
    assert 0 <= await scheduler.run_once() <= 5
    assert [job.task for job in await aenqueued(app)] == ["task.good"]
    odd = app.schedules.get("odd")
    assert (odd.enabled, "interval must be between" in (odd.error or "")) == (
        moment == "infinity",
        moment != "infinity",
    )


async def test_a_schedule_that_was_set_to_fire_at_once_fires_and_goes_on(
    app: PgQueue, connection: psycopg.Connection[Any]
) -> None:
    declare(app, hourly=timedelta(hours=1))
    scheduler = Scheduler.of(app)
    await scheduler.run_once()
    connection.execute("update pgqueue.schedules set next_run_at = '-infinity'")
    await scheduler.run_once()
    assert len(await aenqueued(app)) == 1
    assert next_of(app, "hourly") > datetime.now(UTC) - timedelta(seconds=5)


async def test_a_paused_schedule_stays_paused_over_a_restart_until_it_is_resumed(
    app: PgQueue, connection: psycopg.Connection[Any]
) -> None:
    declare(app, hourly=timedelta(hours=1))
    await Scheduler.of(app).run_once()
    app.schedules.pause("hourly")
    make_due(connection, "hourly")
    await Scheduler.of(app).run_once()
    assert not app.schedules.get("hourly").enabled
    assert await aenqueued(app) == []
    app.schedules.resume("hourly")
    await Scheduler.of(app).run_once()
    assert app.schedules.get("hourly").enabled
    assert await aenqueued(app) == []


async def test_schedules_can_be_looked_at_and_removed(app: PgQueue) -> None:
    declare(app, hourly=timedelta(hours=1))
    await Scheduler.of(app).run_once()
    times = app.schedules.upcoming("hourly", 3)
    assert [later - earlier for earlier, later in pairwise(times)] == [timedelta(hours=1)] * 2
    app.schedules.remove("hourly")
    with pytest.raises(JobNotFound, match="there is no schedule 'hourly'"):
        app.schedules.get("hourly")
    with pytest.raises(JobNotFound):
        app.schedules.pause("hourly")


async def test_a_running_scheduler_fires_when_the_time_comes(app: PgQueue) -> None:
    declare(app, seconds=timedelta(seconds=1))
    stop = asyncio.Event()
    running = asyncio.create_task(run_scheduler(app, stop))
    await until(lambda: aenqueued(app))
    stop.set()
    await asyncio.wait_for(running, DEADLINE)
    [job, *_] = await aenqueued(app)
    assert job.headers["schedule"] == "seconds"


async def test_a_worker_can_be_the_scheduler_too(app: PgQueue) -> None:
    fired: asyncio.Queue[datetime | None] = asyncio.Queue()

    @app.every(1, name="seconds")
    @app.task(name="tick", bind=True)
    async def tick(ctx: Context) -> None:
        fired.put_nowait(ctx.scheduled_for)

    async with app.worker(with_scheduler=True):
        nominal = await asyncio.wait_for(fired.get(), DEADLINE)
    assert nominal is not None
    assert nominal.microsecond == 0


@pytest.mark.parametrize(
    ("declare_it", "message"),
    [
        (lambda app: app.cron("0 0 30 2 *"), "30"),
        (lambda app: app.cron("not a pattern"), "pattern|fields|cron"),
        (lambda app: app.cron("0 9 * * *", tz="Mars/Olympus"), "Mars/Olympus"),
        (lambda app: app.every(timedelta()), "interval|every"),
        (lambda app: app.every(-1), "interval|every"),
        (lambda app: app.every("5m"), r"timedelta\(minutes=5\) or a number of seconds, not '5m'"),
        (lambda app: app.every(True), "a number of seconds, not True"),
        (lambda app: app.every(None), "a number of seconds, not None"),
        (lambda app: app.every(float("nan")), "a number of seconds, not nan"),
        (lambda app: app.every(float("inf")), "a number of seconds, not inf"),
        (lambda app: app.every(10**12), "a number of seconds, not 1000000000000|between 1 second and 10 years"),
    ],
    ids=["never", "nonsense", "zone", "zero", "negative", "text", "bool", "None", "NaN", "infinity", "too long"],
)
def test_a_rule_that_cannot_be_is_refused_where_it_is_declared(app: PgQueue, declare_it: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        declare_it(app)(app.task(name="task")(nothing))


def test_two_schedules_of_one_name_are_refused(app: PgQueue) -> None:
    declare(app, one=timedelta(hours=1))
    with pytest.raises(ConfigurationError, match="two schedules are named one"):
        app.every(60, name="one")(app.task(name="other")(nothing))


def test_a_schedule_belongs_above_its_task(app: PgQueue) -> None:
    with pytest.raises(ConfigurationError, match=r"above @app.task\(\)"):
        app.every(60)(nothing)  # type: ignore[arg-type]


def test_the_arguments_of_a_schedule_are_checked_where_it_is_declared(app: PgQueue) -> None:
    task = app.task(name="numbered")(numbered)
    with pytest.raises(ValueError, match="argument 'n' is missing"):
        app.every(60)(task)
    with pytest.raises(ValueError, match="argument 'n' of task numbered must be int"):
        app.every(60, n="x")(task)


def nothing() -> None: ...


def numbered(n: int) -> None: ...
