"""The tables of the full set: one thing changed at a time, and what a job costs where."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.contenders import CONTENDERS, Contender
from benchmarks.report import NOTHING, table
from benchmarks.results import Results
from benchmarks.spread import Spread

VARIATIONS: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("1 ms tasks", {"sleep": 0.001}),
    ("10 ms tasks", {"sleep": 0.01}),
    ("1 % fail", {"failing": 1}),
    ("10 % fail", {"failing": 10}),
    ("50 % fail", {"failing": 50}),
    ("100 B", {"pad": 100}),
    ("10 KB", {"pad": 10_000}),
    ("500 KB", {"pad": 500_000}),
    ("2 processes", {"processes": 2}),
    ("4 processes", {"processes": 4}),
)


def details(results: Results) -> str:
    """Only what was measured."""
    parts = [
        ("Drain, jobs a second, with one thing changed", _variations(results)),
        ("Beside analysts: four readers, a report of 60 s after the other", _readers(results)),
        ("A backlog: the rate of its first jobs", _backlogs(results)),
        ("Scheduled jobs: how late they begin while millions wait", _scheduled(results)),
        ("Memory of a worker", _memory(results)),
        ("What a job costs in PostgreSQL: bytes of WAL, commits, and rows by table", _costs(results)),
    ]
    return "\n\n".join(f"## {title}\n\n{text}" for title, text in parts if text)


def _variations(results: Results) -> str:
    rows = []
    for each in CONTENDERS:
        cells = [Spread.of(results.values("drain", each.name, "rate", **given)) for _, given in VARIATIONS]
        if any(cells):
            rows.append((each.title, *(NOTHING if cell is None else str(cell) for cell in cells)))
    return table(("", *(title for title, _ in VARIATIONS)), rows) if rows else ""


def _readers(results: Results) -> str:
    rows = [
        (each.title, f"{found['clean']['rate']:,.0f}", f"{found['pinned']['rate']:,.0f}", f"{found['ratio']:.2f}",
         f"{found['churned']:,}")
        for each, found in _last(results, "readers")
    ]  # fmt: skip
    return table(("", "clean, jobs a second", "beside them", "ratio", "churned before"), rows) if rows else ""


def _backlogs(results: Results) -> str:
    rows = []
    for each in CONTENDERS:
        found = sorted(results.of("backlog", each.name), key=lambda figures: figures["backlog"])
        if len(found) > 1:
            few, many = found[0], found[-1]
            rates = (f"{few['rate']:,.0f}", f"{many['rate']:,.0f}", f"{many['rate'] / few['rate']:.2f}")
            rows.append((each.title, f"{few['backlog']:,}", f"{many['backlog']:,}", *rates))
    head = ("", "few", "many", "jobs a second of few", "of many", "ratio")
    return table(head, rows) if rows else ""


def _scheduled(results: Results) -> str:
    rows = [
        (each.title, f"{found['waiting']:,}", f"{found['a_second']:,}",
         "/".join(f"{found['ms'][knot]:,.0f}" for knot in ("p50", "p99", "max")), f"{found['early']:,}",
         f"{found['server_us']:,.0f}")
        for each, found in _last(results, "scheduled")
    ]  # fmt: skip
    head = ("", "waiting", "due a second", "late p50/p99/max ms", "early", "server µs a job")
    return table(head, rows) if rows else ""


def _memory(results: Results) -> str:
    names = ("early_bytes", "late_bytes", "most_bytes")
    longest = [
        (each.title, max(found, key=lambda figures: figures["ran"]))
        for each in CONTENDERS
        if (found := results.of("memory", each.name))
    ]
    rows = [
        (title, f"{found['ran']:,}", *(f"{found[name] / 2**20:,.1f}" for name in names)) for title, found in longest
    ]
    return table(("MiB", "jobs", "after a tenth", "at the end", "most"), rows) if rows else ""


def _costs(results: Results) -> str:
    rows = []
    for each in CONTENDERS:
        lines = [line for line in results.runs if line["scenario"] == "drain" and line["contender"] == each.name]
        plain = [line["figures"] for line in lines if "figures" in line and set(line["given"]) == {"jobs"}]
        if plain and "tables" in plain[-1]:
            found = plain[-1]
            for name, counts in sorted(found["tables"].items()):
                cells = (f"{counts[kind]:g}" for kind in ("inserts", "updates", "hot", "deletes", "dead"))
                rows.append((each.title, f"{found['wal_bytes']:,}", f"{found['commits']:g}", name, *cells))
    head = (
        "worker and server, a drained job",
        "WAL",
        "commits",
        "table",
        "inserts",
        "updates",
        "HOT",
        "deletes",
        "dead",
    )
    return table(head, rows) if rows else ""


def _last(results: Results, scenario: str) -> Iterator[tuple[Contender, dict[str, Any]]]:
    for each in CONTENDERS:
        found = results.of(scenario, each.name)
        if found:
            yield each, found[-1]
