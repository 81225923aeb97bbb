"""Every change of every zone's clock from 2000 to 2040, under two hundred patterns, beside an oracle.

A sample in a normal run; all of it, on all cores, with

    PGQUEUE_CHAOS=long pytest tests/unit/test_schedule_zones.py
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import cache
from multiprocessing import get_context
from random import Random
from typing import NamedTuple
from zoneinfo import ZoneInfo, available_timezones

import pytest

from pgqueue.schedule import UNPORTABLE, Cron
from tests.unit.cron_oracle import Change, Pattern, Times, Window, history, patterns, window_of

LONG = os.environ.get("PGQUEUE_CHAOS") == "long"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
INSTANT = timedelta(microseconds=1)
PATTERNS = patterns()
FEW = 12
"""So many times around a change are followed one by one; of more, those near it."""
MANY = 4000
"""So many are, around the first change of its kind."""
ODD = [
    "Africa/Casablanca",  # summer time that ends for Ramadan
    "America/Sao_Paulo",  # at midnight
    "Antarctica/Casey",  # three hours
    "Antarctica/Troll",  # two hours
    "Asia/Gaza",
    "Australia/Lord_Howe",  # half an hour
    "Europe/Dublin",  # winter time is the exception
    "Pacific/Apia",  # skips a day
]


class Place(NamedTuple):
    """A change and what surrounds it, in a zone that has it. `whole`: as many times as can be are followed."""

    zone: str
    change: Change
    window: Window
    whole: bool


class Told(NamedTuple):
    """What was compared, and where the two differ."""

    counts: Counter[str]
    wrong: list[str]


def names_of_zones() -> list[str]:
    return sorted(name for name in available_timezones() if name.partition("/")[0] not in UNPORTABLE)


def places_of(histories: Iterable[tuple[str, tuple[Change, ...]]]) -> list[Place]:
    """Zones that have a change in common, with all that surrounds it, have one place."""
    found: dict[Window, Place] = {}
    kinds: set[tuple[int, int]] = set()
    for zone, changes in histories:
        for change in changes:
            window = window_of(changes, change)
            if window not in found:
                kind = (change.after - change.before, (change.at + change.before) % 86400)
                found[window] = Place(zone, change, window, kind not in kinds)
                kinds.add(kind)
    return list(found.values())


def moment(at: int) -> datetime:
    return EPOCH + timedelta(seconds=at)


def compare(place: Place, expression: str) -> Told:
    """What a pattern does around a change, asked at the moments that matter, and followed from time to time."""
    pattern, cron = _pattern(expression), Cron(expression, tz=place.zone)
    times = pattern.times(place.window)
    told = Told(Counter(pairs=1, times=times.count, near=fires_near(place.change, times)), [])

    def check(asked: str, at: datetime, got: datetime | None, right: int | None, beyond: bool) -> None:
        told.counts["comparisons"] += 1
        # That nothing is left within the window the oracle knows, not what comes beyond.
        if not (beyond if right is None else got == moment(right)):
            told.wrong.append(f"{place.zone} {expression!r} {asked} {at}: {got}, not {right and moment(right)}")

    def check_next(at: datetime, right: int | None) -> None:
        got = cron.next_after(at)
        check("after", at, got, right, got >= moment(times.end))

    def check_latest(at: datetime, right: int | None) -> None:
        got = cron.latest_until(at)
        check("until", at, got, right, got is None or got < moment(times.start))

    for at in moments_of(place.change, times):
        check_next(moment(at), times.after(at))
        check_latest(moment(at), times.until(at))
        check_next(moment(at) - INSTANT, times.after(at - 1))
        check_latest(moment(at) - INSTANT, times.until(at - 1))
    for first, steps in runs_of(place, times):
        time: int | None = first
        for _ in range(steps):
            if time is None:
                break
            following = times.after(time)
            check_next(moment(time), following)
            if following is not None:
                check_latest(moment(following) - INSTANT, time)
            time = following
    return told


def fires_near(change: Change, times: Times) -> bool:
    """Whether the pattern fires so near to the change that it matters how."""
    moved = abs(change.after - change.before)
    first = times.after(change.at - moved - 1)
    return first is not None and first <= change.at + moved


def moments_of(change: Change, times: Times) -> Iterator[int]:
    """The change, and what is repeated before and after it: where it begins and ends, and within."""
    moved = abs(change.after - change.before)
    yield from (change.at - moved, change.at - moved // 3, change.at, change.at + moved // 3, change.at + moved)


def runs_of(place: Place, times: Times) -> Iterator[tuple[int, int]]:
    """From which times on so many of those after them are followed."""
    if times.count <= FEW or (place.whole and times.count <= MANY):
        first = times.after(times.start - 1)
        if first is not None:
            yield first, times.count
        return
    change = place.change
    moved = abs(change.after - change.before)
    for at in (change.at - moved, change.at, change.at + moved):
        first = times.until(at - 1)
        if first is not None and (before := times.until(first - 1)) is not None:
            yield before, 4


@cache
def _pattern(expression: str) -> Pattern:
    return Pattern(expression)


def compare_all(pairs: list[tuple[Place, str]]) -> Told:
    told = Told(Counter(), [])
    for place, expression in pairs:
        counts, wrong = compare(place, expression)
        told.counts.update(counts)
        told.wrong.extend(wrong)
    return told


def some_zones() -> list[str]:
    return sorted({*ODD, *Random(2040).sample(names_of_zones(), 30)})


def test_zones_that_differ_and_their_changes_fire_as_the_oracle_says() -> None:
    histories = {history(ZoneInfo(zone)): zone for zone in some_zones()}
    places = places_of((zone, changes) for changes, zone in histories.items())
    pairs = [(place, expression) for place in places for expression in PATTERNS]
    # 71 and 200 have no divisor in common: each pattern meets many places, each place some patterns.
    told = compare_all([(place._replace(whole=False), expression) for place, expression in pairs[::71]])
    assert told.wrong == []
    assert told.counts["near"] > 500


@pytest.mark.slow
@pytest.mark.skipif(not LONG, reason="half an hour of computing: PGQUEUE_CHAOS=long")
def test_every_change_of_every_zone_fires_as_the_oracle_says(capsys: pytest.CaptureFixture[str]) -> None:
    histories: dict[tuple[Change, ...], str] = {}
    for zone in names_of_zones():
        histories.setdefault(history(ZoneInfo(zone)), zone)
    places = places_of((zone, changes) for changes, zone in histories.items())
    told = Told(Counter(zones=len(names_of_zones()), histories=len(histories), places=len(places)), [])
    told.counts.update(changes=sum(map(len, histories)), patterns=len(PATTERNS))
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as processes:
        work = [[(place, expression) for expression in PATTERNS] for place in places]
        for counts, wrong in processes.map(compare_all, work, chunksize=4):
            told.counts.update(counts)
            told.wrong.extend(wrong)
    with capsys.disabled():
        print(dict(told.counts), *told.wrong[:200], sep="\n")
    assert told.wrong == []
