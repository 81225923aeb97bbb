"""Queues and workers: what runs the jobs."""

from __future__ import annotations

import builtins
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from pgqueue.client.part import Part
from pgqueue.names import data_name
from pgqueue.queries import ageing, fleet, inspecting, limits, obliterating
from pgqueue.queries.fleet import WorkerInfo
from pgqueue.queries.inspecting import QueueStats
from pgqueue.queries.obliterating import Obliterated
from pgqueue.task import ageing_of


@dataclass(frozen=True, slots=True)
class Queue(Part):
    """`app.queues["email"]`."""

    name: str

    def pause(self) -> None:
        """Stop its claims on every worker; running jobs go on."""
        self.database.fetch(limits.set_paused(self.schema, True, queue=self.name))

    def resume(self) -> bool:
        """Let it go on; False where it was not paused."""
        [resumed] = self.database.fetch(limits.set_paused(self.schema, False, queue=self.name))
        return bool(resumed)

    def age(self, every: float | timedelta | None, *, floor: int | None = None) -> None:
        """For each time `every` (seconds or timedelta) that a job of it has waited, treat it one priority sooner.

        Down to `floor`, or without one to the soonest priority at which its jobs wait or run; None ends it. It holds
        within seconds on every worker, and until a worker starts whose code declares `ageing`. Raises
        ConfigurationError.

            app.queues["email"].age(timedelta(minutes=10), floor=0)
        """
        time, floor = ageing_of(every, floor, f"queue {self.name}")
        self.database.fetch(ageing.set_ageing(self.schema, self.name, time, floor))

    def stats(self) -> QueueStats | None:
        """Its row of `queue_stats`; None when nothing is known of it."""
        rows = self.database.fetch(inspecting.queue_stats(self.schema))
        return next((row for row in rows if row.queue == self.name), None)


@dataclass(frozen=True, slots=True)
class Queues(Part):
    """`app.queues`: settings and figures by queue."""

    def __getitem__(self, name: str) -> Queue:
        return Queue(self.database, self.schema, data_name("queue", name))

    def obliterate(self, name: str, *, force: bool = False) -> Obliterated:
        """Delete a queue: its jobs in every state with what they have told, its keys, its settings, limits and breaker.

        Refused while jobs of it run. With `force` those are deleted too: they run on until they end, and their workers
        find a stale claim and write nothing. It is paused meanwhile, and deleted in short turns; after an interruption
        it stays paused: call it again. What is enqueued meanwhile, and later, stays; so do schedules, which the result
        names where they enqueue into it. What code declares is there again when a worker starts. Raises QueueBusy.

            app.queues.obliterate("imports").jobs
        """
        steps = obliterating.obliterate(self.schema, data_name("queue", name), force=force)
        return self.database.run_each(steps)

    async def aobliterate(self, name: str, *, force: bool = False) -> Obliterated:
        """As `obliterate`."""
        steps = obliterating.obliterate(self.schema, data_name("queue", name), force=force)
        return await self.database.arun_each(steps)

    def stats(self) -> list[QueueStats]:
        """A row a queue."""
        return self.database.fetch(inspecting.queue_stats(self.schema))


@dataclass(frozen=True, slots=True)
class Workers(Part):
    """`app.workers`: the worker processes that are registered."""

    def list(self) -> builtins.list[WorkerInfo]:
        """Oldest first."""
        return self.database.fetch(fleet.list_workers(self.schema))

    def drain(self, worker: str | UUID, using: Any = None) -> bool:
        """Ask a worker, by name or id, to claim no more, let what runs end however long it takes, and then stop.

        It hears of it at once, by polling within two seconds, on whatever host it is; `workers.list` shows it as
        draining meanwhile. `stop`, or a signal, cuts it short. False where it drains or stops already. One of several
        processes of `pgqueue worker --processes` is not started again by its supervisor, which ends with the last of
        them; whatever else keeps a worker alive, such as systemd or Kubernetes, starts it anew when it ends, with exit
        code 0. A worker that loses its lease before it has heard does not hear: ask again. Raises WorkerNotFound, and
        ArgumentError where several workers have the name.

            app.workers.drain("web-1:4711")
        """
        return self.database.run(fleet.ask_named(self.schema, worker, "draining"), using, atomic=True)[1]

    async def adrain(self, worker: str | UUID, using: Any = None) -> bool:
        """As `drain`."""
        return (await self.database.arun(fleet.ask_named(self.schema, worker, "draining"), using, atomic=True))[1]

    def stop(self, worker: str | UUID, using: Any = None) -> bool:
        """As `drain`, but it stops as at SIGTERM: what still runs after its `shutdown_timeout` is given back.

        False where it stops already.
        """
        return self.database.run(fleet.ask_named(self.schema, worker, "stopping"), using, atomic=True)[1]

    async def astop(self, worker: str | UUID, using: Any = None) -> bool:
        """As `stop`."""
        return (await self.database.arun(fleet.ask_named(self.schema, worker, "stopping"), using, atomic=True))[1]
