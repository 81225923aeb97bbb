"""A line a job, from the events of a worker."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from pgqueue.cli.logs import Format, coloured
from pgqueue.cli.output import duration, printable

if TYPE_CHECKING:
    from pgqueue.app import PgQueue
    from pgqueue.events import Event, EventName

logger = logging.getLogger("pgqueue.jobs")

MARKS: dict[EventName, tuple[str, str, int]] = {
    "started": ("▸", "bright_black", logging.DEBUG),
    "completed": ("✓", "green", logging.INFO),
    "snoozed": ("◷", "magenta", logging.INFO),
    "cancelled": ("⊘", "bright_black", logging.INFO),
    "released": ("↩", "bright_black", logging.INFO),
    "retried": ("↻", "yellow", logging.WARNING),
    "failed": ("✗", "red", logging.ERROR),
}
# Above this, lines would cost more than the jobs, and nobody reads them: they are counted instead.
LINES_PER_SECOND = 100


class JobLog:
    """Writes what happens to each job. Completed jobs beyond 100 a second are summed up, except as JSON."""

    def __init__(self, form: Format) -> None:
        self._json = form == "json"
        self._colours = coloured()
        self._lines = 0
        self._left_out: Counter[str] = Counter()
        self._timer: asyncio.TimerHandle | None = None

    def follow(self, app: PgQueue) -> None:
        """Subscribe to the events that the level lets through: nobody listens, nothing is built."""
        for name, (_, _, level) in MARKS.items():
            if logger.isEnabledFor(level):
                app.on(name, self.write)

    def write(self, event: Event) -> None:
        mark, colour, level = MARKS[event.name]
        if self._json:
            logger.log(level, event.name, extra={"fields": fields(event)})
            return
        if level < logging.WARNING and self._is_too_much(event):
            return
        style = click.style if self._colours else _unstyled
        took = "" if event.duration is None else f"  {duration(event.duration)}"
        head = style(f"{mark} {event.name:<9}", fg=colour)
        said = explained(event)
        job = style(f"#{event.job_id}", fg="bright_black")
        _plain_line(level, f"{head}  {event.task}  {job}{took}{'  ' if said else ''}{said}")

    def _is_too_much(self, event: Event) -> bool:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(1.0, self.sum_up)
        self._lines += 1
        if self._lines <= LINES_PER_SECOND:
            return False
        self._left_out[event.name] += 1
        return True

    def sum_up(self) -> None:
        """Say how many lines were left out since the last time."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        self._lines = 0
        if self._left_out:
            _plain_line(logging.INFO, "… and " + ", ".join(f"{n:,} more {name}" for name, n in self._left_out.items()))
        self._left_out.clear()


def explained(event: Event) -> str:
    """Why it did not complete, and when it comes again."""
    outcome = event.detail
    words = []
    if (delay := getattr(outcome, "delay", None)) is not None:
        retried = event.name == "retried"
        words.append(f"attempt {event.attempt}, again in {duration(delay)}" if retried else f"for {duration(delay)}")
    if event.name == "failed":
        words.append(f"attempt {event.attempt}, {getattr(outcome, 'reason', '')}")
    if (error := getattr(outcome, "error", None)) is not None:
        message = printable(error.message.strip().partition("\n")[0])[:200]
        words.append(f"{error.type.rpartition('.')[2]}: {message}" if message else error.type)
    if event.name == "cancelled":
        words.append(printable(getattr(outcome, "reason", "")))
    return ": ".join(word for word in words if word)


def fields(event: Event) -> dict[str, Any]:
    """An event as JSON."""
    outcome = event.detail
    found: dict[str, Any] = {
        "job_id": event.job_id,
        "task": event.task,
        "queue": event.queue,
        "attempt": event.attempt,
        "trace_id": event.trace_id,
        "duration": event.duration,
        "delay": getattr(outcome, "delay", None),
        "reason": getattr(outcome, "reason", None),
    }
    if (error := getattr(outcome, "error", None)) is not None:
        found |= {"error": error.type, "error_message": error.message, "error_traceback": error.traceback}
    return {name: value for name, value in found.items() if value is not None}


def _plain_line(level: int, line: str) -> None:
    # The mark says it already: as a record of its level the formatter would say it again.
    logger.log(logging.INFO if level > logging.INFO else level, line)


def _unstyled(text: str, **_: Any) -> str:
    return text
