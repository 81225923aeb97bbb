"""Deletes history that is past its retention, and makes the partitions of the days to come."""

from __future__ import annotations

import logging
import random
from datetime import timedelta
from typing import Any

import psycopg

from pgqueue.errors import SchemaOutOfDate
from pgqueue.queries import journaling, pruning
from pgqueue.queries.statement import Statement
from pgqueue.services.service import Runner, Service

logger = logging.getLogger("pgqueue.services")

KEEP_LANES = timedelta(days=7)
KEEP_COMPLETED = timedelta(hours=24)
BATCH = 5_000
INTERVAL = 60.0


class Pruner(Service):
    """Whole days leave as partitions; what a queue keeps for less in bounded batches; marks of lanes long unused."""

    name = "pruner"

    def __init__(self, runner: Runner, schema: str, keep_completed: timedelta = KEEP_COMPLETED) -> None:
        super().__init__(runner, schema)
        self._keep = keep_completed

    async def run_once(self) -> float:
        await self.runner.fetch(pruning.make_partitions(self.schema))
        for name, pending in await self.runner.fetch(pruning.ended_partitions(self.schema, self._keep)):
            await self._detach(name, pending)
        for name in await self.runner.fetch(pruning.kept_partitions(self.schema, self._keep)):
            await self._alter(pruning.mark_kept(self.schema, name))
        for name in await self.runner.fetch(pruning.detached_partitions(self.schema, self._keep)):
            await self.runner.fetch(pruning.drop_partition(self.schema, name))
            logger.info("dropped %s", name)
        for queue, keep in await self.runner.fetch(pruning.retentions(self.schema, self._keep)):
            while await self.runner.fetch(pruning.prune_queue(self.schema, queue, keep, BATCH)) == [BATCH]:
                pass
        await self.runner.fetch(pruning.forget_lanes(self.schema, KEEP_LANES))
        for table, column in (("job_logs", "logged_at"), ("job_progress", "updated_at")):
            while await self.runner.fetch(journaling.forget(self.schema, table, column, self._keep, BATCH)) == [BATCH]:
                pass
        while await self.runner.fetch(pruning.forget_keys(self.schema, BATCH)) == [BATCH]:
            pass
        return INTERVAL * random.uniform(0.8, 1.2)

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
