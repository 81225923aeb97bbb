"""Firing a schedule: compare-and-set and enqueue, once per nominal time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from threading import Barrier

from pgqueue.database import fetch, run
from pgqueue.job import Job, NewJob
from pgqueue.queries import scheduling
from pgqueue.queries.scheduling import Fired, ScheduleRow
from pgqueue.schedule import Cron
from pgqueue.schedules import Schedule
from pgqueue.services.scheduler import due_of
from tests.sql.rows import ATTEMPTS, SCHEMA, Connection, job, open_transaction, rows, value

Another = Callable[[], Connection]
NOON = datetime(2024, 5, 1, 12, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
ROW = Schedule("digest", Cron("0 * * * *"), NewJob("send", "{}")).row(NOON - HOUR)


def declare(conn: Connection, row: ScheduleRow = ROW) -> ScheduleRow:
    fetch(conn, scheduling.declare(SCHEMA, row))
    return read(conn, row.name)


def read(conn: Connection, name: str = "digest") -> ScheduleRow:
    [row] = fetch(conn, scheduling.list_schedules(SCHEMA, name))
    return row


def fire(conn: Connection, row: ScheduleRow, nominal: datetime | None = None) -> Job | None:
    at = nominal or row.next_run_at
    assert at is not None
    fired = fire_all(conn, row, [at])
    return fired.made[0] if fired.made else None


def fire_all(conn: Connection, row: ScheduleRow, times: list[datetime], following: datetime | None = None) -> Fired:
    following = following or (max(times, default=NOON) + HOUR)
    with conn.transaction():
        return run(conn, scheduling.fire(SCHEMA, row, times, following, [job() for _ in times], ATTEMPTS))


def test_firing_enqueues_the_job_and_moves_the_schedule_on(db: Connection) -> None:
    row = declare(db)
    made = fire(db, row)
    assert made is not None
    assert value(db, "select id from pgqueue.jobs") == made.id
    after = read(db)
    assert (after.last_run_at, after.next_run_at) == (NOON, NOON + HOUR)


def test_eight_schedulers_that_fire_the_same_nominal_time_make_one_job(db: Connection, another: Another) -> None:
    declare(db)
    sessions = [another() for _ in range(8)]
    for turn in range(5):
        row, start = read(db), Barrier(8)

        def work(conn: Connection, row: ScheduleRow = row, start: Barrier = start) -> Job | None:
            start.wait()
            return fire(conn, row)

        with ThreadPoolExecutor(8) as threads:
            made = [one for one in threads.map(work, sessions) if one is not None]
        assert len(made) == 1
        assert value(db, "select count(*) from pgqueue.jobs") == turn + 1
        assert read(db).next_run_at == NOON + (turn + 1) * HOUR


def test_a_scheduler_that_was_second_changes_nothing(db: Connection) -> None:
    row = declare(db)
    fire(db, row)
    before = read(db)
    assert fire(db, row) is None
    assert read(db) == before


def test_a_fire_that_rolls_back_leaves_the_time_to_another_scheduler(db: Connection, dsn: str) -> None:
    row = declare(db)
    with open_transaction(dsn) as other:
        assert run(other, scheduling.fire(SCHEMA, row, [NOON], NOON + HOUR, [job()], ATTEMPTS)).made
    assert fire(db, row) is not None
    assert value(db, "select count(*) from pgqueue.jobs") == 1


def test_rule_10_a_schedule_that_was_set_back_fires_no_time_twice_and_goes_on(db: Connection) -> None:
    row = declare(db)
    fire(db, row)
    db.execute("update pgqueue.schedules set next_run_at = %s", [NOON])
    back = read(db)
    assert back.next_run_at == NOON
    assert fire(db, back) is None
    times, following = due_of(back, NOON)
    assert fire_all(db, back, list(times), following) == Fired()
    assert value(db, "select count(*) from pgqueue.jobs") == 1
    onward = read(db)
    assert onward.next_run_at == NOON + HOUR
    assert fire(db, onward) is not None


def test_a_disabled_schedule_does_not_fire_and_is_not_due(db: Connection) -> None:
    row = declare(db)
    assert [one.name for one in fetch(db, scheduling.due(SCHEMA))] == ["digest"]
    fetch(db, scheduling.set_enabled(SCHEMA, "digest", False))
    assert fetch(db, scheduling.due(SCHEMA)) == []
    assert fire(db, row) is None
    assert value(db, "select count(*) from pgqueue.jobs") == 0


def test_only_the_latest_of_several_missed_times_is_fired(db: Connection) -> None:
    row = declare(db)
    assert fire(db, row, NOON + 5 * HOUR) is not None
    after = read(db)
    assert (after.last_run_at, after.next_run_at) == (NOON + 5 * HOUR, NOON + 6 * HOUR)
    assert fire(db, row, NOON) is None


def test_declaring_the_same_again_keeps_its_place_and_a_changed_rule_starts_anew(db: Connection) -> None:
    row = declare(db)
    fire(db, row)
    same = declare(db)
    assert same.next_run_at == NOON + HOUR
    changed = declare(db, replace(ROW, cron="30 * * * *", next_run_at=NOON + timedelta(minutes=30)))
    assert changed.next_run_at == NOON + timedelta(minutes=30)
    assert changed.last_run_at == NOON


def test_a_schedule_that_the_code_dropped_is_disabled_and_comes_back_with_it(db: Connection) -> None:
    declare(db)
    assert fetch(db, scheduling.disable_removed(SCHEMA, ["other"])) == ["digest"]
    assert (read(db).enabled, read(db).source) == (False, "removed")
    later = replace(ROW, next_run_at=NOON + 9 * HOUR)
    assert (declare(db, later).enabled, read(db).next_run_at) == (True, NOON + 9 * HOUR)


def test_a_pause_by_hand_outlives_a_deployment(db: Connection) -> None:
    declare(db)
    fetch(db, scheduling.set_enabled(SCHEMA, "digest", False))
    assert not declare(db, replace(ROW, args={"n": 1})).enabled


def test_a_schedule_with_a_bad_rule_is_disabled_with_its_error_until_the_code_mends_it(db: Connection) -> None:
    declare(db)
    fetch(db, scheduling.disable(SCHEMA, "digest", "no such day"))
    assert (read(db).enabled, read(db).error) == (False, "no such day")
    mended = declare(db, replace(ROW, cron="1 * * * *"))
    assert (mended.enabled, mended.error) == (True, None)


def test_the_next_time_of_all_schedules_is_told_in_seconds(db: Connection) -> None:
    assert fetch(db, scheduling.next_due_in(SCHEMA)) == [None]
    [now] = fetch(db, scheduling.now(SCHEMA))
    declare(db, replace(ROW, next_run_at=now + HOUR))
    declare(db, replace(ROW, name="later", next_run_at=now + 2 * HOUR))
    [due_in] = fetch(db, scheduling.next_due_in(SCHEMA))
    assert due_in is not None
    assert 3590 < due_in <= 3600
    assert len(rows(db, "select from pgqueue.schedules")) == 2
