"""Ageing: what has waited is treated sooner."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, NamedTuple

from pgqueue.queries.statement import Statement, inline, text


class AgedLane(NamedTuple):
    """A lane to which `jobs` came, the first of them at `position`; without any, one that a claim may have passed by."""

    priority: int
    position: int
    jobs: int


def age(schema: str, *, queue: str, every: timedelta, floor: int | None, count: int) -> Statement[AgedLane]:
    """Move up to `count` available jobs of a queue as many priorities sooner as they have waited times `every`.

    None goes beyond `floor`; without one, beyond the soonest priority at which jobs of the queue wait or run.
    """
    params = {"queue": queue, "every": every, "floor": floor, "count": count, "channel": schema}
    return Statement(text("age", schema), params, AgedLane._make)


def set_ageing(schema: str, queue: str, every: timedelta | None, floor: int | None) -> Statement[Any]:
    """From now on, until the code declares it anew at a worker's start."""
    return Statement(
        inline("select {schema}.set_ageing(%(queue)s, %(every)s::interval, %(floor)s::int)", schema),
        {"queue": queue, "every": every, "floor": floor},
    )
