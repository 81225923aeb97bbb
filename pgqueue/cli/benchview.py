"""What `pgqueue bench` shows: tables for people, one record for programs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pgqueue import __version__
from pgqueue.cli.output import Column, Listing, faint, stdout, styled

if TYPE_CHECKING:
    from rich.table import Table

    from pgqueue.bench.figures import Latencies, Rates, Spread
    from pgqueue.bench.measure import Report
    from pgqueue.bench.server import Facts

PERCENTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}
WIDE = 100


def span(spread: Spread, digits: int = 0) -> Any:
    several = len(spread.rounds) > 1
    return faint(f"{spread.least:,.{digits}f}–{spread.most:,.{digits}f}" if several else "")


RATES: Listing[Rates] = Listing(
    [
        Column("Jobs a second", lambda row: row.name),
        Column("pgqueue", lambda row: styled(f"{row.pgqueue.median:,.0f}", "bold"), number=True),
        Column("", lambda row: span(row.pgqueue)),
        Column("bare", lambda row: f"{row.bare.median:,.0f}", number=True),
        Column("", lambda row: span(row.bare), from_width=WIDE),
        Column("ratio", lambda row: styled(f"{row.ratio.median:.2f}", "bold"), number=True),
        Column("", lambda row: span(row.ratio, 2)),
        Column("bare loop of", lambda row: faint(row.against), from_width=WIDE),
    ],
    asdict,
    "",
)


def milliseconds(share: float) -> Column[Latencies]:
    name = next(name for name, value in PERCENTILES.items() if value == share)
    style = "bold" if name == "p50" else ""
    return Column(name, lambda row: styled(f"{row.percentile(share) * 1000:.2f}", style), number=True)


PICKUP: Listing[Latencies] = Listing(
    [
        Column("Pickup by an idle worker, ms", lambda row: row.name),
        *map(milliseconds, PERCENTILES.values()),
        Column("jobs", lambda row: faint(f"{len(row.seconds):,}"), number=True),
    ],
    asdict,
    "",
)


def show(report: Report, dsn: str) -> None:
    """The report, on stdout."""
    console = stdout()
    console.print(f"[bold]pgqueue {__version__}[/] on PostgreSQL {report.facts.postgresql}", markup=True)
    console.print(facts(report.facts, dsn))
    if report.rates:
        console.print()
        console.print(RATES.table(report.rates, console.width))
    if report.pickup:
        console.print()
        console.print(PICKUP.table(report.pickup, console.width))
    console.print()
    for line in remarks(report):
        console.print(faint(line))


def remarks(report: Report) -> Iterator[str]:
    if report.sizes.rounds > 1:
        yield f"Medians of {report.sizes.rounds} rounds, least–most beside them."
    if report.rates:
        yield "bare: a loop of the same work without pgqueue, on one connection."
    if report.pickup and report.facts.pooler:
        yield "Through a pooler no notification comes: the worker polls, once a second."


def facts(found: Facts, dsn: str) -> Table:
    from rich.table import Table

    from pgqueue import config

    rows = {
        "server": config.masked(dsn),
        "settings": ", ".join(f"{name} {value}" for name, value in found.settings.items()),
        "round trip": f"{found.round_trip * 1000:.2f} ms" + (", through a pooler" if found.pooler else ""),
        "client": f"Python {found.python}, {f'uvloop {found.uvloop}' if found.uvloop else 'no uvloop'}",
    }
    table = Table.grid(padding=(0, 2))
    for name, text in rows.items():
        table.add_row(faint(f"  {name}"), text)
    return table


def record(report: Report) -> dict[str, Any]:
    """The same for programs: rates in jobs a second, latencies in seconds."""
    return {
        "pgqueue": __version__,
        **asdict(report.facts),
        "jobs": report.sizes.jobs,
        "rounds": report.sizes.rounds,
        "rates": [
            {
                "name": row.name,
                "against": row.against,
                **{side: spread(getattr(row, side)) for side in ("pgqueue", "bare", "ratio")},
            }
            for row in report.rates
        ],
        "pickup": [
            {
                "name": row.name,
                "jobs": len(row.seconds),
                **{name: row.percentile(share) for name, share in PERCENTILES.items()},
                "medians": row.medians.rounds,
            }
            for row in report.pickup
        ],
    }


def spread(found: Spread) -> dict[str, Any]:
    return {"median": found.median, "min": found.least, "max": found.most, "rounds": found.rounds}
