"""From an error to one line on stderr and an exit code.

0 done · 1 an operation failed · 2 usage · 3 not found · 4 cannot connect · 5 schema out of date ·
130 and 143 ended by SIGINT and SIGTERM.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from pgqueue.errors import (
    ArgumentError,
    ConfigurationError,
    ConnectionFailed,
    JobNotFound,
    PgQueueError,
    SchemaOutOfDate,
    UnknownTask,
    WorkerNotFound,
)

if TYPE_CHECKING:
    from pgqueue.cli.target import Target

DONE, FAILED, USAGE, NOT_FOUND, NOT_CONNECTED, OUT_OF_DATE, UNHEALTHY = range(7)
INTERRUPTED = 130
NAMED = 10

_CODES: dict[type[PgQueueError], int] = {
    ArgumentError: USAGE,
    ConfigurationError: USAGE,
    ConnectionFailed: NOT_CONNECTED,
    JobNotFound: NOT_FOUND,
    SchemaOutOfDate: OUT_OF_DATE,
    UnknownTask: NOT_FOUND,
    WorkerNotFound: NOT_FOUND,
}


class NotFound(click.ClickException):
    """What was named does not exist."""

    exit_code = NOT_FOUND


class Unhealthy(click.ClickException):
    """Somebody should look."""

    exit_code = UNHEALTHY


class OperationFailed(click.ClickException):
    """It was tried and did not work."""

    exit_code = FAILED


def exit_code_of(error: BaseException, target: Target) -> int:
    """Say what happened, and return the exit code. Raises what is a bug: it keeps its traceback.

    PGQUEUE_DEBUG=1 raises everything.
    """
    if os.environ.get("PGQUEUE_DEBUG") == "1":
        raise error
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, PgQueueError):
        complain(str(error) + (target.advice() if isinstance(error, SchemaOutOfDate) else ""))
        return next((code for kind, code in _CODES.items() if isinstance(error, kind)), FAILED)
    psycopg = sys.modules.get("psycopg")
    if psycopg is not None:
        cause = getattr(error, "orig", None) or error
        if isinstance(cause, psycopg.OperationalError):
            complain(f"the connection to PostgreSQL failed: {one_line(cause)}")
            return NOT_CONNECTED
        if isinstance(cause, psycopg.Error):
            complain(f"PostgreSQL refused: {one_line(cause)}")
            return FAILED
    raise error


def complain(message: str) -> None:
    """One error on stderr, as click writes its own."""
    click.echo(f"{click.style('Error:', fg='red', bold=True)} {message}", err=True)


def one_line(error: BaseException) -> str:
    """The first line of an error's text, its class where it has none."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def some_of(names: Iterable[str]) -> str:
    """The first ten by name, and how many more there are."""
    ordered = sorted(names)
    more = f", and {len(ordered) - NAMED:,} more" if len(ordered) > NAMED else ""
    return ", ".join(ordered[:NAMED]) + more


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean "email"?`, or nothing."""
    from difflib import get_close_matches

    near = get_close_matches(name, list(known), n=1)
    return f"; did you mean `{near[0]}`?" if near else ""
