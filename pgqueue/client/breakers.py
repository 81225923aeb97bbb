"""Circuit breakers: seen, changed and operated while everything runs."""

from __future__ import annotations

import builtins
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pgqueue.breaker import Breaker, Of, State
from pgqueue.client.part import Part
from pgqueue.errors import ArgumentError, seconds
from pgqueue.names import data_name
from pgqueue.queries import breakers
from pgqueue.queries.breakers import Known
from pgqueue.queries.statement import Statement


@dataclass(frozen=True, slots=True)
class BreakerRow:
    """A circuit breaker and how it is. Times are in seconds; `errors` are the classes that count, None for all.

    `failed` of the `attempts` that it has counted failed; without a `ratio` those that completed are not counted.
    `trials` have failed one after the other. An open one tries a job at `tries_at`; None: when somebody lets it.
    `blocked` jobs wait for it. `declared` says whether it comes from code.
    """

    scope: str
    name: str
    state: State
    failures: int | None
    ratio: float | None
    minimum: int
    within: float
    open_for: float
    cap: float
    errors: tuple[str, ...] | None
    declared: bool
    failed: int
    attempts: int
    trials: int
    opened_at: datetime | None
    tries_at: datetime | None
    reason: str | None
    blocked: int


@dataclass(frozen=True, slots=True)
class Breakers(Part):
    """`app.breakers`: what stops a queue or a task while its attempts fail.

    A change holds on every worker, and until the code declares something else than it did. Each verb raises
    ArgumentError where there is no such breaker.
    """

    def list(self) -> builtins.list[BreakerRow]:
        """By scope (queue, task) and name."""
        return [_row(known) for known in self.database.fetch(breakers.read(self.schema))]

    def set(self, breaker: Breaker, *, queue: str | None = None, task: str | None = None) -> None:
        """Make the breaker of a queue or a task, or change its thresholds; an open one stays open.

        app.breakers.set(Breaker(failures=50, within=60), task="shop.tasks.charge")
        """
        self.database.fetch(breakers.change(self.schema, _of(queue, task), breaker))

    def remove(self, *, queue: str | None = None, task: str | None = None) -> None:
        """Take it away, and let its jobs go on. Code that declares it makes it again when a worker starts."""
        self._do(breakers.remove(self.schema, of := _of(queue, task)), of)

    def open(
        self, *, queue: str | None = None, task: str | None = None, duration: float | timedelta | None = None
    ) -> None:
        """Let nothing of it begin, for `duration` (seconds or timedelta), after which one job is tried, or until it is
        closed.

            app.breakers.open(task="shop.tasks.charge", duration=timedelta(minutes=10))
        """
        time = None if duration is None else seconds(duration, "duration")
        if time == 0:
            raise ArgumentError(f"duration={duration!r} must be above 0 seconds, or None: until it is closed")
        self._do(breakers.open_(self.schema, of := _of(queue, task), time), of)

    def close(self, *, queue: str | None = None, task: str | None = None) -> None:
        """Let all its jobs go on, and count failures from now on."""
        self._do(breakers.close(self.schema, of := _of(queue, task)), of)

    def reset(self, *, queue: str | None = None, task: str | None = None) -> None:
        """Forget the failures that it has counted; one that is open tries a job now."""
        self._do(breakers.reset(self.schema, of := _of(queue, task)), of)

    def _do(self, verb: Statement[bool], of: Of) -> None:
        if self.database.fetch(verb) != [True]:
            raise ArgumentError(
                f"there is no circuit breaker of {of}: declare it with breaker=Breaker(…), or make one with "
                "app.breakers.set"
            )


def _of(queue: str | None, task: str | None) -> Of:
    if (queue is None) is (task is None):
        raise ArgumentError(f"queue={queue!r}, task={task!r}: give one of the two")
    return Of("queue", data_name("queue", queue)) if queue is not None else Of("task", data_name("task", task))


def _row(known: Known) -> BreakerRow:
    rule, until = known.rule, known.status.open_until
    finite = until is not None and until != float("inf")
    return BreakerRow(
        *known.of,
        known.state,
        rule.failures,
        rule.ratio,
        rule.minimum,
        rule.within,
        rule.open_for,
        rule.cap,
        rule.errors,
        known.declared,
        *known.seen,
        known.status.trials,
        known.opened_at,
        datetime.fromtimestamp(until, UTC) if until is not None and finite else None,
        known.reason,
        known.blocked,
    )
