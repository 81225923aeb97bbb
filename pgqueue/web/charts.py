"""Charts of a page: what ran minute by minute, how long it took and had waited."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from psycopg import errors as pg_errors

from pgqueue.queries import figures
from pgqueue.queries.figures import OUTCOMES, Latency, Percentiles, Summary, Throughput
from pgqueue.queries.statement import Statement
from pgqueue.web.rendering import compact, duration
from pgqueue.web.visit import Visit

HOUR = 3600


class Span(NamedTuple):
    """How far back a chart goes, and its steps, in seconds."""

    name: str
    seconds: int
    step: int

    @property
    def word(self) -> str:
        """In the address."""
        return self.name.replace(" ", "")


SPANS = (Span("1 h", HOUR, 60), Span("6 h", 6 * HOUR, 120), Span("24 h", 24 * HOUR, 600), Span("3 d", 72 * HOUR, 1800))
ALWAYS_SHOWN = ("completed", "failed", "retried")
# How each is drawn: by the name of a colour.
KINDS = {
    "completed": "completed",
    "failed": "failed",
    "retried": "blocked",
    "snoozed": "scheduled",
    "cancelled": "cancelled",
}
PERCENTILES = {"p50": "available", "p95": "scheduled", "p99": "blocked"}
# Lines differ by more than their colour: drawn and left out, in pixels.
DASHES = {"retried": (5, 3), "snoozed": (2, 2), "cancelled": (8, 3), "p95": (5, 3), "p99": (2, 2)}
# A step that has only begun says too little of what will be in it.
LEAST_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class Chart:
    """One chart. `data` is what the browser draws: times in seconds since 1970, and for each series a value or null.

    `said` says the same in a sentence, for who does not see it.
    """

    id: str
    title: str
    said: str
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Charts:
    """Those of a page over one span. `refused`: there was too much to read."""

    span: Span
    charts: tuple[Chart, ...]
    refused: bool = False
    spans: tuple[Span, ...] = SPANS

    @property
    def is_empty(self) -> bool:
        """Whether nothing ran."""
        return not any(chart.data["series"] for chart in self.charts)


async def charts(visit: Visit, *, queue: str | None = None, task: str | None = None, runs: bool = True) -> Charts:
    """Of all, of a queue or of a task, over the `span` of the address; `runs`: how long they took, too."""
    chosen = {span.word: span for span in SPANS}
    span = chosen[visit.query("span", list(chosen)) or SPANS[0].word]

    def asked(statement: Callable[..., Statement[Any]], **given: bool) -> Statement[Any]:
        return statement(visit.schema, span.seconds, queue, task, step=span.step, **given)

    try:
        counted: Sequence[Throughput]
        timed: Sequence[Latency]
        counted, timed = await asyncio.gather(
            visit.fetch_figures(asked(figures.throughput)), visit.fetch_figures(asked(figures.latency, runs=runs))
        )
    except pg_errors.QueryCanceled:
        return Charts(span, (), refused=True)
    made = [throughput(counted), _times("waits", "Waited", timed, lambda one: one.wait)]
    if runs:
        made.insert(1, _times("runs", "Ran", timed, lambda one: one.run))
    return Charts(span, tuple(made))


async def by_queue(visit: Visit) -> dict[str, Summary]:
    """The last hour of each queue of which something ran, by name; none where there is too much to read."""
    return await _summaries(visit, figures.by_queue(visit.schema, HOUR))


async def by_task(visit: Visit) -> dict[str, Summary]:
    """As `by_queue`, of tasks."""
    return await _summaries(visit, figures.by_task(visit.schema, HOUR))


async def _summaries(visit: Visit, statement: Statement[Summary]) -> dict[str, Summary]:
    try:
        return {one.name: one for one in await visit.fetch_figures(statement)}
    except pg_errors.QueryCanceled:
        return {}


def throughput(points: Sequence[Throughput]) -> Chart:
    """How many runs ended a minute, by what they came to."""
    totals = {name: sum(getattr(point, name) for point in points) for name in OUTCOMES}
    shown = [name for name in OUTCOMES if totals[name] or name in ALWAYS_SHOWN] if any(totals.values()) else []
    series = [
        {
            "label": name,
            "kind": KINDS[name],
            "dash": DASHES.get(name),
            "fill": name == "completed",
            "values": [_a_minute(getattr(point, name), point) for point in points],
        }
        for name in shown
    ]
    said = ", ".join(f"{compact(totals[name])} {name}" for name in shown)
    return Chart("throughput", "A minute", said, _data(points, series, ""))


def _a_minute(count: int, point: Throughput) -> float | None:
    """Of a step that still goes on, as far as it has gone."""
    return None if point.seconds < point.step * LEAST_SHARE else round(count / point.seconds * 60, 3)


def _times(id_: str, title: str, points: Sequence[Latency], of: Callable[[Latency], Percentiles]) -> Chart:
    known = [of(point) for point in points]
    whole = figures.together(known)
    series = [
        {
            "label": name,
            "kind": kind,
            "dash": DASHES.get(name),
            "fill": False,
            "values": [_rounded(getattr(one, name)) for one in known],
        }
        for name, kind in PERCENTILES.items()
    ]
    said = "≈ " + ", ".join(f"{name} {duration(getattr(whole, name))}" for name in PERCENTILES) if whole.counts else ""
    return Chart(id_, title, said, _data(points, series if whole.counts else [], "s"))


def _data(points: Sequence[Throughput] | Sequence[Latency], series: list[dict[str, Any]], unit: str) -> dict[str, Any]:
    return {"times": [int(point.at.timestamp()) for point in points], "series": series, "unit": unit}


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
