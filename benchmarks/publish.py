"""The page of `docs/benchmarks`: tables and plots of one results file."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.details import details
from benchmarks.environments import ROOT, Missing, Python
from benchmarks.plots import PLOTS
from benchmarks.report import losses, machine, missing, peer_table, target_table, versions
from benchmarks.results import Results

INTRODUCTION = """\
# Benchmarks

Made by `python -m benchmarks report` from [{name}]({name}); do not edit. How it is measured: [method.md](method.md).
What was missed, and why: [misses.md](misses.md). What it means for your database: [scaling.md](../scaling.md)."""


def publish(path: Path, folder: Path) -> None:
    """Write README.md and the plots into `folder`."""
    results = Results(path)
    if not results.runs:
        raise SystemExit(f"{path} holds no runs")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        program = str(Python("plots").program())
        subprocess.run(
            [program, "-m", "benchmarks.plots", str(path), str(folder)],
            check=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    except Missing as reason:
        print(f"no plots: {reason}", file=sys.stderr)
    link = Path(os.path.relpath(path.absolute(), folder.absolute())).as_posix()
    parts = [INTRODUCTION.format(name=link), machine(results)]
    parts += [_picture(name, title) for name, title in PLOTS.items() if (folder / f"{name}-light.svg").exists()]
    parts += ["## Targets", target_table(results), "## Side by side", peer_table(results)]
    parts += [losses(results), missing(results), details(results), "## Settings", versions(results)]
    (folder / "README.md").write_text("\n\n".join(part for part in parts if part) + "\n")
    print(folder / "README.md")


def _picture(name: str, title: str) -> str:
    return (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{name}-dark.svg">'
        f'<img alt="{title}" src="{name}-light.svg"></picture>'
    )
