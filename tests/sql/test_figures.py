"""What is added to the minutes of tasks, and what is read from them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest

from pgqueue.database import fetch
from pgqueue.histogram import bucket
from pgqueue.queries import figures
from pgqueue.queries.figures import Lane, Tally
from tests.sql.rows import SCHEMA, Connection, rows, value

MAIL: Lane = ("mail", "send")
HOUR = 3600.0
TOTALS = """
    select queue, task, sum(completed)::int as completed, sum(failed)::int as failed, sum(run_seconds) as run_seconds
    from pgqueue.task_minutes group by queue, task order by queue, task
"""


def tally(*runs: float, waits: tuple[float, ...] = (), **outcomes: int) -> Tally:
    made = Tally()
    made.outcomes |= outcomes
    for seconds in runs:
        made.runs[bucket(seconds)] += 1
        made.run_seconds += seconds
    for seconds in waits:
        made.waits[bucket(seconds)] += 1
        made.wait_seconds += seconds
    return made


def add(conn: Connection, tallies: dict[Lane, Tally], ago: float = 0.0) -> float:
    [left] = fetch(conn, figures.add(SCHEMA, tallies, ago))
    return left


def read(conn: Connection, **given: Any) -> list[Any]:
    return [point for point in fetch(conn, figures.throughput(SCHEMA, HOUR, **given)) if point.completed]


def test_what_several_workers_add_is_one_row_a_minute_queue_and_task(db: Connection) -> None:
    assert 0 < add(db, {MAIL: tally(0.001, 0.5, completed=2), ("mail", "other"): tally(completed=1)}) <= 60
    add(db, {MAIL: tally(0.001, 7.0, completed=1, failed=1)})
    found = rows(db, TOTALS)
    assert [(row["task"], row["completed"], row["failed"]) for row in found] == [("other", 1, 0), ("send", 3, 1)]
    assert found[1]["run_seconds"] == pytest.approx(7.502)
    query = "select sum(x)::int from (select unnest(runs) from pgqueue.task_minutes where task = 'send') t (x)"
    assert value(db, query) == 4


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        ("{}", "{}", "{}"),
        ("{}", "[10:11]={1,2}", "[10:11]={1,2}"),
        ("[10:11]={1,2}", "{}", "[10:11]={1,2}"),
        ("[10:11]={1,2}", "[11:12]={3,4}", "[10:12]={1,5,4}"),
        ("[10:10]={1}", "[0:1]={2,3}", "[0:10]={2,3,NULL,NULL,NULL,NULL,NULL,NULL,NULL,NULL,1}"),
        ("[0:1]={2,3}", "[4:4]={1}", "[0:4]={2,3,NULL,NULL,1}"),
    ],
)
def test_histograms_are_added_bucket_by_bucket(db: Connection, one: str, other: str, both: str) -> None:
    assert value(db, f"select pgqueue.add_counts('{one}', '{other}')::text") == both


def test_workers_that_add_to_the_same_rows_do_not_deadlock(db: Connection, another: Callable[[], Connection]) -> None:
    lanes = [("mail", name) for name in "abcdefgh"]
    errors: list[Exception] = []

    def work(conn: Connection, turned: bool) -> None:
        try:
            for _ in range(50):
                # As they come: the statement must bring them into order itself.
                add(conn, {lane: tally(0.5, completed=1) for lane in (reversed(lanes) if turned else lanes)})
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(another(), bool(n % 2))) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert {row["completed"] for row in rows(db, TOTALS)} == {200}


def test_a_count_belongs_to_the_minute_in_which_it_was_made(db: Connection) -> None:
    add(db, {MAIL: tally(completed=1)}, ago=180.0)
    [row] = rows(db, "select minute, clock_timestamp() - interval '180 s' as made from pgqueue.task_minutes")
    assert (row["minute"].second, row["minute"].microsecond) == (0, 0)
    assert timedelta() <= row["made"] - row["minute"] < timedelta(seconds=61)


def test_throughput_has_every_step_and_those_without_a_run_are_zero(db: Connection) -> None:
    add(db, {MAIL: tally(completed=5, failed=1)}, ago=600.0)
    add(db, {("sms", "text"): tally(completed=7)})
    points = fetch(db, figures.throughput(SCHEMA, HOUR))
    assert len(points) in (61, 62)
    assert {after.at - before.at for before, after in pairwise(points)} == {timedelta(minutes=1)}
    assert [(one.completed, one.failed) for one in points if one.completed] == [(5, 1), (7, 0)]
    assert [one.completed for one in read(db, queue="mail")] == [5]
    assert [one.completed for one in read(db, task="text")] == [7]
    assert read(db, queue="sms", task="send") == []


def test_steps_add_their_minutes_up(db: Connection) -> None:
    for ago in range(0, 3600, 300):
        add(db, {MAIL: tally(completed=1)}, ago=float(ago))
    points = fetch(db, figures.throughput(SCHEMA, 3 * HOUR, step=3600))
    assert len(points) == 4
    assert all((one.at.minute, one.at.second, one.step) == (0, 0, 3600) for one in points)
    assert sum(one.completed for one in points) == 12


def test_latency_is_read_from_all_minutes_of_a_step(db: Connection) -> None:
    add(db, {MAIL: tally(*[0.010] * 50, waits=(3.0,) * 50)})
    add(db, {MAIL: tally(*[0.010] * 48, 1.0, 1.0, waits=(3.0,) * 50), ("sms", "text"): tally(60.0, waits=(0.0,))})
    [found] = [one for one in fetch(db, figures.latency(SCHEMA, HOUR, "mail", step=86400)) if one.run.p50]
    for given, exact in ((found.run.p50, 0.010), (found.run.p95, 0.010), (found.run.p99, 1.0), (found.wait.p99, 3.0)):
        assert given is not None
        assert exact / 2 < given < exact * 2


def test_of_latency_the_waits_can_be_read_alone(db: Connection) -> None:
    add(db, {MAIL: tally(0.5, 60.0, waits=(3.0, 9.0))})
    whole, waits = (fetch(db, figures.latency(SCHEMA, HOUR, runs=runs)) for runs in (True, False))
    assert [(one.at, one.wait) for one in waits] == [(one.at, one.wait) for one in whole]
    assert {one.run.p50 for one in waits} == {None}
    assert whole[-1].run.p99 is not None


def test_a_step_without_runs_has_no_percentiles(db: Connection) -> None:
    assert {(one.run.p50, one.wait.p99) for one in fetch(db, figures.latency(SCHEMA, HOUR))} == {(None, None)}


def test_tasks_and_queues_are_summed_up(db: Connection) -> None:
    add(db, {MAIL: tally(0.5, completed=3, failed=1, retried=9), ("sms", "send"): tally(4.0, completed=6, cancelled=2)})
    add(db, {("sms", "text"): tally(snoozed=1)})
    send, text = fetch(db, figures.by_task(SCHEMA, HOUR))
    assert (send.name, send.completed, send.failed, send.retried, send.cancelled) == ("send", 9, 1, 9, 2)
    assert HOUR <= send.seconds < HOUR + 61
    assert (send.failure_rate, send.per_second) == (0.1, 12 / send.seconds)
    assert (text.name, text.snoozed, text.failure_rate, text.run.p50) == ("text", 1, None, None)
    assert [(one.name, one.completed) for one in fetch(db, figures.by_task(SCHEMA, HOUR, "mail"))] == [("send", 3)]
    assert [(one.name, one.completed) for one in fetch(db, figures.by_queue(SCHEMA, HOUR))] == [("mail", 3), ("sms", 6)]


def test_what_is_longer_ago_is_not_in_the_figures(db: Connection) -> None:
    add(db, {MAIL: tally(completed=1)}, ago=2 * HOUR)
    assert fetch(db, figures.by_task(SCHEMA, HOUR)) == []
    assert sum(one.completed for one in fetch(db, figures.throughput(SCHEMA, 3 * HOUR))) == 1


def test_old_minutes_are_deleted_in_bounded_batches(db: Connection) -> None:
    for day in range(6):
        add(db, {MAIL: tally(completed=1), ("sms", "text"): tally(completed=1)}, ago=day * 86400.0)
    # Of a step of half an hour that is in part within the time.
    add(db, {MAIL: tally(completed=1)}, ago=3 * 86400.0 + 1_200)
    forgotten = [fetch(db, figures.forget_minutes(SCHEMA, figures.KEEP_MINUTES, 3)) for _ in range(3)]
    assert forgotten == [[3], [1], [0]]
    assert value(db, "select count(*) from pgqueue.task_minutes") == 9


def pack(conn: Connection) -> int:
    """As the pruner does; how many minutes were moved."""
    moved = 0
    for apart, step in figures.PACKS:
        after = None
        while done := fetch(conn, figures.pack_minutes(SCHEMA, apart, step, after)):
            assert after is None or done[0] > after
            [after] = done
            moved += 1
    return moved


def test_what_is_longer_ago_is_packed_and_nothing_is_lost(db: Connection) -> None:
    for minutes in (1, 50, *range(100, 120), *range(440, 475), *range(1600, 1700), 4000):
        add(db, {MAIL: tally(0.25, 0.5, waits=(2.0,), completed=2), ("sms", "text"): tally(failed=1)}, minutes * 60.0)
    before = rows(db, TOTALS), sums(db)
    assert pack(db) > 100
    assert pack(db) == 0
    assert (rows(db, TOTALS), sums(db)) == before
    kept = {}
    for name, longer, minutes in (("hour", 0, 70), ("morning", 71, 420), ("day", 431, 1500), ("days", 1531, 5000)):
        query = (
            "select count(distinct minute)::int as rows, bool_and(mod(date_part('minute', minute)::int, 2) = 0) as twos, "
            "bool_and(mod(date_part('minute', minute)::int, 10) = 0) as tens, "
            "bool_and(mod(date_part('minute', minute)::int, 30) = 0) as thirties from pgqueue.task_minutes "
            "where minute < now() - make_interval(mins => %(longer)s) and minute >= now() - make_interval(mins => %(minutes)s)"
        )
        [kept[name]] = rows(db, query, longer=longer, minutes=minutes)
    assert (kept["morning"]["twos"], kept["day"]["tens"], kept["days"]["thirties"]) == (True, True, True)
    assert kept["hour"]["rows"] == 2
    assert 10 <= kept["morning"]["rows"] <= 11
    assert 4 <= kept["day"]["rows"] <= 5
    assert 4 <= kept["days"]["rows"] <= 6


def sums(conn: Connection) -> Any:
    return rows(
        conn,
        "select queue, sum(x)::int from (select queue, unnest(runs || waits) from pgqueue.task_minutes) t (queue, x) group by 1 order by 1",
    )


def test_what_goes_back_to_what_is_packed_is_read_by_such_steps(db: Connection) -> None:
    add(db, {MAIL: tally(0.5, completed=1)}, ago=20 * HOUR)
    pack(db)
    assert {point.step for point in fetch(db, figures.throughput(SCHEMA, 6 * HOUR, step=120))} == {120}
    day = fetch(db, figures.throughput(SCHEMA, 24 * HOUR, step=900))
    assert {point.step for point in day} == {1200}
    assert sum(point.completed for point in day) == 1
    assert [one.completed for one in fetch(db, figures.by_task(SCHEMA, 20 * HOUR))] == [1]


def test_of_the_last_step_it_is_told_how_far_it_has_gone_by_the_clock_of_the_database(db: Connection) -> None:
    before = value(db, "select date_part('second', clock_timestamp())")
    *ended, last = fetch(db, figures.throughput(SCHEMA, HOUR, step=3600))
    assert {point.seconds for point in ended} == {3600}
    passed = value(db, "select date_part('epoch', clock_timestamp() - date_trunc('hour', clock_timestamp(), 'UTC'))")
    assert before <= last.seconds <= passed
