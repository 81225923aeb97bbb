"""The metrics of one process: what it enqueues, and what its workers run."""

from __future__ import annotations

import platform
import threading
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from prometheus_client.core import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    CounterMetricFamily,
    DuplicateTimeseries,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)

from pgqueue.errors import ConfigurationError
from pgqueue.events import Counts
from pgqueue.job import ClaimedJob
from pgqueue.metrics.tallies import OTHER, Histogram, Tally
from pgqueue.outcome import Cancelled, Completed, Failed, Outcome
from pgqueue.queries.rescuing import Orphan
from pgqueue.version import VERSION
from pgqueue.worker.reporting import NAMES

if TYPE_CHECKING:
    from pgqueue.app import PgQueue
    from pgqueue.worker import Worker

BUCKETS = (0.001, 0.005, 0.02, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0)
CLAIM_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
# Names of tasks and queues are data, which a caller may make up: what comes after so many pairs is `other`.
MOST_TALLIES = 1_000
ENDED = (Completed, Cancelled, Failed)
LANE = ("queue", "task")
REASONS = LEASE_ENDED, NO_WORKER = "lease_ended", "no_worker"


class Metrics:
    """Counts what this process enqueues and what its workers run, and puts that into a registry of prometheus-client.

    Make it where the app is, before a worker starts; `pgqueue worker --metrics-port` takes it, or makes one. `buckets`
    are the upper bounds, in seconds, of how long jobs wait, run and take in all. Raises ConfigurationError for an app
    that has metrics, for a registry that has those of another app, and for buckets that do not rise.

        Metrics(app)                                        # a web process that serves prometheus_client.REGISTRY
        Metrics(app, registry=own, buckets=(0.1, 1, 10))
    """

    def __init__(
        self, app: PgQueue, registry: CollectorRegistry = REGISTRY, *, buckets: Sequence[float] = BUCKETS
    ) -> None:
        if app.metrics is not None:
            raise ConfigurationError("this app has metrics already, as app.metrics: make them once")
        bounds = tuple(map(float, buckets))
        if not bounds or list(bounds) != sorted({*bounds}) or bounds[0] <= 0:
            raise ConfigurationError(f"buckets={buckets!r} must be seconds above 0 that rise, such as (0.1, 1, 10)")
        self.registry = registry
        self._app = app
        self._bounds = bounds
        self._lock = threading.Lock()
        self._tallies: dict[tuple[str, str], Tally] = {}
        self._claims: dict[str, Histogram] = {}
        self._rescued: dict[tuple[str, str], int] = {}
        self._workers: WeakSet[Worker] = WeakSet()
        try:
            registry.register(self)
        except DuplicateTimeseries:
            raise ConfigurationError(
                "this registry has the metrics of another app: give each a CollectorRegistry of its own"
            ) from None
        # Its own multiprocess mode, for web servers that fork, adds up nothing but metrics of prometheus-client itself.
        self._enqueued = Counter(
            "pgqueue_jobs_enqueued", "Jobs that this process has enqueued.", LANE, registry=registry
        )
        app.metrics = self
        app.subscribers.on_made.append(self.made)

    def made(self, counts: Counts) -> None:
        """So many jobs of each queue and task were enqueued."""
        with self._lock:
            for (queue, task), count in counts.items():
                self._tally(queue, task).enqueued.inc(count)

    def watch(self, worker: Worker) -> None:
        """Show the slots of this worker, as long as it lives."""
        with self._lock:
            self._workers.add(worker)

    def claimed(self, queue: str, seconds: float) -> None:
        """A claim was answered."""
        with self._lock:
            if (found := self._claims.get(queue)) is None:
                found = self._claims[queue] = Histogram(CLAIM_BUCKETS)
            found.observe(seconds)

    def started(self, job: ClaimedJob) -> None:
        """A run begins."""
        with self._lock:
            tally = self._tally(job.queue, job.task)
            if job.due is not None:
                tally.wait.observe(max(0.0, time.perf_counter() - job.due))

    def ended(self, job: ClaimedJob, outcome: Outcome | None, seconds: float) -> None:
        """A run has ended; None: it is given back."""
        with self._lock:
            tally = self._tally(job.queue, job.task)
            self._count(tally, outcome)
            if job.began is not None:
                tally.duration.observe(seconds)
            if job.made is not None and isinstance(outcome, ENDED):
                tally.total.observe(max(0.0, time.perf_counter() - job.made))

    def rescued(self, orphan: Orphan) -> None:
        """A job was taken back from a dead worker; with an outcome where the death was blamed on it."""
        # Its row is there until the lease has ended. A claim without one was made by a worker that was buried before.
        reason = NO_WORKER if orphan.worker == str(orphan.worker_id) else LEASE_ENDED
        with self._lock:
            key = (orphan.queue, reason)
            if key not in self._rescued and len(self._rescued) >= MOST_TALLIES:
                key = (OTHER, reason)
            self._rescued[key] = self._rescued.get(key, 0) + 1
            if orphan.outcome is not None:
                self._count(self._tally(orphan.queue, orphan.task), orphan.outcome)

    def _tally(self, queue: str, task: str) -> Tally:
        if (found := self._tallies.get((queue, task))) is None:
            key = (queue, task) if len(self._tallies) < MOST_TALLIES else (OTHER, OTHER)
            found = self._tallies.get(key) or Tally(self._bounds, self._enqueued.labels(*key))
            self._tallies[key] = found
        return found

    def _begin_at_zero(self) -> None:
        """What may come: a rate does not see a series begin."""
        for task in list(self._app.tasks.values()):
            self._tally(task.options.queue, task.name)

    @staticmethod
    def _count(tally: Tally, outcome: Outcome | None) -> None:
        tally.outcomes[NAMES[type(outcome)]] += 1
        if (error := getattr(outcome, "error", None)) is not None:
            tally.count_error(error.type)

    def describe(self) -> Iterator[Metric]:
        """Their names, as the registry asks for."""
        yield from self._families().values()

    def collect(self) -> Iterator[Metric]:
        """All that was counted until now, from any thread."""
        found = self._families()
        with self._lock:
            self._begin_at_zero()
            tallies, claims, rescued = list(self._tallies.items()), list(self._claims.items()), dict(self._rescued)
            workers = list(self._workers)
        # No series of what this process never does.
        served = {queue for worker in workers for queue in list(worker.serving.slots)}
        for lane, tally in tallies:
            if lane[0] in served or any(tally.outcomes.values()):
                for outcome, count in tally.outcomes.items():
                    found["jobs_processed"].add_metric((*lane, outcome), count)
            for error, count in list(tally.errors.items()):
                found["job_errors"].add_metric((*lane, error), count)
            for name in ("duration", "wait", "total"):
                add_histogram(found[f"job_{name}_seconds"], lane, getattr(tally, name))
        for queue, measured in claims:
            add_histogram(found["claim_duration_seconds"], [queue], measured)
        none_rescued = dict.fromkeys(((queue, reason) for queue in served for reason in REASONS), 0)
        for labels, count in (none_rescued | rescued).items():
            found["rescued"].add_metric(labels, count)
        slots = [slots for worker in workers for slots in list(worker.serving.slots.values())]
        found["worker_slots"].add_metric(["running"], sum(one.running for one in slots))
        found["worker_slots"].add_metric(["idle"], sum(one.idle for one in slots))
        found["jobs_in_flight"].add_metric([], sum(worker.executor.jobs_running for worker in workers))
        found["build"].add_metric([], {"version": VERSION, "python": platform.python_version()})
        yield from found.values()

    @staticmethod
    def _families() -> dict[str, Any]:
        families = {
            "jobs_processed": CounterMetricFamily(
                "pgqueue_jobs_processed", "Runs that have ended, by what they came to.", labels=(*LANE, "outcome")
            ),
            "job_errors": CounterMetricFamily(
                "pgqueue_job_errors", "Runs that ended with an error, by its class.", labels=(*LANE, "error")
            ),
            "job_duration_seconds": HistogramMetricFamily(
                "pgqueue_job_duration_seconds", "How long runs took.", labels=LANE
            ),
            "job_wait_seconds": HistogramMetricFamily(
                "pgqueue_job_wait_seconds", "From when a job could run until it ran.", labels=LANE
            ),
            "job_total_seconds": HistogramMetricFamily(
                "pgqueue_job_total_seconds", "From the enqueue of a job until it ended for good.", labels=LANE
            ),
            "claim_duration_seconds": HistogramMetricFamily(
                "pgqueue_claim_duration_seconds", "How long claims took.", labels=("queue",)
            ),
            "rescued": CounterMetricFamily(
                "pgqueue_rescued", "Jobs that this process took back from dead workers.", labels=("queue", "reason")
            ),
            "worker_slots": GaugeMetricFamily("pgqueue_worker_slots", "Slots, running or idle.", labels=("state",)),
            "jobs_in_flight": GaugeMetricFamily("pgqueue_jobs_in_flight", "Jobs that run now.", labels=()),
            "build": InfoMetricFamily("pgqueue_build", "The version of pgqueue and of Python.", labels=()),
        }
        return dict(families)


def add_histogram(family: Any, labels: Sequence[str], measured: Histogram) -> None:
    """Where anything was measured: an empty one is many lines that say nothing."""
    if any(measured.counts):
        family.add_metric(labels, measured.buckets(), measured.total)
