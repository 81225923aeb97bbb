"""Circuit breakers in the database: what counts, what opens and settles them, and what a claim sees of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from pgqueue.breaker import Breaker, Counts, Of
from pgqueue.database import fetch, run
from pgqueue.errors import ProcessCrashed
from pgqueue.job import ClaimedJob
from pgqueue.outcome import AttemptError, Completed, Failed, Outcome, Retry, Snooze
from pgqueue.queries import breakers, claiming, finishing, gates, limiting
from pgqueue.queries.breakers import Known
from pgqueue.queries.claiming import Scan
from pgqueue.queries.finishing import Finished
from pgqueue.queries.limiting import Lane
from pgqueue.services.breakers import BreakerKeeper
from tests.sql.rows import (
    SCHEMA,
    Connection,
    add,
    connect,
    job_row,
    notifications,
    open_transaction,
    rescue,
    rows,
    runner_on,
    value,
    wait_for_lock,
    worker,
)

SEND, MAIL = Of("task", "send"), Of("queue", "mail")
ERROR = AttemptError.of(TimeoutError("30 s"))
RETRY, FAILED = Retry(60.0, ERROR), Failed("attempts_used", ERROR)
GATE = "from pgqueue.gates where name = 'task:send:breaker:breaker'"
fences = count(50_000)


def breaker(conn: Connection, of: Of = SEND, **options: Any) -> None:
    fetch(conn, breakers.change(SCHEMA, of, Breaker(**({"failures": 3, "open_for": 30} | options))))


def known(conn: Connection, of: Of = SEND) -> Known:
    [found] = fetch(conn, breakers.read(SCHEMA, [of]))
    return found


def claim(conn: Connection, *, number: int = 100, guarded: bool = True, lifo: bool = False) -> Scan:
    return run(
        conn,
        claiming.claim(
            SCHEMA,
            queue="mail",
            priority=0,
            mark=0,
            known=0,
            tasks=["send"],
            count=number,
            slots=100,
            fence=next(fences),
            worker=worker(conn),
            lifo=lifo,
            guarded=guarded,
        ),
    )


def claim_limited(conn: Connection, *, lead: float = 0.0) -> list[ClaimedJob]:
    operation = limiting.claim_limited(
        SCHEMA,
        queue="mail",
        lane=Lane(0, 0, 0),
        tasks=["send"],
        count=100,
        slots=100,
        prefetch=0,
        fence=next(fences),
        worker=worker(conn),
        templates=breakers.with_breakers({}, [SEND, MAIL]),
        lead=lead,
    )
    with conn.transaction():
        scan = run(conn, operation)
    return [*scan.ready, *scan.jobs]


def finish(conn: Connection, jobs: list[ClaimedJob], outcome: Outcome | None, *failed: Of) -> int:
    """As a worker's finisher does, whose breakers counted the outcome."""
    batch = [Finished(job.id, job.fence, job.task, outcome, limited=True, tried=True, failed=failed) for job in jobs]
    with conn.transaction():
        return run(conn, finishing.finish(SCHEMA, uuid4(), batch)).stale


def make_half_open(conn: Connection, of: Of = SEND) -> None:
    fetch(conn, breakers.reset(SCHEMA, of))
    assert known(conn, of).state == "half_open"


def trial(conn: Connection, of: Of = SEND) -> list[ClaimedJob]:
    """The job that is tried."""
    fetch(conn, breakers.open_(SCHEMA, of))
    make_half_open(conn, of)
    [job] = claim_limited(conn)
    return [job]


def claim_before_it_is_time(conn: Connection, seconds: float, *, lead: float) -> tuple[float, ClaimedJob]:
    """The job that is tried, claimed while the breaker is open for `seconds`; and when it opened, on this clock."""
    for _ in range(100):
        opened_at = time.monotonic()
        fetch(conn, breakers.open_(SCHEMA, SEND, seconds))
        [job] = claim_limited(conn, lead=lead)
        if known(conn).state == "open":
            return opened_at, job
        # The machine stood still, and the time had come.
        finish(conn, [job], None)
    pytest.fail(f"no claim takes less than {seconds:g} s")


