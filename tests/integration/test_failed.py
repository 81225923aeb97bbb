"""The dead letter queue: what failed is kept whole, sent back, or purged."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from pgqueue import ArgumentError, ConfigurationError, Context, JobFailed, JobNotFound, PgQueue, RetryJob, Task
from pgqueue.testing import drain


class CardDeclined(Exception):
    """An error of the app's own."""


@pytest.fixture
def fails(app: PgQueue) -> Task[[str], None]:
    """A task that fails with the error that it is told, until `app.mended` is set."""
    errors: dict[str, Exception] = {
        "declined": CardDeclined("no funds"),
        "timeout": TimeoutError("slow"),
        "key": KeyError("k"),
    }

    @app.task(name="charge", max_attempts=1)
    def charge(how: str) -> None:
        if how in errors:
            raise errors[how]

    return charge


def all_fail(app: PgQueue, task: Task[[str], None], *hows: str, **options: Any) -> list[int]:
    made = app.enqueue_many([task.using(**options).job(how) for how in hows])
    drain(app, slots=1)
    return [job.id for job in made]


def test_a_failed_job_is_kept_whole(app: PgQueue, fails: Task[[str], None]) -> None:
    job = fails.using(priority=3, key="k", tags=["x"], headers={"trace": 1}, queue="money").enqueue("declined")
    drain(app)
    failed = app.failed.get(job.id)
    assert (failed.id, failed.queue, failed.task, failed.args) == (job.id, "money", "charge", {"how": "declined"})
    assert (failed.priority, failed.key, failed.tags, failed.headers) == (3, "k", ("x",), {"trace": 1})
    assert (failed.state, failed.reason, failed.attempt, failed.max_attempts) == ("failed", "attempts_used", 1, 1)
    assert failed.errors[0]["type"].endswith("test_failed.CardDeclined")
    assert failed.created_at == job.created_at
    assert fails.using(key="k", queue="money").enqueue("x").created


def test_failed_jobs_are_listed_by_queue_task_and_error(app: PgQueue, fails: Task[[str], None]) -> None:
    declined, timeout, key = all_fail(app, fails, "declined", "timeout", "key")
    [elsewhere] = all_fail(app, fails, "timeout", queue="other")
    assert [job.id for job in app.failed.list()] == [elsewhere, key, timeout, declined]
    assert [job.id for job in app.failed.list(queue="other")] == [elsewhere]
    assert [job.id for job in app.failed.list(error="TimeoutError")] == [elsewhere, timeout]
    assert [job.id for job in app.failed.list(error="CardDeclined")] == [declined]
    assert [job.id for job in app.failed.list(task="unknown")] == []
    assert [job.id for job in app.failed.list(limit=1, before=elsewhere)] == [key]
    assert (app.failed.count(), app.failed.count(error="KeyError"), app.failed.count(queue="other")) == (4, 1, 1)


@pytest.mark.parametrize(
    ("error", "matching"),
    [
        ("CardDeclined", ["declined"]),
        ("Declined", []),
        ("TimeoutError", ["timeout"]),
        (".*Error", []),
        ("Foo(", []),
        ("", []),
        ("fingerprint of key", ["key"]),
        ("type of declined", ["declined"]),
    ],
)
def test_list_count_redrive_and_purge_mean_the_same_by_an_error(
    app: PgQueue, fails: Task[[str], None], dsn: str, error: str, matching: list[str]
) -> None:
    hows = ["declined", "timeout", "key"]
    ids = dict(zip(hows, all_fail(app, fails, *hows), strict=True))
    column, _, how = error.partition(" of ")
    if how:
        with psycopg.connect(dsn) as connection:
            query = f"select {'error_type' if column == 'type' else column} from pgqueue.failed_jobs where id = %s"
            [[error]] = connection.execute(query, [ids[how]]).fetchall()
    expected = [ids[how] for how in matching]
    assert [job.id for job in app.failed.list(error=error)] == expected
    assert app.failed.count(error=error) == len(expected)
    assert app.failed.redrive(error=error) == expected
    drain(app)
    assert app.failed.purge(error=error) == len(expected)
    assert app.failed.count() == 3 - len(expected)


def test_a_failed_job_that_was_listed_can_be_acted_on(app: PgQueue, fails: Task[[str], None]) -> None:
    [id_] = all_fail(app, fails, "key")
    [listed] = app.failed.list()
    assert listed.refresh() == app.failed.get(id_) == listed


