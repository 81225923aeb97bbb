"""What the statements should do to jobs, in plain Python: one dictionary, no sets, no SQL."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from pgqueue.outcome import Cancelled, Completed, Failed, Outcome, Retry, Snooze

State = Literal["available", "scheduled", "running", "completed", "cancelled", "failed", "forgotten"]
LIVE: tuple[State, ...] = ("available", "scheduled", "running")
CRASHES = 3


@dataclass
class ModelJob:
    """One job. `place` orders those that are available or running; `due` those that wait for their promotion."""

    id: int
    queue: str
    key: str | None
    max_attempts: int
    state: State
    place: int | None
    due: int | None = None
    attempt: int = 0
    crashes: int = 0
    suspicions: int = 0
    errors: int = 0
    fence: int | None = None
    cancel_requested: bool = False

    @property
    def live(self) -> bool:
        return self.state in LIVE


@dataclass
class Model:
    """All jobs that were acknowledged, and who holds which claim."""

    jobs: dict[int, ModelJob] = field(default_factory=dict)
    claims: dict[int, str] = field(default_factory=dict)
    clock: int = 0

    def tick(self) -> int:
        self.clock += 1
        return self.clock

    def holder(self, key: str | None, queue: str) -> ModelJob | None:
        return next(
            (job for job in self.jobs.values() if job.live and job.key == key is not None and job.queue == queue), None
        )

    def in_state(self, *states: State) -> list[ModelJob]:
        return [job for job in self.jobs.values() if job.state in states]

    def held_by(self, worker: str) -> list[ModelJob]:
        return [job for job in self.in_state("running") if job.fence is not None and self.claims[job.fence] == worker]

    def enqueued(self, id_: int, queue: str, key: str | None, max_attempts: int, *, later: bool) -> None:
        place = None if later else self.tick()
        self.jobs[id_] = ModelJob(id_, queue, key, max_attempts, "scheduled" if later else "available", place)

    def claimed(self, worker: str, queue: str, fence: int, count: int, slots: int) -> list[int]:
        """The oldest; those that must not repeat only as far as there are slots."""
        waiting = [job for job in self.in_state("available") if job.queue == queue]
        oldest = sorted(waiting, key=lambda job: job.place or 0)[:count]
        once = [job for job in oldest if job.max_attempts == 1][:slots]
        taken = [job for job in oldest if job.max_attempts > 1 or job in once]
        for job in taken:
            job.state, job.fence, job.attempt = "running", fence, job.attempt + 1
        if taken:
            self.claims[fence] = worker
        return [job.id for job in taken]

    def finished(self, job: ModelJob, outcome: Outcome | None, *, kept: bool = True) -> None:
        """The outcome of a job that is still held."""
        match outcome:
            case Completed():
                self._end(job, "completed" if kept else "forgotten")
            case Cancelled():
                self._end(job, "cancelled")
            case Failed():
                job.crashes += outcome.crashed
                job.errors += 1
                self._end(job, "failed")
            case _ if job.cancel_requested:
                self._end(job, "cancelled")
            case None:
                job.attempt -= 1
                job.state, job.fence = "available", None
            case Retry() | Snooze():
                job.attempt -= isinstance(outcome, Snooze)
                job.crashes += isinstance(outcome, Retry) and outcome.crashed
                job.errors += isinstance(outcome, Retry)
                job.state, job.fence, job.place, job.due = "scheduled", None, None, None

    def rescued(self, dead: Iterable[str]) -> None:
        """Alone it is to blame; among others nobody is, but what must not repeat is not run again."""
        for worker in dead:
            held = self.held_by(worker)
            for job in held:
                if len(held) == 1 or job.max_attempts == 1:
                    hopeless = job.crashes + 1 >= CRASHES or job.attempt >= job.max_attempts
                    if hopeless or not job.cancel_requested:
                        job.crashes += 1
                        job.errors += 1
                    self._end(job, "failed" if hopeless else "cancelled" if job.cancel_requested else "scheduled")
                elif job.cancel_requested:
                    self._end(job, "cancelled")
                else:
                    job.suspicions += 1
                    self.finished(job, None)

    def cancelled(self, job: ModelJob) -> None:
        if job.state == "running":
            job.cancel_requested = True
        elif job.live:
            self._end(job, "cancelled")

    def promoted(self, queue: str) -> int:
        due = [job for job in self.in_state("scheduled") if job.queue == queue and job.due is not None]
        for job in sorted(due, key=lambda job: job.due or 0):
            job.state, job.place, job.due = "available", self.tick(), None
        return len(due)

    def rescheduled(self, job: ModelJob, *, later: bool) -> bool:
        if job.state not in ("available", "scheduled"):
            return False
        if later:
            job.state, job.place, job.due = "scheduled", None, None
        else:
            job.state, job.place, job.due = "available", job.place or self.tick(), None
        return True

    def redriven(self, ids: Iterable[int]) -> list[int]:
        """Oldest first; one whose key is taken stays."""
        back = []
        for id_ in sorted(ids):
            job = self.jobs[id_]
            if job.state == "failed" and self.holder(job.key, job.queue) is None:
                job.state, job.place, job.due = "available", self.tick(), None
                job.attempt = job.crashes = job.suspicions = 0
                job.cancel_requested = False
                back.append(id_)
        return back

    def _end(self, job: ModelJob, state: State) -> None:
        job.state, job.fence, job.place, job.due = state, None, None, None
