"""How numbers, times and lists are said to people."""

from __future__ import annotations

from collections.abc import Sequence


def span(seconds: float) -> str:
    """`45 s`, `5 min`, `1.5 h`, `3 days`."""
    for size, unit in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size or seconds == size:
            return (
                f"{seconds / size:.1f}".removesuffix(".0") + f" {unit.removesuffix('s') if seconds == size else unit}"
            )
    return f"{seconds:.0f} s"


def counted(number: int, noun: str) -> str:
    """`1 job`, `12,000 jobs`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def listed(names: Sequence[str], most: int = 5) -> str:
    """`a, b, c, d, e and 3 more`."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
