"""When a cron pattern fires where a zone's clock is set: the rule as it is written, applied to sets of local times.

A set of times is an integer with a bit for each minute, or for each second where the pattern names seconds: a window of
real time is walked as a whole, and every minute of it is decided on. Times are whole seconds since 1970.
"""

from __future__ import annotations

from calendar import monthrange
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from random import Random
from typing import NamedTuple
from zoneinfo import ZoneInfo

DAY, HOUR = 86400, 3600
AROUND = 30 * HOUR
"""How much before and after a change is looked at: more than the largest, which skips a day."""

SHORT_FORMS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
MONTHS = [*("JAN", "FEB", "MAR", "APR", "MAY", "JUN"), *("JUL", "AUG", "SEP", "OCT", "NOV", "DEC")]
WEEKDAYS = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"]


class Segment(NamedTuple):
    """A stretch of real time, its end excluded, in which local time is ahead of UTC by `offset` seconds."""

    start: int
    end: int
    offset: int


Window = tuple[Segment, ...]
"""What surrounds a change: segments that join."""


class Change(NamedTuple):
    """The clock is set at the moment `at`."""

    at: int
    before: int
    after: int


def history(zone: ZoneInfo, first_year: int = 2000, last_year: int = 2040) -> tuple[Change, ...]:
    """Each change of a zone's offset in these years. None is taken back within twelve hours."""

    def offset(at: int) -> int:
        return int((datetime.fromtimestamp(at, zone).utcoffset() or timedelta()).total_seconds())

    start, end = (int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) for year in (first_year, last_year + 1))
    found = []
    looks = [(at, offset(at)) for at in range(start, end + 1, 12 * HOUR)]
    for (low, before), (high, after) in pairwise(looks):
        if before != after:
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if offset(middle) == before else (low, middle)
            found.append(Change(high, before, after))
    return tuple(found)


def window_of(changes: Iterable[Change], of: Change) -> Window:
    """What surrounds one of a zone's changes."""
    start, end = of.at - AROUND, of.at + AROUND
    near = [change for change in changes if start < change.at < end]
    bounds = [start, *(change.at for change in near), end]
    return tuple(
        Segment(first, last, offset)
        for (first, last), offset in zip(
            pairwise(bounds), [near[0].before, *(change.after for change in near)], strict=True
        )
    )