@pytest.mark.parametrize("lifo", [False, True])
@pytest.mark.parametrize("of", [SEND, MAIL], ids=str)
def test_a_claim_takes_nothing_of_what_has_opened_without_a_word_to_its_worker(
    db: Connection, of: Of, lifo: bool
) -> None:
    breaker(db, of)
    ids = add(db, 3)
    taken = claim(db, number=1, lifo=lifo)
    assert [job.id for job in taken.jobs] == [ids[-1] if lifo else ids[0]]
    fetch(db, breakers.open_(SCHEMA, of))
    stopped = claim(db, lifo=lifo)
    assert (stopped.jobs, stopped.limited) == ([], True)
    assert len(claim(db, lifo=lifo, guarded=False).jobs) == 2


def test_the_breaker_of_another_task_or_queue_stops_nothing(db: Connection) -> None:
    for of in (Of("task", "other"), Of("queue", "other"), Of("task", "mail"), Of("queue", "send")):
        breaker(db, of)
        fetch(db, breakers.open_(SCHEMA, of))
    ids = add(db, 3)
    assert [job.id for job in claim(db).jobs] == ids


def test_what_an_open_breaker_refuses_is_parked_without_an_attempt_and_goes_on_when_it_closes(db: Connection) -> None:
    breaker(db)
    ids = add(db, 3)
    fetch(db, breakers.open_(SCHEMA, SEND, 30.0))
    assert claim_limited(db) == []
    assert {(job_row(db, id_)["state"], job_row(db, id_)["attempt"]) for id_ in ids} == {("blocked", 0)}
    assert known(db).blocked == 3
    fetch(db, breakers.close(SCHEMA, SEND))
    with db.transaction():
        run(db, gates.tick(SCHEMA))
    assert {job_row(db, id_)["state"] for id_ in ids} == {"available"}
    assert rows(db, "select * from pgqueue.limits") == []


def test_failures_are_counted_with_the_outcomes_of_their_batch(db: Connection) -> None:
    breaker(db)
    breaker(db, MAIL)
    add(db, 6)
    jobs = claim(db).jobs
    finish(db, jobs[:2], RETRY, SEND, MAIL)
    finish(db, jobs[2:3], FAILED, SEND)
    finish(db, jobs[3:4], Completed())
    finish(db, jobs[4:5], RETRY, Of("task", "unheard of"))
    assert (known(db).seen, known(db, MAIL).seen) == ((3, 3), (2, 2))
    assert len(rows(db, "select * from pgqueue.breaker_counts")) == 3


def test_what_a_stale_worker_tells_is_not_counted(db: Connection) -> None:
    breaker(db)
    add(db, 2)
    jobs = claim(db).jobs
    db.execute("update pgqueue.jobs set claim_id = 1 where id = %s", [jobs[0].id])
    assert finish(db, jobs, RETRY, SEND) == 1
    assert known(db).seen == (1, 1)


def test_a_failure_whose_outcome_is_rolled_back_is_not_counted(db: Connection) -> None:
    breaker(db)
    add(db, 1)
    jobs = claim(db).jobs
    with db.transaction(force_rollback=True):
        finish(db, jobs, RETRY, SEND)
    assert known(db).seen == (0, 0)


def test_only_what_ended_within_its_time_and_since_it_was_reset_counts(db: Connection) -> None:
    breaker(db, within=60)
    for age in (61, 59, 1):
        db.execute(
            "insert into pgqueue.breaker_counts (scope, name, at, failures, attempts) "
            "values ('task', 'send', clock_timestamp() - make_interval(secs => %s), 1, 2)",
            [age],
        )
    assert known(db).seen == (2, 4)
    breaker(db, within=30)
    assert known(db).seen == (1, 2)
    fetch(db, breakers.reset(SCHEMA, SEND))
    assert (known(db).seen, known(db).state) == ((0, 0), "closed")


def test_it_opens_once_however_many_see_that_it_should(db: Connection, another: Callable[[], Connection]) -> None:
    breaker(db)
    fetch(db, breakers.count(SCHEMA, {SEND: Counts(3, 3)}))
    assert known(db).opens
    sessions = [another() for _ in range(4)]

    def look(conn: Connection) -> bool:
        with conn.transaction():
            return run(conn, breakers.open_if_passed(SCHEMA, SEND)) is not None

    with ThreadPoolExecutor(4) as threads:
        assert sorted(threads.map(look, sessions)) == [False, False, False, True]
    found = known(db)
    assert (found.state, found.reason) == ("open", "3 attempts failed within 60 s")
    assert found.status.open_until == pytest.approx(found.now + 30, abs=5)
    assert value(
        db,
        f"select closed_until - (select open_until from pgqueue.breakers) = '0' {GATE}",
    )


