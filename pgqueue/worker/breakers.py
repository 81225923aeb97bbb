"""What a worker knows of circuit breakers: what its runs mean to them, and what they mean to its claims."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from pgqueue.breaker import Of, kinds_of
from pgqueue.job import ClaimedJob
from pgqueue.outcome import Completed, Outcome
from pgqueue.queries.breakers import Known

if TYPE_CHECKING:
    from pgqueue.worker.worker import Worker

logger = logging.getLogger("pgqueue.worker")

LATELY = 10.0


class Breakers:
    """The breakers that there are, as last read. `watched`: whether any can concern a job of this worker."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._known: dict[Of, Known] = {}
        self._of_jobs: dict[tuple[str, str], tuple[Known, ...]] = {}
        self._completed: Counter[Of] = Counter()
        self._failed_at: dict[Of, float] = {}
        self.watched = False

    def read(self, found: Sequence[Known]) -> bool:
        """Take over how they are, and give back what waits for a slot and must not begin. Whether one has opened."""
        before = self._known
        self._known = {known.of: known for known in found if self._concerns(known.of)}
        self._of_jobs.clear()
        self.watched = bool(self._known)
        self._worker.serving.read_breakers(self._known)
        stopped = {of for of, known in self._known.items() if known.state != "closed"}
        if stopped:
            # The one that is tried has its place at the breaker's gate: it came through a claim that looks at limits.
            self._worker.serving.release_unstarted_of(
                lambda job: not job.limited and not stopped.isdisjoint(_of(job.task, job.queue))
            )
        told = {of: before[of].opened_at for of in stopped if of in before and before[of].state != "closed"}
        opened = [of for of in stopped if of not in told or told[of] != self._known[of].opened_at]
        for of in opened:
            logger.info("the circuit breaker of %s is open: %s", of, self._known[of].reason)
        for of, known in self._known.items():
            if of in before and before[of].state != "closed" and known.state == "closed":
                logger.info("the circuit breaker of %s is closed", of)
        return bool(opened)

    def _concerns(self, of: Of) -> bool:
        # Queues that this worker does not serve yet may be taken up by a glob.
        return of.scope == "queue" or of.name in self._worker.app.tasks

    def note(self, job: ClaimedJob, outcome: Outcome | None) -> tuple[Of, ...]:
        """Those against which the outcome counts as a failure."""
        pair = (job.task, job.queue)
        known = self._of_jobs.get(pair)
        if known is None:
            known = self._of_jobs[pair] = tuple(self._known[of] for of in _of(*pair) if of in self._known)
        if not known:
            return ()
        kinds = kinds_of(outcome)
        if not kinds and type(outcome) is not Completed:
            return ()
        failed = tuple([one.of for one in known if one.rule.counts(kinds)])
        for one in known:
            if one.rule.ratio is not None and one.of not in failed:
                self._completed[one.of] += 1
        if failed:
            self._failed_at.update(dict.fromkeys(failed, time.monotonic()))
        return failed

    def completed(self) -> dict[Of, int]:
        """Attempts to be counted that did not fail; they are not given again."""
        taken, self._completed = self._completed, Counter()
        return taken

    def failing(self) -> Collection[Of]:
        """Those that have had failures lately: they may just have been written."""
        recent = time.monotonic() - LATELY
        self._failed_at = {of: at for of, at in self._failed_at.items() if at > recent}
        return self._failed_at.keys()

    @property
    def busy(self) -> bool:
        """Whether jobs may wait for one of them."""
        return any(known.state != "closed" or known.blocked for known in self._known.values())


def _of(task: str, queue: str) -> tuple[Of, Of]:
    return Of("task", task), Of("queue", queue)
