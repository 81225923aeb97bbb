"""The event of an outcome."""

from __future__ import annotations

from pgqueue.events import Event, EventName, Subscribers
from pgqueue.job import ClaimedJob
from pgqueue.outcome import Cancelled, Completed, Failed, Outcome, Retry, Snooze

NAMES: dict[type, EventName] = {
    Completed: "completed",
    Retry: "retried",
    Snooze: "snoozed",
    Cancelled: "cancelled",
    Failed: "failed",
}


def event_of(job: ClaimedJob, outcome: Outcome | None, seconds: float, subscribers: Subscribers) -> Event | None:
    """What to tell the subscribers; None when nobody asked."""
    name: EventName = "released" if outcome is None else NAMES[type(outcome)]
    if not subscribers.wants(name):
        return None
    return Event(name, job.id, job.task, job.queue, job.attempt, seconds, outcome)