def test_a_job_that_did_not_fail_is_not_there(app: PgQueue, fails: Task[[str], None]) -> None:
    job = fails.enqueue("fine")
    drain(app)
    with pytest.raises(JobNotFound, match=f"job {job.id} is completed, not failed"):
        app.failed.get(job.id)


def test_redriving_keeps_the_id_and_the_errors_and_starts_the_attempts_anew(app: PgQueue) -> None:
    mended = False

    @app.task(name="flaky", bind=True, max_attempts=2)
    def flaky(ctx: Context) -> int:
        if not mended:
            raise RetryJob(f"attempt {ctx.attempt}", delay=0)
        return ctx.attempt

    job = flaky.enqueue()
    drain(app)
    assert job.refresh().state == "failed"
    assert app.failed.redrive([job.id]) == [job.id]
    redriven = job.refresh()
    assert (redriven.state, redriven.attempt, redriven.max_attempts) == ("available", 0, 2)
    assert len(redriven.errors) == 2
    mended = True
    drain(app)
    after = job.refresh()
    assert (after.state, after.value, len(after.errors)) == ("completed", 1, 2)
    assert app.failed.list() == []


def test_redriving_chooses_by_queue_task_error_and_limit(app: PgQueue, fails: Task[[str], None]) -> None:
    declined, timeout, key = all_fail(app, fails, "declined", "timeout", "key")
    [other] = all_fail(app, fails, "timeout", queue="other")
    assert app.failed.redrive(queue="other") == [other]
    assert app.failed.redrive(error="TimeoutError", task="charge") == [timeout]
    assert app.failed.redrive(error="CardDeclined", queue="other") == []
    assert app.failed.redrive(all=True, limit=1) == [declined]
    assert app.failed.redrive([4711]) == []
    assert app.failed.redrive([]) == []
    assert app.failed.redrive(all=True) == [key]


def test_a_fingerprint_chooses_what_failed_in_the_same_place(app: PgQueue, fails: Task[[str], None], dsn: str) -> None:
    first, second, other = all_fail(app, fails, "declined", "declined", "key")
    with psycopg.connect(dsn) as connection:
        found = connection.execute("select id, fingerprint from pgqueue.failed_jobs order by id").fetchall()
    prints: dict[int, str] = dict(found)
    assert prints[first] == prints[second] != prints[other]
    assert sorted(app.failed.redrive(error=prints[first])) == [first, second]


async def test_redriving_joins_the_callers_transaction(app: PgQueue, fails: Task[[str], None], dsn: str) -> None:
    from pgqueue.testing import adrain

    job = await fails.aenqueue("key")
    await adrain(app)
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        assert await app.failed.aredrive([job.id], using=connection) == [job.id]
        assert (await job.arefresh()).state == "failed"
        await connection.rollback()
    assert (await job.arefresh()).state == "failed"
    assert await app.failed.aredrive(queue="default") == [job.id]


def test_a_job_whose_key_is_held_again_stays_where_it_is(app: PgQueue, fails: Task[[str], None]) -> None:
    [failed] = all_fail(app, fails, "key", key="k")
    live = fails.using(key="k").enqueue("fine")
    assert app.failed.redrive(all=True) == []
    assert app.failed.get(failed).key == "k"
    live.cancel()
    assert app.failed.redrive(all=True) == [failed]


def test_purging_deletes_for_good(app: PgQueue, fails: Task[[str], None]) -> None:
    declined, timeout, key = all_fail(app, fails, "declined", "timeout", "key")
    assert app.failed.purge([declined]) == 1
    assert app.failed.purge(error="TimeoutError") == 1
    assert app.failed.purge(queue="other") == 0
    assert [job.id for job in app.failed.list()] == [key]
    assert app.failed.purge(all=True) == 1
    for job in (declined, timeout, key):
        with pytest.raises(JobNotFound):
            app.jobs.get(job)


async def test_without_a_filter_nothing_is_redriven_or_purged(app: PgQueue, fails: Task[[str], None]) -> None:
    for verb in (app.failed.redrive, app.failed.purge):
        for options in ({}, {"limit": 1}, {"all": True, "queue": "default"}):
            with pytest.raises(ArgumentError, match="takes ids, queue=, task=, error= and fingerprint=, or all=True"):
                verb(**options)
    with pytest.raises(ArgumentError, match="all=True"):
        await app.failed.aredrive()


def test_one_attempt_is_no_attempts(app: PgQueue, fails: Task[[str], None]) -> None:
    [failed] = all_fail(app, fails, "key")
    with pytest.raises(JobFailed, match="failed after 1 attempt: KeyError"):
        app.jobs.get(failed).result()


