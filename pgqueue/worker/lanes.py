"""The low-water marks: up to which position of a lane everything was seen, so that no claim looks there again.

A transaction can take its position early and commit late, so a mark may not follow the last claim. A claim reads
the sequence's last value L and then its own transaction id X: whoever took a position up to L has an id below X. Once
a later scan has a snapshot whose xmin is X or more, all of them have ended, and that scan has seen what they left.
"""

from __future__ import annotations

from pgqueue.queries.claiming import Scan

PENDING = 8
KEPT = 8


class Lane:
    """One queue and priority. `mark`: every position up to it has been seen to be taken or gone."""

    __slots__ = ("_pending", "mark")

    def __init__(self, mark: int = 0) -> None:
        self.mark = mark
        self._pending: list[tuple[int, int]] = []

    def observe(self, scan: Scan, started_at: int, *, lifo: bool = False) -> None:
        """Move the mark by what a scan that started at the mark `started_at` has shown."""
        if self.mark == started_at:
            safe = max((allocated for allocated, xact_id in self._pending if xact_id <= scan.xmin), default=None)
            if safe is not None:
                self._pending = [(allocated, xact_id) for allocated, xact_id in self._pending if xact_id > scan.xmin]
                if scan.full:
                    # Nothing is known of what lies beyond a full batch; newest first, nothing of what lies below it.
                    safe = self.mark if lifo or not scan.jobs else min(safe, scan.jobs[-1].position)
                if scan.left_from is not None:
                    safe = min(safe, scan.left_from - 1)
                self.mark = max(self.mark, safe)
        if scan.allocated > self.mark and (not self._pending or scan.allocated > self._pending[-1][0]):
            # The oldest are the next to be confirmed; behind a long writer the newest stands for all that came since.
            del self._pending[PENDING - 1 :]
            self._pending.append((scan.allocated, scan.xact_id))

    def rewind(self, position: int) -> None:
        """A job waits at `position`, possibly below the mark."""
        self.mark = min(self.mark, position - 1)


class Lanes:
    """The lanes of one queue that are known to this worker: from notifications and sweeps."""

    def __init__(self) -> None:
        self._lanes: dict[int, Lane] = {}

    def ordered(self) -> list[tuple[int, Lane]]:
        """(priority, lane), lowest priority number first."""
        return sorted(self._lanes.items())

    def rewind(self, priority: int, position: int) -> None:
        """Remember that a job waits there; an unknown lane begins there."""
        lane = self._lanes.get(priority)
        if lane is None:
            self._lanes[priority] = Lane(position - 1)
        else:
            lane.rewind(position)

    def swept(self, found: list[tuple[int, int]]) -> None:
        """Take over what a sweep found: (priority, first waiting position). Of many lanes, empty ones are forgotten."""
        for priority, position in found:
            self.rewind(priority, position)
        if len(self._lanes) > KEPT:
            waiting = {priority for priority, _ in found}
            self._lanes = {priority: lane for priority, lane in self._lanes.items() if priority in waiting}
