"""The app as those who use it see it."""

from __future__ import annotations

import pydoc
from typing import Any

import pytest

from pgqueue import ArgumentError, ConfigurationError, PgQueue


def test_help_shows_what_users_call_and_nothing_else() -> None:
    assert {name for name in vars(PgQueue) if not name.startswith("_")} == {
        "task",
        "cron",
        "every",
        "queue",
        "alert",
        "enqueue",
        "aenqueue",
        "new_job",
        "enqueue_many",
        "aenqueue_many",
        "on",
        "watch",
        "add_middleware",
        "worker",
        "close",
        "aclose",
    }
    text = pydoc.plain(pydoc.render_doc(PgQueue))
    assert "send_email" in text
    assert "insert" not in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"overlapp": "skip"}, r"schedule report: .*'overlapp'.*Did you mean the option overlap\?"),
        ({"order_id": "x"}, r"schedule report: argument 'order_id' of task report must be int"),
        ({}, r"schedule report: .*'order_id' is missing.*@app.cron\('@daily', tenant='acme'\)"),
    ],
)
def test_a_schedule_whose_job_cannot_be_made_is_named_with_the_way_to_give_arguments(
    options: dict[str, Any], message: str
) -> None:
    app = PgQueue("postgresql:///shop")

    @app.task(name="report")
    def report(order_id: int) -> None: ...

    for declare in (app.cron("@daily", **options), app.every(60, **options)):
        with pytest.raises(ArgumentError, match=message):
            declare(report)


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda app: app.task(5), "@app.task was given 5: it stands above a function"),
        (lambda app: app.task("send"), "@app.task was given 'send'"),
        (lambda app: app.on("failed", 5), r"on\('failed'\) was given 5: give a function that takes the event"),
        (lambda app: PgQueue(engine="postgresql:///shop"), "as its engine: give one that create_engine"),  # type: ignore[arg-type]
        (lambda app: PgQueue("postgresql:///shop", pool_size=0), "pool_size=0 must be a whole number of connections"),
        (lambda app: PgQueue("postgresql:///shop", pool_size="4"), "pool_size='4' must be a whole number"),  # type: ignore[arg-type]
    ],
)
def test_a_declaration_that_cannot_be_meant_is_refused_at_once(declare: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        declare(PgQueue("postgresql:///shop"))


def test_a_dsn_that_is_no_text_is_refused_at_once() -> None:
    number: Any = 5
    with pytest.raises(ConfigurationError, match=r"was given 5 as its DSN: give text such as 'postgresql:///shop'"):
        PgQueue(number)


def test_a_job_for_later_takes_no_connection_that_it_would_not_join() -> None:
    app = PgQueue("postgresql:///nowhere")

    @app.task
    def send() -> None: ...

    with pytest.raises(ArgumentError, match=r"enqueue_many\(jobs, using=…\)"):
        send.using(object()).job()
