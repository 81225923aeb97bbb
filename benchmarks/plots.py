"""Plots of a results file, light and dark: `python -m benchmarks.plots RESULTS FOLDER`, where matplotlib is."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.contenders import CONTENDERS, Contender
from benchmarks.results import Results
from benchmarks.spread import Spread
from benchmarks.targets import OURS, plain_drains, pooled

if TYPE_CHECKING:
    Axes = Any

PLOTS = {
    "drain": "Drain of queued no-op jobs, one worker process, jobs a second",
    "pickup": "Idle pickup, enqueue call to the task's first line, ms",
    "pinned": "Drain under a held snapshot, as a part of the clean rate",
    "cpu": "CPU of a job, microseconds",
}
THEMES = {
    "light": {"ink": "#1f2328", "paper": "#ffffff", "grid": "#d8dee4", "ours": "#0969da", "peer": "#8c959f"},
    "dark": {"ink": "#e6edf3", "paper": "#0d1117", "grid": "#30363d", "ours": "#58a6ff", "peer": "#6e7681"},
}
BAR_HEIGHT = 0.33
Row = tuple[Contender, Any]


def main(path: Path, folder: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    # The same results give the same files.
    matplotlib.rcParams["svg.hashsalt"] = "pgqueue"
    matplotlib.rcParams["svg.fonttype"] = "none"
    results = Results(path)
    for name, (rows_of, draw) in DRAWN.items():
        rows = rows_of(results)
        if rows:
            for theme, colours in THEMES.items():
                _plot(folder / f"{name}-{theme}.svg", PLOTS[name], rows, draw, colours)


def _plot(
    path: Path,
    title: str,
    rows: list[Row],
    draw: Callable[[Axes, list[Row], dict[str, str]], None],
    colours: dict[str, str],
) -> None:
    from matplotlib import pyplot

    ink, paper = colours["ink"], colours["paper"]
    figure, axes = pyplot.subplots(figsize=(8, 1.2 + BAR_HEIGHT * len(rows)), facecolor=paper, layout="constrained")
    axes.set_facecolor(paper)
    axes.set_title(title, color=ink, loc="left", fontsize=11)
    axes.grid(axis="x", color=colours["grid"], linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=ink, length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    draw(axes, rows, colours)
    axes.set_yticks(range(len(rows)), [each.title for each, _ in rows])
    axes.invert_yaxis()
    figure.savefig(path, facecolor=paper, metadata={"Date": None})
    pyplot.close(figure)


def _spreads(results: Results) -> list[Row]:
    found = [(each, Spread.of(plain_drains(results, each.name, "rate"))) for each in CONTENDERS]
    return sorted(((each, spread) for each, spread in found if spread), key=lambda row: -row[1].median)


def _draw_spreads(axes: Axes, rows: list[Row], colours: dict[str, str]) -> None:
    errors = [[row.median - row.low for _, row in rows], [row.high - row.median for _, row in rows]]
    values = [row.median for _, row in rows]
    axes.barh(range(len(rows)), values, color=_colours(rows, colours), xerr=errors, ecolor=colours["ink"])
    for place, row in enumerate(rows):
        _note(axes, f"{row[1].median:,.0f}", row[1].high, place, colours)
    axes.set_xlim(0, 1.12 * max(row.high for _, row in rows))
    axes.xaxis.set_major_formatter("{x:,.0f}")


def _pickups(results: Results) -> list[Row]:
    found = [(each, pooled(results, each.name)) for each in CONTENDERS]
    return sorted(((each, pickup) for each, pickup in found if pickup), key=lambda row: row[1]["p50"])


def _draw_pickups(axes: Axes, rows: list[Row], colours: dict[str, str]) -> None:
    for place, (each, pickup) in enumerate(rows):
        colour = colours["ours"] if each.name in OURS else colours["peer"]
        axes.plot([pickup["p50"], pickup["p99"]], [place, place], color=colour, linewidth=3, alpha=0.5)
        axes.scatter([pickup["p50"]], [place], color=colour, zorder=3, label="p50" if not place else None)
        axes.scatter(
            [pickup["p99"]], [place], color=colour, marker="|", s=120, zorder=3, label="p99" if not place else None
        )
    axes.set_xscale("log")
    axes.set_xticks([1, 2, 5, 10, 20, 50, 100])
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.legend(frameon=False, labelcolor=colours["ink"], loc="upper right")


def _ratios(results: Results) -> list[Row]:
    rows = []
    for each in CONTENDERS:
        found = max(results.of("pinned", each.name), key=lambda figures: figures["churned"], default=None)
        if found is not None:
            rows.append((each, found))
    return sorted(rows, key=lambda row: -row[1]["ratio"])


def _draw_ratios(axes: Axes, rows: list[Row], colours: dict[str, str]) -> None:
    values = [found["ratio"] for _, found in rows]
    axes.barh(range(len(rows)), values, color=_colours(rows, colours))
    for place, (_, found) in enumerate(rows):
        text = f"{found['ratio']:.2f} after {found['churned']:,}"
        _note(axes, text, found["ratio"], place, colours)
    axes.axvline(0.9, color=colours["ink"], linewidth=0.8, linestyle="--")
    axes.set_xlim(0, max(1.25, max(values) * 1.4))


def _costs(results: Results) -> list[Row]:
    rows = []
    for each in CONTENDERS:
        worker = Spread.of(plain_drains(results, each.name, "worker_us"))
        server = Spread.of(plain_drains(results, each.name, "server_us"))
        if worker and server:
            rows.append((each, (worker.median, server.median)))
    return sorted(rows, key=lambda row: sum(row[1]))


def _draw_costs(axes: Axes, rows: list[Row], colours: dict[str, str]) -> None:
    workers, servers = [row[0] for _, row in rows], [row[1] for _, row in rows]
    axes.barh(range(len(rows)), workers, color=colours["ours"], label="worker")
    axes.barh(range(len(rows)), servers, left=workers, color=colours["peer"], label="server")
    for place, (worker, server) in enumerate(zip(workers, servers, strict=True)):
        text = f"{worker:,.0f} + {server:,.0f}"
        _note(axes, text, worker + server, place, colours)
    axes.legend(frameon=False, labelcolor=colours["ink"], loc="upper right")
    axes.set_xlim(0, 1.25 * max(sum(row) for _, row in rows))
    axes.xaxis.set_major_formatter("{x:,.0f}")


def _note(axes: Axes, text: str, at: float, place: int, colours: dict[str, str]) -> None:
    axes.annotate(text, (at, place), (4, -3), textcoords="offset points", color=colours["ink"], fontsize=8)


def _colours(rows: list[Row], colours: dict[str, str]) -> list[str]:
    return [colours["ours"] if each.name in OURS else colours["peer"] for each, _ in rows]


DRAWN: dict[str, tuple[Callable[[Results], list[Row]], Callable[[Axes, list[Row], dict[str, str]], None]]] = {
    "drain": (_spreads, _draw_spreads),
    "pickup": (_pickups, _draw_pickups),
    "pinned": (_ratios, _draw_ratios),
    "cpu": (_costs, _draw_costs),
}


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
