"""What cannot be a job is refused before anything is written, with the argument's name and the fix."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg
import pytest
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from pgqueue import ArgumentError, ConfigurationError, Job, PgQueue, Task, Unique
from pgqueue.testing import enqueued


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)


@dataclass
class Address:
    street: str
    number: int


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.fixture
def send(app: PgQueue) -> Task[..., None]:
    @app.task(name="send")
    def send(to: Any = None, *, count: int = 0, at: datetime | None = None, home: Address | None = None) -> None: ...

    return send


UNSTORABLE: dict[str, tuple[Any, str]] = {
    "an object": (object(), "object"),
    "a function": (print, "builtin_function"),
    "a lone surrogate": ("\ud800", "surrogate"),
    "a lone surrogate in a key": ({"\udc00": 1}, "surrogate"),
    "NUL": ("a\x00b", "NUL"),
    "NUL, deep inside": ({"a": [{"b": "\x00"}]}, "NUL"),
    "NaN": (math.nan, "(?i)nan"),
    "infinity": ([math.inf], "(?i)inf"),
    "a key that is no text": ({1: 2}, "key"),
    "too large": ("x" * (1024 * 1024 + 1), "store it"),
    "too deep": (nested(2_000), "deep"),
    "an ORM object": (Order(id=7), r"order\.id|pass .*\.id"),
    "an ORM object, inside": ([{"order": Order(id=7)}], r"order\.id|pass .*\.id"),
    "a naive datetime": (datetime(2024, 1, 1), "aware|time zone|tzinfo"),
    "bytes": (b"x", "bytes"),
}


@pytest.mark.parametrize(("value", "fix"), UNSTORABLE.values(), ids=UNSTORABLE)
def test_a_value_that_cannot_be_stored_is_refused(app: PgQueue, send: Task[..., None], value: Any, fix: str) -> None:
    with pytest.raises(ArgumentError, match=r"argument 'to' of task send|args of unheard-of") as caught:
        send.enqueue(value)
    assert re.search(fix, str(caught.value))
    with pytest.raises(ArgumentError, match="args of unheard-of") as caught:
        app.enqueue("unheard-of", {"to": value})
    assert re.search(fix, str(caught.value))
    assert enqueued(app) == []


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {"count": "1"}, "argument 'count' of task send .*int"),
        ((), {"count": True}, "argument 'count' of task send .*int"),
        ((), {"count": 1.5}, "argument 'count' of task send .*int"),
        ((), {"at": "tomorrow"}, "argument 'at' of task send"),
        ((), {"at": datetime(2024, 1, 1)}, "argument 'at' of task send .*(aware|time zone|tzinfo)"),
        ((), {"home": Address("x", "1")}, "argument 'home' of task send.*number"),  # type: ignore[arg-type]
        ((), {"home": {"street": "x"}}, "argument 'home' of task send"),
        ((), {"subject": "hi"}, "there is no argument 'subject', only .*to, count"),
        ((1, 2), {}, "2 positional arguments and the task takes 1"),
        ((1,), {"to": 1}, "argument 'to' by position and by name"),
    ],
)
def test_arguments_that_do_not_fit_the_signature_are_refused(
    app: PgQueue, send: Task[..., None], args: tuple[Any, ...], kwargs: dict[str, Any], message: str
) -> None:
    with pytest.raises(ArgumentError, match=message):
        send.enqueue(*args, **kwargs)
    if not args:
        with pytest.raises(ArgumentError, match=message):
            app.enqueue("send", kwargs)
    assert enqueued(app) == []


def test_a_queue_is_declared_once_or_the_same_again(app: PgQueue) -> None:
    app.queue("email", max_attempts=5, timeout=30)
    app.queue("email", max_attempts=5, timeout=timedelta(seconds=30))
    with pytest.raises(ConfigurationError) as refused:
        app.queue("email", max_attempts=3, timeout=30, lifo=True)
    assert str(refused.value) == (
        "queue email is declared twice: with max_attempts=5, lifo=False, then with max_attempts=3, lifo=True; "
        "declare it once"
    )
    assert app.declared_queues["email"].max_attempts == 5


def test_an_option_that_a_task_does_not_have_is_named(app: PgQueue) -> None:
    for option, fix in (("max_attemps", "did you mean 'max_attempts'"), ("colour", "there are name, queue, priority")):
        declare: Any = app.task
        with pytest.raises(ConfigurationError, match=f"@app.task has no option '{option}': {fix}"):
            declare(**{option: 2})(pair)


def test_a_unique_that_is_only_text_is_refused_with_the_fix(app: PgQueue) -> None:
    declare: Any = app.task(name="thumb", unique="thumb:{name}")  # type: ignore[call-overload]
    with pytest.raises(ConfigurationError, match=r"must be a Unique, as Unique\('thumb:\{name\}'\)"):
        declare(lambda name: None)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"backoff": "slow"}, "backoff='slow' must be a Backoff"),
        ({"name": ""}, "task name ''"),
    ],
)
def test_a_declaration_that_would_only_fail_later_is_refused(app: PgQueue, options: dict[str, Any], said: str) -> None:
    declare: Any = app.task(**{"name": "thumb", **options})
    with pytest.raises(ConfigurationError, match=said):
        declare(lambda: None)


@pytest.mark.parametrize("jobs", [None, 5])
def test_a_bulk_of_nothing_that_can_be_listed_is_refused(app: PgQueue, jobs: Any) -> None:
    with pytest.raises(ArgumentError, match="enqueue_many takes a list of jobs"):
        app.enqueue_many(jobs)


def test_a_missing_argument_is_named(app: PgQueue) -> None:
    task: Task[..., None] = app.task(name="pair")(pair)
    with pytest.raises(ArgumentError, match="argument 'second' is missing"):
        task.enqueue(1)
    with pytest.raises(ArgumentError, match="argument 'first' is missing"):
        app.enqueue("pair", {"second": 2})


def pair(first: int, second: int) -> None: ...


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"run_at": datetime(2024, 1, 1)}, "run_at=.*must be an aware datetime, such as datetime.now"),
        ({"run_at": "2024-01-01"}, "run_at=.*must be an aware datetime"),
        (
            {"run_at": datetime(9999, 12, 31, 23, tzinfo=timezone(timedelta(hours=-2)))},
            "not between the years 1 and 9999",
        ),
        ({"run_at": datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=2)))}, "the years 1 and 9999"),
        ({"run_at": datetime(2024, 1, 1, tzinfo=UTC), "delay": 1}, "both delay=1 and run_at=.*: give one of the two"),
        ({"delay": -1}, "delay must be between 0 and 100 years.* not -1"),
        ({"delay": math.nan}, "delay must be between 0"),
        ({"delay": math.inf}, "delay must be between 0"),
        ({"delay": timedelta(days=-1)}, "delay must be between 0"),
        ({"delay": "soon"}, "delay.*'soon'"),
        ({"timeout": "long"}, "'long'"),
        ({"priority": 1.5}, "priority=1.5 must be a whole number"),
        ({"priority": True}, "priority=True must be a whole number"),
        ({"priority": 40_000}, "priority=40000 must be a whole number from -32768 to 32767; lower runs first"),
        ({"max_attempts": 0}, "max_attempts=0 must be a whole number from 1 to 2,147,483,647"),
        ({"max_attempts": 2**31}, "max_attempts=2147483648"),
        ({"timeout": 0}, "timeout=0 must be above 0 seconds"),
        ({"key": ""}, "key '' is not valid: use text of 1 to 500 printable"),
        ({"key": "x" * 501}, "key 'xxx.* is not valid"),
        ({"key": "a\x00"}, "key .* is not valid"),
        ({"key": "\ud800"}, "key .* is not valid"),
        ({"key": 7}, "key 7 is not valid: use text"),
        ({"tags": "urgent"}, "tags='urgent' must be a list of strings"),
        ({"tags": [1]}, r"tags=\[1\] must be a list of strings"),
        ({"tags": ["\x00"]}, "tags of send.*NUL"),
        ({"tags": [""]}, "tag '' is not valid: use text of 1 to 500"),
        ({"tags": ["a", "x" * 501]}, "tag 'xxx.* is not valid"),
        ({"tags": 5}, "tags=5 must be a list of strings"),
        ({"headers": ["x"]}, r"headers=\['x'\] must be a mapping"),
        ({"headers": {"x": math.nan}}, "headers of send"),
        ({"queue": "no spaces"}, "queue name 'no spaces' is not valid: use 1 to 100 of the letters"),
        ({"queue": "-x"}, "queue name '-x' is not valid.*hyphen"),
        ({"queue": "x" * 101}, "queue name"),
        ({"queue": "é"}, "queue name"),
        ({"queue": 7}, "queue name 7"),
        ({"queue": ""}, "queue name ''"),
    ],
    ids=str,
)
def test_an_option_that_cannot_be_is_refused(
    app: PgQueue, send: Task[..., None], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ArgumentError, match=message):
        send.using(**options).enqueue()
    with pytest.raises(ArgumentError, match=message.replace("of send", "of unheard-of")):
        app.enqueue("unheard-of", **options)
    assert enqueued(app) == []


@pytest.mark.parametrize("name", ["", "no spaces", "-x", "x" * 101, "a\x00", "é", "a/b"])
def test_a_task_name_that_cannot_be_is_refused(app: PgQueue, name: str) -> None:
    with pytest.raises((ArgumentError, ConfigurationError), match=r"task name .* is not valid"):
        app.enqueue(name)


@pytest.mark.parametrize("args", [["x"], "x", 7])
def test_arguments_by_name_must_be_a_mapping(app: PgQueue, send: Task[..., None], args: Any) -> None:
    for task in ("send", "unheard-of"):
        with pytest.raises(ArgumentError, match=f"{task}: args must be a mapping"):
            app.enqueue(task, args)


def test_a_refusal_in_the_middle_of_a_bulk_leaves_nothing(app: PgQueue, send: Task[..., None], dsn: str) -> None:
    with pytest.raises(ArgumentError, match="argument 'to'"):
        app.enqueue_many([send.job("x"), send.job(math.nan), send.job("y")])
    with pytest.raises(ArgumentError, match=r"enqueue_many takes jobs made by task.job\(…\), not dict"):
        app.enqueue_many([send.job("x"), {"to": "y"}])  # type: ignore[list-item]
    with pytest.raises(ArgumentError, match=r"not one of send: write enqueue_many\(\[job\]\)"):
        app.enqueue_many(send.job("x"))  # type: ignore[arg-type]
    with psycopg.connect(dsn) as connection, pytest.raises(ArgumentError, match="not Task"):
        app.enqueue_many([send.job("x"), send], using=connection)  # type: ignore[list-item]
    assert enqueued(app) == []


def test_a_refusal_leaves_the_callers_transaction_usable(app: PgQueue, send: Task[..., None], dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        send.using(connection).enqueue("before")
        with pytest.raises(ArgumentError):
            send.using(connection).enqueue(Decimal("NaN"))
        with pytest.raises(ArgumentError):
            send.using(connection).enqueue(object())
        send.using(connection).enqueue("after")
    assert [job.args["to"] for job in enqueued(app)] == ["before", "after"]


def test_a_key_template_that_fills_with_too_much_is_refused(app: PgQueue) -> None:
    task = app.task(name="thumb", unique=Unique("thumb:{name}"))(by_name)
    with pytest.raises(ArgumentError, match=r"key 'thumb:xxx.* is not valid"):
        task.enqueue("x" * 500)


def by_name(name: str) -> None: ...


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda app, job: job.result(timeout="soon"), "timeout must be a number of seconds or a timedelta, not 'soon'"),
        (lambda app, job: app.watch(timeout="soon"), "timeout must be a number of seconds or a timedelta, not 'soon'"),
        (lambda app, job: app.jobs.list(limit=-1), "limit=-1 must be a whole number, at least 0"),
        (lambda app, job: app.jobs.list(limit="all"), "limit='all' must be a whole number"),
        (lambda app, job: app.jobs.list(state="fooo"), "there is no state 'fooo': use one of scheduled, available"),
        (lambda app, job: app.jobs.count(nope=1), "jobs have no filter 'nope': use queue, task, state"),
        (lambda app, job: app.jobs.list(before="x"), "'x' is no job id"),
        (lambda app, job: app.jobs.list(ids=["x"]), "'x' is no job id"),
        (lambda app, job: app.jobs.logs(job.id, limit=-1), "limit=-1"),
        (lambda app, job: app.failed.list(limit=-1), "limit=-1"),
        (lambda app, job: app.failed.groups(limit=-1), "limit=-1"),
        (lambda app, job: app.failed.redrive(all=True, limit=-1), "limit=-1"),
        (lambda app, job: app.failed.purge(all=True, limit=-1), "limit=-1"),
        (
            lambda app, job: app.limits.set(5, queue="mail"),
            r"was given 5: give a Limit, such as Limit\(concurrency=2\)",
        ),
    ],
)
def test_what_cannot_be_asked_for_is_refused(
    app: PgQueue, send: Task[..., None], call: Callable[[PgQueue, Job], Any], message: str
) -> None:
    job = send.enqueue()
    with pytest.raises(ArgumentError, match=message):
        call(app, job)


def test_large_numbers_and_long_texts_at_the_limit_are_accepted(app: PgQueue, send: Task[..., None]) -> None:
    for value in ("x" * 1_000_000, 2**63, -(2**70), 1e308, UUID(int=1), Decimal("1.10")):
        send.enqueue(value)
    assert len(enqueued(app)) == 6
