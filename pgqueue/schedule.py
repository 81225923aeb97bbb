"""When a schedule fires: pure arithmetic on times that are passed in."""

from __future__ import annotations

import re
from copy import copy
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from croniter import CroniterBadDateError, croniter

from pgqueue.errors import ArgumentError, ConfigurationError
from pgqueue.wording import duration_of

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
YEARS_TO_FIRE = 8
YEARS_TO_SEARCH = 50
# By then each zone's clock is set by the last rule that is known for it.
SETTLED = datetime(2040, 1, 1, tzinfo=UTC)
ALIASES = ("@hourly", "@daily", "@midnight", "@weekly", "@monthly", "@yearly", "@annually")
FIELDS = ("minute", "hour", "day of month", "month", "weekday", "second")
# They exist on some machines only, differ between them, or count leap seconds.
UNPORTABLE = {"localtime", "posixrules", "posix", "right", "Factory"}


@dataclass(frozen=True, slots=True)
class Cron:
    """Fires at the local times of a time zone that a cron pattern names.

    Five fields: minute, hour, day of month, month, weekday (0 and 7 are Sunday). An optional sixth and *last* field is
    the second. Lists, ranges (`22-2` and `FRI-MON` wrap), steps, names (`MON`, `JAN`), `L` (last day), `15W` (the
    working day nearest to the 15th), `FRI#2` (second Friday), `L5` (last Friday), and `@hourly @daily @midnight @weekly
    @monthly @yearly @annually`. Where day of month and weekday are both given, either of them is enough, as in cron;
    only `*` and `?` leave one out.

    Daylight saving, where a clock is set back or forward:
    - hours that are named (`30 2 * * *`) follow the wall clock: a time that occurs twice fires the first time only,
      times that are skipped fire together once, at the moment when the gap ends;
    - a wildcard hour (its field begins with `*`) follows elapsed time: a repeated hour fires in both of its passes, a
      skipped one not at all.

    Raises ConfigurationError for a pattern that is malformed, random (`R`, `H`) or does not fire in eight years, for
    one whose times the zone skips, and for an unknown time zone.

        Cron("0 9 * * MON-FRI", tz="Europe/Paris").next_after(datetime.now(UTC))
    """

    expression: str
    tz: str = "UTC"

    def __post_init__(self) -> None:
        given: object = self.expression
        if not isinstance(given, str) or not given.strip():
            raise ConfigurationError(f"a cron pattern is text such as '0 9 * * MON-FRI', not {given!r}")
        object.__setattr__(self, "expression", " ".join(given.split()))
        _pattern(self.expression)
        _check_zone(self.tz)
        if _pattern(self.expression).wildcard_hour:
            self.next_after(SETTLED)

    def next_after(self, moment: datetime) -> datetime:
        """The first time strictly after `moment`, in UTC. Raises ArgumentError for a naive `moment`."""
        moment = _aware(moment)
        pattern, zone = _pattern(self.expression), ZoneInfo(self.tz)
        here = moment.astimezone(zone)
        local = here.replace(tzinfo=None, fold=0, microsecond=0)
        nominal = pattern.after(local)
        if change := _change_around(local, zone):
            if here.fold and not pattern.wildcard_hour:
                nominal = pattern.at_or_after(change.old)
            elif not here.fold and pattern.wildcard_hour and nominal >= change.old:
                nominal = pattern.at_or_after(change.new)
        while True:
            change = _change_around(nominal, zone)
            for instant in _instants(nominal, zone, change, pattern.wildcard_hour):
                if instant > moment:
                    return instant
            if nominal.year > local.year + YEARS_TO_SEARCH:
                raise ConfigurationError(
                    f"the cron pattern {self.expression!r} never fires in {self.tz}: its times are skipped where the "
                    "clock is set forward, and the wildcard leaves them out; write its hours, such as 0 for */24"
                )
            nominal = pattern.at_or_after(change.new) if change and change.is_gap else pattern.after(nominal)

    def latest_until(self, moment: datetime) -> datetime | None:
        """The newest time at or before `moment`, in UTC; None before 1970. Raises ArgumentError for a naive one."""
        moment = _aware(moment)
        if moment < EPOCH:
            return None
        pattern, zone = _pattern(self.expression), ZoneInfo(self.tz)
        here = moment.astimezone(zone)
        local = here.replace(tzinfo=None, fold=0, microsecond=0)
        nominal = pattern.before(local + SECOND)
        change = _change_around(local, zone)
        if change and here.fold and (nominal < change.new or not pattern.wildcard_hour):
            nominal = pattern.before(change.old)
        while True:
            change = _change_around(nominal, zone)
            for instant in reversed(_instants(nominal, zone, change, pattern.wildcard_hour)):
                if instant <= moment:
                    return instant
            nominal = pattern.before(change.old if change and change.is_gap else nominal)