def test_who_looks_while_another_opens_it_waits_and_leaves_it_as_it_is(
    db: Connection, dsn: str, another: Callable[[], Connection]
) -> None:
    breaker(db)
    fetch(db, breakers.count(SCHEMA, {SEND: Counts(3, 3)}))
    other = another()
    with open_transaction(dsn) as first, ThreadPoolExecutor(1) as threads:
        assert run(first, breakers.open_if_passed(SCHEMA, SEND)) is not None

        def look() -> Any:
            with other.transaction():
                return run(other, breakers.open_if_passed(SCHEMA, SEND))

        looking = threads.submit(look)
        wait_for_lock(db, other)
        first.commit()
        assert looking.result() is None


def test_one_job_is_tried_and_the_rest_waits_for_it(db: Connection) -> None:
    breaker(db)
    ids = add(db, 4)
    [job] = trial(db)
    assert (job.id, job.limited) == (ids[0], True)
    assert claim_limited(db) == []
    with db.transaction():
        run(db, gates.tick(SCHEMA))
    assert [job_row(db, id_)["state"] for id_ in ids] == ["running", "blocked", "blocked", "blocked"]


def test_a_job_that_is_tried_waits_until_its_time_though_its_claim_could_take_longer(db: Connection) -> None:
    breaker(db)
    add(db, 1)
    opened_at, job = claim_before_it_is_time(db, 0.09, lead=1.0)
    assert job.begins_at is not None
    assert job.begins_at >= opened_at + 0.09


def test_a_trial_that_fails_opens_it_again_in_the_transaction_that_frees_its_place(
    db: Connection, another: Callable[[], Connection]
) -> None:
    breaker(db, cap=100)
    add(db, 2)
    jobs = trial(db)
    claim_limited(db)
    other = another()
    batch = [Finished(jobs[0].id, jobs[0].fence, "send", RETRY, limited=True, failed=(SEND,))]
    with db.transaction():
        run(db, finishing.finish(SCHEMA, uuid4(), batch))
        assert (known(other).state, known(other).status.trials) == ("half_open", 0)
        assert value(other, "select count(*) from pgqueue.freed_places") == 0
    found = known(db)
    assert (found.state, found.status.trials, found.reason) == ("open", 1, "the job that was tried failed")
    assert found.status.open_until == pytest.approx(found.now + 60, abs=5)
    with db.transaction():
        run(db, gates.hand_over(SCHEMA, all_gates=True))
    with db.transaction():
        run(db, gates.tick(SCHEMA))
    assert claim_limited(db) == []
    assert value(db, f"select taken {GATE}") == 0


def test_a_trial_that_completes_closes_it_and_waits_for_no_gate(db: Connection, dsn: str) -> None:
    breaker(db)
    add(db, 3)
    jobs = trial(db)
    with open_transaction(dsn) as other:
        other.execute("select from pgqueue.gates for update")
        finish(db, jobs, Completed())
    assert (known(db).state, known(db).status.trials) == ("closed", 0)
    assert rows(db, "select * from pgqueue.limits") == []


@pytest.mark.parametrize("outcome", [Snooze(60.0), RETRY, None], ids=["snoozed", "does not count", "given back"])
def test_a_trial_that_tells_nothing_is_followed_by_another(db: Connection, outcome: Outcome | None) -> None:
    breaker(db)
    add(db, 2)
    jobs = trial(db)
    assert claim_limited(db) == []
    finish(db, jobs, outcome)
    assert known(db).state == "half_open"
    with db.transaction():
        run(db, gates.hand_over(SCHEMA, all_gates=True))
    assert value(db, "select array_agg(ready is not null) from pgqueue.jobs where state = 'available'") == (
        [True] if outcome is not None else [False, True]
    )


@pytest.mark.parametrize("completes", [True, False])
def test_a_late_trial_does_not_undo_what_a_person_did(db: Connection, completes: bool) -> None:
    breaker(db)
    add(db, 2)
    jobs = trial(db)
    fetch(db, breakers.open_(SCHEMA, SEND))
    finish(db, jobs, *((Completed(),) if completes else (RETRY, SEND)))
    found = known(db)
    assert (found.state, found.reason, found.status.open_until) == ("open", "by hand", float("inf"))


