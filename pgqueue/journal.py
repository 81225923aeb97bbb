"""What a running task tells about itself: its progress, and log lines. Kept until the worker writes them in batches."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal, NamedTuple, get_args

from pgqueue.errors import ArgumentError
from pgqueue.outcome import storable

Level = Literal["debug", "info", "warning", "error"]
LINES = 500
LINE_LENGTH = 4_000


class Progress(NamedTuple):
    """How far a job is: `percent` from 0 to 100."""

    percent: float
    message: str | None = None


class LogLine(NamedTuple):
    """A line that a task has logged. `level` is debug, info, warning or error."""

    attempt: int
    at: datetime
    level: str
    message: str


@dataclass(slots=True, eq=False)
class Journal:
    """Of one run. Any thread may write; `told` is called once after something was written that nobody has taken.

    A run keeps 500 lines of at most 4,000 characters; what it logs beyond is counted and said in one last line.
    """

    attempt: int
    told: Callable[[Journal], None]
    lines_left: int = LINES
    left_out: int = 0
    _progress: Progress | None = None
    _lines: list[LogLine] = field(default_factory=list)
    _waits: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def progress(self, percent: float, message: str | None = None) -> None:
        """Raises ArgumentError for what is not between 0 and 100."""
        given: object = percent
        if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given <= 100:
            raise ArgumentError(f"progress({percent!r}) must be a number from 0 to 100: a percentage")
        # Not within the lock: to become text it may log, by the handler that files lines here.
        told = Progress(float(percent), None if message is None else storable(str(message), LINE_LENGTH))
        with self._lock:
            self._progress = told
            first, self._waits = not self._waits, True
        if first:
            self.told(self)

    def log(self, message: str, level: Level = "info") -> None:
        """Raises ArgumentError for a level that there is not."""
        if level not in get_args(Level):
            raise ArgumentError(f"log(level={level!r}) must be one of {', '.join(get_args(Level))}")
        text = storable(str(message), LINE_LENGTH) if self.lines_left > 0 else ""
        with self._lock:
            if self.lines_left == 0:
                self.left_out += 1
                return
            self.lines_left -= 1
            self._lines.append(LogLine(self.attempt, datetime.now(UTC), level, text))
            first, self._waits = not self._waits, True
        if first:
            self.told(self)

    def take(self, *, last: bool = False) -> tuple[Progress | None, list[LogLine]]:
        """What was told since it was last taken; the `last` time also how many lines were left out."""
        with self._lock:
            progress, self._progress = self._progress, None
            lines, self._lines = self._lines, []
            self._waits = False
            if last and self.left_out:
                text = f"{self.left_out} more lines were not kept: a run keeps {LINES}"
                lines.append(LogLine(self.attempt, datetime.now(UTC), "warning", text))
                self.left_out = 0
        return progress, lines

    def put(self, progress: Progress | None, lines: list[LogLine]) -> None:
        """What the run has told in a process of its own."""
        with self._lock:
            self._progress = progress or self._progress
            self._lines += lines
            first, self._waits = not self._waits, True
        if first:
            self.told(self)

    def give_back(self, progress: Progress | None, lines: list[LogLine]) -> None:
        """It could not be written: older than what was told meanwhile."""
        with self._lock:
            self._progress = self._progress or progress
            self._lines[:0] = lines
            self._waits = True
