"""What a process counts: plain numbers, half as dear as metrics of prometheus-client, and they need no events."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Protocol

OUTCOMES = ("completed", "retried", "snoozed", "cancelled", "failed", "released")
OTHER = "other"
MOST_ERRORS = 20


class Histogram:
    """How many observations fell into each bucket; `bounds` are the upper ones, in seconds."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """(upper bound as text, how many are not above it), as Prometheus counts them."""
        found, below = [], 0
        for bound, count in zip([*map(repr, self.bounds), "+Inf"], list(self.counts), strict=True):
            below += count
            found.append((bound, float(below)))
        return found


class Counted(Protocol):
    """A counter of prometheus-client."""

    def inc(self, amount: float) -> None: ...


class Tally:
    """Of one task in one queue."""

    __slots__ = ("duration", "enqueued", "errors", "outcomes", "total", "wait")

    def __init__(self, bounds: Sequence[float], enqueued: Counted) -> None:
        self.enqueued = enqueued
        self.outcomes = dict.fromkeys(OUTCOMES, 0)
        self.errors: dict[str, int] = {}
        self.duration = Histogram(bounds)
        self.wait = Histogram(bounds)
        self.total = Histogram(bounds)

    def count_error(self, kind: str) -> None:
        """Classes of errors can be made while the process runs: what comes after `MOST_ERRORS` of them is `other`."""
        if kind not in self.errors and len(self.errors) >= MOST_ERRORS:
            kind = OTHER
        self.errors[kind] = self.errors.get(kind, 0) + 1
