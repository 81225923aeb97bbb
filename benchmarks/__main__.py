"""pgqueue and its peers side by side, on one durable PostgreSQL and one Redis that this brings along.

    python -m benchmarks short|full [--only NAME …] [--scale X] [--rounds N] [--fresh] [--results FILE]
    python -m benchmarks report [--results FILE] [--to FOLDER]
    python -m benchmarks limit [--jobs N] [--rounds N] [--dsn DSN] [--json]

`short` and `full` write one JSON line a run and go on where they were stopped; `report` makes the tables and plots.
`limit` is quick: pgqueue's drain against the bare loop only.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks import limit, plans
from benchmarks.environments import FOLDER, ROOT

PUBLISHED = ROOT / "docs" / "benchmarks"
PLANS = {"short": plans.short, "full": plans.full}
MINUTES = {"short": 17.5, "full": None}
FILES = {"short": FOLDER / "short.jsonl", "full": PUBLISHED / "results.jsonl"}


def main() -> None:
    summary = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=summary)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in PLANS:
        command = commands.add_parser(name, help=(PLANS[name].__doc__ or "").splitlines()[0])
        command.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these contenders")
        command.add_argument("--scale", type=float, default=1.0, help="of the numbers of jobs")
        command.add_argument("--rounds", type=int, default=3)
        command.add_argument("--minutes", type=float, default=MINUTES[name], help="begin no run after so many")
        command.add_argument("--fresh", action="store_true", help="forget earlier results")
        command.add_argument("--results", type=Path, default=FILES[name], metavar="FILE")
    command = commands.add_parser("report", help="tables and plots of a results file")
    command.add_argument("--results", type=Path, default=FILES["full"], metavar="FILE")
    command.add_argument("--to", type=Path, default=PUBLISHED, metavar="FOLDER")
    limit.add_arguments(commands.add_parser("limit", help=(limit.__doc__ or "").splitlines()[0]))
    given = parser.parse_args()
    if given.command == "limit":
        limit.measure_all(given)
    elif given.command == "report":
        _report(given.results, given.to)
    else:
        _run(given)


def _run(given: argparse.Namespace) -> None:
    from benchmarks.report import summary
    from benchmarks.results import Results
    from benchmarks.running import run_all

    if given.fresh:
        given.results.unlink(missing_ok=True)
    results = Results(given.results)
    try:
        run_all(PLANS[given.command](given.scale, given.rounds, given.only), results, given.minutes)
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
    print(summary(results))


def _report(results: Path, folder: Path) -> None:
    from benchmarks.publish import publish

    if not results.exists():
        raise SystemExit(f"{results} does not exist: run `python -m benchmarks full` first, or name another --results")
    publish(results, folder)


if __name__ == "__main__":
    main()
