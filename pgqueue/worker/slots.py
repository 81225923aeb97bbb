"""The slots of one queue in one worker: what runs there, and what waits for its turn."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

from pgqueue.job import ClaimedJob
from pgqueue.worker.processes import ProcessSlots
from pgqueue.worker.threads import Threads

PREFETCH_SECONDS = 0.1
PREFETCH_LIMIT = 1000
PACE_SECONDS = 0.02
STUCK_SECONDS = 1.0


class Slots:
    """The slots of one queue: the jobs that run, and the few that wait claimed for a slot."""

    def __init__(
        self,
        queue: str,
        count: int,
        start: Callable[[Slots, ClaimedJob], None],
        give_back: Callable[[ClaimedJob], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.queue = queue
        self.count = count
        self.running = 0
        self.lost = 0
        self.buffer: deque[ClaimedJob] = deque()
        self.room = asyncio.Event()
        self.room.set()
        self.open = True
        self.prefetches = True
        self._clock = clock
        self.moved_at = clock()
        self.target = 0
        self._pace = 0.0
        self._ended = 0
        # How many had ended when the pace was taken, and when somebody looked whether it stands.
        self._paced = self._seen = 0
        self._paced_at = self.moved_at
        self._start = start
        self._give_back = give_back
        self._timers: dict[ClaimedJob, asyncio.TimerHandle] = {}
        self._threads: Threads | None = None
        self._processes: ProcessSlots | None = None

    @property
    def waiting(self) -> int:
        """Jobs that are held and have not started."""
        return len(self.buffer) + len(self._timers)

    @property
    def idle(self) -> int:
        """Slots that a job could start in now."""
        return max(0, self.count - self.running - len(self.buffer)) if self.open else 0

    @property
    def claimable(self) -> int:
        """How many jobs with limits may be taken: what could begin now."""
        return self.idle

    def aim(self) -> None:
        """Set `target`, the jobs to hold beyond the slots: a tenth of a second of this queue's own throughput."""
        now = self._clock()
        seconds = now - self._paced_at
        if seconds >= PACE_SECONDS:
            self._pace = (self._ended - self._paced) / seconds
            self._paced, self._paced_at = self._ended, now
        held = not self.prefetches or self.is_standing()
        self.target = 0 if held else min(PREFETCH_LIMIT, int(self._pace * PREFETCH_SECONDS))

    def prefetch_nothing(self) -> None:
        """Ask for what slots are free for, until more is taken: what is next must not wait here."""
        self.target = 0
        self.fill()

    def wanted(self) -> int:
        """How many jobs to claim now; none until half of the prefetch is used up."""
        missing = self.count - self.running + self.target - len(self.buffer)
        return missing if self.open and missing > self.target // 2 else 0

    def take(self, jobs: list[ClaimedJob]) -> None:
        """Start what slots are free for; keep the rest in order.

        Jobs that must not repeat go first: they count as started.
        """
        if timed := [(job, due) for job in jobs if (due := job.begins_at) is not None]:
            for job, due in timed:
                self._begin_later(job, due)
            jobs = [job for job in jobs if job.begins_at is None]
        once = [job for job in jobs if job.max_attempts == 1]
        self.buffer.extendleft(reversed(once))
        self.buffer.extend([job for job in jobs if job.max_attempts != 1] if once else jobs)
        self.aim()
        if once:
            # The next may be of this kind too, and those are for free slots only.
            self.target = 0
        self.fill()

    def fill(self) -> None:
        """Start what waits in the slots that are free, and say whether there is room for more."""
        buffer = self.buffer
        while buffer and self.running < self.count and self.open:
            self.running += 1
            self.moved_at = self._clock()
            self._start(self, buffer.popleft())
        if self.wanted():
            if not self.room.is_set():
                self.room.set()
        elif self.room.is_set():
            self.room.clear()

    def found_nothing(self) -> None:
        """There is no more to claim for now."""

    def _begin_later(self, job: ClaimedJob, due: float) -> None:
        """It has a slot, and begins when its limit lets it."""
        self.running += 1
        pause = max(0.0, due - self._clock())
        self._timers[job] = asyncio.get_running_loop().call_later(pause, self._begin, job, due)

    def _begin(self, job: ClaimedJob, due: float) -> None:
        del self._timers[job]
        if self.open and self._clock() - due <= job.late:
            self.moved_at = self._clock()
            self._start(self, job)
        else:
            # Jobs that were held up together would begin together: more of them than the limit says. See `PACE`.
            self.running -= 1
            self._give_back(job)
            self.fill()

    def ended(self) -> None:
        """A run has ended: the next begins."""
        self._ended += 1
        # Most often one takes the place of another, and enough of them are left: nothing else has changed.
        if len(self.buffer) > (self.target + 1) // 2 and self.running == self.count and self.open:
            self._start(self, self.buffer.popleft())
            return
        self.running -= 1
        self.fill()

    def give_back(self, which: Callable[[ClaimedJob], bool] = lambda job: True) -> list[ClaimedJob]:
        """The jobs that have not started, or `which` of them; they are no longer held here."""
        buffered = [job for job in self.buffer if which(job)]
        timed = [job for job in self._timers if which(job)]
        if buffered:
            self.buffer = deque([job for job in self.buffer if not which(job)])
        for job in timed:
            self._timers.pop(job).cancel()
        self.running -= len(timed)
        self.fill()
        return [*buffered, *timed]

    def is_standing(self) -> bool:
        """Whether every slot has been taken for a while: what waits here may find a free one elsewhere."""
        # Who waits for the time that a limit gives it has not begun.
        begun = self.running - len(self._timers)
        if self._ended != self._seen:
            self._seen, self.moved_at = self._ended, self._clock()
        return begun >= self.count and self._clock() - self.moved_at > STUCK_SECONDS

    @property
    def threads(self) -> Threads:
        if self._threads is None:
            self._threads = Threads(self.count, f"pgqueue-{self.queue}")
        return self._threads

    @property
    def processes(self) -> ProcessSlots:
        if self._processes is None:
            self._processes = ProcessSlots(self.count)
        return self._processes

    async def close(self) -> None:
        if self._processes is not None:
            await self._processes.close()
        if self._threads is not None:
            self._threads.close()
