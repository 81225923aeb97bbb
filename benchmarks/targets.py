"""What pgqueue must keep: a line for each row of the table of speeds in its design, from one results file."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.contenders import CONTENDERS
from benchmarks.plans import MODES
from benchmarks.results import Results
from benchmarks.spread import Spread, percentiles

OURS = tuple(MODES.values())


@dataclass(frozen=True, slots=True)
class Target:
    """`value` must be at least, or at most, `bound`; None when it was not measured. `spread` is over the rounds."""

    what: str
    measured: str
    value: float | None
    bound: float
    at_least: bool = True
    spread: Spread | None = None

    @property
    def ratio(self) -> str:
        if self.value is None:
            return "–"
        return f"{self.value:.2f}" if self.spread is None else self.spread.text(2)

    @property
    def verdict(self) -> str:
        if self.value is None:
            return "not measured"
        met = self.value >= self.bound if self.at_least else self.value <= self.bound
        return "pass" if met else "MISS"


def targets(results: Results) -> list[Target]:
    return [
        *_drains(results),
        *_pinned(results),
        *_enqueues(results),
        *_pickups(results),
        *_backlog(results),
        *_memory(results),
        *_in_use(results),
    ]


def pooled(results: Results, contender: str, samples: str = "samples") -> dict[str, float] | None:
    """Percentiles of the pickups of all rounds."""
    found = [each for figures in results.of("pickup", contender) for each in figures.get(samples, [])]
    return percentiles(found) if found else None


def _by_round(results: Results, scenario: str, contender: str, **given: Any) -> dict[int, float]:
    """The rates of what has only a number of jobs and what is given, the last of each round."""
    found = {}
    for line in results.runs:
        asked = line["given"] == {"jobs": line["given"].get("jobs"), **given}
        if asked and "figures" in line and (line["scenario"], line["contender"]) == (scenario, contender):
            found[line["round"]] = line["figures"]["rate"]
    return found


def plain_drains(results: Results, contender: str, *path: str) -> list[float]:
    """The drains of no-op jobs by one worker process: what has only a number of jobs."""
    lines = [line for line in results.runs if line["scenario"] == "drain" and line["contender"] == contender]
    figures = [line["figures"] for line in lines if "figures" in line and set(line["given"]) == {"jobs"}]
    return [figure[path[0]] for figure in figures if figure.get(path[0]) is not None]


def _drains(results: Results) -> Iterator[Target]:
    for mode, ours in MODES.items():
        bare, own = _by_round(results, "bare_loop", "bare", mode=mode), _by_round(results, "drain", ours)
        ratios = [own[round] / bare[round] for round in sorted(own.keys() & bare.keys())]
        value = statistics.median(ratios) if ratios else None
        told = f"{_median([*own.values()])} against {_median([*bare.values()])} jobs/s" if ratios else ""
        yield Target(
            f"drain against the bare loop, {mode.replace('_', ' ')}", told, value, 0.7, spread=Spread.of(ratios)
        )
    for ours, peer, title in (("pgqueue", "pgboss", "pg-boss"), ("pgqueue_no_history", "graphile", "Graphile Worker")):
        workers, others = plain_drains(results, ours, "rate"), plain_drains(results, peer, "rate")
        value = statistics.median(workers) / statistics.median(others) if workers and others else None
        told = f"{_median(workers)} against {_median(others)} jobs/s" if value else ""
        kept = "with" if ours == "pgqueue" else "without"
        yield Target(f"drain {kept} history against {title}", told, value, 2.0)


def _pinned(results: Results) -> Iterator[Target]:
    for mode, ours in MODES.items():
        found = max(results.of("pinned", ours), key=lambda figures: figures["churned"], default=None)
        what = f"drain under a held snapshot against clean, {mode.replace('_', ' ')}"
        if found is None:
            yield Target(what, "", None, 0.9)
            continue
        told = f"{found['pinned']['rate']:,.0f} against {found['clean']['rate']:,.0f} jobs/s"
        yield Target(what, f"{told}; {found['churned']:,} jobs churned", found["ratio"], 0.9)
        if "pinned_pickup" in found:
            after, before = found["pinned_pickup"]["ms"]["p99"], found["clean_pickup"]["ms"]["p99"]
            what = f"pickup p99 under it against clean, {mode.replace('_', ' ')}"
            yield Target(what, f"{after:.1f} against {before:.1f} ms", after / before, 2.0, at_least=False)


def _enqueues(results: Results) -> Iterator[Target]:
    found = next(iter(results.of("enqueue_ratios", "pgqueue")), {})
    for kind, what, bound in (
        ("one", "one enqueue against INSERT and COMMIT", 0.9),
        ("bulk", "bulk enqueue of jobs already made against COPY", 0.7),
        ("bulk made", "bulk enqueue, task.job() included, against COPY", 0.7),
    ):
        part = found.get(kind)
        told = f"{part['pgqueue']:,.0f} against {part['bare']:,.0f} a second" if part else ""
        if part and kind != "one":
            told += f"; {found['jobs']:,} jobs"
        ratios = Spread.of(part["ratios"]) if part else None
        yield Target(what, told, ratios.median if ratios else None, bound, spread=ratios)


def _pickups(results: Results) -> Iterator[Target]:
    bare = pooled(results, "notify")
    peers = {each.title: pooled(results, each.name) for each in CONTENDERS if each.name not in OURS}
    for samples, since in (("samples", "from before the enqueue call"), ("after_samples", "from its end")):
        ours, bare = pooled(results, "pgqueue", samples), pooled(results, "notify", samples)
        for knot, bound in (("p50", 2.0), ("p99", 5.0)):
            what = f"idle pickup {knot} {since}: ms more than a bare NOTIFY"
            if ours is None or bare is None:
                yield Target(what, "", None, bound, at_least=False)
                continue
            told = f"{ours[knot]:.2f} against {bare[knot]:.2f} ms"
            yield Target(what, told, ours[knot] - bare[knot], bound, at_least=False)
    ours = pooled(results, "pgqueue")
    for knot in ("p50", "p99"):
        best = min(((found[knot], title) for title, found in peers.items() if found), default=None)
        what = f"idle pickup {knot} against the best peer"
        if ours is None or best is None:
            yield Target(what, "", None, 1.0, at_least=False)
            continue
        told = f"{ours[knot]:.2f} against {best[0]:.2f} ms ({best[1]})"
        yield Target(what, told, ours[knot] / best[0], 1.0, at_least=False)


def _backlog(results: Results) -> Iterator[Target]:
    found = sorted(results.of("claims", "pgqueue"), key=lambda figures: figures["backlog"])
    if len(found) < 2:
        yield Target("claim before a large backlog against a small one", "", None, 1.2, at_least=False)
        return
    few, many = found[0], found[-1]
    told = f"p50 {many['ms']['p50']:.2f} against {few['ms']['p50']:.2f} ms for {many['claims']} claims"
    what = f"claim before {many['backlog']:,} jobs against {few['backlog']:,}"
    yield Target(what, told, many["ms"]["p50"] / few["ms"]["p50"], 1.2, at_least=False)


def _memory(results: Results) -> Iterator[Target]:
    found = max(results.of("memory", "pgqueue"), key=lambda figures: figures["ran"], default=None)
    what = "memory of a worker at the end against a tenth of the jobs"
    if found is None:
        yield Target(what, "", None, 1.1, at_least=False)
        return
    early, late = found["early_bytes"], found["late_bytes"]
    told = f"{late / 2**20:.1f} against {early / 2**20:.1f} MiB; {found['ran']:,} jobs"
    yield Target(what, told, late / early, 1.1, at_least=False)


def _in_use(results: Results) -> Iterator[Target]:
    """Of the full set only."""
    for found in results.of("late_commits", "pgqueue"):
        where, bound = (f"; {found['dead']:,} dead, snapshot held", 2000.0) if found["dead"] else ("", 50.0)
        told = f"p50 {found['ms']['p50']:.1f}, max {found['ms']['max']:.1f} ms of {found['jobs']} jobs"
        what = f"longest pickup after a commit {found['held']} s late, ms{where}"
        yield Target(what, told, found["ms"]["max"], bound, at_least=False)
    yield from _traffic(results.of("app_traffic", "pgqueue"))
    for own_worker, whose in ((False, "in the same worker"), (True, "in a worker of their own")):
        rounds = results.of("beside", "pgqueue", own_worker=own_worker)
        for ms, since in (("ms", "from before the enqueue call"), ("after_ms", "from its end")):
            pairs = [(each[ms]["p99"], each["idle"][ms]["p99"]) for each in rounds if ms in each]
            if pairs:
                what = f"pickup p99 of e-mails beside {rounds[0]['images']:,} images {whose}, against idle, {since}"
                yield _ratio(what, pairs, 2.0, f"; {min(each['left'] for each in rounds):,} images left at the end")


def _traffic(rounds: list[dict[str, Any]]) -> Iterator[Target]:
    if not rounds:
        return
    jobs, stranded = sum(each["jobs"] for each in rounds), sum(each["stranded"] for each in rounds)
    who = f"{rounds[0]['producers']} producers with transactions of 0 to 20 ms"
    yield Target(f"jobs of {who} that waited for a poll", f"of {jobs:,}", stranded, 0, at_least=False)
    found = [(each["ms"]["p99"], each["alone"]["ms"]["p99"]) for each in rounds]
    beside = statistics.median(each["a_second"] for each in rounds)
    alone = statistics.median(each["alone"]["a_second"] for each in rounds)
    told = f" from the commit, {beside:.0f} against {alone:.0f} a second"
    yield _ratio(f"pickup p99 of {who}, against one alone", found, 1.2, told)


def _ratio(what: str, found: list[tuple[float, float]], bound: float, told: str) -> Target:
    """At most `bound`: the median of the rounds' ratios of two times in milliseconds."""
    ratios = [after / before for after, before in found]
    after, before = (statistics.median(side) for side in zip(*found, strict=True))
    told = f"{after:.1f} against {before:.1f} ms{told}"
    return Target(what, told, statistics.median(ratios), bound, at_least=False, spread=Spread.of(ratios))


def _median(values: list[float]) -> str:
    return f"{statistics.median(values):,.0f}" if values else "nothing"
