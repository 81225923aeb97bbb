"""A schedule as it is defined, and as the table holds it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import MAXYEAR, datetime, timedelta
from typing import Any

from pgqueue import arguments
from pgqueue.errors import ArgumentError, ConfigurationError
from pgqueue.job import NewJob
from pgqueue.policy import Policy
from pgqueue.queries.scheduling import ScheduleRow
from pgqueue.schedule import Cron, Every, Rule

PLAIN = ("priority", "max_attempts", "key", "serial_key", "on_conflict")
JSON = ("tags", "headers", "options")
AS_IT_COMES = Policy()
IN_TURN = ("queue_one", "cancel_running")
"""Overlaps under which a schedule's jobs run one at a time, by a serial key."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """A rule, the job that it makes, and what becomes of missed times and overlaps. Raises ConfigurationError."""

    name: str
    rule: Rule
    job: NewJob
    policy: Policy = AS_IT_COMES
    source: str = "code"

    def __post_init__(self) -> None:
        if self.job.delay is not None or self.job.run_at is not None:
            raise ConfigurationError(
                f"schedule {self.name}: its times are those of its rule; give jitter in place of delay and run_at"
            )
        if self.policy.overlap in IN_TURN and self.job.serial_key is not None:
            raise ConfigurationError(
                f"schedule {self.name}: overlap={self.policy.overlap!r} needs the serial key of its jobs, and task "
                f"{self.job.task} gives them {self.job.serial_key!r}, by which they run one at a time anyway"
            )

    def row(self, now: datetime) -> ScheduleRow:
        """As the table holds it; its first nominal time is the next one after `now`."""
        cron = self.rule if isinstance(self.rule, Cron) else None
        every = self.rule.interval if isinstance(self.rule, Every) else None
        policy = self.policy
        return ScheduleRow(
            self.name,
            self.job.task,
            self.job.queue,
            cron.expression if cron else None,
            every,
            cron.tz if cron else "UTC",
            arguments.loads(self.job.args),
            options_of(self.job),
            True,
            self.source,
            policy.catch_up,
            policy.grace,
            policy.overlap,
            policy.jitter,
            policy.start,
            policy.end,
            policy.max_runs,
            runs=0,
            next_run_at=policy.first(self.rule, now),
            last_run_at=None,
            last_job_id=None,
            error=None,
            updated_at=now,
        )


def rule_given(rule: str | timedelta, tz: str, what: str) -> Rule:
    """A cron expression, or an interval. Raises ConfigurationError."""
    if isinstance(rule, str):
        return Cron(rule, tz)
    if tz != "UTC":
        raise ConfigurationError(f"{what}: tz={tz!r} is for cron; an interval is elapsed time, the same in all zones")
    return Every.of(rule)


def rule_of(row: ScheduleRow) -> Rule:
    """The rule of a row. Raises ConfigurationError for one that never fires."""
    return Cron(row.cron, row.tz) if row.cron is not None else Every(row.every or timedelta())


def policy_of(row: ScheduleRow) -> Policy:
    """The policy of a row. Raises ConfigurationError."""
    options: Any = (row.catch_up, row.grace, row.overlap, row.jitter, row.start, row.end, row.max_runs)
    return Policy(*options)


def upcoming(row: ScheduleRow, now: datetime) -> Iterator[datetime]:
    """Its next nominal times. Raises ConfigurationError."""
    rule, policy = rule_of(row), policy_of(row)
    left = None if policy.max_runs is None else policy.max_runs - row.runs
    time = policy.first(rule, now) if row.next_run_at is None else row.next_run_at
    while time is not None and not row.ended and left != 0 and (policy.end is None or time <= policy.end):
        yield time
        left = None if left is None else left - 1
        time = rule.next_after(time) if time.year < MAXYEAR else None


def options_of(job: NewJob) -> dict[str, Any]:
    """What a job has beside its task, queue and arguments, as JSON can hold it."""
    found: dict[str, Any] = {name: getattr(job, name) for name in PLAIN}
    found |= {name: arguments.loads(text) for name in JSON if (text := getattr(job, name)) is not None}
    found["keep_key"] = None if job.keep_key is None else job.keep_key.total_seconds()
    return {name: value for name, value in found.items() if value is not None}


def job_of(row: ScheduleRow, nominal: datetime) -> NewJob:
    """The job of one nominal time. Raises ArgumentError for what cannot be read or enqueued, ConfigurationError."""
    if row.unreadable is not None:
        raise ArgumentError(f"schedule {row.name} cannot be read: {row.unreadable}")
    policy, what = policy_of(row), f"schedule {row.name}"
    text = arguments.dumps(
        dict(row.args), what=f"args of {what}", limit=arguments.ARGUMENTS_LIMIT, depth=arguments.ARGUMENTS_DEPTH
    )
    options = dict(row.job_options)
    headers = {**options.get("headers", {}), "schedule": row.name, "scheduled_for": nominal.isoformat()}
    given: dict[str, Any] = {name: options[name] for name in PLAIN if name in options}
    given |= {name: _dumped(options[name], what) for name in JSON if name in options}
    given["headers"] = _dumped(headers, what)
    if "keep_key" in options:
        given["keep_key"] = timedelta(seconds=options["keep_key"])
    if policy.jitter:
        given["run_at"] = policy.delayed(row.name, nominal)
    made = NewJob(row.task, text, row.queue, **given)
    return made._replace(serial_key=f"schedule:{row.name}") if policy.overlap in IN_TURN else made


def _dumped(value: Any, what: str) -> str:
    return arguments.dumps(value, what=what, limit=arguments.ARGUMENTS_LIMIT)
