"""How jobs, queues, limits, breakers, schedules, workers and tasks look in tables and as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pgqueue.cli.output import (
    STATES,
    Column,
    Listing,
    alarming,
    as_cell,
    duration,
    faint,
    printable,
    relative,
    stamp,
    state,
    styled,
    zoned,
)

if TYPE_CHECKING:
    from pgqueue.client.breakers import BreakerRow
    from pgqueue.job import Job
    from pgqueue.queries.alerting import AlertRow
    from pgqueue.queries.failures import FailureGroup
    from pgqueue.queries.fleet import WorkerInfo
    from pgqueue.queries.flows import FlowRow
    from pgqueue.queries.inspecting import QueueStats
    from pgqueue.queries.limits import HaltedKey, LimitRow, PausedKey
    from pgqueue.queries.scheduling import ScheduleRow

HIDDEN = {"operations", "created"}
LONGEST_CELL = 200


def job_record(job: Job) -> dict[str, Any]:
    """Everything about a job."""
    return {f.name: getattr(job, f.name) for f in fields(job) if f.name not in HIDDEN}


def when(job: Job) -> Any:
    """The time that matters in its state."""
    if job.state == "blocked":
        return None
    return job.run_at if job.state == "scheduled" else job.ended_at or job.created_at


def arguments(job: Job) -> Any:
    if job.unreadable and "args" in job.unreadable:
        return styled(printable(capped(f"unreadable: {job.unreadable['args']}")), STATES["failed"])
    return faint(printable(capped(json.dumps(job.args, ensure_ascii=False))))


def capped(text: str) -> str:
    """Text of others without its end where it is long: what is piped has no width that would cut it."""
    return text if len(text) <= LONGEST_CELL else text[: LONGEST_CELL - 1] + "…"


def last_error(job: Job) -> str:
    """Class and first line of the last attempt's error."""
    if not job.errors:
        return ""
    last = job.errors[-1]
    kind = str(last.get("type", "")).rpartition(".")[2]
    message = str(last.get("message", "")).strip().partition("\n")[0]
    return capped(f"{kind}: {message}" if message else kind)


JOBS: Listing[Job] = Listing(
    [
        Column("ID", lambda job: str(job.id), number=True),
        Column("State", lambda job: state(job.state)),
        Column("Queue", lambda job: job.queue, shrinks=True),
        Column("Task", lambda job: job.task, shrinks=True, end=True),
        Column("Attempt", lambda job: f"{job.attempt}/{job.max_attempts}", number=True),
        Column("When", when),
        Column("Arguments", arguments, from_width=100, shrinks=True),
    ],
    job_record,
    "No job matches.",
)

FAILED: Listing[Job] = Listing(
    [
        Column("ID", lambda job: str(job.id), number=True),
        Column("Queue", lambda job: job.queue, from_width=70, shrinks=True),
        Column("Task", lambda job: job.task, shrinks=True, end=True),
        Column("Attempts", lambda job: job.attempt, number=True, from_width=100),
        Column("Reason", lambda job: job.reason, from_width=120),
        Column("Failed", lambda job: job.ended_at),
        Column("Error", last_error, shrinks=True),
    ],
    job_record,
    "No failed job matches.",
)

FAILURES: Listing[FailureGroup] = Listing(
    [
        Column("Jobs", lambda row: row.jobs, number=True),
        Column("Task", lambda row: row.task, shrinks=True, end=True),
        Column("Error", lambda row: capped(f"{row.error_type.rpartition('.')[2]}: {row.error_message}"), shrinks=True),
        Column("First", lambda row: row.first_failed_at, from_width=110),
        Column("Last", lambda row: row.last_failed_at),
        Column("Fingerprint", lambda row: faint(row.fingerprint)),
    ],
    asdict,
    "No failed jobs.",
)

FLOWS: Listing[FlowRow] = Listing(
    [
        Column("ID", lambda row: str(row.id), number=True),
        Column("State", lambda row: state(row.state)),
        Column("Name", lambda row: row.name, shrinks=True),
        Column("Jobs", lambda row: row.jobs, number=True),
        Column("Live", lambda row: row.live, number=True),
        Column("Completed", lambda row: row.completed, number=True, from_width=90),
        Column("Failed", lambda row: alarming(row.failed), number=True),
        Column("Cancelled", lambda row: row.cancelled, number=True, from_width=90),
        Column("Created", lambda row: row.created_at),
        Column("Ended", lambda row: row.ended_at, from_width=100),
    ],
    asdict,
    "No flows: app.flows.enqueue makes one, and so does after=….",
)

