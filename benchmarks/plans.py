"""The short set and the full one, in the order in which they are run: round robin, so that noise hits all alike."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.contenders import BY_NAME, CONTENDERS, Contender
from benchmarks.results import Run

MODES = {"history": "pgqueue", "no_history": "pgqueue_no_history"}
JUDGED = (*MODES.values(), "graphile", "pgboss")
INTERVAL = 0.03
CHURN = 500_000


def short(scale: float, rounds: int, names: list[str]) -> list[Run]:
    """Under 20 minutes on two cores; `scale` shrinks the numbers of jobs, for trying things out.

    What the targets need comes first, and `rounds` times; what only compares the peers comes one round less.
    """
    contenders = _chosen(names)
    once_less = range(1, max(2, rounds))
    runs: list[Run] = []
    for round in range(1, rounds + 1):
        runs += _limits(round, scale)
        runs += [_drain(each, round, scale) for each in contenders if each.name in JUDGED]
    for round in once_less:
        runs += [_drain(each, round, scale) for each in contenders if each.name not in JUDGED]
    for round in once_less:
        pickups = {"jobs": _size(150, scale, 20), "interval": INTERVAL}
        runs += [Run("pickup", name, pickups, round) for name in ("notify", *(each.name for each in contenders))]
    if "pgqueue" in [each.name for each in contenders]:
        runs.append(Run("enqueue_ratios", "pgqueue", {"jobs": _size(100_000, scale), "rounds": rounds}))
        for backlog in (10_000, _size(1_000_000, scale, 10_000)):
            runs.append(Run("claims", "pgqueue", {"backlog": backlog, "count": 100, "batch": 100}))
        runs.append(Run("memory", "pgqueue", {"jobs": _size(200_000, scale), "limit": 60}))
    for round in once_less:
        runs += [Run("one", each.name, {"jobs": _size(1000, scale)}, round) for each in contenders]
    for each in (each for each in contenders if not each.redis):
        ours = each.name in MODES.values()
        given = {"jobs": _size(each.jobs, scale), "churn": _size(CHURN, scale), "limit": 60 if ours else 10}
        runs.append(Run("pinned", each.name, {**given, "pickups": _size(100, scale, 20) if ours else 0}))
    return list(_unique(runs))


def full(scale: float, rounds: int, names: list[str]) -> list[Run]:
    """Every scenario; hours, not minutes. After the short set one contender after the other, ours first."""
    contenders = _chosen(names)
    runs = short(scale, rounds, names)
    if "pgqueue" in [each.name for each in contenders]:
        runs += _in_use(scale, rounds)
        runs.append(Run("claims", "pgqueue", {"backlog": _size(10_000_000, scale), "count": 100, "batch": 100}))
    for each in contenders:
        runs += [run for round in range(1, rounds + 1) for run in _variations(each, round, scale)]
        runs += _at_length(each, scale)
    return list(_unique(runs))


def _at_length(each: Contender, scale: float) -> Iterator[Run]:
    """What takes minutes: under snapshots, beside millions, a million jobs through one worker."""
    jobs, fast = _size(each.jobs, scale), each.jobs >= 30_000
    # Seconds of churn under one snapshot and beside readers, and of the long drain. Who is slow shows it sooner.
    pinned, readers, memory = (240, 120, 300) if fast else (120, 60, 120)
    if each.name in MODES.values():
        pinned = 900
    if not each.redis:
        yield Run("pinned", each.name, {"jobs": jobs, "churn": _size(CHURN, scale), "limit": pinned, "pickups": 100})
        yield Run(
            "readers", each.name, {"jobs": jobs, "churn": 10_000_000, "limit": readers, "count": 4, "seconds": 60}
        )
        if fast:
            jobs = _size(50_000, scale)
            for backlog in (50_000, 10_000_000):
                yield Run("backlog", each.name, {"backlog": _size(backlog, scale), "jobs": jobs})
            waiting = {"waiting": _size(10_000_000, scale), "a_second": 1000, "seconds": 60 if scale >= 1 else 5}
            yield Run("scheduled", each.name, waiting)
    yield Run("memory", each.name, {"jobs": _size(1_000_000 if fast else 100_000, scale), "limit": memory})


def _in_use(scale: float, rounds: int) -> Iterator[Run]:
    """What an application does beside: its own transactions, short and long, and other work in other queues."""
    longest = 60 if scale >= 1 else 1
    for dead in (0, _size(CHURN, scale, 1000)):
        for held in (each for each in (1, 10, 60) if each <= longest):
            yield Run("late_commits", "pgqueue", {"held": held, "count": 20, "dead": dead})
    traffic = {"producers": 32, "seconds": 30 if scale >= 1 else 2, "a_second": 300}
    emails = {"jobs": _size(300, scale, 20), "interval": INTERVAL, "images_queued": _size(10_000, scale)}
    for round in range(1, rounds + 1):
        yield Run("app_traffic", "pgqueue", traffic, round)
        for own_worker in (False, True):
            yield Run("beside", "pgqueue", {**emails, "own_worker": own_worker}, round)


def _drain(each: Contender, round: int, scale: float) -> Run:
    return Run("drain", each.name, {"jobs": _size(each.jobs, scale)}, round)


def _limits(round: int, scale: float) -> list[Run]:
    jobs = _size(BY_NAME["bare"].jobs, scale)
    return [Run("bare_loop", "bare", {"jobs": jobs, "mode": mode}, round) for mode in MODES]


def _variations(each: Contender, round: int, scale: float) -> Iterator[Run]:
    """The drain of the short set with one thing changed."""
    jobs = _size(each.jobs, scale)
    few = max(200, jobs // 10)
    for milliseconds in (1, 10):
        yield Run("drain", each.name, {"jobs": few, "sleep": milliseconds / 1000}, round)
    for failing in (1, 10, 50):
        yield Run("drain", each.name, {"jobs": few, "failing": failing}, round)
    for pad, part in ((100, jobs), (10_000, few), (500_000, max(100, jobs // 500))):
        yield Run("drain", each.name, {"jobs": part, "pad": pad}, round)
    if not each.boots:
        for processes in (2, 4):
            yield Run("drain", each.name, {"jobs": jobs, "processes": processes}, round)


def _chosen(names: list[str]) -> list[Contender]:
    return [each for each in CONTENDERS if not names or each.name in names]


def _size(jobs: int, scale: float, least: int = 200) -> int:
    return jobs if scale == 1 else max(least, round(jobs * scale))


def _unique(runs: list[Run]) -> Iterator[Run]:
    seen: set[str] = set()
    for run in runs:
        if run.key not in seen:
            seen.add(run.key)
            yield run
