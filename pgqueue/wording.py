"""How numbers, times and lists are said to people, and what people write for them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime

from pgqueue.errors import ArgumentError

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|[smhdw]))+", re.ASCII)
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhdw])", re.ASCII)
_NUMBER = re.compile(r"\d+(?:\.\d+)?", re.ASCII)


def span(seconds: float) -> str:
    """`45 s`, `5 min`, `1.5 h`, `3 days`."""
    for size, smaller, unit in ((86_400, 3600, "days"), (3600, 60, "h"), (60, 1, "min")):
        # Two of a unit, or what would else be written as as many of the smaller one.
        if seconds >= 2 * size - smaller / 2 or seconds == size:
            figure = f"{seconds / size:.{1 if seconds < 9.95 * size else 0}f}".removesuffix(".0")
            return f"{figure} {unit.removesuffix('s') if seconds == size else unit}"
    return f"{seconds:.0f} s"


def counted(number: int, noun: str) -> str:
    """`1 job`, `12,000 jobs`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def agreeing(number: int, one: str, several: str) -> str:
    """The verb that fits the number: `runs` or `run`, `has` or `have`."""
    return one if number == 1 else several


def listed(names: Sequence[str], most: int = 5) -> str:
    """`a, b, c, d, e and 3 more`."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def duration_of(text: str) -> float:
    """Seconds, of `30`, `1.5`, `250ms`, `5m`, `1h30m`, `2d`. Raises ArgumentError."""
    text = text.strip()
    if _NUMBER.fullmatch(text):
        return float(text)
    if not _DURATION.fullmatch(text):
        raise ArgumentError(f"{text!r} is no duration: write seconds (30) or 250ms, 5m, 1h30m, 2d")
    return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))


def moment_of(text: str) -> datetime:
    """An aware time, of ISO 8601 with an offset. Raises ArgumentError."""
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ArgumentError(f"{text!r} is no time: write 2026-12-31T09:00+01:00") from None
    if moment.tzinfo is None:
        timed = text if ":" in text else f"{moment:%Y-%m-%dT%H:%M}"
        raise ArgumentError(f"{text!r} has no offset: write {timed}Z or {timed}+01:00")
    return moment
