"""What happens in a worker, told to the app's subscribers, and to other processes where that is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pgqueue.events import Event, EventName, Subscribers
from pgqueue.job import ClaimedJob
from pgqueue.journal import Progress
from pgqueue.outcome import Cancelled, Completed, Failed, Outcome, Retry, Snooze, Wait
from pgqueue.queries.rescuing import Orphan

NAMES: dict[type, EventName] = {
    Completed: "completed",
    Retry: "retried",
    Snooze: "snoozed",
    Wait: "snoozed",
    Cancelled: "cancelled",
    Failed: "failed",
    type(None): "released",
}


class Reporter:
    """The events of one worker. `publish` takes them too; `is_empty` says whether a queue has nothing more to run."""

    def __init__(
        self, subscribers: Subscribers, is_empty: Callable[[str], bool], publish: Callable[[Event], None] | None = None
    ) -> None:
        self._subscribers = subscribers
        self._is_empty = is_empty
        self._publish = publish
        # Queues of which a run has ended since they were last told to be drained.
        self._worked: set[str] = set()

    def wants(self, name: EventName) -> bool:
        """Whether anybody listens: nothing is built for nobody."""
        return self._publish is not None or self._subscribers.wants(name)

    def started(self, job: ClaimedJob) -> None:
        self._tell(Event("started", job.id, job.task, job.queue, job.attempt))

    def progressed(self, job: ClaimedJob, progress: Progress) -> None:
        if self.wants("progress"):
            self._tell(Event("progress", job.id, job.task, job.queue, job.attempt, None, progress))

    def ended(self, job: ClaimedJob, outcome: Outcome | None, seconds: float) -> None:
        """A run has ended; None: it is given back."""
        name = NAMES[type(outcome)]
        if self.wants(name):
            self._tell(Event(name, job.id, job.task, job.queue, job.attempt, seconds, outcome, trace_id=job.trace_id))
        if self.wants("drained"):
            self._worked.add(job.queue)
            self.look_at(job.queue)

    def look_at(self, queue: str) -> None:
        """A run of it has ended, or its claimer found nothing: it may be drained."""
        if queue in self._worked and self._is_empty(queue):
            self._worked.discard(queue)
            self._tell(Event("drained", 0, "", queue))

    def rescued(self, orphan: Orphan) -> None:
        job_id, outcome = orphan.job_id or 0, orphan.outcome
        if self.wants("rescued"):
            self._tell(Event("rescued", job_id, orphan.task, orphan.queue, orphan.attempt, None, orphan.worker_id))
        if outcome is not None and self.wants(NAMES[type(outcome)]):
            self._tell(Event(NAMES[type(outcome)], job_id, orphan.task, orphan.queue, orphan.attempt, None, outcome))

    def paused_are(self, queues: Iterable[str], before: set[str], after: set[str]) -> None:
        """Which of `queues` were paused before, and are now."""
        for queue in queues:
            if (queue in before) is not (queue in after):
                self._tell(Event("paused" if queue in after else "resumed", 0, "", queue))

    def _tell(self, event: Event) -> None:
        self._subscribers.emit(event)
        if self._publish is not None:
            self._publish(event)
