"""Deletes ended jobs that are past their retention, and makes the partitions of the days to come."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from itertools import count
from typing import Any, Literal

import psycopg

from pgqueue.effects import KEEP_EFFECTS
from pgqueue.errors import SchemaOutOfDate
from pgqueue.queries import alerting, effects, figures, pruning, retaining, settling, steps, waiting
from pgqueue.queries.figures import KEEP_MINUTES, PACKS
from pgqueue.queries.retaining import Rule
from pgqueue.queries.statement import Statement
from pgqueue.retention import DAY, Retention
from pgqueue.services.service import Runner, Service

logger = logging.getLogger("pgqueue.services")

KEEP_LANES = timedelta(days=7)
KEEP_COMPLETED = timedelta(days=1)
BATCH = 5_000
SWEEPS = 2
INTERVAL = 60.0
# What workers leave when they die; looking for it reads every step of jobs that wait or failed.
STEPS_INTERVAL = 3600.0


class Pruner(Service):
    """Whole days leave as partitions; what a queue or task keeps for less, or fewer, in bounded batches; log lines with
    their jobs; and marks of lanes long unused.

    `keep_completed` and `keep_failed` are the app's own, for tasks that no worker has registered.
    """

    name = "pruner"
    # A worker starts to run jobs, and a fleet starts at once.
    starts_after = 4.0

    def __init__(
        self,
        runner: Runner,
        schema: str,
        keep_completed: Retention = DAY,
        keep_failed: Retention | None = None,
        keep_effects: timedelta = KEEP_EFFECTS,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(runner, schema)
        self._keep = keep_completed.age if keep_completed.age is not None else KEEP_COMPLETED
        self._keep_failed = None if keep_failed is None else keep_failed.age
        self._swept: dict[str, int] = {}
        self._flows_after = 0
        self._packed: dict[int, datetime] = {}
        self._keep_effects = keep_effects
        self._clock = clock
        self._steps_at = clock() + random.uniform(0.0, STEPS_INTERVAL)

    async def run_once(self) -> float:
        await self.runner.fetch(pruning.make_partitions(self.schema))
        for name, pending in await self.runner.fetch(pruning.ended_partitions(self.schema, self._keep)):
            await self._detach(name, pending)
        for name in await self.runner.fetch(pruning.kept_partitions(self.schema, self._keep)):
            await self._alter(pruning.mark_kept(self.schema, name))
        for name in await self.runner.fetch(pruning.detached_partitions(self.schema, self._keep)):
            await self.runner.fetch(pruning.drop_partition(self.schema, name))
            logger.info("dropped %s", name)
            # The log lines of its jobs are the oldest.
            self._swept.clear()
        for rules in (
            retaining.queue_rules(self.schema, self._keep),
            retaining.task_rules(self.schema, self._keep),
            retaining.failed_rules(self.schema, self._keep_failed),
        ):
            for rule in await self.runner.fetch(rules):
                await self._prune(rule)
        await self._sweep("job_logs")
        await self._sweep("job_progress")
        await self.runner.fetch(alerting.forget_rescues(self.schema))
        await self.runner.fetch(pruning.forget_lanes(self.schema, KEEP_LANES))
        while await self.runner.fetch(pruning.forget_keys(self.schema, BATCH)) == [BATCH]:
            pass
        await self._prune_flows()
        await self._forget(waiting.forget_waiters(self.schema, BATCH))
        await self._forget(figures.forget_minutes(self.schema, KEEP_MINUTES, BATCH))
        await self._pack_figures()
        await self._forget(effects.forget_effects(self.schema, self._keep_effects, BATCH))
        if self._clock() >= self._steps_at:
            self._steps_at = self._clock() + STEPS_INTERVAL * random.uniform(0.8, 1.2)
            await self._forget(steps.forget_ended(self.schema, BATCH))
        return INTERVAL * random.uniform(0.8, 1.2)

    async def _prune(self, rule: Rule) -> None:
        kept = [] if rule.count is None else await self.runner.fetch(retaining.oldest_kept(self.schema, rule))
        if rule.age is None and not kept:
            return
        before = kept[0] if kept else None
        for task in rule.tasks:
            while await self.runner.fetch(retaining.prune(self.schema, rule, task, before, BATCH)) == [BATCH]:
                pass

    async def _sweep(self, table: Literal["job_logs", "job_progress"]) -> None:
        """Look at some rows each time, from where the last turn ended; at more, as long as many are to go."""
        for turn in count(1):
            [swept] = await self.runner.fetch(retaining.sweep(self.schema, table, self._swept.get(table, 0), BATCH))
            self._swept[table] = swept.last if swept.seen == BATCH else 0
            if swept.seen < BATCH or (turn >= SWEEPS and swept.gone < BATCH // 2):
                return

    async def _prune_flows(self) -> None:
        """Look at some each time, from where the last turn ended."""
        for _ in range(SWEEPS):
            pruning_flows = settling.prune(self.schema, self._flows_after, BATCH, self._keep)
            last, _ = await self.runner.run(pruning_flows, atomic=True)
            self._flows_after = last or 0
            if last is None:
                return

    async def _pack_figures(self) -> None:
        """From where the last turn ended."""
        for apart, step in PACKS:
            packing = partial(figures.pack_minutes, self.schema, apart, step)
            while packed := await self.runner.fetch(packing(self._packed.get(step))):
                [self._packed[step]] = packed

    async def _forget(self, statement: Statement[int]) -> None:
        while await self.runner.fetch(statement) == [BATCH]:
            pass

    async def _detach(self, name: str, pending: bool) -> None:
        if pending or await self._alter(pruning.mark_ended(self.schema, name)):
            await self._alter(pruning.detach_partition(self.schema, name, finalize=pending))

    async def _alter(self, statement: Statement[Any]) -> bool:
        # Where an old snapshot holds it up, or another pruner was first, a later turn goes on.
        try:
            await self.runner.fetch(statement)
        except (psycopg.Error, SchemaOutOfDate) as error:
            logger.info("`%s` waits for a later turn: %s", statement.text, str(error).strip())
            return False
        return True