@dataclass(frozen=True, slots=True)
class Every:
    """Fires every `interval` of elapsed time, on the grid that runs through `anchor` in both directions.

    The grid does not drift, whenever a scheduler starts; `anchor` is a phase, not a start. `interval` is a timedelta
    from 1 second to 3653 days, microseconds allowed; `anchor` is aware. Raises ConfigurationError otherwise.

        Every(timedelta(hours=6)).next_after(datetime.now(UTC))    # 00:00, 06:00, 12:00 or 18:00 UTC
    """

    interval: timedelta
    anchor: datetime = EPOCH

    def __post_init__(self) -> None:
        if not isinstance(self.interval, timedelta):
            raise ConfigurationError(f"an interval is a timedelta such as timedelta(minutes=5), not {self.interval!r}")
        if not SECOND <= self.interval <= timedelta(days=3653):
            raise ConfigurationError(f"an interval must be between 1 second and 10 years, not {self.interval}")
        given: object = self.anchor
        if not isinstance(given, datetime) or given.utcoffset() is None:
            raise ConfigurationError(
                f"an anchor must know its time zone: write datetime(…, tzinfo=timezone.utc), not {given!r}"
            )
        object.__setattr__(self, "anchor", given.astimezone(UTC))

    @classmethod
    def of(cls, interval: float | timedelta) -> Every:
        """From a timedelta or seconds. Raises ConfigurationError.

        Every.of(300)
        """
        given: object = interval
        try:
            if isinstance(given, int | float) and not isinstance(given, bool):
                return cls(timedelta(seconds=given))
        except (ValueError, OverflowError):
            pass
        if isinstance(given, timedelta):
            return cls(given)
        raise ConfigurationError(
            f"an interval is a timedelta such as timedelta(minutes=5) or a number of seconds, not {given!r}"
        )

    def next_after(self, moment: datetime) -> datetime:
        """The first time strictly after `moment`, in UTC. Raises ArgumentError for a naive `moment`."""
        return self.latest_until(moment) + self.interval

    def latest_until(self, moment: datetime) -> datetime:
        """The newest time at or before `moment`, in UTC. Raises ArgumentError for a naive `moment`."""
        return self.anchor + (_aware(moment) - self.anchor) // self.interval * self.interval


Rule = Cron | Every


@dataclass(frozen=True, slots=True)
class _Change:
    """A zone's clock is set at the instant `at` from the local time `old` to `new`."""

    at: datetime
    old: datetime
    new: datetime

    @property
    def is_gap(self) -> bool:
        return self.old < self.new


def _change_around(local: datetime, zone: ZoneInfo) -> _Change | None:
    """The change that repeats or skips this naive local time; None for a time that occurs once."""
    by_old, by_new = _instant(local, zone, 0), _instant(local, zone, 1)
    if by_old == by_new:
        return None
    low, high = sorted((by_old, by_new))
    before, after = _offset(low, zone), _offset(high, zone)
    while high - low > SECOND:
        middle = low + (high - low) // SECOND // 2 * SECOND
        if _offset(middle, zone) == before:
            low = middle
        else:
            high = middle
    at = high.replace(tzinfo=None)
    return _Change(high, at + before, at + after)