def test_the_trial_of_a_worker_that_died_is_no_trial_any_more(db: Connection) -> None:
    breaker(db)
    add(db, 3)
    [job] = trial(db)
    db.execute("update pgqueue.workers set expires_at = clock_timestamp() - interval '1 s'")
    [orphan] = rescue(db)
    assert orphan.job_id == job.id
    # It was running that one alone: that is blamed, and the trial has failed.
    found = known(db)
    assert (found.state, found.status.trials) == ("open", 1)
    make_half_open(db)
    with db.transaction():
        run(db, gates.hand_over(SCHEMA, all_gates=True))
    assert len(claim_limited(db)) <= 1
    assert value(db, f"select taken {GATE}") <= 1


def test_a_crash_counts_for_those_who_count_crashes(db: Connection) -> None:
    breaker(db)
    breaker(db, MAIL, on=(TimeoutError, ConnectionError))
    breaker(db, Of("task", "other"))
    add(db, 1)
    claim(db)
    db.execute("update pgqueue.workers set expires_at = clock_timestamp() - interval '1 s'")
    rescue(db)
    assert [(found.of, found.seen) for found in fetch(db, breakers.read(SCHEMA))] == [
        (MAIL, (0, 0)),
        (Of("task", "other"), (0, 0)),
        (SEND, (1, 1)),
    ]
    breaker(db, MAIL, on=ProcessCrashed)
    add(db, 1)
    claim(db)
    db.execute("update pgqueue.workers set expires_at = clock_timestamp() - interval '1 s'")
    rescue(db)
    assert known(db, MAIL).seen == (1, 1)


def test_a_job_that_was_let_go_and_that_nobody_claims_goes_back_for_another(db: Connection) -> None:
    breaker(db)
    first, second = add(db, 2)
    fetch(db, breakers.open_(SCHEMA, SEND))
    claim_limited(db)
    make_half_open(db)
    with db.transaction():
        run(db, gates.tick(SCHEMA))
    assert (job_row(db, first)["ready"], known(db).blocked) == (known(db).untried, 2)
    db.execute("update pgqueue.jobs set queue = 'nobody serves it' where id = %s", [first])
    with db.transaction():
        assert run(db, breakers.try_another(SCHEMA, known(db)))
    assert (job_row(db, first)["state"], job_row(db, first)["places"]) == ("blocked", None)
    assert job_row(db, second)["ready"] == known(db).untried
    [gate] = rows(db, f"select taken, waiting, loose {GATE}")
    assert gate == {"taken": 1, "waiting": 1, "loose": 1}
    assert fetch(db, gates.miscounted(SCHEMA)) == []


def test_a_job_that_was_let_go_while_it_was_closed_has_no_place_to_give_back(db: Connection) -> None:
    breaker(db)
    add(db, 3)
    fetch(db, breakers.open_(SCHEMA, SEND))
    claim_limited(db)
    fetch(db, breakers.close(SCHEMA, SEND))
    with db.transaction():
        run(db, gates.tick(SCHEMA))
    [gate] = rows(db, f"select taken, waiting, loose {GATE}")
    assert gate == {"taken": 0, "waiting": 0, "loose": 3}
    fetch(db, breakers.open_(SCHEMA, SEND))
    make_half_open(db)
    assert known(db).untried is None
    jobs = claim_limited(db)
    assert len(jobs) == 1
    [gate] = rows(db, f"select taken, waiting, loose {GATE}")
    assert gate == {"taken": 1, "waiting": 2, "loose": 0}


def test_rows_are_put_together_and_dropped_without_a_change_of_what_counts(db: Connection) -> None:
    breaker(db, within=600)
    breaker(db, MAIL, within=10)
    db.execute(
        "insert into pgqueue.breaker_counts (scope, name, at, failures, attempts) "
        "select o.scope, o.name, clock_timestamp() - make_interval(secs => n * 0.5 + 0.1), 1, 3 "
        "from generate_series(0, 999) n, (values ('task', 'send'), ('queue', 'mail'), ('task', 'gone')) o (scope, name)"
    )
    before = known(db).seen, known(db, MAIL).seen
    assert before[0] == (1000, 3000)
    assert fetch(db, breakers.compact(SCHEMA)) == [3000]
    assert known(db).seen == before[0]
    left = {row["name"]: row["rows"] for row in rows(db, COUNTED)}
    assert left.keys() <= {"send", "mail"}
    assert 40 <= left["send"] <= breakers.PARTS + 1
    assert fetch(db, breakers.compact(SCHEMA)) == [0]


COUNTED = "select name, count(*)::int as rows from pgqueue.breaker_counts group by name"


