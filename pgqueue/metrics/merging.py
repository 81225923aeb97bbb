"""The metrics of several processes as those of one: counts add up, and those of a process that has ended stay."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import Any

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from pgqueue.metrics.database import DESCRIBED
from pgqueue.worker.crew import Crew, Member

# What only grows; else the rate of the sum would jump whenever a process ends.
CUMULATIVE = ("counter", "histogram", "summary")
SUMMED = ("pgqueue_worker_slots", "pgqueue_jobs_in_flight")
# One process says them for all.
OF_THE_DATABASE = frozenset(f"pgqueue_{name}" for name in DESCRIBED)
Packed = list[list[Any]]
Labels = tuple[tuple[str, str], ...]


def packed(collector: Collector) -> Packed:
    """Its metrics as JSON: name, documentation and type of each, and name, labels and value of its samples."""
    return [
        [family.name, family.documentation, family.type, [[one.name, one.labels, one.value] for one in family.samples]]
        for family in collector.collect()
        if family.name not in OF_THE_DATABASE
    ]


class CrewMetrics:
    """What the processes of `crew` answer to "metrics", added up.

    Gauges of pgqueue are added up, `pgqueue_build_info` is said once, other gauges have a label `process`. Of a process
    that does not answer what it counted last stays, and its gauges are left out.
    """

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        self._lock = threading.Lock()
        self._last: dict[Member, Packed] = {}
        self._kept = Sums()
        crew.on_left = self._left

    def describe(self) -> Iterator[Metric]:
        """Nothing: it is known when a process has answered."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        answers = self._crew.ask("metrics")
        with self._lock:
            for member, families in answers.items():
                if families is not None and not member.has_left:
                    self._last[member] = families
            sums = self._kept.copied()
            for member, families in self._last.items():
                sums.add(families, member.number, alive=answers.get(member) is not None)
        yield from sums.families()

    def _left(self, member: Member) -> None:
        with self._lock:
            families = self._last.pop(member, [])
            self._kept.add(member.last_words.get("metrics") or families, member.number, alive=False)


class Sums:
    """Samples of several processes by family, name and labels."""

    def __init__(self) -> None:
        self._described: dict[str, tuple[str, str]] = {}
        self._values: dict[str, dict[tuple[str, Labels], float]] = {}

    def copied(self) -> Sums:
        copy = Sums()
        copy._described = dict(self._described)
        copy._values = {family: dict(values) for family, values in self._values.items()}
        return copy

    def add(self, families: Packed, process: int, *, alive: bool) -> None:
        """Those of one process; of one that is not `alive` only what stays."""
        for family, documentation, kind, samples in families:
            if not (alive or kind in CUMULATIVE):
                continue
            self._described.setdefault(family, (documentation, kind))
            values = self._values.setdefault(family, {})
            for name, labels, value in samples:
                # When a series began is not to be added up, and nobody needs it.
                if name.endswith("_created") and kind in CUMULATIVE:
                    continue
                own = not (kind in CUMULATIVE or family.startswith("pgqueue_"))
                key = name, tuple(sorted({**labels, **({"process": str(process)} if own else {})}.items()))
                adds = kind in CUMULATIVE or family in SUMMED
                values[key] = values.get(key, 0.0) + value if adds else value

    def families(self) -> Iterable[Metric]:
        for family, (documentation, kind) in self._described.items():
            metric = Metric(family, documentation, kind)
            for (name, labels), value in self._values[family].items():
                metric.add_sample(name, dict(labels), value)
            yield metric
