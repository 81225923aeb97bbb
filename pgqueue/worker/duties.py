"""The services that a worker runs beside its jobs."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pgqueue.queries.finishing import Finished
from pgqueue.queries.fleet import Leaving
from pgqueue.queries.rescuing import Orphan
from pgqueue.services.ageing import Ageing
from pgqueue.services.alerter import Alerter
from pgqueue.services.breakers import BreakerKeeper
from pgqueue.services.flowkeeper import FlowKeeper
from pgqueue.services.gatekeeper import Gatekeeper
from pgqueue.services.promoter import Promoter
from pgqueue.services.pruner import Pruner
from pgqueue.services.rescuer import Rescuer
from pgqueue.services.scheduler import Scheduler
from pgqueue.services.service import Runner, Service
from pgqueue.worker.latecomers import Latecomers
from pgqueue.worker.minutes import MinuteKeeper
from pgqueue.worker.upkeep import Asked, Cancellations, MarkKeeper, Reconciler, SettingsReader, UnknownTasks

if TYPE_CHECKING:
    from pgqueue.worker.worker import Worker

logger = logging.getLogger("pgqueue.worker")

SETTINGS_INTERVAL = 2.0


class Duties:
    """Made at the start of `worker`; `all` are to be run. `globs`: queues that appear later may be its own too."""

    def __init__(self, worker: Worker, *, globs: bool, with_scheduler: bool, with_alerts: bool) -> None:
        self._worker = worker
        app, serving, schema = worker.app, worker.serving, worker.app.schema
        runner = Runner(worker.services.fetch, worker.services.run)
        self.promoter = Promoter(runner, schema, lambda: worker.queues, serving.wake, worker.poll_interval)
        self.rescuer = Rescuer(
            runner,
            schema,
            lease=worker.lease,
            healthy_for=worker.life.unbroken_for,
            delay=self._delay,
            gathers=lambda task: task in app.tasks and app.tasks[task].chunk is not None,
            on_rescued=self._rescued,
        )
        self.reconciler = Reconciler(
            runner, schema, worker=lambda: worker.id, known=serving.known_claims, interval=worker.lease / 3
        )
        self.cancellations = Cancellations(
            runner,
            schema,
            running=lambda: [*worker.executor.job_ids, *serving.gathered()],
            on_cancelled=self._cancelled,
        )
        self.asked = Asked(runner, schema, worker=lambda: worker.id, on_asked=self._asked)
        self.latecomers = Latecomers(runner, schema, serving.sweep_all)
        self.gatekeeper = Gatekeeper(runner, schema, serving.has_limits)
        self.flows = FlowKeeper(runner, schema)
        self.breakers = BreakerKeeper(
            runner,
            schema,
            completed=worker.breakers.completed,
            failing=worker.breakers.failing,
            on_read=worker.breakers.read,
        )
        self.settings = SettingsReader(
            runner, schema, globs=globs, interval=SETTINGS_INTERVAL, on_read=serving.read_settings
        )
        # Not among `all`: it goes on while the worker stops.
        self.minutes = MinuteKeeper(runner, schema, worker.minutes)
        # Detaching a partition waits for old snapshots: on a connection that nobody else needs.
        pruner = Pruner(
            Runner(worker.pruning.fetch, worker.pruning.run),
            schema,
            app.keep_completed,
            app.keep_failed,
            app.keep_effects,
        )
        self.all: list[Service] = [
            self.promoter,
            self.rescuer,
            self.reconciler,
            self.cancellations,
            self.asked,
            self.latecomers,
            MarkKeeper(runner, schema, serving.lanes),
            self.settings,
            UnknownTasks(runner, schema, lambda: worker.queues),
            self.gatekeeper,
            self.flows,
            self.breakers,
            Ageing(runner, schema, serving.ageing, serving.aged),
            pruner,
        ]
        if with_alerts and app.declared_alerts:
            # Beside the pruner: what it counts takes longer than what the promoter asks.
            self.all.append(Alerter(pruner.runner, schema, app.declared_alerts, app.max_attempts))
        if with_scheduler:
            self.all.append(Scheduler.on(runner, app))

    def _cancelled(self, job_id: int) -> None:
        if not self._worker.serving.cancel_gathered(job_id):
            self._worker.executor.interrupt("cancelled", job_id)

    def _asked(self, state: Leaving) -> None:
        worker = self._worker
        if state == "draining" and not worker.leaving:
            logger.info("worker %s was asked to drain: it stops when what runs has ended", worker.name)
            worker.asked = True
            worker.drain()
        elif state == "stopping" and not worker.stopping:
            logger.info("worker %s was asked to stop", worker.name)
            worker.asked = True
            worker.stop()

    def _delay(self, task: str, attempt: int) -> float:
        app = self._worker.app
        return (app.tasks.get(task) or app).backoff.delay(attempt)

    def _rescued(self, orphan: Orphan) -> None:
        logger.warning(
            "rescued job %s (%s) of dead worker %s",
            orphan.job_id,
            orphan.task,
            orphan.worker,
            extra={"fields": {"worker_id": orphan.worker_id}},
        )
        if self._worker.metrics is not None:
            self._worker.metrics.rescued(orphan)
        if orphan.outcome is not None:
            self._worker.minutes.count(
                [Finished(orphan.job_id or 0, orphan.fence, orphan.task, orphan.outcome, queue=orphan.queue)]
            )
        self._worker.reporter.rescued(orphan)
        self._worker.serving.wake(orphan.queue, sweep=True)
        self.gatekeeper.open()
