"""The results file: one JSON line a run. What stands there is not run again, so a long set can be resumed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Run:
    """One measurement to make; `given` are the numbers of its scenario."""

    scenario: str
    contender: str
    given: Mapping[str, Any] = field(default_factory=dict)
    round: int = 1

    @property
    def key(self) -> str:
        given = ",".join(f"{name}={value}" for name, value in sorted(self.given.items()))
        return f"{self.scenario}({given}) {self.contender} #{self.round}"


class Results:
    """What has been measured, on disk after each run.

    results = Results(Path("results.jsonl"))
    results.values("drain", "pgboss", "rate")    # of each round
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.machines: list[dict[str, Any]] = []
        self.runs: list[dict[str, Any]] = []
        # What ran after each line that describes a machine, in one go.
        self.runs_of: list[list[dict[str, Any]]] = []
        if path.exists():
            for line in path.read_text().splitlines():
                self._take(json.loads(line))

    def begin(self, machine: dict[str, Any]) -> None:
        self._append(machine)

    def add(self, run: Run, **told: Any) -> dict[str, Any]:
        """`told` holds `figures`, or `missing` or `error` with the reason."""
        line = {
            "key": run.key,
            "scenario": run.scenario,
            "contender": run.contender,
            "round": run.round,
            "given": dict(run.given),
            **told,
        }
        self._append(line)
        return line

    def has(self, run: Run) -> bool:
        """Whether it stands there; one without figures is to be made again."""
        return any(line["key"] == run.key and "figures" in line for line in self.runs)

    def of(self, scenario: str, contender: str, **given: Any) -> list[dict[str, Any]]:
        """The figures of all rounds; `given` narrows."""
        return [line["figures"] for line in self._lines(scenario, contender, given) if "figures" in line]

    def values(self, scenario: str, contender: str, *path: str, **given: Any) -> list[float]:
        """One figure of all rounds, by the names on the way to it, without the rounds that have none."""
        found = (_dig(figures, path) for figures in self.of(scenario, contender, **given))
        return [float(value) for value in found if value is not None]

    def about(self, contender: str) -> dict[str, Any]:
        """Version, runtime and options."""
        found = (line["about"] for line in reversed(self.runs) if line["contender"] == contender and line.get("about"))
        return next(found, {})

    def _lines(self, scenario: str, contender: str, given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        for line in self.runs:
            of_this = line["scenario"] == scenario and line["contender"] == contender
            if of_this and all(line["given"].get(name) == value for name, value in given.items()):
                yield line

    def _take(self, line: dict[str, Any]) -> None:
        if "key" not in line:
            self.machines.append(line)
            self.runs_of.append([])
        else:
            self.runs.append(line)
            self.runs_of[-1].append(line)

    def _append(self, line: dict[str, Any]) -> None:
        self._take(line)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(_short(line)) + "\n")


def _dig(figures: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        figures = figures.get(name) if isinstance(figures, dict) else None
    return figures


def _short(value: Any) -> Any:
    """Four significant digits more than anybody can measure; the file is read by people too."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {name: _short(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_short(part) for part in value]
    return value