QUEUES: Listing[QueueStats] = Listing(
    [
        Column("Queue", lambda row: row.queue, shrinks=True),
        Column("Available", lambda row: row.available, number=True),
        Column("Running", lambda row: row.running, number=True),
        Column("Scheduled", lambda row: row.scheduled, number=True),
        Column("Due", lambda row: row.due, number=True, from_width=100),
        Column("Retrying", lambda row: row.retrying, number=True, from_width=100),
        Column("Blocked", lambda row: row.blocked, number=True, from_width=100),
        Column("Failed", lambda row: alarming(row.failed), number=True),
        Column("Done/h", lambda row: row.completed_last_hour, number=True),
        Column("Oldest", lambda row: row.oldest_waiting, number=True),
        Column("Slots", lambda row: row.slots, number=True, from_width=100),
        Column("Workers", lambda row: row.workers, number=True),
        Column("", lambda row: "paused" if row.paused else faint("")),
    ],
    asdict,
    "No queues yet: they appear with the first job or worker.",
)


def rate(row: LimitRow) -> str | None:
    """`5/s`, `100/min`: in the unit in which it is a number that people say."""
    if row.rate is None:
        return None
    for unit, seconds in (("s", 1), ("min", 60), ("h", 3600), ("day", 86_400)):
        count = row.rate * seconds
        if count >= 1 and abs(count - round(count)) < 1e-6 * count:
            return f"{round(count):,}/{unit}"
    return f"{row.rate:.4g}/s"


LIMITS: Listing[LimitRow] = Listing(
    [
        Column("Of", lambda row: f"{row.scope} {row.name}", shrinks=True, end=True),
        Column("Key", lambda row: row.key, shrinks=True),
        Column("At once", lambda row: "fair" if row.fair and row.concurrency is None else row.concurrency, number=True),
        Column("Rate", rate, number=True),
        Column("Burst", lambda row: None if row.rate is None else row.burst, number=True, from_width=90),
        Column("Running", lambda row: row.running if row.fair or row.concurrency is not None else None, number=True),
        Column("Blocked", lambda row: row.blocked, number=True),
        Column("Values", lambda row: None if row.key is None else row.values, number=True, from_width=100),
        Column("From", lambda row: "code" if row.declared else "", from_width=110),
        Column("", lambda row: "paused" if row.paused else faint("")),
    ],
    asdict,
    "No limits: declare them with limit=Limit(…), or set one with `pgqueue limits set`.",
)


PAUSED: Listing[PausedKey] = Listing(
    [
        Column("Of", lambda row: f"{row.scope} {row.name}", shrinks=True, end=True),
        Column("Key", lambda row: row.key or "serial key", shrinks=True),
        Column("Value", lambda row: row.value, shrinks=True),
        Column("Blocked", lambda row: row.blocked, number=True),
    ],
    asdict,
    "No value and no serial key is paused.",
)

HALTED: Listing[HaltedKey] = Listing(
    [
        Column("Queue", lambda row: row.queue, shrinks=True),
        Column("Serial key", lambda row: row.serial_key, shrinks=True),
        Column("Job", lambda row: row.job_id, number=True),
        Column("Task", lambda row: row.task, shrinks=True, end=True),
        Column("Failed", lambda row: row.failed_at),
        Column("Error", lambda row: f"{row.error_type}: {row.error_message}", shrinks=True),
        Column("Blocked", lambda row: row.blocked, number=True),
    ],
    asdict,
    "No serial key is halted: tasks with halt_on_failed=True halt theirs.",
)


def threshold(row: BreakerRow) -> str:
    """`10 in 1m`, `50% of 20 or more in 1m`."""
    count = [] if row.failures is None else [str(row.failures)]
    share = [] if row.ratio is None else [f"{row.ratio:.0%} of {row.minimum} or more"]
    return f"{' and '.join([*count, *share])} in {duration(row.within)}"


def counted(row: BreakerRow) -> str:
    return str(row.failed) if row.ratio is None else f"{row.failed}/{row.attempts}"


def breaker_state(row: BreakerRow) -> Any:
    return faint("closed") if row.state == "closed" else styled(row.state.replace("_", "-"), STATES["failed"])


BREAKERS: Listing[BreakerRow] = Listing(
    [
        Column("Of", lambda row: f"{row.scope} {row.name}", shrinks=True, end=True),
        Column("State", breaker_state),
        Column("Opens at", threshold, shrinks=True),
        Column("Failed", counted, number=True),
        Column("Trials", lambda row: row.trials or None, number=True, from_width=110),
        Column("Tries a job", lambda row: row.tries_at if row.state == "open" else None),
        Column("Blocked", lambda row: row.blocked, number=True),
        Column("Why", lambda row: None if row.state == "closed" else row.reason, from_width=100, shrinks=True),
        Column("From", lambda row: "code" if row.declared else "", from_width=120),
    ],
    asdict,
    "No circuit breakers: declare them with breaker=Breaker(…), or set one with `pgqueue breakers set`.",
)


