"""Several measurements of one thing, as a reader wants them: the median, and between what they lay."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

KNOTS = (50, 95, 99)


@dataclass(frozen=True, slots=True)
class Spread:
    """str(Spread.of([3.0, 1.0, 2.0])) == "2 (1–3)" """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self | None:
        """None when nothing was measured."""
        return cls(statistics.median(values), min(values), max(values)) if values else None

    def __str__(self) -> str:
        return self.text(0)

    def text(self, digits: int) -> str:
        middle = f"{self.median:,.{digits}f}"
        if self.low == self.high:
            return middle
        return f"{middle} ({self.low:,.{digits}f}–{self.high:,.{digits}f})"


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """p50, p95, p99 and max: of each the least that so many per cent do not exceed, as `pgqueue bench` tells them."""
    ordered = sorted(values)
    found = {f"p{knot}": ordered[-(-knot * len(ordered) // 100) - 1] for knot in KNOTS}
    return {**found, "max": ordered[-1]}
