"""Fires schedules: one job per nominal time, however many schedulers run."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from pgqueue.errors import PgQueueError
from pgqueue.events import Subscribers, tell_enqueued
from pgqueue.middleware import Stack
from pgqueue.policy import Due
from pgqueue.queries import scheduling
from pgqueue.queries.scheduling import ScheduleRow
from pgqueue.schedules import Schedule, job_of, policy_of, rule_of
from pgqueue.services.alerter import Alerter
from pgqueue.services.service import RETRY_AFTER, Runner, Service, is_everyones, runner_of

if TYPE_CHECKING:
    from pgqueue.app import PgQueue

logger = logging.getLogger("pgqueue.scheduler")

LONGEST = 5.0


class Scheduler(Service):
    """Reconciles the code's schedules at its start, then enqueues each job at its nominal time.

    After a downtime the latest missed time is fired, the ones before it are not.

        await Scheduler.of(app).run()
    """

    name = "scheduler"

    def __init__(
        self,
        runner: Runner,
        schema: str,
        declared: Mapping[str, Schedule],
        fallback_attempts: int,
        middleware: Stack,
        subscribers: Subscribers,
    ) -> None:
        super().__init__(runner, schema)
        self._declared = declared
        self._fallback_attempts = fallback_attempts
        self._middleware = middleware
        self._subscribers = subscribers
        self._reconciled = False
        self._failing: set[str] = set()

    @classmethod
    def of(cls, app: PgQueue) -> Scheduler:
        """A scheduler on the app's own pool."""
        return cls.on(runner_of(app.database), app)

    @classmethod
    def on(cls, runner: Runner, app: PgQueue) -> Scheduler:
        """The app's scheduler."""
        return cls(runner, app.schema, app.declared_schedules, app.max_attempts, app.middleware, app.subscribers)

    async def run_once(self) -> float:
        if not self._reconciled:
            await self._reconcile()
            self._reconciled = True
        await self.runner.fetch(scheduling.seen(self.schema))
        [now] = await self.runner.fetch(scheduling.now(self.schema))
        rows = await self.runner.fetch(scheduling.due(self.schema))
        self._failing &= {row.name for row in rows}
        for row in rows:
            await self._try(row, now)
        [due_in] = await self.runner.fetch(scheduling.next_due_in(self.schema))
        soonest = RETRY_AFTER if self._failing else 0.0
        return LONGEST if due_in is None else min(LONGEST, max(soonest, due_in))

    async def _reconcile(self) -> None:
        [now] = await self.runner.fetch(scheduling.now(self.schema))
        for schedule in self._declared.values():
            if await self.runner.fetch(scheduling.declare(self.schema, schedule.row(now))):
                logger.info("schedule %s is set", schedule.name)
        for name in await self.runner.fetch(scheduling.disable_removed(self.schema, list(self._declared))):
            logger.info("schedule %s is no longer declared: disabled", name)

    async def _try(self, row: ScheduleRow, now: datetime) -> None:
        """Fire it, or say once why not: the others are due too, and it stays due."""
        try:
            await self._fire(row, now)
            self._failing.discard(row.name)
        except Exception as error:
            if is_everyones(error):
                raise
            if row.name not in self._failing:
                why = str(error).strip().partition("\n")[0] or type(error).__name__
                why = " ".join([why, *getattr(error, "__notes__", ())])
                logger.error("schedule %s was not fired: %s; trying again", row.name, why)
            self._failing.add(row.name)

    async def _fire(self, row: ScheduleRow, now: datetime) -> None:
        try:
            times, following = due_of(row, now)
            jobs = [job_of(row, nominal) for nominal in times]
        except PgQueueError as error:
            logger.error("schedule %s is disabled: %s", row.name, error)
            await self.runner.fetch(scheduling.disable(self.schema, row.name, str(error)))
            return
        fired = await self.runner.run(
            scheduling.fire(
                self.schema, row, times, following, jobs, self._fallback_attempts, self._middleware.enqueues
            ),
            atomic=True,
        )
        tell_enqueued(self._subscribers, fired.made)
        for nominal, made in zip(times, fired.made, strict=False):
            logger.info("schedule %s fired for %s: job %d", row.name, nominal.isoformat(), made.id)
        if fired.left_out_for is not None:
            logger.info(
                "schedule %s left out %s: job %d of an earlier time has not ended",
                row.name,
                times[-1].isoformat(),
                fired.left_out_for,
            )


def due_of(row: ScheduleRow, now: datetime) -> Due:
    """What is to be fired of a schedule. Raises ConfigurationError for a row that cannot be."""
    rule, policy = rule_of(row), policy_of(row)
    expected = row.next_run_at
    if expected is None:
        # Added in SQL, which cannot tell.
        expected = policy.first(rule, row.updated_at)
    if expected is None or expected > now:
        return Due((), expected)
    return policy.due(rule, expected=expected, last=row.last_run_at, runs=row.runs, now=now)


async def run_scheduler(app: PgQueue, stop: asyncio.Event, scheduler: Scheduler | None = None) -> None:
    """Run the app's scheduler until `stop` is set, and look at its alerts: one may be that no worker runs.

    Raises what it cannot go on after, SchemaOutOfDate.
    """
    services: list[Service] = [scheduler or Scheduler.of(app)]
    if app.declared_alerts:
        services.append(Alerter.of(app))
    running = [asyncio.create_task(service.run()) for service in services]
    stopped = asyncio.create_task(stop.wait())
    try:
        ended, _ = await asyncio.wait([stopped, *running], return_when=asyncio.FIRST_COMPLETED)
        for service in ended - {stopped}:
            # None ends by itself but with an error that it cannot go on after.
            await service
    finally:
        for service in (stopped, *running):
            service.cancel()
        await asyncio.gather(stopped, *running, return_exceptions=True)
        await app.aclose()
