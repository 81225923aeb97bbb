"""Serial keys that halt: a failed job keeps the place of its key until somebody redrives it, purges it, or resumes the key."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from itertools import count
from typing import Any

import pytest

from pgqueue.database import fetch, run
from pgqueue.job import ClaimedJob
from pgqueue.outcome import AttemptError, Completed, Failed, Outcome, Retry
from pgqueue.queries import failures, fleet, gates, inspecting, limiting, limits, retaining
from pgqueue.queries.failures import FailureFilter
from pgqueue.queries.finishing import finish
from pgqueue.queries.fleet import TaskRow
from pgqueue.queries.limiting import Lane
from pgqueue.queries.limits import Templates
from pgqueue.queries.retaining import Rule
from tests.sql.rows import (
    SCHEMA,
    Connection,
    add,
    bury,
    finished,
    make_due,
    promote,
    rescue,
    rows,
    value,
    worker,
)

ERROR = AttemptError.of(ValueError("no"))
FAILED = Failed("attempts_used", ERROR)
GATE = "serial:mail:a"
fences = count(70_000)
NONE: Templates = {}


@pytest.fixture
def halting(db: Connection) -> Iterator[Connection]:
    """The task `send` halts the serial keys of its jobs."""
    register(db, True)
    yield db
    assert fetch(db, gates.miscounted(SCHEMA)) == []


def register(conn: Connection, halts: bool) -> None:
    fetch(conn, fleet.register_tasks(SCHEMA, [TaskRow("send", "mail", None, None, None, None, halt_on_failed=halts)]))


def claim(conn: Connection, by: Any = None, templates: Templates = NONE) -> list[ClaimedJob]:
    """From lane to lane, as a worker does."""
    taken: list[ClaimedJob] = []
    for priority in (-5, 0):
        operation = limiting.claim_limited(
            SCHEMA,
            queue="mail",
            lane=Lane(priority, 0, 0),
            tasks=["send"],
            count=100,
            slots=100,
            prefetch=0,
            fence=next(fences),
            worker=by or worker(conn),
            templates=templates,
        )
        with conn.transaction():
            scan = run(conn, operation)
        taken += [*scan.ready, *scan.jobs]
    return taken


def end(conn: Connection, job: ClaimedJob, outcome: Outcome) -> None:
    with conn.transaction():
        assert run(conn, finish(SCHEMA, None, [finished(job, outcome, limited=job.limited)])).stale == 0
    with conn.transaction():
        run(conn, gates.hand_over(SCHEMA))


def fail_first(conn: Connection) -> tuple[int, int, int]:
    """Three jobs of a key, of which the first has failed; a job of another key runs."""
    first, second, third = add(conn, 3, serial_key="a")
    [held] = claim(conn)
    assert held.id == first
    end(conn, held, FAILED)
    return first, second, third


def only(jobs: list[ClaimedJob]) -> ClaimedJob:
    [job] = jobs
    return job


def test_nothing_of_the_key_runs_after_a_failed_job(halting: Connection) -> None:
    first, *_ = fail_first(halting)
    assert claim(halting) == []
    [late] = add(halting, serial_key="a")
    [other] = add(halting, serial_key="b")
    assert [job.id for job in claim(halting)] == [other]
    assert value(halting, "select state from pgqueue.jobs where id = %(id)s", id=late) == "blocked"
    [key] = fetch(halting, limits.halted(SCHEMA))
    assert (key.queue, key.serial_key, key.job_id, key.task, key.blocked) == ("mail", "a", first, "send", 3)
    assert (key.error_type, key.error_message) == ("ValueError", "no")


def test_without_being_asked_the_next_goes_on(db: Connection) -> None:
    register(db, False)
    _, second, _ = fail_first(db)
    assert only(claim(db)).id == second
    assert fetch(db, limits.halted(SCHEMA)) == []


def test_a_job_that_completed_or_is_retried_halts_nothing(halting: Connection) -> None:
    first, second = add(halting, 2, serial_key="a")
    end(halting, only(claim(halting)), Retry(60.0, ERROR))
    assert claim(halting) == []
    assert fetch(halting, limits.halted(SCHEMA)) == []
    make_due(halting, first)
    promote(halting)
    held = only(claim(halting))
    assert held.id == first
    end(halting, held, Completed())
    assert only(claim(halting)).id == second


def test_a_redriven_job_runs_first_and_then_the_others_in_their_order(halting: Connection) -> None:
    first, second, third = fail_first(halting)
    [sooner] = add(halting, 1, serial_key="a", priority=-5)
    assert fetch(halting, failures.redrive(SCHEMA, FailureFilter((first,)))) == [first]
    assert fetch(halting, limits.halted(SCHEMA)) == []
    for expected in (first, sooner, second, third):
        held = only(claim(halting))
        assert held.id == expected
        end(halting, held, Completed())


@pytest.mark.parametrize("how", ["promoted", "rescheduled"])
def test_one_that_is_redriven_for_later_keeps_its_key_meanwhile(halting: Connection, how: str) -> None:
    first, *_ = fail_first(halting)
    [other] = add(halting, serial_key="z")
    end(halting, only(claim(halting)), FAILED)
    # One in a thousand seconds: the second of the two is the later one.
    redriven = fetch(halting, failures.redrive(SCHEMA, FailureFilter((first, other)), None, 0.001))
    assert sorted(redriven) == [first, other]
    add(halting, serial_key="z")
    assert [job.id for job in claim(halting)] == [first]
    if how == "promoted":
        make_due(halting, other)
        promote(halting)
    else:
        fetch(halting, inspecting.reschedule(SCHEMA, [other], None, 60.0))
        assert claim(halting) == []
        fetch(halting, inspecting.reschedule(SCHEMA, [other], None, 0.0))
    assert [job.id for job in claim(halting)] == [other]


def test_one_that_fails_again_halts_its_key_again(halting: Connection) -> None:
    first, *_ = fail_first(halting)
    fetch(halting, failures.redrive(SCHEMA, FailureFilter((first,))))
    end(halting, only(claim(halting)), FAILED)
    assert claim(halting) == []
    assert [key.job_id for key in fetch(halting, limits.halted(SCHEMA))] == [first]


def test_one_that_is_redriven_elsewhere_lets_its_key_go(halting: Connection) -> None:
    first, second, _ = fail_first(halting)
    fetch(halting, failures.redrive(SCHEMA, FailureFilter((first,)), to_queue="other"))
    with halting.transaction():
        assert run(halting, gates.hand_over(SCHEMA)) == 1
    assert only(claim(halting)).id == second


def test_a_purged_job_lets_its_key_go(halting: Connection) -> None:
    first, second, _ = fail_first(halting)
    assert fetch(halting, failures.purge_failed(SCHEMA, FailureFilter((first,)))) == [1]
    with halting.transaction():
        assert run(halting, gates.hand_over(SCHEMA)) == 1
    assert only(claim(halting)).id == second


def test_a_key_that_is_resumed_goes_on_and_the_job_stays_failed(halting: Connection) -> None:
    first, second, third = fail_first(halting)
    fetch(halting, limits.set_paused(SCHEMA, False, queue="mail", serial_key="b"))
    assert claim(halting) == []
    for _ in range(2):
        # Once is enough, and twice frees nothing more.
        fetch(halting, limits.set_paused(SCHEMA, False, queue="mail", serial_key="a"))
    with halting.transaction():
        run(halting, gates.hand_over(SCHEMA))
    held = only(claim(halting))
    assert held.id == second
    assert claim(halting) == []
    end(halting, held, Completed())
    # The failed one is a job like any other now, and takes its turn when it comes back.
    fetch(halting, failures.redrive(SCHEMA, FailureFilter((first,))))
    held = only(claim(halting))
    assert held.id == third
    end(halting, held, Completed())
    assert only(claim(halting)).id == first


@pytest.mark.parametrize("times", [1, 3])
def test_a_recount_finds_nothing_wrong(halting: Connection, times: int) -> None:
    fail_first(halting)
    for _ in range(times):
        with halting.transaction():
            assert run(halting, gates.recount(SCHEMA)) == []
            fetch(halting, gates.forget(SCHEMA))
    assert claim(halting) == []


def test_a_job_that_a_rescue_gives_up_halts_its_key_too(halting: Connection) -> None:
    first, _ = add(halting, 2, serial_key="a", max_attempts=1)
    dead = worker(halting, lease=-1.0)
    assert only(claim(halting, dead)).id == first
    assert bury(halting) == {dead}
    rescue(halting)
    with halting.transaction():
        run(halting, gates.hand_over(SCHEMA, all_gates=True))
    assert claim(halting) == []
    [key] = fetch(halting, limits.halted(SCHEMA))
    assert key.job_id == first


def test_other_places_of_a_failed_job_are_freed(halting: Connection) -> None:
    halting.execute("insert into pgqueue.limits (scope, name, concurrency) values ('task', 'send', 1)")
    add(halting, 2, serial_key="a")
    [other] = add(halting, serial_key="b")
    templates = {("task", "send"): [""]}
    end(halting, only(claim(halting, templates=templates)), FAILED)
    assert rows(halting, "select places from pgqueue.failed_jobs") == [{"places": [GATE]}]
    then = only(claim(halting, templates=templates))
    assert then.id == other
    end(halting, then, Completed())


def test_retention_leaves_a_job_that_halts_its_key(halting: Connection) -> None:
    first, *_ = fail_first(halting)
    rule = Rule("failed", "mail", ("send",), timedelta(0), None)
    assert fetch(halting, retaining.prune(SCHEMA, rule, "send", None, 100)) == [0]
    fetch(halting, limits.set_paused(SCHEMA, False, queue="mail", serial_key="a"))
    with halting.transaction():
        run(halting, gates.hand_over(SCHEMA))
    assert fetch(halting, retaining.prune(SCHEMA, rule, "send", None, 100)) == [1]
    assert first
