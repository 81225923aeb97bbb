"""The worker: puts its parts together, starts them, and stops them without losing anything."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any
from uuid import UUID

from pgqueue.database import Database
from pgqueue.errors import ConfigurationError
from pgqueue.job import ClaimedJob
from pgqueue.outcome import Completed, Outcome, Snooze
from pgqueue.queries import breakers as breaker_rows
from pgqueue.queries import fleet, inspecting
from pgqueue.queries import limits as limit_rows
from pgqueue.queries.finishing import Finished
from pgqueue.revision import check_revision
from pgqueue.task import Task
from pgqueue.worker import limits
from pgqueue.worker.breakers import Breakers
from pgqueue.worker.connection import WorkerConnection
from pgqueue.worker.duties import Duties
from pgqueue.worker.effects import WorkerEffects
from pgqueue.worker.executor import Executor
from pgqueue.worker.finisher import LOCK_TIMEOUT, Finisher
from pgqueue.worker.heartbeat import BLOCKED_LIMIT
from pgqueue.worker.journals import Journals
from pgqueue.worker.life import Life
from pgqueue.worker.listener import Listener
from pgqueue.worker.minutes import Minutes
from pgqueue.worker.publishing import Publisher
from pgqueue.worker.quarantine import Quarantine
from pgqueue.worker.queues import QueueSpec, parse_queues
from pgqueue.worker.reporting import Reporter
from pgqueue.worker.serving import Serving
from pgqueue.worker.stopping import give_up_start, stop_gracefully
from pgqueue.worker.transactional import Transactions
from pgqueue.worker.upkeep import QueueSettings

if TYPE_CHECKING:
    from pgqueue.app import PgQueue

logger = logging.getLogger("pgqueue.worker")

BLOCKED_WARNING = 1.0
ABANDONED = 2.0


class Worker:
    """Runs the jobs of some queues, several at once, until it is told to stop.

    `queues` maps names or globs to slots, or lists specs such as `email:10`, `thumb*` and `-slow`; None serves every
    queue of the app with `slots` each. `lease` is in seconds: after this much silence others take its jobs. `drain`
    stops when nothing is left to do, `idle_timeout` after so many seconds without a job, `max_jobs` after so many
    jobs, `max_memory` (bytes) when the process has grown beyond. `shutdown_timeout` bounds the graceful stop. Beside
    its jobs it looks at the app's alerts, unless `with_alerts` is False. Without `listen` it only polls, every
    `poll_interval` seconds. After `blocked_limit` seconds in which its event loop stood still it counts as hung, and
    others take its jobs. `publish_events` tells `app.watch()` in other processes what happens here. Raises
    ConfigurationError for a setting that cannot work.

        async with app.worker(queues={"email": 10}):
            ...
    """

    def __init__(
        self,
        app: PgQueue,
        queues: Mapping[str, int] | Sequence[str] | None = None,
        *,
        slots: int = 10,
        name: str | None = None,
        lease: float = 30.0,
        drain: bool = False,
        idle_timeout: float | None = None,
        max_jobs: int | None = None,
        max_memory: int | None = None,
        shutdown_timeout: float = 30.0,
        with_scheduler: bool = False,
        with_alerts: bool = True,
        listen: bool = True,
        poll_interval: float = 1.0,
        blocked_limit: float = BLOCKED_LIMIT,
        publish_events: bool = False,
    ) -> None:
        if not app.tasks:
            raise ConfigurationError(
                "the app has no tasks: a worker would have nothing to run. Register one with @app.task()"
            )
        limits.check("slots", slots, limits.WHOLE, 1)
        limits.check("lease", lease, limits.SECONDS, 1)
        limits.check("shutdown_timeout", shutdown_timeout, limits.SECONDS, 0)
        limits.check("poll_interval", poll_interval, limits.SECONDS, 0.001)
        limits.check("blocked_limit", blocked_limit, limits.SECONDS, 1)
        self.app = app
        self.name = name or f"{socket.gethostname()}:{os.getpid()}"
        self.lease = lease
        self.shutdown_timeout = shutdown_timeout
        self.ended = 0
        # Whether chunks go as soon as nothing more is there for them.
        self.hurries = drain
        self._spec = parse_queues(queues, slots) or QueueSpec({"*": slots}, ())
        self._limits = limits.Limits(drain=drain, idle_timeout=idle_timeout, max_jobs=max_jobs, max_memory=max_memory)
        self._with_scheduler = with_scheduler
        self._with_alerts = with_alerts
        self._listen = listen and not app.database.pooler
        self._publish_events = publish_events
        self.poll_interval = poll_interval
        self.life = Life(self, blocked_limit)
        self.serving = Serving(
            self,
            self._spec,
            only_own=queues is None,
            listen=self._listen,
            poll_interval=poll_interval,
            start=self.start_part,
        )
        self.breakers = Breakers(self)
        self._background: set[asyncio.Task[Any]] = set()
        self._lasting: set[asyncio.Task[Any]] = set()
        self._broken: BaseException | None = None
        # Whether somebody asked it through the table `workers` to end.
        self.asked = False
        self._draining = self._claims_ended = False
        self._stop = asyncio.Event()
        self._force = asyncio.Event()
        self._main: asyncio.Task[None] | None = None

    @property
    def id(self) -> UUID:
        """Made at each start, and again when its lease was lost."""
        return self.life.id

    @property
    def queues(self) -> dict[str, int]:
        """Slots by queue, once it has started."""
        return {name: slots.count for name, slots in self.serving.slots.items()}

    @property
    def started(self) -> bool:
        """Whether it has registered and begun to claim."""
        return self._main is not None

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    @property
    def draining(self) -> bool:
        """Whether it claims no more, and stops when what runs has ended."""
        return self._draining and not self.stopping

    @property
    def leaving(self) -> bool:
        """Whether it is to begin nothing more."""
        return self._draining or self.stopping

    @property
    def idle(self) -> bool:
        """Nothing runs, waits here for a slot, or waits to be written."""
        waiting = any(slots.waiting for slots in self.serving.slots.values())
        return not (self.executor.running or self.finisher.backlog or waiting)

    async def __aenter__(self) -> Worker:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        await self.wait()

    async def run(self) -> None:
        """Start, and work until it is stopped, drained, or recycled."""
        await self.start()
        await self.wait()

    def drain(self) -> None:
        """Claim no more, give back what has not started, and stop once the rest has ended, however long that takes.

        Meanwhile cancellations and timeouts reach its jobs as before; `stop` cuts it short.
        """
        if not self.leaving:
            self._draining = True
            self.start_part(self._drain())

    def stop(self) -> None:
        """Claim no more, give back what has not started, and let the rest end within `shutdown_timeout`."""
        self.serving.close_slots()
        self._stop.set()

    def give_back(self) -> None:
        """Stop now: what runs is interrupted and given back, without using an attempt."""
        self.stop()
        self._force.set()

    async def wait(self) -> None:
        """Until it has stopped. Raises what made it stop, if anything did."""
        if self._main is None:
            return
        try:
            await asyncio.shield(self._main)
        except asyncio.CancelledError:
            # Whoever waits gives up; the worker still stops as it should, and leaves nothing running behind.
            self.stop()
            await asyncio.shield(self._main)
            raise

    async def start(self) -> None:
        """Register and begin; waits for PostgreSQL. Raises SchemaOutOfDate."""
        self._connect()
        try:
            await self._begin()
        except BaseException:
            await give_up_start(self, self._background | self._lasting)
            raise

    async def _begin(self) -> None:
        check_revision(await self.services.insist(inspecting.revision(self.app.schema)), self.app.schema)
        await self.life.register_code()
        # Claimers begin with the settings of their queues, and wake a service when a claim fails.
        self.duties = Duties(
            self,
            globs=self.serving.takes_up_queues,
            with_scheduler=self._with_scheduler,
            with_alerts=self._with_alerts,
        )
        names = set(await self.services.insist(fleet.queue_names(self.app.schema)))
        settings = await self.services.insist(fleet.queue_settings(self.app.schema))
        self.serving.known_at_start = self.serving.known_queues(names)
        templates = await self.services.insist(limit_rows.templates(self.app.schema))
        known = await self.services.insist(breaker_rows.read(self.app.schema))
        self.serving.read_settings(
            {name: QueueSettings(*values) for name, *values in settings}, names, limit_rows.by_name(templates)
        )
        self.breakers.read(known)
        await self.life.begin()
        if not self.queues:
            logger.warning("no queue matches %s yet", ", ".join(self._spec.slots))
        self.start_part(self.finisher.run(), lasting=True)
        self.start_part(self._tick(), lasting=True)
        self.start_part(self.journals.run(), lasting=True)
        if self.publisher is not None:
            self.start_part(self.publisher.run(), lasting=True)
        self.start_part(self.effects.run(), lasting=True)
        self.start_part(self.duties.minutes.run(), lasting=True)
        for service in self.duties.all:
            self.start_part(service.run())
        if self._listen:
            listener = Listener(self.listening, self.app.schema, self.serving.hint, self.serving.sweep_all)
            self.start_part(listener.run())
        elif self.app.database.pooler:
            logger.info("behind a pooler there is no LISTEN: jobs are found by polling, every %g s", self.poll_interval)
        self.start_part(self._watch_limits())
        self._main = asyncio.create_task(self._until_stopped())
        if self.metrics is not None:
            self.metrics.watch(self)

    def _connect(self) -> None:
        app = self.app
        # A process that is stopped within a transaction would keep its rows from every rescue, and the gates that it
        # holds from all who wait there: nobody waits for long for a process that stands still.
        abandoned = f"{int(min(self.lease, ABANDONED) * 1000)}"
        self.services = WorkerConnection(
            app.database, "services", lock_timeout="2s", idle_in_transaction_session_timeout=abandoned
        )
        self.claiming = WorkerConnection(app.database, "claims", idle_in_transaction_session_timeout=abandoned)
        self.finishing = WorkerConnection(
            app.database, "finishes", lock_timeout=LOCK_TIMEOUT, idle_in_transaction_session_timeout=abandoned
        )
        self.listening = WorkerConnection(app.database, "listener")
        self.pruning = WorkerConnection(app.database, "pruner", lock_timeout="2s")
        self.minutes = Minutes()
        self.finisher = Finisher(
            self.finishing,
            app.schema,
            lambda: self.id,
            self._stale,
            self._later,
            self._freed,
            self._flows_went_on,
            self.minutes.count,
        )
        # A transactional task may run in a thread.
        on_flows: Callable[[], Any] = partial(asyncio.get_running_loop().call_soon_threadsafe, self._flows_went_on)
        self.transactions = Transactions(
            self._transaction_database(), app.schema, lambda: self.id, self.serving.rules, on_flows
        )
        self.publisher = Publisher(self.services, app.schema, self.name) if self._publish_events else None
        publish = None if self.publisher is None else self.publisher.take
        self.reporter = Reporter(app.subscribers, self.serving.is_empty, publish)
        # Told directly: for them no event is built.
        self.metrics = app.metrics
        self.journals = Journals(self.services, app.schema, lambda: self.id, self.reporter.progressed)
        self.effects = WorkerEffects(WorkerConnection(app.database, "effects", lock_timeout="20ms"), app.schema)
        self.executor = Executor(
            app.tasks,
            self.transactions,
            self.journals,
            self.effects,
            self.serving.rules,
            self._on_start(),
            self._finished,
            app.middleware.runs,
            app.middleware.calls,
        )
        self.quarantine = Quarantine(self)

    def _on_start(self) -> Callable[[ClaimedJob], None] | None:
        """What to call with each job that begins; None: nobody wants to know."""
        wanted = [self.reporter.started] if self.reporter.wants("started") else []
        if self.metrics is not None:
            wanted.append(self.metrics.started)
        if len(wanted) < 2:
            return wanted[0] if wanted else None

        def tell_all(job: ClaimedJob) -> None:
            for tell in wanted:
                tell(job)

        return tell_all

    def _transaction_database(self) -> Database:
        """Transactional tasks hold a connection each: they must not starve the app's own pool."""
        if not any(task.options.transactional for task in self.app.tasks.values()):
            return self.app.database
        return self.app.database.for_tasks(max(4, self.serving.total_slots()))

    def start_part(self, work: Coroutine[Any, Any, Any], *, lasting: bool = False) -> asyncio.Task[Any]:
        """Run a part of the worker; a lasting one goes on while the worker stops."""
        task = asyncio.create_task(work)
        (self._lasting if lasting else self._background).add(task)
        task.add_done_callback(self._ended_unexpectedly)
        return task

    def _ended_unexpectedly(self, task: asyncio.Task[Any]) -> None:
        self._background.discard(task)
        if not task.cancelled() and task.exception() is not None and self._broken is None:
            self._broken = task.exception()
            logger.error("a part of the worker broke: it stops, and its jobs are given back", exc_info=self._broken)
            self.stop()

    async def _drain(self) -> None:
        await self.serving.end_claims()
        # A claim whose answer was cut off is in the table, and its jobs would wait for those that run here.
        self.duties.reconciler.wake()
        await self.services.insist(fleet.mark_leaving(self.app.schema, self.id, "draining"))
        self._claims_ended = True

    async def _until_stopped(self) -> None:
        await self._stop.wait()
        await stop_gracefully(self, self._force, self._background, self._lasting)
        if self._broken is not None:
            raise self._broken

    async def _tick(self) -> None:
        """Shows the heartbeat that the loop is alive, and gives back what waits for slots that do not come free."""
        while True:
            self.life.tick()
            self.serving.release_standing()
            ticked_at = time.monotonic()
            await asyncio.sleep(0.1)
            if (stood := time.monotonic() - ticked_at) > BLOCKED_WARNING:
                logger.warning(
                    "the event loop stood still for %.1f s, and every coroutine of this worker with it: "
                    "a task that blocks is to be a plain function (def), which runs in a thread",
                    stood,
                )

    async def _watch_limits(self) -> None:
        while True:
            if (self._claims_ended and self.idle) or await self._limits.reached(self):
                self.stop()
                return
            await asyncio.sleep(0.1)

    def _finished(
        self, task: Task[..., Any], job: ClaimedJob, outcome: Outcome | None, seconds: float, *, suspected: bool = False
    ) -> None:
        failed = self.breakers.note(job, outcome) if self.breakers.watched else ()
        began, due = job.began, job.due
        waited = None if began is None or due is None else began - due if began > due else 0.0
        if task.options.transactional and isinstance(outcome, Completed):
            self.finisher.settled(job.id, job.fence)
            self.minutes.count(
                [Finished(job.id, job.fence, job.task, outcome, seconds, queue=job.queue, waited=waited)]
            )
            if job.limited:
                self._freed()
        else:
            _, kept, own_retention = self.serving.rules[task.name, job.queue]
            hit = self.serving.gates_hit(job, outcome.hit) if type(outcome) is Snooze else ()
            limited = job.limited or bool(hit) or bool(failed)
            tried = job.limited and self.breakers.busy
            finished = Finished(
                job.id, job.fence, job.task, outcome, seconds, kept, limited, hit, tried, failed, job.queue, waited
            )
            if job.plain:
                finished.plain = True
            if own_retention:
                finished.own_retention = True
            if suspected:
                finished.suspected = True
            self.finisher.add(finished)
        if outcome is not None:
            self.ended += 1
            if self._limits.max_jobs is not None and self.ended >= self._limits.max_jobs:
                self.stop()
        if self.metrics is not None:
            self.metrics.ended(job, outcome, seconds)
        if self.app.subscribers.callbacks or self.publisher is not None:
            self.reporter.ended(job, outcome, seconds)

    def _later(self, delay: float) -> None:
        # Jobs that run again have been written: the promoter would not look that soon by itself.
        if delay < self.poll_interval:
            self.duties.promoter.wake()

    def _freed(self) -> None:
        self.serving.freed()
        if self.breakers.watched:
            self.duties.breakers.failed()

    def _flows_went_on(self) -> None:
        self.duties.flows.wake()

    def _stale(self, count: int) -> None:
        logger.warning("%d outcomes were refused: their jobs had been rescued and belong to others now", count)


__all__ = ["Worker"]
