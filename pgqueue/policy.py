"""Which of a schedule's nominal times are fired, and what becomes of those that were missed: pure arithmetic."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NamedTuple, get_args

from pgqueue.errors import ConfigurationError
from pgqueue.schedule import Rule

CatchUp = Literal["skip", "latest", "all"]
Overlap = Literal["allow", "skip", "queue_one", "cancel_running"]

AT_MOST = 1000
"""How many missed times `all` makes up for: the newest."""
ON_TIME = timedelta(minutes=1)
"""How late a time may be fired under `skip`."""
INSTANT = timedelta(microseconds=1)
LONGEST = timedelta(days=3653)


@dataclass(frozen=True, slots=True)
class Policy:
    """What a schedule does with its nominal times, beside its rule.

    `catch_up`: of the times that passed while no scheduler ran (or while one was late) `latest` fires the newest, `all`
    each of them, oldest first, the newest 1000 at most, and `skip` none that is more than a minute old. `grace`
    (timedelta or seconds): none is fired later than that; under `skip` in place of the minute.

    `overlap`, when the job of the time before has not ended: `allow` runs both, `skip` leaves this time out,
    `queue_one` lets one wait until the other has ended and leaves out what comes while one waits, `cancel_running`
    cancels the other and begins when it has ended. The last two give the jobs a serial key, `schedule:NAME`.

    `jitter` (timedelta or seconds): each job runs up to so much later than its nominal time, always the same for one
    time. No time before `start` or after `end` is fired, and no more than `max_runs` are; one that is left out
    is no run.

        Policy(catch_up="all", grace=timedelta(days=2), overlap="skip")
    """

    catch_up: CatchUp = "latest"
    grace: timedelta | None = None
    overlap: Overlap = "allow"
    jitter: timedelta | None = None
    start: datetime | None = None
    end: datetime | None = None
    max_runs: int | None = None

    def __post_init__(self) -> None:
        for name, allowed in (("catch_up", get_args(CatchUp)), ("overlap", get_args(Overlap))):
            if getattr(self, name) not in allowed:
                raise ConfigurationError(f"{name}={getattr(self, name)!r} must be one of {', '.join(allowed)}")
        for name in ("grace", "jitter"):
            object.__setattr__(self, name, _span(name, getattr(self, name)))
        for name in ("start", "end"):
            object.__setattr__(self, name, _moment(name, getattr(self, name)))
        if self.start is not None and self.end is not None and self.end < self.start:
            raise ConfigurationError(f"end={self.end} is before start={self.start}: no time is left to fire")
        if self.max_runs is not None and (type(self.max_runs) is not int or not 1 <= self.max_runs <= 2**31 - 1):
            raise ConfigurationError(f"max_runs={self.max_runs!r} must be a whole number from 1 to 2,147,483,647")
        if self.catch_up == "all" and self.overlap != "allow":
            raise ConfigurationError(
                f"catch_up='all' fires several times at once, which overlap={self.overlap!r} would leave out: "
                "choose catch_up='latest', or overlap='allow' with a serial_key on the task"
            )

    def first(self, rule: Rule, now: datetime) -> datetime | None:
        """The first nominal time after `now`; None when there is none before the end."""
        after = now if self.start is None else max(now, self.start - INSTANT)
        return self._until_end(rule.next_after(after))

    def due(self, rule: Rule, *, expected: datetime, last: datetime | None, runs: int, now: datetime) -> Due:
        """What is to be fired at `now`, where the next time was to be `expected` and the newest fired is `last`.

        An `expected` that is no time of the rule was set by hand, and counts as one.
        """
        until = now if self.end is None else min(now, self.end)
        newest = rule.latest_until(until)
        if newest is None or newest < expected:
            newest = expected
        left = None if self.max_runs is None else self.max_runs - runs
        times = self._fired(rule, newest, max(filter(None, (expected, self.start))), last, until, now)
        if left is not None:
            times = times[: max(0, left)]
        # Whether the last run comes of `times` is not known before they are fired: an overlap may leave them out.
        ended = left is not None and left <= 0
        return Due(times, None if ended else self._until_end(rule.next_after(max(newest, until))))

    def delayed(self, name: str, nominal: datetime) -> datetime:
        """When the job of a nominal time of the schedule `name` may begin."""
        if not self.jitter:
            return nominal
        drawn = hashlib.sha256(f"{name} {nominal.astimezone(UTC).isoformat()}".encode()).digest()
        return nominal + self.jitter * (int.from_bytes(drawn[:8]) / 2**64)

    def _fired(
        self,
        rule: Rule,
        newest: datetime,
        oldest: datetime,
        last: datetime | None,
        until: datetime,
        now: datetime,
    ) -> tuple[datetime, ...]:
        grace = ON_TIME if self.catch_up == "skip" and self.grace is None else self.grace
        if grace is not None:
            oldest = max(oldest, now - grace)
        found: list[datetime] = []
        time: datetime | None = newest
        while time is not None and oldest <= time <= until and (last is None or time > last) and len(found) < AT_MOST:
            found.append(time)
            if self.catch_up != "all":
                break
            time = rule.latest_until(time - INSTANT)
        return tuple(reversed(found))

    def _until_end(self, time: datetime) -> datetime | None:
        return None if self.end is not None and time > self.end else time


class Due(NamedTuple):
    """Nominal times to fire now, oldest first, and the next one; None when none is left.

    The next one holds as long as those that are fired are not the last of `max_runs`.
    """

    times: tuple[datetime, ...]
    following: datetime | None


def _span(name: str, given: Any) -> timedelta | None:
    span: timedelta | None = given
    if isinstance(given, int | float) and not isinstance(given, bool):
        try:
            span = timedelta(seconds=given)
        except (ValueError, OverflowError):
            span = None
    if given is not None and not (isinstance(span, timedelta) and timedelta() <= span <= LONGEST):
        raise ConfigurationError(f"{name}={given!r} must be a timedelta or seconds, from 0 to ten years")
    return span


def _moment(name: str, given: Any) -> datetime | None:
    if given is None:
        return None
    if not isinstance(given, datetime) or given.utcoffset() is None:
        raise ConfigurationError(
            f"{name}={given!r} must be a datetime that knows its time zone: datetime(…, tzinfo=timezone.utc)"
        )
    return given.astimezone(UTC)


__all__ = ["AT_MOST", "ON_TIME", "CatchUp", "Due", "Overlap", "Policy"]
