"""Schedules: looked at, changed, and added while everything runs."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from pgqueue.client.inserter import Inserter
from pgqueue.client.part import Part
from pgqueue.errors import ConfigurationError, JobNotFound
from pgqueue.job import Job, NewJob
from pgqueue.names import data_name
from pgqueue.policy import CatchUp, Overlap, Policy
from pgqueue.queries import scheduling
from pgqueue.queries.scheduling import ScheduleRow
from pgqueue.queries.statement import Operation
from pgqueue.schedules import Schedule, job_of, policy_of, rule_given, rule_of, upcoming


@dataclass(frozen=True, slots=True)
class Schedules(Part):
    """`app.schedules`: what the scheduler fires. Those that the code declares, and those that are upserted here."""

    inserter: Inserter

    def upsert(
        self,
        name: str,
        rule: str | timedelta,
        job: NewJob,
        *,
        tz: str = "UTC",
        catch_up: CatchUp = "latest",
        grace: float | timedelta | None = None,
        overlap: Overlap = "allow",
        jitter: float | timedelta | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        max_runs: int | None = None,
    ) -> ScheduleRow:
        """Add a schedule while everything runs, or change it; returns it as it is then.

        `rule` is a cron expression, read in the time zone `tz`, or a timedelta. `job` brings its task, arguments and
        options, each of its jobs alike. The others are as in `app.cron`. One that fires at other times than before
        starts from its own next one; a paused one stays paused. Raises ConfigurationError, also for a name that the
        code declares, and for one with no time left before its `end`.

            app.schedules.upsert("monthly-acme", "0 9 1 * *", report.job(tenant="acme"), tz="Europe/Paris")
        """
        schedule = self._given(name, rule, tz, job, (catch_up, grace, overlap, jitter, start, end, max_runs))
        self.upsert_all([schedule])
        return self.get(name)

    async def aupsert(
        self,
        name: str,
        rule: str | timedelta,
        job: NewJob,
        *,
        tz: str = "UTC",
        catch_up: CatchUp = "latest",
        grace: float | timedelta | None = None,
        overlap: Overlap = "allow",
        jitter: float | timedelta | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        max_runs: int | None = None,
    ) -> ScheduleRow:
        """As `upsert`."""
        schedule = self._given(name, rule, tz, job, (catch_up, grace, overlap, jitter, start, end, max_runs))
        await self.database.arun(self.declaring([schedule]), atomic=True)
        [row] = await self.database.afetch(scheduling.list_schedules(self.schema, name))
        return row

    def upsert_all(self, schedules: Sequence[Schedule]) -> None:
        """Several in one transaction: all, or none. Raises as `upsert` does."""
        self.database.run(self.declaring(schedules), atomic=True)

    def declaring(self, schedules: Sequence[Schedule]) -> Operation[None]:
        """What `upsert_all` does, to be run in one transaction."""
        [now] = yield scheduling.now(self.schema)
        for schedule in schedules:
            given = schedule.row(now)
            if given.next_run_at is None:
                raise ConfigurationError(
                    f"schedule {schedule.name} would never fire: from {now:%Y-%m-%d %H:%M} UTC on, no time of it comes "
                    f"before its end, {given.end}; give a later end, or stop it by pause or remove"
                )
            yield scheduling.declare(self.schema, given)
            [row] = yield scheduling.list_schedules(self.schema, schedule.name)
            _live(row)

    def run(self, name: str) -> Job:
        """Enqueue its job now; its next times stay. Raises JobNotFound, ArgumentError for what cannot be enqueued."""
        [now] = self.database.fetch(scheduling.now(self.schema))
        [job] = self.inserter.insert([job_of(self.get(name), now)])
        return job

    @staticmethod
    def _given(name: str, rule: str | timedelta, tz: str, job: NewJob, policy: tuple[Any, ...]) -> Schedule:
        kind: object = job
        if not isinstance(kind, NewJob):
            raise ConfigurationError(f"schedule {name!r} was given {job!r} as its job: write report.job(tenant='acme')")
        if job.after:
            raise ConfigurationError(
                f"schedule {name!r} was given a job that waits for others: let its task enqueue a flow"
            )
        given = rule_given(rule, tz, f"schedule {name}")
        return Schedule(data_name("schedule", name), given, job, Policy(*policy), source="live")

    def list(self) -> builtins.list[ScheduleRow]:
        """By name."""
        return self.database.fetch(scheduling.list_schedules(self.schema))

    def get(self, name: str) -> ScheduleRow:
        """One schedule. Raises JobNotFound."""
        rows = self.database.fetch(scheduling.list_schedules(self.schema, name))
        if not rows:
            raise JobNotFound(f"there is no schedule {name!r}: `pgqueue schedules list` shows them")
        return rows[0]

    def pause(self, name: str) -> None:
        """Fire no more until it is resumed."""
        self.get(name)
        self.database.fetch(scheduling.set_enabled(self.schema, name, False))

    def resume(self, name: str) -> None:
        """Fire from the next nominal time on."""
        row = self.get(name)
        [now] = self.database.fetch(scheduling.now(self.schema))
        following = policy_of(row).first(rule_of(row), now)
        self.database.fetch(scheduling.set_enabled(self.schema, name, True, following))

    def remove(self, name: str) -> None:
        """Delete it; one that the code declares comes back at the scheduler's next start."""
        self.get(name)
        self.database.fetch(scheduling.remove(self.schema, name))

    def upcoming(self, name: str, count: int = 5) -> builtins.list[datetime]:
        """Its next nominal times: fewer where the calendar ends."""
        row = self.get(name)
        [now] = self.database.fetch(scheduling.now(self.schema))
        return [*islice(upcoming(row, now), count)]


def _live(row: ScheduleRow) -> None:
    if row.source == "code":
        raise ConfigurationError(
            f"schedule {row.name} is declared in the code: change it there, or choose another name"
        )
