"""What is known of the orders, and from whom."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Records:
    """What each side says. Orders are ids; tasks are named as the shop's functions.

    `placed` and `declined` are what the customers were told; all else was counted by somebody else.
    """

    placed: frozenset[int]
    declined: frozenset[int]
    in_database: frozenset[int]
    """Rows of `orders`."""
    mails: Counter[int]
    """Messages at the SMTP server."""
    previews: Mapping[int, str]
    """Files, and what is wrong with each; '' is nothing."""
    accepted: Counter[int]
    """Requests that the printer answered with 200."""
    refused: frozenset[int]
    """Orders that the printer answered with 400."""
    post: Mapping[str, Sequence[int]]
    """Orders as their messages came, by receiver."""
    most_in_a_second: Mapping[str, int]
    """Requests in the busiest second, by customer."""
    progress: Mapping[int, float]
    """What the previews have told last, in percent."""
    failed: Mapping[str, frozenset[int]]
    """Orders in `failed_jobs`, by task."""
    bookings: Counter[int]
    """Rows of `stock_movements`."""
    ready: Mapping[int, bool] = field(default_factory=dict)
    """Orders that are ready, and whether each was booked before it was."""
    statements: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Day and hour of the next statement, where its customer is, by schedule."""
    stock_off: Mapping[str, int] = field(default_factory=dict)
    """Products whose stock is not what the placed orders leave, and by how much."""
    reports: Counter[str] = field(default_factory=Counter)
    """Runs of the schedule's jobs, by nominal time."""
    counts: Counter[str] = field(default_factory=Counter)
    """Jobs that count the orders of a day, by day."""
    live: Counter[str] = field(default_factory=Counter)
    """Jobs that have not ended, by task."""
    held: frozenset[tuple[str, int]] = frozenset()
    """(task, order) of the jobs that the killed worker held, read after its death and before the rescue."""
    rescued: int = 0
    """How many of those another worker has ended."""
    errors: Counter[tuple[str, int]] = field(default_factory=Counter)
    """Attempts that ended in an error although the thing may have been done, by task and order."""

    def excuses(self, task: str, order: int) -> int:
        """How many more times than once the task may have been done for the order."""
        return ((task, order) in self.held) + self.errors[task, order]