def _instants(nominal: datetime, zone: ZoneInfo, change: _Change | None, wildcard_hour: bool) -> list[datetime]:
    """When a local time fires, oldest first. Named hours never swap order: later local times fire no earlier."""
    if change is None:
        return [_instant(nominal, zone, 0)]
    if change.is_gap:
        return [] if wildcard_hour else [change.at]
    return [_instant(nominal, zone, 0), _instant(nominal, zone, 1)] if wildcard_hour else [_instant(nominal, zone, 0)]


def _instant(local: datetime, zone: ZoneInfo, fold: int) -> datetime:
    return local.replace(tzinfo=zone, fold=fold).astimezone(UTC)


def _offset(instant: datetime, zone: ZoneInfo) -> timedelta:
    return instant.astimezone(zone).utcoffset() or timedelta()


def _aware(moment: datetime) -> datetime:
    if moment.utcoffset() is None:
        raise ArgumentError(f"a moment must know its time zone: write datetime.now(timezone.utc), not {moment!r}")
    return moment.astimezone(UTC)


class _Pattern:
    """The naive local times that an expression names."""

    def __init__(self, expression: str) -> None:
        self._croniter = croniter(expression, 0.0)
        self.wildcard_hour: bool = self._croniter.expressions[1].startswith("*")

    def after(self, local: datetime) -> datetime:
        # croniter keeps its position on itself: a copy for each search makes one pattern usable from all threads.
        found: datetime = copy(self._croniter).get_next(datetime, start_time=local)
        return found

    def at_or_after(self, local: datetime) -> datetime:
        return self.after(local - SECOND)

    def before(self, local: datetime) -> datetime:
        found: datetime = copy(self._croniter).get_prev(datetime, start_time=local)
        return found

    def intersects(self) -> bool:
        """Whether croniter takes day of month *and* weekday where cron takes either."""
        day, weekday = (self._croniter.expressions[n] not in ("*", "?") for n in (2, 4))
        return day and weekday and bool(self._croniter.nth_weekday_of_month or self._croniter.nearest_weekday)


def _field_refusal(index: int, text: str) -> str | None:
    """What is wrong with one field of a pattern; None if nothing is."""
    name, names = FIELDS[index], croniter.ALPHACONV[index]
    low, high = croniter.RANGES[index]
    for item in text.upper().split(","):
        if re.match(r"[HR](\(|/|$)", item):
            return f"`{item}` is random, so schedulers would not agree on a time; write a number"
        span, _, step = item.partition("/")
        if len(step) > 4 or (step.isdecimal() and int(step) > high - low + 1):
            return f"the step of `{item}` is larger than the {name} field; write one within {low}-{high}"
        first, dash, last = span.partition("-")
        # croniter takes such a range for the whole field.
        if dash and len({str(names.get(end.lower(), end)).lstrip("0") for end in (first, last)}) == 1:
            return f"the range `{span}` holds one value; write `{first}`"
        if re.fullmatch(r"W?(29|3[01])W?", item) and "W" in item:
            return f"`{item}` is a day that not every month has; write 1W to 28W"
    if len({bool(re.search(r"#|^L\d", item, re.IGNORECASE)) for item in text.split(",")}) > 1:
        return f"`{text}` mixes weekdays of a month with others; make two schedules"
    if not croniter.is_valid(" ".join(text if n == index else "*" for n in range(len(FIELDS)))):
        words = {"month": " or JAN-DEC", "weekday": " or SUN-SAT"}.get(name, "")
        return f"`{text}` is no {name}; write {low}-{high}{words}, a list, a range such as 1-5 or a step such as */5"
    return None


