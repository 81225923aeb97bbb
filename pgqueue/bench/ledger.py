"""Which jobs ran, and how often: written by the task itself, known to no queue."""

from __future__ import annotations

import time
from collections.abc import Sequence

from pgqueue.errors import PgQueueError

SHOWN = 5


class Unbalanced(PgQueueError):
    """Jobs were lost, or ran more than once. The message says how many, and which."""


class Ledger:
    """Counts the runs of the jobs 0 to `jobs` - 1, and notes when each began last, in nanoseconds of the clock."""

    def __init__(self, jobs: int) -> None:
        self.runs = [0] * jobs
        self.began = [0] * jobs
        self.distinct = 0

    def hit(self, number: int) -> bool:
        """The job runs; whether all have by now. Numbers beyond the jobs do not count: they warm up."""
        now = time.monotonic_ns()
        if 0 <= number < len(self.runs):
            self.began[number] = now
            self.distinct += not self.runs[number]
            self.runs[number] += 1
        return self.distinct == len(self.runs)

    def wrong(self) -> list[tuple[int, int]]:
        """Each job that did not run once, and how often it did."""
        return [(number, count) for number, count in enumerate(self.runs) if count != 1]


def balance(what: str, jobs: int, wrong: Sequence[tuple[int, int]], *, left: int) -> None:
    """Raises Unbalanced unless each of the jobs ran once, and none is `left` in the table."""
    lost = [number for number, count in wrong if count == 0]
    doubled = [number for number, count in wrong if count > 1]
    found = [
        *([f"{len(lost):,} never ran ({_some(lost)})"] if lost else []),
        *([f"{len(doubled):,} ran more than once ({_some(doubled)})"] if doubled else []),
        *([f"{left:,} are left in the table jobs"] if left else []),
    ]
    if found:
        raise Unbalanced(
            f"{what}: the ledger does not balance. Of {jobs:,} jobs {', '.join(found)}: "
            "this is a bug of pgqueue, or something on this server changes what is written"
        )


def _some(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:SHOWN])) + (", …" if len(numbers) > SHOWN else "")
