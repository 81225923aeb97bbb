"""How a job is described to those who trace: OpenTelemetry's semantic conventions for messaging, and what they lack."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pgqueue import arguments
from pgqueue.context import Context
from pgqueue.job import Job, NewJob
from pgqueue.outcome import AttemptError, Cancelled, Completed, Failed, Outcome, Retry, Snooze, Wait

Value = str | int

SYSTEM: Final = "messaging.system"
OPERATION_NAME: Final = "messaging.operation.name"
OPERATION_TYPE: Final = "messaging.operation.type"
DESTINATION: Final = "messaging.destination.name"
MESSAGE_ID: Final = "messaging.message.id"
MESSAGE_COUNT: Final = "messaging.batch.message_count"
ERROR_TYPE: Final = "error.type"

# The conventions leave a namespace to each system.
TASK: Final = "messaging.pgqueue.task"
ATTEMPT: Final = "messaging.pgqueue.attempt"
MAX_ATTEMPTS: Final = "messaging.pgqueue.max_attempts"
OUTCOME: Final = "messaging.pgqueue.outcome"

# As the conventions say, in seconds.
DURATIONS: Final = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)

# As the events are called.
OUTCOMES: dict[type[Outcome], str] = {
    Completed: "completed",
    Retry: "retried",
    Snooze: "snoozed",
    Wait: "snoozed",
    Cancelled: "cancelled",
    Failed: "failed",
}
INTERRUPTED: Final = "interrupted"


def of_operation(operation: str, queue: str | None) -> dict[str, Value]:
    """An operation, which is its own type; one without a queue is on several."""
    found: dict[str, Value] = {SYSTEM: "pgqueue", OPERATION_NAME: operation, OPERATION_TYPE: operation}
    return found if queue is None else {**found, DESTINATION: queue}


def of_run(context: Context) -> dict[str, Value]:
    return {
        MESSAGE_ID: str(context.job_id),
        TASK: context.task,
        ATTEMPT: context.attempt,
        MAX_ATTEMPTS: context.max_attempts,
    }


def of_jobs(jobs: Sequence[NewJob]) -> dict[str, Value]:
    """What an enqueue has in common, and how many jobs where they are many."""
    tasks = {job.task for job in jobs}
    found: dict[str, Value] = {TASK: tasks.pop()} if len(tasks) == 1 else {}
    return found if len(jobs) == 1 else {**found, MESSAGE_COUNT: len(jobs)}


def queue_of(jobs: Sequence[NewJob] | Sequence[Job]) -> str | None:
    """The queue that all of them go to; None where they go to several, or the database is to say it."""
    queues = {job.queue for job in jobs}
    return queues.pop() if len(queues) == 1 else None


def is_of_a_schedule(jobs: Sequence[NewJob]) -> bool:
    """A schedule's jobs are nobody's children: nobody has asked for them."""
    text = jobs[0].headers
    return text is not None and "scheduled_for" in arguments.loads(text)


def error_of(outcome: Outcome) -> AttemptError | None:
    """Why the attempt did not complete, where that is an error."""
    return outcome.error if isinstance(outcome, Retry | Failed) else None
