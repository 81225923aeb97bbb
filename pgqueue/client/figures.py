"""Figures for charts: how much ran, how long it took and had waited, minute by minute."""

from __future__ import annotations

import builtins
from dataclasses import dataclass
from datetime import timedelta

from pgqueue.client.part import Part
from pgqueue.errors import ArgumentError, seconds
from pgqueue.queries import figures
from pgqueue.queries.figures import KEEP_MINUTES, MINUTE, Latency, Summary, Throughput

HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Figures(Part):
    """`app.figures`: what runs came to in the last three days, as workers have counted it, also where nothing is kept.

    Workers add to it every five seconds, and what one had not added when it was killed is lost. Jobs that end without a
    worker are not counted. `since` is how far to look back, a number of seconds or a timedelta, rounded up to a whole
    minute or step; `step` likewise, in whole minutes. What is longer ago is kept by two minutes after an hour, by ten
    after six and by thirty after a day: where `since` goes back so far, steps are whole ones of these. Raises
    ArgumentError for what cannot be.
    """

    def throughput(
        self,
        since: float | timedelta = HOUR,
        *,
        queue: str | None = None,
        task: str | None = None,
        step: float | timedelta = MINUTE,
    ) -> builtins.list[Throughput]:
        """How many runs ended in each step, by what they came to: of all, of a queue, of a task. The oldest step first.

        completed = [point.completed for point in app.figures.throughput(timedelta(hours=6), queue="email", step=300)]
        """
        return self.database.fetch(figures.throughput(self.schema, _back(since), queue, task, step=_step(step)))

    async def athroughput(
        self,
        since: float | timedelta = HOUR,
        *,
        queue: str | None = None,
        task: str | None = None,
        step: float | timedelta = MINUTE,
    ) -> builtins.list[Throughput]:
        """As `throughput`."""
        return await self.database.afetch(figures.throughput(self.schema, _back(since), queue, task, step=_step(step)))

    def latency(
        self,
        since: float | timedelta = HOUR,
        *,
        queue: str | None = None,
        task: str | None = None,
        step: float | timedelta = MINUTE,
    ) -> builtins.list[Latency]:
        """How long runs took and had waited, in percentiles for each step. The oldest step first.

        slow = [point.at for point in app.figures.latency(task="shop.tasks.charge") if (point.run.p95 or 0) > 2.0]
        """
        return self.database.fetch(figures.latency(self.schema, _back(since), queue, task, step=_step(step)))

    async def alatency(
        self,
        since: float | timedelta = HOUR,
        *,
        queue: str | None = None,
        task: str | None = None,
        step: float | timedelta = MINUTE,
    ) -> builtins.list[Latency]:
        """As `latency`."""
        return await self.database.afetch(figures.latency(self.schema, _back(since), queue, task, step=_step(step)))

    def by_task(self, since: float | timedelta = HOUR, *, queue: str | None = None) -> builtins.list[Summary]:
        """A row a task that ran, by name, in all queues or in one.

        worst = max(app.figures.by_task(), key=lambda task: task.failure_rate or 0, default=None)
        """
        return self.database.fetch(figures.by_task(self.schema, _back(since), queue))

    async def aby_task(self, since: float | timedelta = HOUR, *, queue: str | None = None) -> builtins.list[Summary]:
        """As `by_task`."""
        return await self.database.afetch(figures.by_task(self.schema, _back(since), queue))

    def by_queue(self, since: float | timedelta = HOUR) -> builtins.list[Summary]:
        """A row a queue of which something ran, by name."""
        return self.database.fetch(figures.by_queue(self.schema, _back(since)))

    async def aby_queue(self, since: float | timedelta = HOUR) -> builtins.list[Summary]:
        """As `by_queue`."""
        return await self.database.afetch(figures.by_queue(self.schema, _back(since)))


def _back(since: float | timedelta) -> float:
    back, most = seconds(since, "since"), KEEP_MINUTES.total_seconds()
    if not 0 < back <= most:
        raise ArgumentError(
            f"since={since!r} must be above 0 and at most {most:.0f} seconds: figures are kept three days"
        )
    return back


def _step(step: float | timedelta) -> int:
    given, most = seconds(step, "step"), KEEP_MINUTES.total_seconds()
    if not 0 < given <= most or given % MINUTE:
        raise ArgumentError(f"step={step!r} must be whole minutes, such as 60 or 300 seconds, and at most {most:.0f}")
    return int(given)
