"""The low-water marks: up to which position of a lane everything was seen, so that no claim looks there again.

A transaction can take its position early and commit late, so a mark may not follow the last claim. A claim reads
the sequence's last value L and then its own transaction id X: whoever took a position up to L has an id below X. Once
a later scan has a snapshot whose xmin is X or more, all of them have ended, and that scan has seen what they left.
"""

from __future__ import annotations

from collections.abc import Sequence

from pgqueue.queries.claiming import FoundLane, Scan

PENDING = 8
FAR = 10_000
LANES = 8


class Lane:
    """One queue and priority. `mark`: every position up to it has been seen to be taken or gone.

    Behind a transaction that writes for long nothing can be confirmed, and each claim would walk over all that has
    been taken since. Then the mark runs ahead on trust, and goes back to what is proven when that one has ended.
    """

    __slots__ = ("_pending", "_proven", "_told", "_unconfirmed", "mark")

    def __init__(self, mark: int = 0) -> None:
        self.mark = mark
        self._pending: list[tuple[int, int]] = []
        self._proven: int | None = None
        self._told: int | None = None
        self._unconfirmed = 0

    @property
    def proven(self) -> int:
        """Up to where nothing can come that its scans have not seen."""
        return self.mark if self._proven is None else self._proven

    @property
    def known(self) -> int:
        """Up to which position the mark is proven, or waits to be."""
        return max(self.proven, self._pending[-1][0]) if self._pending else self.proven

    def observe(self, scan: Scan, started_at: int, *, lifo: bool = False) -> None:
        """Move the mark by what a scan that started at the mark `started_at` has shown."""
        told, self._told = self._told, None
        if scan.paused:
            return
        if self.mark == started_at:
            self._move(scan, lifo, told)
        if scan.xact_id is not None and scan.allocated > self.known:
            # The oldest are the next to be confirmed; behind a long writer the newest stands for all that came since.
            del self._pending[PENDING - 1 :]
            self._pending.append((scan.allocated, scan.xact_id))

    def _move(self, scan: Scan, lifo: bool, told: int | None) -> None:
        confirmed = max((allocated for allocated, xact_id in self._pending if xact_id <= scan.xmin), default=None)
        if confirmed is not None and self._proven is not None:
            # What the long writer left lies in between; the next scan starts below it, and is confirmed at once.
            self.mark, self._proven, self._unconfirmed = self._proven, None, 0
            return
        if confirmed is not None:
            self._pending = [(allocated, xact_id) for allocated, xact_id in self._pending if xact_id > scan.xmin]
            self._unconfirmed = 0
        else:
            self._unconfirmed += 1
            if self._proven is None and not self._is_stuck(scan, lifo):
                return
        seen = self._seen(scan, scan.allocated if confirmed is None else confirmed, lifo)
        if told is not None:
            # It may have come back after the scan had looked there.
            seen = min(seen, told - 1)
        if seen > self.mark:
            if confirmed is None and self._proven is None:
                self._proven = self.mark
            self.mark = seen

    def _is_stuck(self, scan: Scan, lifo: bool) -> bool:
        reached = scan.jobs[0].position if scan.jobs and not lifo else scan.allocated
        return self._unconfirmed >= PENDING and reached - self.mark > FAR

    def _seen(self, scan: Scan, limit: int, lifo: bool) -> int:
        if scan.full:
            # Nothing is known of what lies beyond a full batch; newest first, nothing of what lies below it.
            reached = scan.reached or (scan.jobs[-1].position if scan.jobs else None)
            limit = self.mark if lifo or reached is None else min(limit, reached)
        return limit if scan.left_from is None else min(limit, scan.left_from - 1)

    def rewind(self, position: int) -> None:
        """A job waits at `position`, possibly below the mark."""
        self.mark = min(self.mark, position - 1)
        self._told = position if self._told is None else min(self._told, position)
        if self._proven is not None:
            self._proven = min(self._proven, self.mark)


class Lanes:
    """The lanes of one queue that are known to this worker: from notifications and sweeps.

    `kept`: by priority, the mark in the table `lanes` when it was last read. Nothing was available up to there.
    """

    def __init__(self) -> None:
        self.kept: dict[int, int] = {}
        self._lanes: dict[int, Lane] = {}

    def ordered(self) -> list[tuple[int, Lane]]:
        """(priority, lane), lowest priority number first."""
        return sorted(self._lanes.items())

    def rewind(self, priority: int, position: int) -> None:
        """Remember that a job waits there. A lane that was unknown begins at its kept mark: others may commit below."""
        self._lanes.setdefault(priority, Lane(self.kept.get(priority, 0))).rewind(position)

    def swept(self, found: Sequence[FoundLane]) -> None:
        """Take over what a sweep found. Of many lanes, empty ones are forgotten."""
        self.kept = {lane.priority: lane.kept for lane in found if lane.priority is not None}
        waiting = {
            lane.priority: lane.waiting for lane in found if lane.priority is not None and lane.waiting is not None
        }
        for priority, position in waiting.items():
            self.rewind(priority, position)
        if len(self._lanes) > LANES:
            self._lanes = {priority: lane for priority, lane in self._lanes.items() if priority in waiting}
