"""Figures of several rounds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure of each round.

    Spread([3.0, 1.0, 2.0]).median    # 2.0
    """

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    @property
    def least(self) -> float:
        return min(self.rounds)

    @property
    def most(self) -> float:
        return max(self.rounds)


@dataclass(frozen=True, slots=True)
class Rates:
    """Jobs a second, of pgqueue and of the bare loop, round by round; the ratio is that of each round."""

    name: str
    against: str
    pgqueue: Spread
    bare: Spread

    @property
    def ratio(self) -> Spread:
        return Spread(tuple(own / bare for own, bare in zip(self.pgqueue.rounds, self.bare.rounds, strict=True)))


@dataclass(frozen=True, slots=True)
class Latencies:
    """Seconds, of all rounds together, sorted; and the median of each round."""

    name: str
    seconds: tuple[float, ...]
    medians: Spread

    @classmethod
    def of(cls, name: str, rounds: Sequence[Sequence[float]]) -> Latencies:
        everything = sorted(seconds for one in rounds for seconds in one)
        return cls(name, tuple(everything), Spread(tuple(statistics.median(one) for one in rounds)))

    def percentile(self, share: float) -> float:
        """The shortest that so many (0 to 1) do not exceed.

        latencies.percentile(0.99)
        """
        return self.seconds[max(0, -int(-share * len(self.seconds) // 1) - 1)]
