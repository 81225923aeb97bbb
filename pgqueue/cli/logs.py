"""Logging of a worker or scheduler process, on stderr: lines for people, or JSON lines."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections.abc import Callable
from datetime import datetime
from typing import Any, Literal, TypeVar

import click

from pgqueue.logs import JobLogFilter, JsonLines

logger = logging.getLogger("pgqueue.worker")

F = TypeVar("F", bound=Callable[..., Any])
Format = Literal["pretty", "json"]
LEVELS = ("debug", "info", "warning", "error")
COLOURS = {logging.WARNING: "yellow", logging.ERROR: "red", logging.CRITICAL: "red"}


def logging_options(command: F) -> F:
    """`--log-level`, `-v`, `--log-format`."""
    form = click.option(
        "--log-format",
        type=click.Choice(["pretty", "json"]),
        default="pretty",
        show_default=True,
        help="Lines on stderr.",
    )
    level = click.option(
        "--log-level",
        type=click.Choice(LEVELS),
        default="info",
        show_default=True,
        help="`warning` leaves out what went well.",
    )
    verbose = click.option("-v", "--verbose", is_flag=True, help="The same as --log-level debug.")
    return level(verbose(form(command)))


def set_up(form: Format, level: str, *, verbose: bool = False) -> None:
    """Send pgqueue's records to stderr, and those of tasks too unless the app has set up logging itself."""
    if form == "json":
        catch_what_is_no_record()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else Lines(colours=coloured()))
    handler.addFilter(JobLogFilter())
    own = logging.getLogger("pgqueue")
    own.handlers = [handler]
    own.propagate = False
    own.setLevel("DEBUG" if verbose else level.upper())
    # It tells of each try that fails; whoever waits for a connection says so once.
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(handler)
        root.setLevel(max(logging.INFO, own.level))


def catch_what_is_no_record() -> None:
    """Warnings, and errors that nobody catches, would be lines of text. Hooks that the app has set stay."""
    logging.captureWarnings(True)
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = lambda *error: logger.critical("uncaught", exc_info=error)
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = _log_uncaught


def _log_uncaught(hook: threading.ExceptHookArgs) -> None:
    if hook.exc_type is SystemExit:
        return
    name = "" if hook.thread is None else hook.thread.name
    logger.critical("uncaught in thread %s", name, exc_info=hook.exc_value)


def set_up_processes(form: Format, level: str, *, verbose: bool = False) -> None:
    """Have the processes of tasks log as this one does."""
    from pgqueue.worker.child import SET_UP

    os.environ[SET_UP] = json.dumps([__name__, set_up.__name__, form, "debug" if verbose else level])


def coloured() -> bool:
    """Whether stderr is a terminal whose user has not refused colours."""
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


class Lines(logging.Formatter):
    """`12:03:04  worker: message`."""

    def __init__(self, *, colours: bool) -> None:
        super().__init__()
        self._colours = colours

    def format(self, record: logging.LogRecord) -> str:
        line = f"{datetime.fromtimestamp(record.created):%H:%M:%S}  {record.getMessage()}"
        if record.levelno >= logging.WARNING:
            line = f"{line[:10]}{record.levelname.lower()}: {line[10:]}"
        if not record.name.startswith("pgqueue"):
            line += f"  ({record.name})"
        if self._colours and record.levelno in COLOURS:
            line = click.style(line, fg=COLOURS[record.levelno])
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line