def test_redriving_at_a_rate_makes_them_due_one_after_the_other(app: PgQueue, fails: Task[[str], None]) -> None:
    ids = all_fail(app, fails, *["declined"] * 4)
    assert app.failed.count(error="CardDeclined") == 4
    assert app.failed.redrive(error="CardDeclined", rate="30/min") == ids
    jobs = [app.jobs.get(id_) for id_ in ids]
    assert [job.state for job in jobs] == ["available", "scheduled", "scheduled", "scheduled"]
    assert [round((job.run_at - jobs[0].run_at).total_seconds(), 3) for job in jobs] == [0, 2, 4, 6]


def test_redriving_can_send_to_another_queue(app: PgQueue, fails: Task[[str], None]) -> None:
    [id_] = all_fail(app, fails, "declined")
    app.failed.redrive([id_], to_queue="slow")
    assert app.jobs.get(id_).queue == "slow"


@pytest.mark.parametrize("wrong", [{"rate": "often"}, {"rate": 0}, {"to_queue": "a b"}])
def test_a_redrive_that_cannot_be_is_refused(app: PgQueue, fails: Task[[str], None], wrong: Any) -> None:
    [id_] = all_fail(app, fails, "declined")
    with pytest.raises(ConfigurationError):
        app.failed.redrive([id_], **wrong)
    assert app.failed.get(id_).state == "failed"


@pytest.mark.parametrize("wrong", ["rate => 0", "rate => 'NaN'", "to_queue => 'a b'"])
def test_sql_refuses_a_redrive_that_cannot_be(app: PgQueue, dsn: str, wrong: str) -> None:
    with psycopg.connect(dsn) as conn, pytest.raises(psycopg.errors.InvalidParameterValue):
        conn.execute(f"select pgqueue.redrive(everything => true, {wrong})".encode())


def test_failed_jobs_are_grouped_by_fingerprint_the_commonest_first(app: PgQueue, fails: Task[[str], None]) -> None:
    declined = all_fail(app, fails, "declined", "declined")
    all_fail(app, fails, "declined", queue="other")
    [key] = all_fail(app, fails, "key")
    most, least = app.failed.groups()
    assert (most.jobs, most.queues, most.task, most.error_message) == (3, ("default", "other"), "charge", "no funds")
    assert most.error_type.endswith("test_failed.CardDeclined")
    assert least.first_failed_at == least.last_failed_at == app.failed.get(key).ended_at
    assert [(group.jobs, group.fingerprint) for group in app.failed.groups(queue="default", limit=1)] == [
        (2, most.fingerprint)
    ]
    assert [group.jobs for group in app.failed.groups(error="KeyError")] == [1]
    assert app.failed.groups(fingerprint="none") == []
    assert [job.id for job in app.failed.list(fingerprint=most.fingerprint, queue="default")] == declined[::-1]
    assert app.failed.count(fingerprint=most.fingerprint) == 3


def test_a_group_is_redriven_and_purged_by_its_fingerprint(app: PgQueue, fails: Task[[str], None], dsn: str) -> None:
    first, second, third, _ = all_fail(app, fails, *["declined"] * 3, "key")
    same, different = (group.fingerprint for group in app.failed.groups())
    assert app.failed.redrive(fingerprint=same, limit=1) == [first]
    with psycopg.connect(dsn) as connection:
        redriven = connection.execute("select pgqueue.redrive(fingerprint => %s, max_jobs => 1)", [same]).fetchall()
        assert redriven == [(second,)]
    assert app.failed.purge(fingerprint=different) == 1
    assert [job.id for job in app.failed.list()] == [third]
    with psycopg.connect(dsn) as connection:
        assert connection.execute("select pgqueue.purge_failed(fingerprint => %s)", [same]).fetchone() == (1,)
    assert app.failed.count() == 0


def test_what_is_purged_takes_its_log_lines_and_progress_along(app: PgQueue, dsn: str) -> None:
    @app.task(name="tells", bind=True, max_attempts=1)
    def tells(ctx: Context) -> None:
        ctx.log("a line")
        ctx.progress(50)
        raise KeyError("k")

    jobs = [tells.enqueue() for _ in range(2)]
    drain(app)
    assert app.failed.purge([jobs[0].id]) == 1
    assert [(len(app.jobs.logs(job.id)), app.jobs.progress(job.id) is None) for job in jobs] == [(0, True), (1, False)]
