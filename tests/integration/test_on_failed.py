"""`on_failed`: a task that is told of each job that goes to `failed_jobs`."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from pgqueue import ConfigurationError, Context, FailJob, Limit, PgQueue, Task, Unique, current_job
from pgqueue.testing import adrain, aenqueued, drain


@pytest.fixture
def told() -> list[dict[str, Any]]:
    """What the notify tasks were called with, in order."""
    return []


@pytest.fixture
def notify(app: PgQueue, told: list[dict[str, Any]]) -> Task[..., None]:
    @app.task(name="notify", max_attempts=1)
    def notify(job_id: int, task: str, error: dict[str, str], **rest: Any) -> None:
        told.append({"job_id": job_id, "task": task, "error": error, **rest})

    return notify


def failing(app: PgQueue, name: str = "charge", **options: Any) -> Task[[str], None]:
    def charge(how: str) -> None:
        if how == "fail":
            raise FailJob("no funds")
        raise KeyError(how)

    declare: Any = app.task(name=name, **{"max_attempts": 1} | options)
    task: Task[[str], None] = declare(charge)
    return task


def test_a_task_is_called_with_what_failed(app: PgQueue, notify: Task[..., None], told: list[dict[str, Any]]) -> None:
    job = failing(app, on_failed=notify).using(queue="money").enqueue("k")
    report = drain(app)
    assert (report.failed, report.completed) == (1, 1)
    [call] = told
    error = call.pop("error")
    assert (error["type"], error["message"]) == ("KeyError", "'k'")
    assert "raise KeyError(how)" in error["traceback"]
    assert call.pop("fingerprint") == app.failed.groups()[0].fingerprint
    assert call == {
        "job_id": job.id,
        "task": "charge",
        "queue": "money",
        "args": {"how": "k"},
        "reason": "attempts_used",
    }


def test_retries_are_not_told(app: PgQueue, notify: Task[..., None], told: list[dict[str, Any]]) -> None:
    failing(app, on_failed=notify, max_attempts=3).enqueue("k")
    drain(app)
    assert told == []
    drain(app, with_scheduled=True)
    assert [call["reason"] for call in told] == ["attempts_used"]


@pytest.mark.parametrize(("args", "reason"), [({"how": "fail"}, "fail_job"), ({"what": 1}, "bad_arguments")])
def test_what_fails_at_once_is_told(
    app: PgQueue, dsn: str, notify: Task[..., None], told: list[dict[str, Any]], args: dict[str, Any], reason: str
) -> None:
    failing(app, on_failed=notify)
    PgQueue(dsn).enqueue("charge", args)
    drain(app)
    assert [(call["reason"], call["args"]) for call in told] == [(reason, args)]


def test_a_queue_and_the_app_name_one_for_all_and_a_task_says_otherwise(dsn: str) -> None:
    app = PgQueue(dsn, on_failed="app")
    calls: list[tuple[str, str]] = []
    for name in ("task", "queue", "app"):

        @app.task(name=name, queue="ops")
        def hook(task: str, *, name: str = name, **rest: Any) -> None:
            calls.append((name, task))

    app.queue("money", on_failed=app.tasks["queue"])
    own = failing(app, "own", on_failed="task")
    quiet = failing(app, "quiet", on_failed=False)
    plain = failing(app, "plain")
    for task in (own, quiet, plain):
        task.enqueue("k")
        task.using(queue="money").enqueue("k")
    drain(app)
    app.close()
    assert sorted(calls) == [("app", "plain"), ("queue", "plain"), ("task", "own"), ("task", "own")]


def test_one_that_fails_itself_is_kept_and_tells_nobody(dsn: str) -> None:
    app = PgQueue(dsn, on_failed="notify")
    contexts: list[Context] = []

    @app.task(name="notify", max_attempts=1)
    def notify(**rest: Any) -> None:
        contexts.append(current_job())
        raise OSError("the pager is down")

    job = failing(app).enqueue("k")
    assert drain(app).failed == 2
    app.close()
    assert [ctx.headers for ctx in contexts] == [{"failed_job": job.id}]
    assert [(one.task, one.reason) for one in app.failed.list()] == [
        ("notify", "attempts_used"),
        ("charge", "attempts_used"),
    ]


def test_after_a_redrive_it_is_told_again(app: PgQueue, notify: Task[..., None], told: list[dict[str, Any]]) -> None:
    job = failing(app, on_failed=notify).enqueue("k")
    drain(app)
    app.failed.redrive([job.id])
    drain(app)
    assert [call["job_id"] for call in told] == [job.id, job.id]


@pytest.mark.parametrize("given", ["a b", 3, "", True, print])
def test_what_is_no_task_is_refused(app: PgQueue, given: Any) -> None:
    with pytest.raises(ConfigurationError):
        failing(app, on_failed=given)
    with pytest.raises(ConfigurationError):
        app.queue("money", on_failed=given)
    with pytest.raises(ConfigurationError):
        PgQueue(on_failed=given)


def takes_too_little(job_id: int) -> None: ...
def wants_more(to: str, **rest: Any) -> None: ...
def takes_all(**rest: Any) -> None: ...
def takes_an_id(job_id: int, **rest: Any) -> None: ...


@pytest.mark.parametrize(
    ("function", "options", "said"),
    [
        (takes_too_little, {}, "on_failed of task charge: task hook: there is no argument 'task'"),
        (wants_more, {}, "argument 'to' is missing"),
        (takes_all, {"unique": Unique("x")}, "has unique=…"),
        (takes_an_id, {"serial_key": "{rest}"}, "names rest: it can name fingerprint, job_id, queue"),
    ],
)
async def test_a_task_that_cannot_be_called_so_is_refused(
    app: PgQueue, function: Any, options: dict[str, Any], said: str
) -> None:
    declare: Any = app.task(name="hook", **options)
    hook = declare(function)
    with pytest.raises(ConfigurationError, match=said):
        failing(app, on_failed=hook)
    failing(app, on_failed="hook")
    with pytest.raises(ConfigurationError, match=said):
        await adrain(app)


async def test_one_that_can_be_called_may_have_limits_and_a_serial_key(
    app: PgQueue, told: list[dict[str, Any]]
) -> None:
    @app.task(name="hook", serial_key="{queue}", limit=Limit(concurrency=1, key="{task}"))
    async def hook(queue: str, task: str, **rest: Any) -> None:
        told.append(rest)

    failing(app, on_failed=hook)
    await app.aenqueue_many([app.tasks["charge"].job(f"{n}") for n in range(5)])
    await adrain(app)
    assert len(told) == 5


async def test_a_name_that_the_app_does_not_have_is_warned_of(app: PgQueue, caplog: pytest.LogCaptureFixture) -> None:
    failing(app, on_failed="nobodys")
    caplog.set_level(logging.WARNING, "pgqueue.worker")
    await app.aenqueue("charge", {"how": "k"})
    await adrain(app)
    assert "on_failed of task charge is nobodys, which is no task of this app" in caplog.text
    [waiting] = [job for job in await aenqueued(app) if job.state == "available"]
    assert (waiting.task, waiting.queue) == ("nobodys", "default")