def _unwrapped(index: int, text: str) -> str:
    """A field in which stepped ranges that wrap are written out: croniter miscounts where they do."""
    names, (low, high) = croniter.ALPHACONV[index], croniter.RANGES[index]
    items = text.split(",")
    for n, item in enumerate(items):
        if stepped := re.fullmatch(r"(\w+)-(\w+)/(\d+)", item):
            first, last, step = (str(names.get(part.lower(), part)) for part in stepped.groups())
            if first.isdecimal() and last.isdecimal() and int(first) > int(last):
                around = [*range(int(first), high + 1), *range(low, int(last) + 1)]
                items[n] = ",".join(map(str, around[:: int(step)]))
    return ",".join(items)


@lru_cache(maxsize=1024)
def _pattern(expression: str) -> _Pattern:
    """The pattern behind an expression. Raises ConfigurationError."""

    def refusal(reason: str) -> ConfigurationError:
        return ConfigurationError(f"the cron pattern {expression!r} cannot be used: {reason}")

    if expression.startswith("@"):
        if expression.lower() not in ALIASES:
            interval = "for an interval use @app.every(timedelta(minutes=5))"
            raise refusal(f"the short forms are {' '.join(ALIASES)}; {interval}")
        return _Pattern(expression)
    fields = expression.split(" ")
    if len(fields) not in (5, 6):
        if span := _seconds(expression):
            given = f"timedelta(seconds={span:g})"
            raise refusal(f"it is an interval: use {given}, as in @app.every({given}), or --every on the command line")
        raise refusal(
            f"it has {len(fields)} fields; write minute, hour, day of month, month, weekday"
            " and, if wanted, the second as the last, such as '0 9 * * MON-FRI'"
        )
    for index, text in enumerate(fields):
        if reason := _field_refusal(index, text):
            raise refusal(reason)
    unwrapped = " ".join(_unwrapped(index, text) for index, text in enumerate(fields))
    pattern = _Pattern(unwrapped)
    day, month, weekday = fields[2:5]
    if pattern.intersects():
        raise refusal(f"day of month `{day}` and weekday `{weekday}` do not combine; make two schedules")
    # A month's fifth weekday can follow a cycle of 28 years: a search from any year of it must find a time.
    for year in range(2001, 2029) if "#" in weekday else (2001,):
        try:
            croniter(unwrapped, datetime(year, 3, 1), max_years_between_matches=YEARS_TO_FIRE).get_next()
        except CroniterBadDateError:
            raise refusal(
                f"no day `{day} {month} {weekday}` (day of month, month, weekday) comes within {YEARS_TO_FIRE} years;"
                " for the last day of a month write L"
            ) from None
    return pattern


def _seconds(expression: str) -> float | None:
    try:
        return duration_of(expression.removeprefix("every "))
    except ArgumentError:
        return None


def _check_zone(name: str) -> None:
    advice = "write an IANA name such as Europe/Berlin"
    if not isinstance(name, str):
        raise ConfigurationError(f"a time zone is given by its name, not {name!r}: {advice}")
    try:
        if name.partition("/")[0] in UNPORTABLE:
            raise ZoneInfoNotFoundError
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        near = _similar_zones(name)
        hint = f"did you mean {' or '.join(near)}?" if near else advice
        raise ConfigurationError(f"there is no time zone {name[:100]!r}: {hint}") from None


def _similar_zones(name: str) -> list[str]:
    wanted = name.casefold().replace(" ", "_")
    zones = {zone.casefold(): zone for zone in sorted(available_timezones() - UNPORTABLE)}
    if wanted in zones:
        return [zones[wanted]]
    cities = {zone.rpartition("/")[2]: zones[zone] for zone in zones}
    near = [zones[zone] for zone in get_close_matches(wanted, zones, 2, 0.8)]
    return list(dict.fromkeys(near + [cities[city] for city in get_close_matches(wanted, cities, 2, 0.8)]))


__all__ = ["EPOCH", "Cron", "Every", "Rule"]
