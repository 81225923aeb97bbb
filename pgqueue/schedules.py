"""A schedule as the code declares it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from pgqueue import arguments
from pgqueue.job import NewJob
from pgqueue.queries.scheduling import ScheduleRow
from pgqueue.schedule import Cron, Every, Rule


@dataclass(frozen=True, slots=True)
class Schedule:
    """A rule, and the job that it makes."""

    name: str
    rule: Rule
    job: NewJob

    def row(self, now: datetime) -> ScheduleRow:
        """As the table holds it; its first nominal time is the next one after `now`."""
        cron = self.rule if isinstance(self.rule, Cron) else None
        every = self.rule.interval if isinstance(self.rule, Every) else None
        return ScheduleRow(
            self.name,
            self.job.task,
            self.job.queue,
            cron.expression if cron else None,
            every,
            cron.tz if cron else "UTC",
            arguments.loads(self.job.args),
            True,
            "code",
            self.rule.next_after(now),
            None,
            None,
        )


def rule_of(cron: str | None, every: timedelta | None, tz: str) -> Rule:
    """The rule of a row. Raises ConfigurationError for one that never fires."""
    return Cron(cron, tz) if cron is not None else Every(every or timedelta())
