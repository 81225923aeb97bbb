"""Log records that say of which job they are, as standard logging is set up."""

from __future__ import annotations

import contextvars
import json
import logging
import logging.config
from collections.abc import Iterator
from io import StringIO
from typing import Any

import pytest

from pgqueue import Context
from pgqueue.context import enter
from pgqueue.logs import JsonLines

JOB = Context(7, "send", "email", 2, 25, {"request_id": "r-1"})


@pytest.fixture
def output() -> Iterator[StringIO]:
    stream = StringIO()
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "filters": {"job": {"()": "pgqueue.JobLogFilter", "headers": ["request_id", "tenant"]}},
            "formatters": {
                "json": {"()": "pgqueue.JsonLines"},
                "text": {"format": "%(job_id)s %(task)s %(queue)s %(attempt)s %(request_id)s %(message)s"},
            },
            "handlers": {
                form: {"class": "logging.StreamHandler", "stream": stream, "filters": ["job"], "formatter": form}
                for form in ("json", "text")
            },
            "loggers": {"tests.json": {"handlers": ["json"]}, "tests.text": {"handlers": ["text"]}},
        }
    )
    yield stream
    for name in ("tests.json", "tests.text"):
        logging.getLogger(name).handlers.clear()


def inside(function: Any, *args: Any, **kwargs: Any) -> None:
    def call() -> None:
        enter(JOB)
        function(*args, **kwargs)

    contextvars.Context().run(call)


def outside(function: Any, *args: Any) -> None:
    contextvars.Context().run(function, *args)


def test_a_record_has_the_job_and_its_headers_also_below_the_logger_with_the_handler(output: StringIO) -> None:
    inside(logging.getLogger("tests.json.below").warning, "card %s", 7, extra={"order": 3})
    line = json.loads(output.getvalue())
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "warning",
        "logger": "tests.json.below",
        "message": "card 7",
        "order": 3,
        "job_id": 7,
        "task": "send",
        "queue": "email",
        "attempt": 2,
        "request_id": "r-1",
    }


def test_outside_of_a_job_the_attributes_are_there_for_formats_and_left_out_of_json(output: StringIO) -> None:
    outside(logging.getLogger("tests.text").warning, "outside")
    inside(logging.getLogger("tests.text").warning, "inside")
    outside(logging.getLogger("tests.json").warning, "outside")
    text, job, line = output.getvalue().splitlines()
    assert text == "None None None None None outside"
    assert job == "7 send email 2 r-1 inside"
    assert json.loads(line).keys() == {"time", "level", "logger", "message"}


def test_what_a_record_has_already_stays(output: StringIO) -> None:
    inside(logging.getLogger("tests.json").warning, "x", extra={"job_id": 1, "fields": {"attempt": 9}})
    line = json.loads(output.getvalue())
    assert (line["job_id"], line["attempt"], line["task"]) == (1, 9, "send")


def test_an_error_brings_its_traceback(output: StringIO) -> None:
    try:
        raise ValueError("no")
    except ValueError:
        inside(logging.getLogger("tests.json").exception, "failed")
    assert json.loads(output.getvalue())["traceback"].endswith("ValueError: no")


def test_nothing_that_a_record_brings_takes_the_place_of_its_own_or_loses_the_line() -> None:
    record = logging.makeLogRecord(
        {"msg": "lone \udc80", "levelname": "WARNING", "level": "mine", "time": 0, "stack_info": "Stack of the caller"}
    )
    line = json.loads(JsonLines().format(record).encode())
    assert (line["level"], line["message"]) == ("warning", "lone \udc80")
    assert line["time"] != 0
    assert line["stack"] == "Stack of the caller"
