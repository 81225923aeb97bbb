"""When schedules fire, checked against oracles that know nothing of how the answer is found."""

from __future__ import annotations

import calendar
import pickle
from bisect import bisect_right
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta, timezone
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgqueue.errors import ArgumentError, ConfigurationError
from pgqueue.schedule import Cron, Every

MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)

ZONES = {
    "Europe/Berlin": ["2024-03-31", "2024-10-27"],
    "America/New_York": ["2024-03-10", "2024-11-03"],
    "Europe/Dublin": ["2024-03-31", "2024-10-27"],  # winter time is the exception there
    "Australia/Lord_Howe": ["2024-04-06", "2024-10-05"],  # half an hour
    "America/Sao_Paulo": ["2018-02-18", "2018-11-04"],  # at midnight
    "Africa/Cairo": ["2024-04-26", "2024-10-31"],  # at midnight
    "America/Santiago": ["2024-04-07", "2024-09-08"],
    "America/Havana": ["2024-03-10", "2024-11-03"],
    "Africa/Casablanca": ["2024-04-14"],
    "Pacific/Apia": ["2011-12-30"],  # a whole day is skipped
    "Pacific/Kwajalein": ["1993-08-21"],  # likewise
    "Asia/Pyongyang": ["2015-08-15", "2018-05-05"],
    "America/Caracas": ["2007-12-09", "2016-05-01"],
    "Antarctica/Troll": ["2024-03-31", "2024-10-27"],  # two hours
    "Asia/Kathmandu": ["2024-06-01"],
}
PATTERNS = [
    "* * * * *",
    "*/7 * * * *",
    "0 * * * *",
    "30 * * * *",
    "15,45 */2 * * *",
    "0 */12 * * *",
    "10 */24 * * *",
    "0 0 * * *",
    "30 0 * * *",
    "0 1 * * *",
    "30 1 * * *",
    "30 2 * * *",
    "0,30 2,3 * * *",
    "*/20 0-3 * * *",
    "* 2 * * *",
    "59 23 * * *",
    "0 22-2 * * *",
    "15 1 * * SUN",
    "0 0 30,31 * *",
    "45 1-23/2 31 * FRI",
    "0 0-23 * * *",
    "5 * 27 * 0",
]


