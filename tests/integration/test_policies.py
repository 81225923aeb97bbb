"""What schedules do with missed times and overlaps, with a database whose clock the test moves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from pgqueue import ConfigurationError, Job, PgQueue, Unique
from pgqueue.services.scheduler import Scheduler
from pgqueue.testing import adrain, aenqueued
from tests.integration.waiting import Gate

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
Clock = Callable[[datetime], None]


@pytest.fixture
def clock(dsn: str) -> Iterator[Clock]:
    """Sets the time by which schedules are fired; it stands still."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        found = connection.execute("select pg_get_functiondef('pgqueue.clock()'::regprocedure)").fetchone()
        assert found is not None

        def move(now: datetime) -> None:
            connection.execute(
                "create or replace function pgqueue.clock() returns timestamptz language sql volatile as "
                f"$function$ select '{now.isoformat()}'::timestamptz $function$".encode()
            )

        move(NOON - MINUTE)
        try:
            yield move
        finally:
            # The schema is that of the next test too.
            connection.execute(found[0])


async def fire(app: PgQueue) -> None:
    await Scheduler.of(app).run_once()


async def times(app: PgQueue) -> list[datetime]:
    """For which jobs were enqueued, as they came."""
    jobs = sorted(await aenqueued(app), key=lambda job: job.id)
    return [datetime.fromisoformat(job.headers["scheduled_for"]) for job in jobs]


def hourly(app: PgQueue, **options: Any) -> None:
    app.every(HOUR, name="hourly", **options)(app.task(name="report")(nothing))


