"""What the screen shows, as one look at the database finds it."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pgqueue.database.looking import Look, Session
from pgqueue.queries import failures, figures, fleet, overview, running
from pgqueue.queries.failures import FailureFilter, FailureGroup
from pgqueue.queries.figures import Summary
from pgqueue.queries.fleet import WorkerInfo
from pgqueue.queries.overview import QueueCounts
from pgqueue.queries.running import RunningJob

if TYPE_CHECKING:
    from pgqueue.app import PgQueue

# The minute before this one, and what there is of this one.
LATELY = 60.0
RUNNING = 500
GROUPS = 100
# A look is asked for at most so often, and waited for so long, in seconds.
SOONEST, WITHIN = 0.2, 12.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One look. `lately`: what ran in the last minute or two, by queue; `workers` are those alive."""

    queues: list[QueueCounts] = field(default_factory=list)
    lately: dict[str, Summary] = field(default_factory=dict)
    running: list[RunningJob] = field(default_factory=list)
    workers: list[WorkerInfo] = field(default_factory=list)
    failures: list[FailureGroup] = field(default_factory=list)
    at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def per_second(self) -> float:
        """How many jobs a second ended lately."""
        return sum(one.per_second for one in self.lately.values())

    def total(self, name: str) -> int:
        """Of a count, in all queues."""
        return sum(getattr(queue, name) for queue in self.queues)


def look_of(app: PgQueue) -> Look[Snapshot]:
    """Looks of two seconds a statement at most, from a thread of their own."""

    def look(session: Session) -> Snapshot:
        schema = app.schema
        return Snapshot(
            session.run(overview.queues(schema)),
            {one.name: one for one in session.fetch(figures.by_queue(schema, LATELY))},
            session.fetch(running.running(schema, RUNNING)),
            [worker for worker in session.fetch(fleet.list_workers(schema)) if worker.alive],
            session.fetch(failures.failure_groups(schema, FailureFilter(), GROUPS)),
        )

    return Look(app.database, "pgqueue top", look, every=SOONEST, within=WITHIN)
