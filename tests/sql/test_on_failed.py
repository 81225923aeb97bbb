"""`enqueue_on_failed`: whatever road a job takes to `failed_jobs`, its on_failed task is enqueued once, with the move."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest

from pgqueue import arguments
from pgqueue.database import fetch, run
from pgqueue.outcome import AttemptError, Failed
from pgqueue.queries import finishing, fleet
from pgqueue.queries.fleet import AppDefaults, QueueRow, TaskRow
from tests.sql.rows import (
    ERROR,
    SCHEMA,
    Connection,
    add,
    claim,
    claim_one,
    connect,
    enqueue,
    explain,
    finish,
    finished,
    job,
    make_due,
    notifications,
    open_transaction,
    promote,
    rescue,
    rows,
    value,
    worker,
)

FAILED = Failed("fail_job", ERROR)
SEND = TaskRow("send", "mail", None, None, None, None, on_failed="notify")
NOTIFY = TaskRow("notify", "ops", 3, 7, None, None)


def register(conn: Connection, *tasks: TaskRow, app: str | None = None, queue: str | None = None) -> None:
    fetch(conn, fleet.register_tasks(SCHEMA, tasks, AppDefaults(on_failed=app)))
    fetch(conn, fleet.register_queues(SCHEMA, [QueueRow("mail", on_failed=queue)]))


def told(conn: Connection) -> list[dict[str, Any]]:
    """The jobs of on_failed tasks that wait."""
    return rows(conn, "select * from pgqueue.jobs where headers ? 'failed_job' order by position")


def told_of(conn: Connection) -> list[int]:
    return [row["args"]["job_id"] for row in told(conn)]


def test_the_task_is_told_what_failed_and_enqueued_with_its_own_defaults(db: Connection) -> None:
    register(db, SEND, NOTIFY)
    [made] = enqueue(db, job(args='{"to": "a@b.c"}', max_attempts=2))
    finish(db, claim_one(db), FAILED)
    [row] = told(db)
    fingerprint = finishing.fingerprint("send", ERROR)
    assert row["args"] == {
        "job_id": made.id,
        "task": "send",
        "queue": "mail",
        "args": {"to": "a@b.c"},
        "reason": "fail_job",
        "error": {"type": ERROR.type, "message": ERROR.message, "traceback": ERROR.traceback},
        "fingerprint": fingerprint,
    }
    assert (row["task"], row["queue"], row["state"], row["priority"]) == ("notify", "ops", "available", 3)
    assert (row["max_attempts"], row["attempt"], row["headers"]) == (7, 0, {"failed_job": made.id})
    assert claim_one(db, queue="ops", priority=3, tasks=["notify"]).id == row["id"]


@pytest.mark.parametrize(
    ("task", "queue", "app", "called"),
    [
        ("a", "b", "c", "a"),
        (None, "b", "c", "b"),
        (None, None, "c", "c"),
        (None, None, None, None),
        ("", "b", "c", None),
        (None, "", "c", None),
        ("a", "", "", "a"),
    ],
)
def test_the_task_says_before_its_queue_and_that_before_the_app(
    db: Connection, task: str | None, queue: str | None, app: str | None, called: str | None
) -> None:
    register(db, TaskRow("send", "mail", None, None, None, None, on_failed=task), app=app, queue=queue)
    add(db)
    finish(db, claim_one(db), FAILED)
    assert [row["task"] for row in told(db)] == ([] if called is None else [called])
    assert value(db, "select count(*) from pgqueue.failed_jobs") == 1


def test_what_the_code_no_longer_declares_is_forgotten(db: Connection) -> None:
    register(db, SEND, app="other")
    register(db, TaskRow("send", "mail", None, None, None, None))
    add(db)
    finish(db, claim_one(db), FAILED)
    assert told(db) == []


def test_of_a_batch_each_job_that_failed_is_told_once_and_no_other(db: Connection) -> None:
    register(db, SEND)
    add(db, 2)
    add(db, 1, task="quiet")
    jobs = claim(db, tasks=["send", "quiet"]).jobs
    sent = [one for one in jobs if one.task == "send"]
    outcomes: list[Any] = [FAILED, None, FAILED]
    batch = [finished(one, outcome) for one, outcome in zip([*sent, jobs[-1]], outcomes, strict=True)]
    with db.transaction():
        run(db, finishing.finish(SCHEMA, uuid4(), batch))
    assert told_of(db) == [sent[0].id]
    assert value(db, "select count(*) from pgqueue.failed_jobs") == 2


def test_a_stale_fence_tells_nobody(db: Connection) -> None:
    register(db, SEND)
    add(db)
    stale = claim_one(db)
    finish(db, stale, None)
    mine = claim_one(db)
    assert finish(db, stale, FAILED) == 1
    assert told(db) == []
    assert finish(db, mine, FAILED) == 0
    assert finish(db, mine, FAILED) == 1
    assert told_of(db) == [mine.id]


def test_a_move_that_is_rolled_back_tells_nobody(db: Connection, dsn: str) -> None:
    register(db, SEND)
    add(db)
    claimed = claim_one(db)
    with open_transaction(dsn) as other:
        finish(other, claimed, FAILED)
        assert len(told(other)) == 1
    assert told(db) == []


def test_a_job_whose_row_was_locked_is_told_when_it_is_written(db: Connection, dsn: str) -> None:
    register(db, SEND)
    add(db, 2)
    jobs = claim(db).jobs
    batch = [finished(one, FAILED) for one in jobs]
    with open_transaction(dsn) as holder:
        holder.execute("select from pgqueue.jobs where id = %s for update", [jobs[0].id])
        with db.transaction():
            assert run(db, finishing.finish_unlocked(SCHEMA, uuid4(), batch)) == ({jobs[1].id}, 0)
        assert told_of(db) == [jobs[1].id]
    finish(db, jobs[0], FAILED)
    assert sorted(told_of(db)) == [one.id for one in jobs]


@pytest.mark.parametrize("company", [0, 2])
def test_a_rescued_job_that_is_given_up_is_told_by_a_worker_that_knows_neither_task(
    db: Connection, company: int
) -> None:
    register(db, SEND)
    [once] = add(db, max_attempts=1)
    if company:
        add(db, company)
    claim(db, worker(db, lease=-1.0))
    rescue(db)
    [row] = told(db)
    assert (row["args"]["job_id"], row["args"]["reason"]) == (once, "crashed")
    assert row["args"]["error"]["type"] == "pgqueue.errors.ProcessCrashed"


def test_three_crashes_are_told_once(db: Connection) -> None:
    register(db, SEND)
    [id_] = add(db)
    for _ in range(3):
        assert told(db) == []
        claim(db, worker(db, lease=-1.0))
        rescue(db)
        make_due(db, id_)
        promote(db)
    assert told_of(db) == [id_]


def test_a_task_that_is_told_and_fails_itself_tells_nobody(db: Connection) -> None:
    own = TaskRow("notify", "mail", None, None, None, None, on_failed="notify")
    register(db, SEND, own, app="notify", queue="notify")
    [id_] = add(db)
    finish(db, claim_one(db), FAILED)
    [called] = told(db)
    finish(db, claim_one(db, tasks=["notify"]), FAILED)
    assert told(db) == []
    assert rows(db, "select id from pgqueue.failed_jobs order by id") == [{"id": id_}, {"id": called["id"]}]
    db.execute("select pgqueue.redrive(array[%s]::bigint[])", [called["id"]])
    finish(db, claim_one(db, tasks=["notify"]), FAILED)
    assert told(db) == []


def test_a_job_that_is_redriven_and_fails_again_is_told_again(db: Connection) -> None:
    register(db, SEND)
    [id_] = add(db)
    for _ in range(2):
        finish(db, claim_one(db), FAILED)
        db.execute("select pgqueue.redrive(everything => true)")
    assert told_of(db) == [id_, id_]


def test_who_waits_for_the_queue_of_the_task_is_woken_once_a_lane(db: Connection, listener: Connection) -> None:
    register(db, SEND, NOTIFY)
    worker(db, idle=["ops"])
    add(db, 3)
    finish(db, claim(db).jobs, FAILED)
    first = told(db)[0]
    assert notifications(listener) == [f"available ops 3 {first['position']}"]


def test_nobody_is_woken_who_is_busy(db: Connection, listener: Connection) -> None:
    register(db, SEND, NOTIFY)
    add(db)
    finish(db, claim_one(db), FAILED)
    assert notifications(listener) == []
    assert len(told(db)) == 1


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("{queue}:{task}", "mail:send"),
        ("ops", "ops"),
        ("a}}b-{task}", "a}b-send"),
        ("{to}", None),
        ("{args}", None),
        ("{error}", None),
    ],
)
def test_the_serial_key_is_filled_where_it_can_be(db: Connection, key: str, expected: str | None) -> None:
    register(db, SEND, TaskRow("notify", "ops", None, None, None, None, serial_key=key))
    add(db, 1, args='{"to": "{a}"}')
    finish(db, claim_one(db), FAILED)
    assert told(db)[0]["serial_key"] == expected


@pytest.mark.parametrize("key", ["{", "a}b", "{task!r}", "{nobody}", "{reason.real}"])
def test_a_serial_key_that_cannot_be_filled_is_left_out_with_a_warning(db: Connection, key: str) -> None:
    register(db, SEND, NOTIFY)
    db.execute("update pgqueue.tasks set serial_key = %s where name = 'notify'", [key])
    warnings: list[str] = []
    db.add_notice_handler(lambda notice: warnings.append(f"{notice.severity} {notice.message_primary}"))
    [id_] = add(db)
    finish(db, claim_one(db), FAILED)
    assert told(db)[0]["serial_key"] is None
    [warning] = warnings
    assert warning.startswith(f"WARNING the on_failed task notify of job {id_} has no serial key: ")


def test_a_task_that_cannot_be_enqueued_keeps_no_job_from_being_moved(fresh_dsn: str) -> None:
    with connect(fresh_dsn) as own:
        register(own, SEND, TaskRow("spare", "mail", None, None, None, None, on_failed="spare_hook"))
        own.execute("alter table pgqueue.jobs add constraint odd check (task <> 'notify')")
        ids = [*add(own, 2), *add(own, task="spare")]
        finish(own, claim(own, tasks=["send", "spare"]).jobs, FAILED)
        assert value(own, "select array_agg(id order by id) from pgqueue.failed_jobs") == ids
        assert told_of(own) == ids[2:]


def test_no_unique_key_keeps_a_job_from_being_moved(db: Connection) -> None:
    register(db, SEND, TaskRow("notify", "mail", None, None, None, "{nobody}", on_conflict="error"))
    add(db, 2)
    finish(db, claim(db).jobs, FAILED)
    assert [row["unique_key"] for row in told(db)] == [None, None]


def test_arguments_that_are_as_deep_as_they_may_be_are_left_out(db: Connection) -> None:
    register(db, SEND)
    depth = arguments.ARGUMENTS_DEPTH - 1
    for nested in (depth, depth - 1):
        add(db, 1, args=f'{{"a": {"[" * nested}{"]" * nested}}}')
        finish(db, claim_one(db), FAILED)
    deepest, deep = told(db)
    assert deepest["args"]["args"] is None
    assert deep["args"]["args"]["a"] is not None
    texts = rows(db, "select args::text from pgqueue.jobs order by id")
    assert all(arguments.loads(row["args"]) for row in texts)


def test_ids_in_failed_jobs_can_be_told_by_whatever_moved_them(db: Connection) -> None:
    register(db, SEND)
    ids = add(db, 2)
    finish(db, claim(db).jobs, FAILED)
    db.execute("delete from pgqueue.jobs")
    assert value(db, "select pgqueue.enqueue_on_failed(%(ids)s)", ids=[*ids, 4711]) == 2
    assert value(db, "select pgqueue.enqueue_on_failed('{}')") == 0
    assert value(db, "select pgqueue.enqueue_on_failed(null)") is None


def test_the_move_looks_no_job_up_by_a_join(db: Connection, another: Callable[[], Connection]) -> None:
    register(db, SEND)
    add(db, 2000)
    db.execute("analyze pgqueue.jobs")
    batch = [finished(one, FAILED) for one in claim(db, count=3).jobs]
    plan = explain(another(), finishing._fail(SCHEMA, uuid4(), batch))
    nodes = [plan]
    for node in nodes:
        nodes += node.get("Plans", [])
    on_jobs = [
        node["Node Type"] for node in nodes if node.get("Relation Name") == "jobs" and "Scan" in node["Node Type"]
    ]
    assert on_jobs
    assert all("Index" in kind or "Bitmap" in kind for kind in on_jobs)


def test_the_last_error_is_told_as_it_is_kept(db: Connection) -> None:
    register(db, SEND)
    add(db)
    error = AttemptError("E", "ä 😀 \\N {a,b}", "a\n\tb")
    finish(db, claim_one(db), Failed("attempts_used", error))
    assert told(db)[0]["args"]["error"] == {"type": "E", "message": error.message, "traceback": error.traceback}
