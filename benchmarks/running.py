"""Making the runs of a plan that are not in the results file yet."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from benchmarks.contenders import BY_NAME
from benchmarks.drain import measure
from benchmarks.environments import Missing
from benchmarks.machine import describe, load
from benchmarks.results import Results, Run
from benchmarks.scenarios import backlogs, drains, neighbours, pickups, snapshots, transactions
from benchmarks.trial import Servers, Trial


def _bare_loop(trial: Trial, jobs: int, mode: str) -> dict[str, Any]:
    return {"jobs": jobs, "rate": measure("limit", trial.dsn, jobs, mode)}


def _enqueue_ratios(trial: Trial, jobs: int, rounds: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.enqueue", "--json", "--dsn", trial.dsn]
    told = subprocess.run(
        [*command, "--jobs", str(jobs), "--rounds", str(rounds)], check=True, stdout=subprocess.PIPE, text=True
    )
    return {"jobs": jobs, "rounds": rounds, **json.loads(told.stdout)["per_second"]}


SCENARIOS: Mapping[str, Callable[..., dict[str, Any]]] = {
    "bare_loop": _bare_loop,
    "enqueue_ratios": _enqueue_ratios,
    "one": drains.enqueue_one,
    "drain": drains.drain,
    "memory": drains.memory,
    "pickup": pickups.pickup,
    "pinned": snapshots.pinned,
    "readers": snapshots.readers,
    "claims": backlogs.claims,
    "backlog": backlogs.backlog,
    "scheduled": backlogs.scheduled,
    "late_commits": transactions.late_commits,
    "app_traffic": transactions.app_traffic,
    "beside": neighbours.beside,
}


def run_all(plan: Sequence[Run], results: Results, minutes: float | None = None) -> None:
    """Make what is missing; an error of one contender is written down and does not stop the others.

    After `minutes` no further run begins; installing contenders does not count.
    """
    open_runs = [run for run in plan if not results.has(run)]
    print(f"{len(plan)} runs, {len(plan) - len(open_runs)} of them done before: {results.path}", file=sys.stderr)
    if not open_runs:
        return
    for contender in {run.contender for run in open_runs}:
        with suppress(Missing):
            BY_NAME[contender].environment.command("")
    began = time.monotonic()
    with Servers() as servers:
        results.begin(describe(servers))
        for count, run in enumerate(open_runs, 1):
            if minutes is not None and time.monotonic() - began > minutes * 60:
                print(f"{minutes:g} minutes are over: {len(open_runs) - count + 1} runs left out", file=sys.stderr)
                return
            print(f"[{count}/{len(open_runs)}] {run.key}", file=sys.stderr, end=" ", flush=True)
            line = _make(run, servers, results)
            print(_gist(line), file=sys.stderr, flush=True)


def _make(run: Run, servers: Servers, results: Results) -> dict[str, Any]:
    told: dict[str, Any] = {"at": time.strftime("%Y-%m-%d %H:%M:%S"), "load": load()}
    began = time.perf_counter()
    try:
        with Trial(servers, BY_NAME[run.contender]) as trial:
            told["about"] = {**trial.about, "options": dict(trial.contender.options)}
            told["figures"] = SCENARIOS[run.scenario](trial, **run.given)
    except Missing as reason:
        told["missing"] = str(reason)
    except Exception as error:
        # Whatever it is, the next run begins on a fresh database.
        told["error"] = f"{type(error).__name__}: {error}"
    return results.add(run, **told, seconds=time.perf_counter() - began)


def _gist(line: dict[str, Any]) -> str:
    """One line for who watches."""
    took = f"({line['seconds']:.0f} s)"
    if "figures" not in line:
        return f"{line.get('missing') or 'FAILED: ' + line['error']} {took}"
    figures = line["figures"]
    parts = [f"{figures['rate']:,.0f}/s"] if "rate" in figures else []
    parts += [f"p50 {figures['ms']['p50']:.2f} p99 {figures['ms']['p99']:.2f} ms"] if figures.get("ms") else []
    parts += [f"{figures['ratio']:.2f} after {figures['churned']:,}"] if "churned" in figures else []
    parts += [f"{name.upper()} {figures[name]}" for name in ("lost", "doubled") if figures.get(name)]
    parts += ["capped"] if figures.get("capped") else []
    return f"{', '.join(parts)} {took}"