@dataclass(frozen=True, slots=True)
class Times:
    """When something fires between `start` and `end`: bit n is `start` and n units."""

    bits: int
    start: int
    end: int
    unit: int

    @property
    def count(self) -> int:
        return self.bits.bit_count()

    def after(self, at: int) -> int | None:
        """The first time after that whole second."""
        passed = max(0, (at - self.start) // self.unit + 1)
        left = self.bits >> passed
        return self.start + (passed + (left & -left).bit_length() - 1) * self.unit if left else None

    def until(self, at: int) -> int | None:
        """The last time at or before that whole second."""
        past = self.bits & ((1 << max(0, (at - self.start) // self.unit + 1)) - 1)
        return self.start + (past.bit_length() - 1) * self.unit if past else None


class Pattern:
    """A cron pattern as the documentation of `Cron` explains it."""

    def __init__(self, expression: str) -> None:
        minute, hour, day, month, weekday, *second = SHORT_FORMS.get(expression, expression).split()
        self.unit = 1 if second else 60
        self.wildcard_hour = hour.startswith("*")
        self.months = values(month, 1, 12, MONTHS)
        self.either = day not in "*?" and weekday not in "*?"
        self.by_day = [_day_of_month(item) for item in day.split(",")]
        self.by_weekday = [_weekday(item) for item in weekday.split(",")]
        self.day = 0
        for h in values(hour, 0, 23):
            for m in values(minute, 0, 59):
                for s in values(second[0], 0, 59) if second else [0]:
                    self.day |= 1 << (h * HOUR + m * 60 + s) // self.unit

    def names(self, day: date) -> bool:
        """Whether the pattern names times of this day."""
        if day.month not in self.months:
            return False
        by_day, by_weekday = (any(names(day) for names in rules) for rules in (self.by_day, self.by_weekday))
        return by_day or by_weekday if self.either else by_day and by_weekday

    def times(self, window: Window) -> Times:
        """When it fires in the window. What was before it is not known: no change is near its start."""
        start, unit = window[0].start, self.unit
        first_day = min(segment.start + segment.offset for segment in window) // DAY
        last_day = max(segment.end + segment.offset for segment in window) // DAY
        base = first_day * DAY
        named = 0
        for n in range(last_day - first_day + 1):
            if self.names(date(1970, 1, 1) + timedelta(days=first_day + n)):
                named |= self.day << n * DAY // unit
        fires = shown = passed = 0
        for segment in window:
            low, high = ((at + segment.offset - base) // unit for at in (segment.start, segment.end))
            here = named & span(low, high)
            if not self.wildcard_hour:
                # Local times that were shown before have fired; the skipped ones fire with the first after them.
                here &= ~shown
                if passed and named & span(passed, low):
                    here |= 1 << low
            shown |= span(low, high)
            passed = high
            fires |= here >> low << (segment.start - start) // unit
        return Times(fires, start, window[-1].end, unit)


def span(low: int, high: int) -> int:
    """The times from `low` up to `high`, which is excluded."""
    return (1 << high) - (1 << low) if low < high else 0


def values(field: str, low: int, high: int, names: Sequence[str] = ()) -> set[int]:
    """The numbers that a field names: a list of values, ranges that may wrap, and steps."""
    for number, name in enumerate(names, low):
        field = field.replace(name, str(number))
    found: set[int] = set()
    for item in field.split(","):
        whole, _, step = item.partition("/")
        first, dash, last = whole.partition("-")
        if whole in ("*", "?"):
            around = list(range(low, high + 1))
        elif not dash:
            around = list(range(int(first), high + 1 if step else int(first) + 1))
        elif int(first) <= int(last):
            around = list(range(int(first), int(last) + 1))
        else:
            around = [*range(int(first), high + 1), *range(low, int(last) + 1)]
        found.update(around[:: int(step or 1)])
    return found


def _last_of(day: date) -> int:
    return monthrange(day.year, day.month)[1]


def _day_of_month(item: str) -> Callable[[date], bool]:
    if item == "L":
        return lambda day: day.day == _last_of(day)
    if item.endswith("W"):
        return lambda day: day == _working_day_near(day.replace(day=int(item[:-1])))
    days = values(item, 1, 31)
    return lambda day: day.day in days


def _working_day_near(day: date) -> date:
    # In the same month: a Saturday the 1st is near Monday the 3rd.
    candidates = [day + timedelta(days=n) for n in (0, -1, 1, -2, 2)]
    return next(near for near in candidates if near.weekday() < 5 and near.month == day.month)


def _weekday(item: str) -> Callable[[date], bool]:
    # Sunday is 0 and 7; of a month's second Sunday 8 to 14 are the days.
    if item.startswith("L"):
        return lambda day: day.isoweekday() % 7 == int(item[1:]) % 7 and day.day > _last_of(day) - 7
    whole, _, nth = item.partition("#")
    weekdays = {number % 7 for number in values(whole, 0, 6, WEEKDAYS)}
    return lambda day: day.isoweekday() % 7 in weekdays and (not nth or (day.day + 6) // 7 == int(nth))


BY_HAND = """
@hourly | @daily | @midnight | @weekly | @monthly | @yearly | @annually
* * * * * | */7 * * * * | 0 * * * * | 30 * * * * | 59 * * * * | 0 */2 * * * | 15,45 */3 * * * | 0 */12 * * *
10 */24 * * *
0 0 * * * | 1 0 * * * | 30 0 * * * | 0 1 * * * | 30 1 * * * | 59 1 * * * | 0 2 * * * | 15 2 * * * | 30 2 * * *
0 3 * * *
59 23 * * * | 0 23 * * * | 0 12 * * * | 0 0-23 * * * | * 2 * * * | * 1-3 * * * | */20 0-3 * * * | 0,30 2,3 * * *
0 22-2 * * * | 50-10 * * * * | 50-10/5 23-3/2 * * * | 5/20 1/2 * * * | 30 *,5 * * * | 30 5,* * * *
30 2 * * SUN | 30 1 * * SUN | 0 0 * * SUN | 0 0 * * 7 | 0 3 * * 0,6 | 0 * * * FRI-MON | 30 2 * * SAT-SUN
15 1 * * 5-7 | 0 0 * * */2
30 2 * 3 SUN#2 | 30 1 * 11 SUN#1 | 0,30 0-3 * * SUN#1 | 0 */2 * * SUN#5 | 30 2 * * L0 | * * * 3,10 L0 | 0 1 * * L7
0 0 * * FRI#1,L4
30 2 * * TUE-THU#1 | 0 2 L * * | 30 * L * * | 0 0 L,1 * * | 0 3 L 3,10 SUN | 30 0 1W * * | 30 * 15W * *
0 2 28W 3,10 *
30 2 24-31 3,10 * | 30 1 24-31 OCT * | 0 2 8-14 MAR * | 0 1 1-7 NOV SUN | 0 0 27 * 0 | 0 0 30,31 * * | 0 9,17 30 12 *
0 0 28-3 * *
0 2 */2 * SUN | */10 * */2 * ? | 0 2 ? * SUN | 0 1 1 * ? | 30 2 29 2 * | 45 1-23/2 31 * FRI | 0 4 1 APR,JUL,OCT *
0 2 * SEP-APR SUN
0 0 13 * 0-6 | 0 0 * * 0-7 | 30 2 1-31 * SUN | 30 2 * * FRI-TUE/2 | */30 1 * * 1-7/3 | 0 2 26-6/3 * *
0 1 * NOV-MAR/2 6-7/2
* * * * * * | * 2 * * * * | */5 * * * * */20 | 0 0 * * * 0 | 59 1 * * * 59 | 59 23 * * SUN 30 | 0 * * * * 1-59/2
30 2 * * SUN 0,30 | 59 * * * * 59
"""
"""Every kind of field, and the days and hours at which clocks are set."""

MINUTES = ["0", "1", "30", "59", "*", "*/5", "*/25", "15,45", "1-59/7", "40-20", "55-5/2", "10/20", "0,29-31"]
WILDCARD_HOURS = ["*", "*", "*/2", "*/3", "*/5", "*/7", "*,3"]
NAMED_HOURS = [
    *("0", "1", "2", "3", "0", "1", "2", "3", "4", "12", "23"),
    *("0-23", "0-3", "1-3", "22-2", "23-4/2", "0/2", "1/3", "0,2", "1,3", "2-3,23", "20-5", "0-4/2"),
]
DAYS = [
    *[("*", "*")] * 8,
    *(("*", "SUN"), ("?", "0"), ("*", "SAT,SUN"), ("*", "FRI-SUN"), ("*", "SUN-TUE"), ("*", "6-1"), ("*", "1-5")),
    *(("*", "SUN#1"), ("*", "SUN#2"), ("*", "0#4"), ("*", "L0"), ("?", "L7,L6"), ("*", "SUN#1,L0"), ("*", "SAT-SUN#3")),
    *(("24-31", "*"), ("25-31", "SUN"), ("1-14", "?"), ("1-7", "SUN"), ("*/2", "*"), ("2-30/2", "*"), ("28-7", "*")),
    *(("L", "*"), ("1,L", "SUN"), ("1", "*"), ("31", "*"), ("26,27,28", "*"), ("28W", "*"), ("1W", "*"), ("27W", "*")),
]
# Each has a month of 31 days.
MONTHS_GIVEN = [*["*"] * 8, "3,10", "MAR-NOV", "SEP-APR", "*/2", "3-11/4", "OCT", "1-12", "10,11,12,3"]
SECONDS = ["0", "30", "59", "*", "*/20", "10-50/20", "0,59", "45-15/5"]


def patterns(count: int = 200, seed: int = 2040) -> list[str]:
    """So many, the same each time."""
    found = dict.fromkeys(" ".join(text.split()) for text in BY_HAND.replace("\n", "|").split("|") if text.strip())
    random = Random(seed)
    while len(found) < count:
        hours = WILDCARD_HOURS if random.random() < 0.35 else NAMED_HOURS
        day, weekday = random.choice(DAYS)
        fields = [random.choice(MINUTES), random.choice(hours), day, random.choice(MONTHS_GIVEN), weekday]
        if random.random() < 0.1:
            fields.append(random.choice(SECONDS))
        found[" ".join(fields)] = None
    return list(found)[:count]
