"""Reading what the tasks wrote (`benchmarks.peers.ledger`), while they write and after."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Tally:
    """Of the jobs asked for: how many ran, how many never did, how many ran more than once."""

    ran: int
    lost: int
    doubled: int


class Ledgers:
    """The ledgers of all processes of a run, in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def ran(self, start: int, jobs: int) -> int:
        """Cheap, for polling: a job that ran in two processes counts twice."""
        return sum(jobs - part.count(0) for part in self._runs(start, jobs))

    def tally(self, start: int, jobs: int) -> Tally:
        parts = self._runs(start, jobs)
        runs = parts[0] if len(parts) == 1 else bytes(min(255, sum(each)) for each in zip(*parts, strict=True))
        lost = runs.count(0) if runs else jobs
        return Tally(jobs - lost, lost, jobs - lost - runs.count(1))

    def times(self, start: int, jobs: int) -> list[int]:
        """When each job began, in nanoseconds of the monotonic clock; 0 for one that did not."""
        found = [0] * jobs
        for path in self._folder.glob("*.times"):
            with path.open("rb") as file:
                file.seek(start * 8)
                part = array("q", file.read(jobs * 8).ljust(jobs * 8, b"\0"))
            found = [max(pair) for pair in zip(found, part, strict=True)]
        return found

    def _runs(self, start: int, jobs: int) -> list[bytes]:
        parts = []
        for path in self._folder.glob("*.runs"):
            with path.open("rb") as file:
                file.seek(start)
                parts.append(file.read(jobs).ljust(jobs, b"\0"))
        return parts
