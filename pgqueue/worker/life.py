"""The life of a worker in the table `workers`: it registers, renews its lease, and begins anew when it was lost."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from pgqueue.breaker import Of
from pgqueue.limit import limits_of
from pgqueue.queries import breakers as breaker_rows
from pgqueue.queries import fleet
from pgqueue.queries import limits as limit_rows
from pgqueue.queries.fleet import AppDefaults, QueueRow, TaskRow
from pgqueue.task import Task, hook_name
from pgqueue.version import VERSION
from pgqueue.worker.heartbeat import Heartbeat
from pgqueue.worker.hooks import check_hooks

if TYPE_CHECKING:
    from pgqueue.worker.worker import Worker

logger = logging.getLogger("pgqueue.worker")


class Life:
    """The id under which the worker claims; `registered` is set while its row is in the table."""

    def __init__(self, worker: Worker, blocked_limit: float) -> None:
        self._worker = worker
        self.blocked_limit = blocked_limit
        self.id: UUID = uuid4()
        self.registered = asyncio.Event()
        self.heartbeat: Heartbeat | None = None
        self._doubted = False

    async def register_code(self) -> None:
        """Write the tasks and queues that the app declares."""
        worker = self._worker
        tasks = [row for task in worker.app.tasks.values() for row in task_rows(task)]
        check_hooks(worker.app)
        app = worker.app
        defaults = AppDefaults(app.on_failed, app.keep_completed, app.keep_failed, app.timeout)
        await worker.services.insist(fleet.register_tasks(worker.app.schema, tasks, defaults))
        declared = worker.app.declared_queues
        rows = list(declared.values()) + [QueueRow(name) for name in {task.queue for task in tasks} - set(declared)]
        await worker.services.insist(fleet.register_queues(worker.app.schema, rows))
        limits = {("queue", row.name): row.limits for row in declared.values()}
        for name, task in worker.app.tasks.items():
            limits["task", name] = limits_of(task.options.limit, name)
        await worker.services.insist(limit_rows.register(worker.app.schema, limits))
        breakers = {Of("queue", row.name): row.breaker for row in declared.values()}
        breakers |= {Of("task", name): task.options.breaker for name, task in worker.app.tasks.items()}
        await worker.services.insist(breaker_rows.register(worker.app.schema, breakers))

    async def begin(self) -> None:
        """Register under the current id, and wait until that is in the table."""
        worker = self._worker
        loop = asyncio.get_running_loop()
        registered = asyncio.Event()
        life = self.id
        self.heartbeat = Heartbeat(
            worker.app.database,
            worker.app.schema,
            life,
            worker.lease,
            fleet.register_worker(
                worker.app.schema,
                worker=life,
                name=worker.name,
                host=socket.gethostname(),
                pid=os.getpid(),
                version=VERSION,
                queues=worker.queues,
                tasks=worker.app.tasks.names,
                lease=worker.lease,
            ),
            on_registered=lambda: _call(loop, registered.set),
            on_lost=lambda why: _call(loop, self._lost, life, why),
            blocked_limit=self.blocked_limit,
        )
        self.heartbeat.start()
        await registered.wait()
        if life == self.id:
            self.registered.set()
            worker.serving.begin_life()

    def _lost(self, life: UUID, why: str) -> None:
        """Others may run these jobs already: stop them, and begin a new life without them."""
        worker = self._worker
        if life != self.id or worker.stopping:
            return
        logger.error("worker %s lost its jobs: %s. It registers anew", life, why)
        self.id = uuid4()
        self.registered.clear()
        worker.finisher.forget()
        self._doubt()
        worker.start_part(self.begin())

    def tick(self) -> None:
        """Show the heartbeat that the loop is alive, and see whether it still is."""
        if self.heartbeat is None:
            return
        self.heartbeat.ticked_at = time.monotonic()
        doubt = self.heartbeat.is_in_doubt()
        if doubt and not self._doubted:
            logger.warning("the lease of worker %s may have ended: its jobs are stopped and given back", self.id)
            self._doubt()
        self._doubted = doubt

    def unbroken_for(self) -> float:
        """Seconds of heartbeats without a failure or a stall."""
        return 0.0 if self.heartbeat is None else self.heartbeat.unbroken_for()

    def _doubt(self) -> None:
        """Stop what can be stopped, before somebody else runs it too."""
        self._worker.serving.release_all()
        self._worker.executor.interrupt("released")


def _call(loop: asyncio.AbstractEventLoop, function: Callable[..., Any], *args: Any) -> None:
    """Call it on the loop, from the heartbeat's thread; a loop that has ended has no jobs left to lose."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(function, *args)


def task_rows(task: Task[..., Any]) -> list[TaskRow]:
    """A row for its name, and the same for each alias: SQL knows jobs by the name that they were enqueued under."""
    options, unique = task.options, task.options.unique
    row = TaskRow(
        task.name,
        options.queue,
        options.priority,
        options.max_attempts,
        options.timeout,
        None if unique is None else unique.key,
        options.serial_key,
        None if unique is None else unique.conflict,
        None if unique is None else unique.keep_key,
        hook_name(options.on_failed, f"on_failed of task {task.name}"),
        options.keep_completed,
        options.keep_failed,
        halt_on_failed=options.halt_on_failed,
    )
    return [row, *(replace(row, name=alias, alias_of=task.name) for alias in task.aliases)]
