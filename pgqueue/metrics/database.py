"""The metrics of the database, whichever process asks: queues, workers, failed jobs, schedules, and its own health."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import psycopg
from prometheus_client.core import GaugeMetricFamily, Metric

from pgqueue.database.looking import STATEMENT_SECONDS, Look, Session
from pgqueue.errors import PgQueueError, seconds
from pgqueue.metrics.exposing import Exposition, exposition
from pgqueue.queries import counting

if TYPE_CHECKING:
    from pgqueue.app import PgQueue

logger = logging.getLogger("pgqueue.metrics")

STATES = ("available", "running", "scheduled", "blocked")
# Two statements that come to their timeouts, and a connection that takes long.
WITHIN = 3 * STATEMENT_SECONDS


class DatabaseMetrics:
    """A collector of what the tables say, and the statistics of the server; looked at again after `every` seconds.

    Scrapes in between get what was found last. Each statement has two seconds, and counts stop at a bound: 100,000 rows
    shared by the queues, at least a hundred for each, and once more for those that have more. What could not be read is
    left out, and `pgqueue_up` is 0 then; a scrape does not fail for it. Raises ConfigurationError for a time below
    zero.

        body, content_type = DatabaseMetrics(app).exposition()
        REGISTRY.register(DatabaseMetrics(app, every=30))
    """

    def __init__(self, app: PgQueue, *, every: float = 10.0) -> None:
        self._schema = app.schema
        self._look = Look(app.database, "pgqueue metrics", self._looked, every=seconds(every, "every"), within=WITHIN)
        self._failing = False

    def exposition(self) -> Exposition:
        """The answer to a scrape that asks for these alone."""
        return exposition(self)

    def describe(self) -> Iterator[Metric]:
        """Their names, as the registry asks for."""
        yield from _families().values()

    def collect(self) -> Iterator[Metric]:
        """From any thread; waits for the database for six seconds at most."""
        try:
            found = self._look.result()
            if self._failing:
                logger.info("the metrics of the database can be read again")
            self._failing = False
        except (psycopg.Error, PgQueueError, TimeoutError, OSError) as error:
            self._said(error)
            found = _families()
            found["up"].add_metric([], 0)
        yield from found.values()

    def _said(self, error: BaseException) -> None:
        if not self._failing:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            logger.warning("the metrics of the database cannot be read: %s", reason)
        self._failing = True

    def _looked(self, session: Session) -> dict[str, Any]:
        found = _families()
        names = session.run(counting.queues(self._schema))
        began = time.monotonic()
        missing: list[str] = []
        for name, read in READERS.items():
            try:
                # One that has come to its timeout is enough: more of them would take longer than a scrape may.
                if missing and time.monotonic() - began > STATEMENT_SECONDS:
                    missing.append(name)
                    continue
                read(found[name], session, self._schema, names)
            except (psycopg.errors.QueryCanceled, psycopg.errors.InsufficientPrivilege) as error:
                logger.warning("pgqueue_%s is left out of the metrics: %s", name, str(error).strip())
                missing.append(name)
        found["up"].add_metric([], int(not missing))
        return found


def _depths(family: Any, session: Session, schema: str, names: list[str]) -> None:
    for depth in session.run(counting.depths(schema, names)):
        for state in STATES:
            family.add_metric([depth.queue, state], getattr(depth, state))


def _oldest(family: Any, session: Session, schema: str, names: list[str]) -> None:
    for queue, waited in session.fetch(counting.oldest(schema, names)):
        family.add_metric([queue], max(0.0, waited or 0.0))


def _failed(family: Any, session: Session, schema: str, names: list[str]) -> None:
    for queue, (jobs, _) in session.run(counting.failed(schema, names)).items():
        family.add_metric([queue], jobs)


def _paused(family: Any, session: Session, schema: str, names: list[str]) -> None:
    known = dict.fromkeys(names, False) | dict(session.fetch(counting.paused(schema)))
    for queue, paused in known.items():
        family.add_metric([queue], int(paused))


def _workers(family: Any, session: Session, schema: str, names: list[str]) -> None:
    for queue, workers in (dict.fromkeys(names, 0) | dict(session.fetch(counting.workers(schema)))).items():
        family.add_metric([queue], workers)


def _last_runs(family: Any, session: Session, schema: str, names: list[str]) -> None:
    for schedule, at in session.fetch(counting.last_runs(schema)):
        family.add_metric([schedule], at)


def _xmin_age(family: Any, session: Session, schema: str, names: list[str]) -> None:
    [(age,)] = session.fetch(counting.xmin_age(schema))
    family.add_metric([], age)


def _dead_tuples(family: Any, session: Session, schema: str, names: list[str]) -> None:
    for table, dead in session.fetch(counting.dead_tuples(schema)):
        family.add_metric([table], float(dead))


READERS = {
    "queue_depth": _depths,
    "queue_oldest_seconds": _oldest,
    "queue_paused": _paused,
    "workers": _workers,
    "failed_jobs": _failed,
    "schedule_last_run_timestamp_seconds": _last_runs,
    "xmin_age_seconds": _xmin_age,
    "dead_tuples": _dead_tuples,
}
DESCRIBED: dict[str, tuple[str, tuple[str, ...]]] = {
    "up": ("Whether all of these could be read from the database.", ()),
    "queue_depth": ("Live jobs.", ("queue", "state")),
    "queue_oldest_seconds": ("For how long the job has waited that could run for the longest.", ("queue",)),
    "queue_paused": ("Whether it is paused.", ("queue",)),
    "workers": ("Live workers that claim from it.", ("queue",)),
    "failed_jobs": ("Jobs in failed_jobs.", ("queue",)),
    "schedule_last_run_timestamp_seconds": ("The nominal time that an enabled schedule fired for last.", ("schedule",)),
    "xmin_age_seconds": ("Age of the oldest transaction that keeps dead rows from being removed.", ()),
    "dead_tuples": ("Dead rows of pgqueue's tables, as the server estimates them.", ("table",)),
}


def _families() -> dict[str, Any]:
    return {
        name: GaugeMetricFamily(f"pgqueue_{name}", text, labels=labels) for name, (text, labels) in DESCRIBED.items()
    }