def rule(row: ScheduleRow) -> str:
    """`0 9 * * MON-FRI Europe/Paris`, `every 5m`."""
    if row.every is not None:
        return f"every {as_cell(row.every)}"
    return row.cron or "" if row.tz == "UTC" else f"{row.cron} {row.tz}"


def schedule_state(row: ScheduleRow) -> Any:
    if row.error or row.unreadable:
        return printable(f"bad: {row.error or row.unreadable}")
    if row.enabled:
        return faint("ended") if row.ended else "on"
    return "removed from the code" if row.source == "removed" else "paused"


SCHEDULES: Listing[ScheduleRow] = Listing(
    [
        Column("Schedule", lambda row: row.name, shrinks=True),
        Column("Rule", rule),
        Column("Next", lambda row: row.next_run_at if row.enabled and not row.ended else None),
        Column("Last", lambda row: row.last_run_at),
        Column("Task", lambda row: row.task, from_width=100, shrinks=True, end=True),
        Column("State", schedule_state, shrinks=True),
    ],
    asdict,
    "No schedules: declare them with @app.cron or @app.every, and start `pgqueue scheduler`.",
)

UPCOMING: Listing[tuple[str, datetime, str | None]] = Listing(
    [
        Column("Schedule", lambda row: row[0], shrinks=True),
        Column("Day", lambda row: f"{row[1].astimezone():%a}"),
        Column("Time", lambda row: stamp(row[1])),
        Column("In its zone", lambda row: None if row[2] is None else zoned(row[1], row[2])),
        Column("", lambda row: faint(relative(row[1]))),
    ],
    lambda row: {"schedule": row[0], "run_at": row[1], "tz": row[2]},
    "Nothing is scheduled.",
)


ALERT_STATES = {"firing": STATES["failed"], "pending": STATES["blocked"], "ok": STATES["completed"], "unknown": ""}
ALERTS: Listing[AlertRow] = Listing(
    [
        Column("Alert", lambda row: row.name, shrinks=True),
        Column("State", lambda row: styled(row.state, ALERT_STATES[row.state])),
        Column("Since", lambda row: row.since),
        Column("Severity", lambda row: row.severity, from_width=90),
        Column("Now", lambda row: row.message, shrinks=True),
        Column("When", lambda row: row.rule, from_width=130, shrinks=True),
        Column("Said", lambda row: row.delivered_at, from_width=110),
        Column("To", lambda row: ", ".join(row.to), from_width=150, shrinks=True),
        Column("Runbook", lambda row: row.runbook, from_width=150, shrinks=True),
    ],
    asdict,
    "No alerts: declare them with app.alert(…), and start a worker.",
)


def worker_state(row: WorkerInfo) -> Any:
    return row.state if row.alive else styled("dead", STATES["failed"])


WORKERS: Listing[WorkerInfo] = Listing(
    [
        Column("Worker", lambda row: row.name, shrinks=True),
        Column("State", worker_state),
        Column("Running", lambda row: row.running, number=True),
        Column("Queues", lambda row: " ".join(f"{name}:{slots}" for name, slots in row.queues.items()), shrinks=True),
        Column("Heartbeat", lambda row: row.heartbeat_at),
        Column("Started", lambda row: row.started_at, from_width=90),
        Column("Host", lambda row: row.host, from_width=110, shrinks=True),
        Column("PID", lambda row: str(row.pid), number=True, from_width=110),
        Column("Version", lambda row: row.version, from_width=120),
    ],
    asdict,
    "No workers: start one with `pgqueue worker`.",
)

TASK_FIELDS = ("name", "queue", "priority", "max_attempts", "timeout", "last_seen_at", "live_jobs", "alias_of")
TASKS: Listing[tuple[Any, ...]] = Listing(
    [
        Column("Task", lambda row: f"{row[0]} (alias of {row[7]})" if row[7] else row[0], shrinks=True, end=True),
        Column("Queue", lambda row: row[1] or "(no worker)", shrinks=True),
        Column("Live jobs", lambda row: row[6], number=True),
        Column("Attempts", lambda row: row[3], number=True),
        Column("Timeout", lambda row: None if row[4] is None else duration(row[4]), number=True),
        Column("Priority", lambda row: row[2], number=True, from_width=90),
        Column("Last seen", lambda row: row[5]),
    ],
    lambda row: dict(zip(TASK_FIELDS, row, strict=True)),
    "No tasks: a worker registers its own at its start.",
)