def test_everybody_is_told_that_one_has_opened_or_closed(db: Connection, listener: Connection) -> None:
    breaker(db)
    assert notifications(listener) == ["limits"]
    for verb in (breakers.open_, breakers.reset, breakers.close, breakers.remove):
        fetch(db, verb(SCHEMA, SEND))
        assert set(notifications(listener)) == {"limits"}


@pytest.mark.parametrize("verb", ["open_breaker", "close_breaker", "reset_breaker", "remove_breaker"])
def test_a_verb_says_whether_there_is_such_a_breaker(db: Connection, verb: str) -> None:
    assert value(db, f"select pgqueue.{verb}('task', 'send')") is False
    breaker(db)
    assert value(db, f"select pgqueue.{verb}('task', 'send')") is True
    assert value(db, f"select pgqueue.{verb}('queue', 'send')") is False


@pytest.mark.parametrize(
    ("call", "told"),
    [
        ("set_breaker('tasks', 'send', 1)", "scope 'tasks' is not valid"),
        ("set_breaker('task', 'se nd', 1)", "queue name 'se nd' is not valid"),
        ("set_breaker('task', 'send')", "failures null, within 60, open_for 30, cap null, ratio null"),
        ("set_breaker('task', 'send', 0)", "failures 0"),
        ("set_breaker('task', 'send', ratio => 1.5)", "ratio 1.5"),
        ("set_breaker('task', 'send', ratio => 'NaN')", "ratio NaN"),
        ("set_breaker('task', 'send', 1, minimum => 0)", "minimum 0"),
        ("set_breaker('task', 'send', 1, within => 0)", "within 0"),
        ("set_breaker('task', 'send', 1, within => null)", "within null"),
        ("set_breaker('task', 'send', 1, within => 'NaN')", "within NaN"),
        ("set_breaker('task', 'send', 1, open_for => 'infinity')", "open_for Infinity"),
        ("set_breaker('task', 'send', 1, open_for => 30, cap => 10)", "open_for 30, cap 10"),
        ("set_breaker('task', 'send', 1, errors => '{}')", "cannot be"),
        ("open_breaker('task', 'send', 0)", "seconds 0 cannot be"),
        ("open_breaker('task', 'send', 'NaN')", "seconds NaN cannot be"),
        ("open_breaker('task', 'send', null)", "seconds null cannot be"),
    ],
)
def test_sql_refuses_what_cannot_be(db: Connection, call: str, told: str) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match=told):
        db.execute(f"select pgqueue.{call}".encode())


async def test_the_keeper_opens_what_has_seen_enough_at_once_and_tells_how_all_are(dsn: str, db: Connection) -> None:
    breaker(db)
    breaker(db, MAIL, failures=None, ratio=0.5, minimum=10)
    told: list[dict[Of, str]] = []
    completed = [{MAIL: 6}]
    clock = [1000.0]

    def on_read(found: list[Known]) -> bool:
        told.append({one.of: one.state for one in found})
        return False

    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        keeper = BreakerKeeper(
            runner_on(conn),
            SCHEMA,
            completed=lambda: completed.pop() if completed else {},
            failing=lambda: [SEND],
            on_read=on_read,
            clock=lambda: clock[0],
        )
        assert await keeper.run_once() > 0
        assert told == [{SEND: "closed", MAIL: "closed"}]
        assert known(db, MAIL).seen == (0, 6)
        fetch(db, breakers.count(SCHEMA, {SEND: Counts(2, 2), MAIL: Counts(5, 5)}))
        keeper.failed()
        await keeper.run_once()
        # The other has had no failure here: it is looked at when its time comes.
        assert len(told) == 1
        fetch(db, breakers.count(SCHEMA, {SEND: Counts(1, 1)}))
        await keeper.run_once()
        assert told[1:] == [{SEND: "open", MAIL: "closed"}]
        clock[0] += 2
        fetch(db, breakers.count(SCHEMA, {MAIL: Counts(1, 1)}))
        await keeper.run_once()
        assert told[2:] == [{SEND: "open", MAIL: "open"}]
        assert known(db, MAIL).reason == "6 of 12 attempts failed within 60 s"


def test_counting_waits_for_nobody_who_holds_the_breaker(db: Connection, dsn: str) -> None:
    breaker(db)
    add(db, 1)
    jobs = claim(db).jobs
    with connect(dsn) as other, other.transaction():
        other.execute("select from pgqueue.breakers for update")
        db.execute("set lock_timeout = '50ms'")
        finish(db, jobs, RETRY, SEND)
    assert known(db).seen == (1, 1)
