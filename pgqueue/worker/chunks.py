"""Gathers the jobs of chunk tasks, in one queue of one worker, until a chunk is full or has waited long enough.

A chunk takes one slot, from when it begins. What is gathered counts as a prefetch of that one slot: there is no more of
it than slots could begin with. While it is gathered a job is claimed, and is given back like any that has not begun.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

from pgqueue.job import ClaimedJob
from pgqueue.task.chunking import Chunking
from pgqueue.worker.slots import Slots


class Timer(Protocol):
    def cancel(self) -> None: ...


class Timers(Protocol):
    """The event loop's `call_later`."""

    def __call__(self, seconds: float, call: Callable[..., None], /, *args: object) -> Timer: ...


class Chunk:
    """Jobs of one task that are to run in one call."""

    __slots__ = ("jobs", "room", "task", "timer")

    def __init__(self, task: str, size: int) -> None:
        self.task = task
        self.room = size
        self.jobs: list[ClaimedJob] = []
        # Until it has waited long enough.
        self.timer: Timer | None = None

    def add(self, job: ClaimedJob) -> None:
        self.jobs.append(job)
        self.room -= 1

    def remove(self, job: ClaimedJob) -> None:
        self.jobs.remove(job)
        self.room += 1

    def stop_waiting(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class GatheringSlots(Slots):
    """Slots of a queue in an app that has chunk tasks, by name in `chunks`.

    `runs_alone` tells which jobs are a chunk of their own, `hurries` whether a chunk goes as soon as there is no more
    to claim.
    """

    def __init__(
        self,
        queue: str,
        count: int,
        start: Callable[[Slots, ClaimedJob], None],
        give_back: Callable[[ClaimedJob], None],
        clock: Callable[[], float] = time.monotonic,
        *,
        chunks: Mapping[str, Chunking],
        start_chunk: Callable[[Slots, Sequence[ClaimedJob]], None],
        runs_alone: Callable[[ClaimedJob], bool],
        hurries: Callable[[], bool],
        call_later: Timers | None = None,
    ) -> None:
        self._chunks = chunks
        self._start_chunk = start_chunk
        self._runs_alone = runs_alone
        self._hurries = hurries
        self._call_later: Timers = call_later or asyncio.get_running_loop().call_later
        # By task: the chunk that has room. One that has waited long enough is among the ready ones too.
        self._open: dict[str, Chunk] = {}
        self._ready: deque[Chunk] = deque()
        # Jobs that a rate lets begin in a moment.
        self._early: dict[ClaimedJob, Timer] = {}
        self._mixed = False
        super().__init__(queue, count, start, give_back, clock)

    @property
    def waiting(self) -> int:
        return super().waiting + sum(1 for _ in self._gathered())

    @property
    def idle(self) -> int:
        return max(0, super().idle - len(self._ready))

    @property
    def claimable(self) -> int:
        return self._with_room(self.idle)

    def wanted(self) -> int:
        missing = self.count - self.running + self.target - len(self.buffer) - len(self._ready)
        if not self.open or missing <= self.target // 2:
            return 0
        return self._with_room(missing)

    def take(self, jobs: list[ClaimedJob]) -> None:
        others = []
        for job in jobs:
            if job.task not in self._chunks:
                others.append(job)
            elif job.begins_at is not None:
                pause = max(0.0, job.begins_at - self._clock())
                self._early[job] = self._call_later(pause, self._begin_to_gather, job, job.begins_at)
            else:
                self._gather(job)
        self._mixed = bool(others)
        if others:
            self._refuse_once(others)
        super().take(others)

    def fill(self) -> None:
        while self._ready and self.running < self.count and self.open:
            chunk = self._ready.popleft()
            if self._open.get(chunk.task) is chunk:
                del self._open[chunk.task]
            self.running += 1
            self.moved_at = self._clock()
            self._start_chunk(self, chunk.jobs)
        super().fill()

    def ended(self) -> None:
        # A chunk that is ready goes first.
        self._ended += 1
        self.running -= 1
        self.fill()

    def found_nothing(self) -> None:
        if self._hurries():
            for chunk in [*self._open.values()]:
                self._no_longer_wait(chunk)
            self.fill()

    def give_back(self, which: Callable[[ClaimedJob], bool] = lambda job: True) -> list[ClaimedJob]:
        gathered = [job for job in self._gathered() if which(job)]
        for job in gathered:
            self._remove(job)
        return [*super().give_back(which), *gathered]

    def ids(self) -> list[int]:
        """Of the jobs that wait in a chunk, or for one."""
        return [job.id for job in self._gathered()]

    def drop(self, job_id: int) -> ClaimedJob | None:
        """Take a job out of its chunk; None where none of that id waits here."""
        job = next((job for job in self._gathered() if job.id == job_id), None)
        if job is not None:
            self._remove(job)
            self.fill()
        return job

    def _refuse_once(self, jobs: list[ClaimedJob]) -> None:
        """Give back the jobs that must not repeat and came for the room of a chunk: they are for free slots only."""
        free = self.idle
        for job in [job for job in jobs if job.max_attempts == 1][free:]:
            jobs.remove(job)
            self._give_back(job)

    def _with_room(self, free: int) -> int:
        """How many jobs to claim for so many slots: one each, and those that the open chunks have room for."""
        if free <= 0:
            return 0
        waiting = [chunk for chunk in self._open.values() if chunk.timer is not None]
        # Where other tasks have jobs in between, a claim for all the room would bring too many of theirs.
        room = 0 if self._mixed else sum(chunk.room for chunk in waiting) - len(self._early)
        return max(1, free - len(waiting)) if room <= 0 else max(0, free - len(waiting)) + room

    def _chunks_here(self) -> Iterator[Chunk]:
        yield from self._ready
        yield from (chunk for chunk in self._open.values() if chunk.timer is not None)

    def _gathered(self) -> Iterator[ClaimedJob]:
        for chunk in self._chunks_here():
            yield from chunk.jobs
        yield from self._early

    def _remove(self, job: ClaimedJob) -> None:
        if job in self._early:
            self._early.pop(job).cancel()
            return
        chunk = next(chunk for chunk in self._chunks_here() if job in chunk.jobs)
        chunk.remove(job)
        if not chunk.jobs:
            if chunk.timer is None:
                self._ready.remove(chunk)
            chunk.stop_waiting()
            if self._open.get(chunk.task) is chunk:
                del self._open[chunk.task]

    def _gather(self, job: ClaimedJob) -> None:
        if self._runs_alone(job):
            alone = Chunk(job.task, 1)
            alone.add(job)
            self._ready.append(alone)
            return
        chunk = self._open.get(job.task)
        if chunk is None:
            chunk = self._open[job.task] = Chunk(job.task, self._chunks[job.task].size)
            chunk.timer = self._call_later(self._chunks[job.task].wait, self._waited, chunk)
        chunk.add(job)
        if chunk.room == 0:
            del self._open[job.task]
            self._no_longer_wait(chunk)

    def _waited(self, chunk: Chunk) -> None:
        self._no_longer_wait(chunk)
        self.fill()

    def _no_longer_wait(self, chunk: Chunk) -> None:
        # Until it has a slot, others of its task may still join it.
        if chunk.timer is not None:
            chunk.stop_waiting()
            self._ready.append(chunk)

    def _begin_to_gather(self, job: ClaimedJob, due: float) -> None:
        del self._early[job]
        if not self.open or self._clock() - due > job.late:
            # As in any slots: jobs that were held up together would join together.
            self._give_back(job)
        else:
            self._gather(job)
            if self._hurries() and not self._early:
                self.found_nothing()
        self.fill()