@pytest.mark.parametrize(
    ("down", "catch_up", "count"),
    [
        (30 * MINUTE, "latest", 1),
        (30 * MINUTE, "skip", 0),
        (30 * MINUTE, "all", 1),
        (24 * HOUR, "latest", 1),
        (24 * HOUR + 30 * MINUTE, "skip", 0),
        (24 * HOUR, "all", 25),
        (timedelta(days=30), "all", 721),
        (timedelta(days=90), "all", 1000),
        (timedelta(days=90), "latest", 1),
    ],
)
async def test_after_a_downtime_as_many_jobs_come_as_the_policy_promises_and_then_it_goes_on(
    app: PgQueue, clock: Clock, down: timedelta, catch_up: Any, count: int
) -> None:
    hourly(app, catch_up=catch_up)
    await fire(app)
    clock(NOON + down)
    await fire(app)
    await fire(app)
    found = await times(app)
    assert len(found) == len(set(found)) == count
    assert found == sorted(found)
    following = NOON + (down // HOUR + 1) * HOUR
    clock(following)
    await fire(app)
    assert (await times(app))[-1] == following
    assert len(await times(app)) == count + 1


async def test_a_bound_on_runs_and_an_end_are_the_last_that_is_fired(app: PgQueue, clock: Clock) -> None:
    app.every(HOUR, name="thrice", max_runs=3)(app.task(name="a")(nothing))
    app.every(HOUR, name="until", end=NOON + HOUR)(app.task(name="b")(nothing))
    await fire(app)
    for n in range(6):
        clock(NOON + n * HOUR)
        await fire(app)
    tasks = [job.task for job in await aenqueued(app)]
    assert (tasks.count("a"), tasks.count("b")) == (3, 2)
    assert [row.ended for row in app.schedules.list()] == [True, True]
    assert app.schedules.upcoming("thrice") == []


async def test_a_schedule_with_a_start_waits_for_it(app: PgQueue, clock: Clock) -> None:
    hourly(app, start=NOON + 90 * MINUTE)
    await fire(app)
    clock(NOON + HOUR)
    await fire(app)
    assert await times(app) == []
    assert app.schedules.upcoming("hourly", 2) == [NOON + 2 * HOUR, NOON + 3 * HOUR]
    clock(NOON + 2 * HOUR)
    await fire(app)
    assert await times(app) == [NOON + 2 * HOUR]


async def test_jitter_delays_the_job_and_not_the_schedule(app: PgQueue, clock: Clock) -> None:
    hourly(app, jitter=10 * MINUTE)
    await fire(app)
    clock(NOON)
    await fire(app)
    [job] = await aenqueued(app)
    assert NOON < job.run_at < NOON + 10 * MINUTE
    assert app.schedules.get("hourly").next_run_at == NOON + HOUR


async def tick(app: PgQueue, clock: Clock, hours: int) -> list[Job]:
    """The jobs there are after so many hours, the newest last."""
    clock(NOON + hours * HOUR)
    await fire(app)
    return sorted(await aenqueued(app), key=lambda job: job.id)


async def state(job: Job) -> str:
    return (await job.arefresh()).state


async def test_allow_runs_both(app: PgQueue, clock: Clock) -> None:
    gate = Gate(app, "slow")
    app.every(HOUR, name="hourly")(gate.task)
    await fire(app)
    async with app.worker():
        await tick(app, clock, 0)
        await gate.enters()
        first, second = await tick(app, clock, 1)
        await gate.enters()
        assert [await state(first), await state(second)] == ["running", "running"]
        gate.opened.set()


async def test_skip_leaves_a_time_out_while_a_job_has_not_ended(app: PgQueue, clock: Clock) -> None:
    gate = Gate(app, "slow")
    app.every(HOUR, name="hourly", overlap="skip")(gate.task)
    await fire(app)
    assert len(await tick(app, clock, 0)) == 1
    assert len(await tick(app, clock, 1)) == 1
    async with app.worker():
        await gate.enters()
        assert len(await tick(app, clock, 2)) == 1
        gate.opened.set()
    assert [job.headers["scheduled_for"] for job in await tick(app, clock, 3)] == [
        NOON.isoformat(),
        (NOON + 3 * HOUR).isoformat(),
    ]
    assert app.schedules.get("hourly").runs == 2


@pytest.mark.parametrize("overlap", ["skip", "queue_one"])
async def test_what_was_left_out_is_no_run_not_even_the_last(app: PgQueue, clock: Clock, overlap: Any) -> None:
    hourly(app, overlap=overlap, max_runs=2)
    await fire(app)
    await tick(app, clock, 0)
    # The first job still waits.
    assert len(await tick(app, clock, 1)) == 1
    left_out = app.schedules.get("hourly")
    assert (left_out.runs, left_out.next_run_at, left_out.ended) == (1, NOON + 2 * HOUR, False)
    assert app.schedules.upcoming("hourly", 5) == [NOON + 2 * HOUR]
    await adrain(app)
    assert len(await tick(app, clock, 2)) == 2
    last = app.schedules.get("hourly")
    assert (last.runs, last.ended) == (2, True)
    await adrain(app)
    assert len(await tick(app, clock, 3)) == 2


async def test_queue_one_lets_one_wait_until_the_other_has_ended(app: PgQueue, clock: Clock) -> None:
    gate = Gate(app, "slow")
    app.every(HOUR, name="hourly", overlap="queue_one")(gate.task)
    await fire(app)
    async with app.worker():
        await tick(app, clock, 0)
        await gate.enters()
        assert len(await tick(app, clock, 1)) == 2
        first, second = await tick(app, clock, 2)
        assert (await state(first), (await state(second)) in ("available", "blocked")) == ("running", True)
        gate.opened.set()
        await gate.enters()
        assert gate.most == 1
        assert await first.aresult() == await second.aresult() == 0


async def test_cancel_running_makes_way_for_the_new_one(app: PgQueue, clock: Clock) -> None:
    gate = Gate(app, "slow")
    app.every(HOUR, name="hourly", overlap="cancel_running")(gate.task)
    await fire(app)
    async with app.worker():
        await tick(app, clock, 0)
        await gate.enters()
        first, second = await tick(app, clock, 1)
        await gate.enters()
        assert [await state(first), await state(second)] == ["cancelled", "running"]
        gate.opened.set()


async def test_cancel_running_cancels_one_that_waits(app: PgQueue, clock: Clock) -> None:
    hourly(app, overlap="cancel_running")
    await fire(app)
    await tick(app, clock, 0)
    first, second = await tick(app, clock, 1)
    assert [await state(first), await state(second)] == ["cancelled", "available"]
    await adrain(app)
    assert await state(second) == "completed"


def test_an_overlap_that_needs_the_serial_key_is_refused_for_a_task_that_has_one(app: PgQueue) -> None:
    task = app.task(name="report", serial_key="reports")(nothing)
    with pytest.raises(
        ConfigurationError, match="needs the serial key of its jobs, and task report gives them 'reports'"
    ):
        app.every(HOUR, overlap="queue_one")(task)


# Added while everything runs


async def test_a_schedule_is_added_with_every_option_of_its_job_and_fires_without_the_code(
    app: PgQueue, dsn: str, clock: Clock
) -> None:
    task = app.task(name="report", queue="reports", priority=4, max_attempts=2)(numbered)
    job = task.using(key="k", tags=["x"], headers={"tenant": "acme"}, timeout=7).job(n=7)
    row = await app.schedules.aupsert("acme", "0 * * * *", job, tz="Europe/Paris", catch_up="all")
    assert (row.source, row.next_run_at, row.tz, row.catch_up) == ("live", NOON, "Europe/Paris", "all")
    other = PgQueue(dsn)
    clock(NOON)
    await fire(other)
    [made] = await aenqueued(other)
    assert (made.task, made.queue, made.priority, made.max_attempts) == ("report", "reports", 4, 2)
    assert (made.args, made.key, made.tags) == ({"n": 7}, "k", ("x",))
    assert made.headers == {"tenant": "acme", "schedule": "acme", "scheduled_for": NOON.isoformat()}
    with psycopg.connect(dsn) as connection:
        assert connection.execute("select options from pgqueue.jobs").fetchall() == [({"timeout": 7},)]
    await other.aclose()


async def test_what_an_upsert_does_not_change_keeps_its_place(app: PgQueue, clock: Clock) -> None:
    task = app.task(name="report")(numbered)
    app.schedules.upsert("acme", HOUR, task.job(n=1))
    clock(NOON + 5 * HOUR)
    changed = app.schedules.upsert("acme", HOUR, task.job(n=2))
    assert (changed.args, changed.next_run_at) == ({"n": 2}, NOON)
    moved = app.schedules.upsert("acme", 2 * HOUR, task.job(n=2))
    assert moved.next_run_at == NOON + 6 * HOUR
    app.schedules.pause("acme")
    assert not app.schedules.upsert("acme", HOUR, task.job(n=3)).enabled


async def test_what_the_code_declares_is_not_changed_by_hand_and_takes_a_name_over(app: PgQueue, clock: Clock) -> None:
    task = app.task(name="report")(nothing)
    app.schedules.upsert("hourly", 3 * HOUR, task.job())
    app.every(HOUR, name="hourly")(task)
    await fire(app)
    assert (app.schedules.get("hourly").source, app.schedules.get("hourly").every) == ("code", HOUR)
    with pytest.raises(ConfigurationError, match="schedule hourly is declared in the code: change it there"):
        app.schedules.upsert("hourly", 3 * HOUR, task.job())
    assert app.schedules.get("hourly").every == HOUR


@pytest.mark.parametrize(
    ("rule", "options", "message"),
    [
        ("99 * * * *", {}, "the cron pattern '99"),
        (HOUR, {"tz": "Europe/Paris"}, "an interval is elapsed time, the same in all zones"),
        (5, {"overlap": "no"}, "overlap='no' must be one of"),
        (HOUR, {"job": "report"}, "schedule 'acme' was given 'report' as its job"),
        (HOUR, {"later": 60}, "its times are those of its rule"),
        (None, {}, "an interval is a timedelta"),
        ("5m", {}, r"the cron pattern '5m' cannot be used: it is an interval: use timedelta\(seconds=300\)"),
        (HOUR, {"end": NOON - HOUR}, "schedule acme would never fire: .* before its end, 2"),
    ],
)
async def test_a_schedule_that_cannot_be_is_refused_and_nothing_is_written(
    app: PgQueue, rule: Any, options: dict[str, Any], message: str
) -> None:
    task = app.task(name="report")(nothing)
    job = options.pop("job", task.using(delay=options.pop("later", None)).job())
    with pytest.raises(ConfigurationError, match=message):
        app.schedules.upsert("acme", rule, job, **options)
    assert app.schedules.list() == []


async def test_what_a_key_does_on_conflict_holds_for_schedules_too(app: PgQueue, clock: Clock) -> None:
    unique = Unique("report", on_conflict="keep_last_if_running")
    app.every(HOUR, name="hourly")(app.task(name="report", unique=unique)(nothing))
    await fire(app)
    await tick(app, clock, 0)
    [job] = await tick(app, clock, 1)
    assert job.headers["scheduled_for"] == (NOON + HOUR).isoformat()


# From SQL


def add(dsn: str, *given: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f"select pgqueue.add_schedule('acme', 'report', {', '.join(given)})".encode())


async def test_a_schedule_that_sql_added_fires_from_its_next_time_on(app: PgQueue, dsn: str, clock: Clock) -> None:
    add(dsn, "cron => '0 * * * *'", "tz => 'Europe/Paris'", """args => '{"n": 1}'""", "queue => 'reports'")
    assert app.schedules.get("acme").next_run_at is None
    # No scheduler ran in between: what came after it was added is not lost.
    clock(datetime.now(UTC) + 5 * HOUR)
    await fire(app)
    [job] = await aenqueued(app)
    assert (job.task, job.queue, job.args) == ("report", "reports", {"n": 1})
    add(dsn, "every => '2 hours'")
    assert (app.schedules.get("acme").cron, app.schedules.get("acme").every) == (None, 2 * HOUR)


async def test_a_pattern_that_sql_added_and_cannot_be_used_is_disabled_with_its_error(app: PgQueue, dsn: str) -> None:
    add(dsn, "cron => '0 0 30 2 *'")
    await fire(app)
    row = app.schedules.get("acme")
    assert (row.enabled, "no day `30 2 *`" in (row.error or "")) == (False, True)


@pytest.mark.parametrize(
    "given",
    [
        ("cron => '* * * * *'", "every => '1 hour'"),
        ("args => '{}'",),
        ("cron => 'every day'",),
        ("cron => ''",),
        ("every => '0.5 seconds'",),
        ("every => '1 hour'", "tz => 'Mars/Olympus'"),
        ("every => '1 hour'", "args => '[1]'"),
        ("every => '1 hour'", "catch_up => 'some'"),
        ("every => '1 hour'", "catch_up => 'all'", "overlap => 'skip'"),
        ("every => '1 hour'", "max_runs => 0"),
        ("every => '1 hour'", "start_at => now()", "end_at => now() - interval '1 day'"),
        ("every => '1 hour'", "end_at => now() - interval '1 day'"),
        ("every => '1 hour'", "queue => 'a b'"),
    ],
)
async def test_sql_that_adds_what_cannot_be_gets_an_error_with_a_hint(
    app: PgQueue, dsn: str, given: tuple[str, ...]
) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue) as raised:
        add(dsn, *given)
    assert raised.value.diag.message_hint
    assert app.schedules.list() == []


async def test_sql_does_not_change_what_the_code_declares(app: PgQueue, dsn: str) -> None:
    app.every(HOUR, name="acme")(app.task(name="report")(nothing))
    await fire(app)
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="is declared in the code"):
        add(dsn, "every => '2 hours'")


def nothing() -> None: ...


def numbered(n: int) -> None: ...