def values(field: str, low: int, high: int, names: str = "") -> set[int]:
    found: set[int] = set()
    for item in field.split(","):
        span, _, step = item.partition("/")
        ends = [names.index(end) // 3 if end in names else int(end) for end in span.split("-")] if span != "*" else []
        first, last = (low, high) if not ends else (ends[0], ends[-1] if len(ends) > 1 or not step else high)
        around = range(first, last + 1) if first <= last else [*range(first, high + 1), *range(low, last + 1)]
        found.update(list(around)[:: int(step or 1)])
    return found


class Oracle:
    """The rule, applied by walking through every minute of real time."""

    def __init__(self, expression: str) -> None:
        minute, hour, day, month, weekday = expression.split()
        self.minutes, self.hours = values(minute, 0, 59), values(hour, 0, 23)
        self.days, self.months = values(day, 1, 31), values(month, 1, 12)
        self.weekdays = {number % 7 for number in values(weekday, 0, 6, "SUNMONTUEWEDTHUFRISAT")}
        self.both = day == "*" or weekday == "*"
        self.elapsed = hour[0] == "*"

    def names(self, local: datetime) -> bool:
        if local.minute not in self.minutes or local.hour not in self.hours or local.month not in self.months:
            return False
        by_day, by_weekday = local.day in self.days, local.isoweekday() % 7 in self.weekdays
        return (by_day and by_weekday) if self.both else (by_day or by_weekday)

    def times(self, walk: list[tuple[datetime, datetime]]) -> Iterator[datetime]:
        seen: set[datetime] = set()
        before: datetime | None = None
        for instant, local in walk:
            skipped = 0 if before is None or self.elapsed else max(0, (local - before) // MINUTE - 1)
            by_gap = any(self.names(local - MINUTE * back) for back in range(1, skipped + 1))
            fires = self.names(local) and (self.elapsed or local not in seen)
            if fires or by_gap:
                yield instant
            seen.add(local)
            before = local


def walk_around(day: str, zone: str) -> list[tuple[datetime, datetime]]:
    start = datetime.fromisoformat(day).replace(tzinfo=UTC) - DAY
    instants = [start + MINUTE * n for n in range(3 * 1440)]
    return [(instant, instant.astimezone(ZoneInfo(zone)).replace(tzinfo=None)) for instant in instants]


@pytest.mark.parametrize("zone", ZONES)
def test_every_pattern_fires_as_an_oracle_that_walks_the_minutes_of_real_time(zone: str) -> None:
    for day in ZONES[zone]:
        walk = walk_around(day, zone)
        start, end = walk[0][0], walk[-1][0]
        assert (len({instant.replace(tzinfo=None) - local for instant, local in walk}) > 1) == (
            zone != "Asia/Kathmandu"
        )
        for expression in PATTERNS:
            cron, expected = Cron(expression, tz=zone), list(Oracle(expression).times(walk))
            # The start is one minute in, so that every repeated minute has been seen by the oracle.
            moments = [
                start + timedelta(minutes=97, seconds=13) * n for n in range(1, int((end - start) / MINUTE / 98))
            ]
            for moment in moments + expected[1:-1:29] + [time - timedelta(microseconds=1) for time in expected[1::31]]:
                place = bisect_right(expected, moment)
                if place < len(expected):
                    assert cron.next_after(moment) == expected[place], (expression, moment)
                if place:
                    assert cron.latest_until(moment) == expected[place - 1], (expression, moment)


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Australia/Lord_Howe", "Pacific/Apia", "Africa/Cairo"])
def test_times_followed_one_by_one_are_exactly_those_of_the_oracle_without_repetition(zone: str) -> None:
    for day in ZONES[zone]:
        walk = walk_around(day, zone)
        for expression in ["*/15 * * * *", "*/20 0-3 * * *", "30 2 * * *", "0 0 * * *", "0 0-23 * * *"]:
            cron, expected = Cron(expression, tz=zone), list(Oracle(expression).times(walk))
            times, moment = [], walk[0][0] - timedelta(seconds=1)
            while (moment := cron.next_after(moment)) <= walk[-1][0]:
                times.append(moment)
            assert times == expected, expression
            assert all(first < second for first, second in pairwise(times))


@given(
    st.sampled_from(sorted(ZONES)),
    st.sampled_from([*PATTERNS, "0 9 29 2 *", "@monthly", "0 0 L * *", "*/10 2 * * SUN 30"]),
    st.datetimes(datetime(1985, 1, 1), datetime(2060, 1, 1), timezones=st.just(UTC)),
)
def test_next_and_latest_agree_with_each_other_anywhere(zone: str, expression: str, moment: datetime) -> None:
    cron = Cron(expression, tz=zone)
    after, latest = cron.next_after(moment), cron.latest_until(moment)
    assert latest is not None
    assert latest <= moment < after
    assert cron.next_after(latest) == after
    assert cron.latest_until(after) == after
    assert cron.latest_until(after - timedelta(microseconds=1)) == latest


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def times(cron: Cron | Every, after: str, count: int) -> list[str]:
    found, moment = [], utc(after)
    for _ in range(count):
        moment = cron.next_after(moment)
        found.append(moment.isoformat(" ", "minutes").removesuffix("+00:00"))
    return found


def test_a_named_hour_that_occurs_twice_fires_the_first_time_only() -> None:
    assert times(Cron("30 2 * * *", "Europe/Berlin"), "2024-10-26 12:00", 2) == ["2024-10-27 00:30", "2024-10-28 01:30"]


def test_named_times_that_are_skipped_fire_together_once_when_the_gap_ends() -> None:
    assert times(Cron("0,30 2 * * *", "Europe/Berlin"), "2024-03-30 12:00", 2) == [
        "2024-03-31 01:00",
        "2024-04-01 00:00",
    ]


def test_a_skipped_time_and_the_time_that_the_gap_ends_at_are_one() -> None:
    assert times(Cron("0 2,3 * * *", "Europe/Berlin"), "2024-03-30 12:00", 2) == [
        "2024-03-31 01:00",
        "2024-04-01 00:00",
    ]


def test_a_wildcard_hour_fires_in_both_passes_of_a_repeated_hour_and_not_in_a_skipped_one() -> None:
    hourly = Cron("30 * * * *", "Europe/Berlin")
    assert times(hourly, "2024-10-27 00:00", 3) == ["2024-10-27 00:30", "2024-10-27 01:30", "2024-10-27 02:30"]
    assert times(hourly, "2024-03-31 00:00", 2) == ["2024-03-31 00:30", "2024-03-31 01:30"]


def test_a_moment_within_the_second_pass_does_not_fire_the_first_pass_again() -> None:
    cron = Cron("*/10 2 * * *", "Europe/Berlin")
    assert times(cron, "2024-10-27 01:15", 1) == ["2024-10-28 01:00"]
    assert cron.latest_until(utc("2024-10-27 01:15")) == utc("2024-10-27 00:50")


def test_midnight_that_is_skipped_fires_when_the_day_begins() -> None:
    assert times(Cron("@daily", "America/Sao_Paulo"), "2018-11-03 12:00", 2) == ["2018-11-04 03:00", "2018-11-05 02:00"]


def test_a_whole_skipped_day_fires_once_when_the_next_day_begins() -> None:
    cron = Cron("0 9,17 30 12 *", "Pacific/Apia")
    assert times(cron, "2011-12-01 00:00", 2) == ["2011-12-30 10:00", "2012-12-29 19:00"]


def test_seconds_are_the_sixth_and_last_field_and_survive_a_repeated_hour() -> None:
    cron = Cron("59 2 * * * 0,30", "Europe/Berlin")
    first = cron.next_after(utc("2024-10-27 00:59"))
    assert first == utc("2024-10-27 00:59:30")
    assert cron.next_after(first) == utc("2024-10-28 01:59")
    assert Cron("* * * * * *", "Pacific/Apia").next_after(utc("2011-12-30 09:59:59")) == utc("2011-12-30 10:00")


def named_days(expression: str, first: date, years: int) -> list[date]:
    cron, moment, found = Cron(expression), datetime(first.year, first.month, first.day, tzinfo=UTC), []
    end = moment.replace(year=first.year + years)
    while (moment := cron.next_after(moment)) < end:
        found.append(moment.date())
    back: list[date] = []
    while (latest := cron.latest_until(end - timedelta(seconds=1))) and latest.date() >= first:
        back.insert(0, latest.date())
        end = latest
    assert back == found, "backwards as forwards"
    return found


def last_of(day: date) -> int:
    return calendar.monthrange(day.year, day.month)[1]


def working_day(day: date, number: int) -> int:
    near = day.replace(day=number)
    shift = {5: -1 if number > 1 else 2, 6: 1}.get(near.weekday(), 0)
    return number + shift


@pytest.mark.parametrize(
    ("expression", "fires"),
    [
        ("0 1 L * *", lambda day: day.day == last_of(day)),
        ("0 1 L,15 * *", lambda day: day.day in (15, last_of(day))),
        ("0 1 L 2,4 *", lambda day: day.day == last_of(day) and day.month in (2, 4)),
        ("0 1 L * FRI", lambda day: day.day == last_of(day) or day.weekday() == 4),
        ("0 1 29-31 * *", lambda day: day.day >= 29),
        ("0 1 31 * *", lambda day: day.day == 31),
        ("0 1 30,31 1-3 *", lambda day: day.day >= 30 and day.month <= 3),
        ("0 1 29 2 *", lambda day: (day.month, day.day) == (2, 29)),
        ("0 1 13 * FRI", lambda day: day.day == 13 or day.weekday() == 4),
        ("0 1 30 2 MON", lambda day: day.month == 2 and day.weekday() == 0),
        ("0 1 */10 * ?", lambda day: day.day in (1, 11, 21, 31)),
        ("0 1 * NOV-FEB SAT-MON", lambda day: day.month in (11, 12, 1, 2) and day.weekday() in (5, 6, 0)),
        ("0 1 1 */5 *", lambda day: day.day == 1 and day.month in (1, 6, 11)),
        ("0 1 * * 0-7", lambda day: True),
        ("0 1 13 * 0-6", lambda day: True),
        ("0 1 * * FRI#2", lambda day: day.weekday() == 4 and 8 <= day.day <= 14),
        ("0 1 * * MON#5", lambda day: day.weekday() == 0 and day.day >= 29),
        ("0 1 * * TUE-THU#1", lambda day: day.weekday() in (1, 2, 3) and day.day <= 7),
        ("0 1 * * L5", lambda day: day.weekday() == 4 and day.day > last_of(day) - 7),
        ("0 1 * 2,3 2#1,L0", lambda day: day.month in (2, 3)
            and ((day.weekday() == 1 and day.day <= 7) or (day.weekday() == 6 and day.day > last_of(day) - 7))),
        ("0 1 1W * *", lambda day: day.day == working_day(day, 1)),
        ("0 1 15W * *", lambda day: day.day == working_day(day, 15)),
    ],
)  # fmt: skip
def test_days_are_those_that_the_calendar_says(expression: str, fires: object) -> None:
    assert callable(fires)
    first = date(2019, 1, 1)
    assert named_days(expression, first, 6) == [
        day for n in range(2192) if (day := first + n * DAY).year < 2025 and fires(day)
    ]


@pytest.mark.parametrize(
    ("wraps", "written_out"),
    [
        ("55-5/2 * * * *", "55,57,59,1,3,5 * * * *"),
        ("0 23-4/2 * * *", "0 23,1,3 * * *"),
        ("0 22-4/3 * * *", "0 22,1,4 * * *"),
        ("0 5,20-2/3 * * *", "0 5,20,23,2 * * *"),
        ("0 0 28-7/3 * *", "0 0 28,31,3,6 * *"),
        ("0 0 1 NOV-mar/3 *", "0 0 1 11,2 *"),
        ("0 0 * * FRI-TUE/2", "0 0 * * FRI,SUN,TUE"),
        ("0 0 * * 5-7/2", "0 0 * * 5,0"),
        ("0 0 * * 7-3/2", "0 0 * * 0,2"),
        ("0 0 * * 1-7/3", "0 0 * * 1,4,0"),
        ("0 0 * * * 50-15/10", "0 0 * * * 50,0,10"),
    ],
)
def test_a_step_goes_on_where_its_range_wraps(wraps: str, written_out: str) -> None:
    assert times(Cron(wraps), "2024-02-03 04:05", 40) == times(Cron(written_out), "2024-02-03 04:05", 40)
    assert Cron(wraps).expression == wraps


def test_the_leap_day_is_found_across_the_year_2100() -> None:
    assert times(Cron("0 0 29 2 *"), "2096-03-01", 1) == ["2104-02-29 00:00"]


@pytest.mark.parametrize(
    "short", ["@hourly", "@daily", "@midnight", "@weekly", "@monthly", "@yearly", "@annually", "@Daily"]
)
def test_short_forms_mean_their_patterns(short: str) -> None:
    pattern = {"h": "0 * * * *", "d": "0 0 * * *", "w": "0 0 * * 0", "m": "0 0 1 * *"}.get(
        short[1].lower(), "0 0 1 1 *"
    )
    pattern = "0 0 * * *" if short == "@midnight" else pattern
    assert times(Cron(short), "2024-02-03 04:05", 3) == times(Cron(pattern), "2024-02-03 04:05", 3)


@pytest.mark.parametrize(
    ("expression", "part"),
    [
        ("", "text such as '0 9 * * MON-FRI'"),
        ("   ", "text such as"),
        ("*/5 9", "it has 2 fields; write minute, hour"),
        ("5m", "'5m' cannot be used: it is an interval: use timedelta(seconds=300)"),
        ("every 1h30m", "it is an interval: use timedelta(seconds=5400)"),
        ("0 0 1 1 * 0 2030", "it has 7 fields"),
        ("61 * * * *", "`61` is no minute; write 0-59"),
        ("0 25 * * *", "`25` is no hour; write 0-23"),
        ("0 0 0 * *", "`0` is no day of month; write 1-31"),
        ("0 0 * 13 *", "`13` is no month; write 1-12 or JAN-DEC"),
        ("0 0 * * FRY", "`FRY` is no weekday; write 0-6 or SUN-SAT"),
        ("0 0 * * * 60", "`60` is no second"),
        ("? 0 * * *", "`?` is no minute"),
        ("1, * * * *", "is no minute"),
        ("*/0 * * * *", "is no minute"),
        ("-5 * * * *", "is no minute"),
        ("٣ * * * *", "is no minute"),
        ("*/90 * * * *", "the step of `*/90` is larger than the minute field"),
        ("0 0/30 * * *", "the step of `0/30` is larger than the hour field"),
        ("0 0 * */99999999999999999999 *", "is larger than the month field"),
        ("5-5 * * * *", "the range `5-5` holds one value; write `5`"),
        ("0 0 * * mon-1", "the range `MON-1` holds one value"),
        ("H 3 * * *", "`H` is random"),
        ("0 r(1-5) * * *", "is random"),
        ("5,H/15 * * * *", "is random"),
        ("0 0 30 2 *", "comes within 8 years; for the last day of a month write L"),
        ("0 0 31 4,6,9,11 *", "comes within 8 years"),
        ("0 0 * 2 MON#5", "comes within 8 years"),
        ("0 0 13 * FRI#2", "do not combine; make two schedules"),
        ("0 0 15W * FRI", "do not combine"),
        ("0 0 * * MON,FRI#2", "mixes weekdays"),
        ("0 0 31W * *", "write 1W to 28W"),
        ("0 0 L-3 * *", "is no day of month"),
        ("@reboot", "the short forms are @hourly"),
        ("@every 5m", "@app.every(timedelta(minutes=5))"),
    ],
)
def test_a_pattern_that_cannot_be_used_is_refused_with_the_fix(expression: str, part: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Cron(expression)
    assert part in str(refused.value)


def test_a_pattern_all_of_whose_times_a_zone_skips_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"'30 \*/24 \* 4 L5' never fires in Africa/Cairo: .* write its hours"):
        Cron("30 */24 * 4 L5", tz="Africa/Cairo")
    assert times(Cron("30 */24 * 4 L5"), "2024-01-01", 1) == ["2024-04-26 00:30"]
    assert times(Cron("30 0 * 4 L5", tz="Africa/Cairo"), "2024-01-01", 1) == ["2024-04-25 22:00"]


@pytest.mark.parametrize("expression", [None, 5, b"* * * * *", ["* * * * *"]])
def test_a_pattern_that_is_no_text_is_refused(expression: object) -> None:
    with pytest.raises(ConfigurationError, match="text such as"):
        Cron(expression)  # type: ignore[arg-type]


@given(st.text("0123456789*/-,#?@LWHRlwMONJAN \t\x00é", max_size=20))
def test_any_text_is_a_pattern_that_fires_or_is_refused(expression: str) -> None:
    try:
        cron = Cron(expression)
    except ConfigurationError:
        return
    assert utc("2024-01-01") < cron.next_after(utc("2024-01-01")) < utc("2032-01-02")


@pytest.mark.parametrize("step", ["*/60 * * * *", "0 */24 * * *", "0 0 1 */12 *"])
def test_a_step_as_large_as_its_field_is_allowed_and_means_its_start(step: str) -> None:
    assert utc("2024-01-01").replace(minute=0) <= Cron(step).next_after(utc("2023-12-31 23:59"))


@pytest.mark.parametrize(
    ("zone", "part"),
    [
        ("Europe/Berln", "did you mean Europe/Berlin"),
        ("europe/berlin", "did you mean Europe/Berlin?"),
        ("Berlin", "did you mean Europe/Berlin?"),
        ("New York", "did you mean America/New_York?"),
        ("Nowhere/Land", "an IANA name such as Europe/Berlin"),
        ("", "an IANA name"),
        ("../../etc/passwd", "an IANA name"),
        ("/etc/passwd", "an IANA name"),
        ("Europe", "there is no time zone 'Europe'"),
        ("a\x00b", "there is no time zone"),
        ("localtime", "an IANA name"),
        ("right/Europe/Berlin", "no time zone 'right/Europe/Berlin'"),
        (None, "given by its name"),
        (UTC, "given by its name"),
    ],
)
def test_an_unknown_time_zone_is_refused_with_what_was_probably_meant(zone: str, part: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        Cron("@daily", tz=zone)
    assert part in str(refused.value)


def test_a_pattern_is_kept_without_needless_space_so_that_equal_schedules_compare_equal() -> None:
    assert Cron("  0  9 * *\t* ") == Cron("0 9 * * *")
    assert Cron("0 9 * * *") != Cron("0 9 * * *", tz="Europe/Berlin")
    assert pickle.loads(pickle.dumps(Cron("@daily"))) == Cron("@daily")
    assert len({Every(DAY), Every(timedelta(hours=24))}) == 1


def test_moments_of_any_zone_are_taken_and_utc_is_returned() -> None:
    moment = utc("2024-05-01 10:30").astimezone(timezone(timedelta(hours=-7)))
    for rule in (Cron("0 * * * *"), Every(timedelta(hours=1))):
        after, latest = rule.next_after(moment), rule.latest_until(moment)
        assert (after, latest) == (utc("2024-05-01 11:00"), utc("2024-05-01 10:00"))
        assert [time and time.tzinfo for time in (after, latest)] == [UTC, UTC]


@pytest.mark.parametrize("rule", [Cron("@daily"), Every(DAY)])
def test_a_naive_moment_is_refused(rule: Cron | Every) -> None:
    for method in (rule.next_after, rule.latest_until):
        with pytest.raises(ArgumentError, match=r"datetime\.now\(timezone\.utc\)"):
            method(datetime(2024, 1, 1))


def test_the_latest_time_after_a_long_downtime_is_found_at_once_and_none_before_1970() -> None:
    cron = Cron("0 0 29 2 *")
    assert cron.latest_until(utc("2024-02-28 23:59")) == utc("2020-02-29")
    assert cron.latest_until(utc("2024-02-29")) == utc("2024-02-29")
    assert cron.latest_until(utc("1969-12-31")) is None


def test_one_rule_answers_many_threads() -> None:
    cron = Cron("*/5 * * * *")
    moments = [utc("2024-01-01") + timedelta(hours=7) * n for n in range(400)]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(cron.next_after, moments)) == [moment + timedelta(minutes=5) for moment in moments]


def test_an_interval_lies_on_the_grid_of_its_anchor_and_does_not_drift() -> None:
    assert times(Every(timedelta(hours=6)), "2024-05-01 07:13", 2) == ["2024-05-01 12:00", "2024-05-01 18:00"]
    shifted = Every(timedelta(hours=6), anchor=utc("2030-01-01 01:30"))
    assert times(shifted, "2024-05-01 07:13", 2) == ["2024-05-01 07:30", "2024-05-01 13:30"]
    assert shifted.latest_until(utc("2024-05-01 07:30")) == utc("2024-05-01 07:30")


@given(
    st.timedeltas(timedelta(seconds=1), timedelta(days=3653)),
    st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1), timezones=st.timezones()),
    st.datetimes(datetime(1980, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),
)
def test_any_interval_encloses_any_moment(interval: timedelta, anchor: datetime, moment: datetime) -> None:
    rule = Every(interval, anchor)
    latest, after = rule.latest_until(moment), rule.next_after(moment)
    assert latest <= moment < after
    assert after - latest == interval
    assert (after - rule.anchor) % interval == timedelta()


@pytest.mark.parametrize(
    ("interval", "part"),
    [
        (5, r"timedelta\(minutes=5\), not 5"),
        (timedelta(), "between 1 second and 10 years"),
        (timedelta(milliseconds=999), "between 1 second"),
        (timedelta(days=-1), "between 1 second"),
        (timedelta(days=4000), "and 10 years"),
    ],
)
def test_a_bad_interval_is_refused(interval: timedelta, part: str) -> None:
    with pytest.raises(ConfigurationError, match=part):
        Every(interval)


@pytest.mark.parametrize("anchor", [datetime(2024, 1, 1), date(2024, 1, 1), None])
def test_an_anchor_without_a_time_zone_is_refused(anchor: datetime) -> None:
    with pytest.raises(ConfigurationError, match="must know its time zone"):
        Every(DAY, anchor=anchor)
