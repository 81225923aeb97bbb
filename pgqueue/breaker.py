"""Circuit breakers: when the failures of a task or a queue stop it, and when it goes on. Times are passed in."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, NamedTuple

from pgqueue.errors import ArgumentError, ConfigurationError, seconds
from pgqueue.outcome import Failed, Outcome, Retry, type_name

State = Literal["closed", "open", "half_open"]
Kind = type[BaseException] | str
LONGEST = 600.0
DOUBLINGS = 30
_CLASS = re.compile(r"[A-Za-z_]\w*(?:\.(?:[A-Za-z_]\w*|<locals>))*")
# The task, or its arguments, or who stopped the worker is to blame for these: they tell nothing of what the task calls.
UNCOUNTED = frozenset({"fail_job", "bad_arguments", "interrupted"})


class Of(NamedTuple):
    """Whose breaker it is: `scope` is queue or task."""

    scope: str
    name: str

    def __str__(self) -> str:
        return f"{self.scope} {self.name}"


@dataclass(frozen=True, slots=True)
class Breaker:
    """Stop a task or a queue on all workers while its attempts fail, and try one job before it goes on.

    It opens when `failures` attempts have failed within the time `within`, or when at least `minimum` attempts ended
    in it and a share of `ratio` (up to 1) of them failed; with both given, when both hold. Then none of its jobs
    begins, and no attempt is used, for `open_for`. After that one job is tried: if it completes, all go on; if it
    fails, the pause doubles, up to `cap` (ten minutes, or `open_for` where that is longer). Times are seconds or
    timedelta. With `on` only errors of these classes count, or of classes with these names ("httpx.ReadTimeout", as
    errors are shown). What a task asks for (RetryJob, SnoozeJob, CancelJob, FailJob, the hit of a limit) and bad
    arguments never do. Raises ConfigurationError.

        @app.task(breaker=Breaker(failures=10, within=60, open_for=30))
        @app.task(breaker=Breaker(ratio=0.5, minimum=50, on=(ConnectionError, TimeoutError)))
    """

    failures: int | None = None
    within: float | timedelta = 60.0
    open_for: float | timedelta = 30.0
    cap: float | timedelta | None = None
    ratio: float | None = None
    minimum: int = 20
    on: Kind | tuple[Kind, ...] | None = None

    def __post_init__(self) -> None:
        if self.failures is None and self.ratio is None:
            raise ConfigurationError("a Breaker never opens: give it failures=…, ratio=… or both")
        for name, value in (("failures", self.failures), ("minimum", self.minimum)):
            given: object = value
            if given is not None and (type(given) is not int or not 1 <= given <= 2**31 - 1):
                raise ConfigurationError(f"Breaker({name}={given!r}): give a whole number of at least 1")
        share: object = self.ratio
        if share is not None and (type(share) not in (int, float) or not 0 < share <= 1):  # type: ignore[operator]
            raise ConfigurationError(f"Breaker(ratio={share!r}): give a share of the attempts, above 0 and up to 1")
        rule = self.thresholds
        if rule.cap < rule.open_for:
            raise ConfigurationError(f"Breaker(cap={self.cap!r}) is below open_for={self.open_for!r}: the pauses grow")

    @property
    def thresholds(self) -> Thresholds:
        """The same as plain numbers and names."""
        open_for = _time("open_for", self.open_for)
        cap = max(LONGEST, open_for) if self.cap is None else _time("cap", self.cap)
        return Thresholds(
            self.failures, self.ratio, self.minimum, _time("within", self.within), open_for, cap, _names(self.on)
        )


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What is kept of a Breaker; times are in seconds, `errors` are names of classes, None for all."""

    failures: int | None
    ratio: float | None
    minimum: int
    within: float
    open_for: float
    cap: float
    errors: tuple[str, ...] | None = None

    def counts(self, kinds: Collection[str]) -> bool:
        """Whether an error of these classes counts."""
        return bool(kinds) and (self.errors is None or not set(self.errors).isdisjoint(kinds))

    def passed(self, seen: Counts) -> bool:
        """Whether that is enough to open it."""
        many = self.failures is None or seen.failures >= self.failures
        share = self.ratio is None or (
            seen.attempts >= self.minimum and seen.failures > 0 and seen.failures >= self.ratio * seen.attempts
        )
        return many and share

    def pause(self, trials: int) -> float:
        """How long it stays open after so many trials that failed one after the other."""
        return min(self.cap, math.ldexp(self.open_for, min(trials, DOUBLINGS)))


class Counts(NamedTuple):
    """Attempts that ended within the time of a breaker, and those of them that failed."""

    failures: int = 0
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class Status:
    """`open_until`: None while it is closed. `trials` have failed one after the other since it opened."""

    open_until: float | None = None
    trials: int = 0

    def state(self, now: float) -> State:
        if self.open_until is None:
            return "closed"
        return "open" if self.open_until > now else "half_open"


def decide(
    rule: Thresholds, status: Status, now: float, *, seen: Counts | None = None, trial: bool | None = None
) -> Status:
    """The status after what has been `seen`, or after a `trial` that completed (True) or failed (False).

    Counts open a closed breaker, and only a half-open one is settled by a trial: who opened it meanwhile meant it.

        decide(rule, Status(), now, seen=Counts(failures=10, attempts=12))    # Status(now + rule.open_for)
    """
    state = status.state(now)
    if state == "closed" and seen is not None and rule.passed(seen):
        return Status(now + rule.pause(0))
    if state == "half_open" and trial is True:
        return Status()
    if state == "half_open" and trial is False:
        failed = status.trials + 1
        return Status(now + rule.pause(failed), failed)
    return status


def kinds_of(outcome: Outcome | None) -> tuple[str, ...]:
    """The classes of the error for which an attempt failed; none where it did not, or where only its job is wrong."""
    if isinstance(outcome, Retry) or (isinstance(outcome, Failed) and outcome.reason not in UNCOUNTED):
        return outcome.error.kinds
    return ()


def checked(breaker: Breaker | None, what: str) -> Breaker | None:
    """What `what` declares. Raises ConfigurationError where it is no Breaker."""
    given: object = breaker
    if given is not None and not isinstance(given, Breaker):
        raise ConfigurationError(f"{what}: breaker={given!r} must be a Breaker")
    return breaker


def _time(name: str, given: float | timedelta) -> float:
    try:
        value = seconds(given, name)
    except ArgumentError as error:
        raise ConfigurationError(f"Breaker: {error}") from None
    if value <= 0:
        raise ConfigurationError(f"Breaker({name}={given!r}): give a time above 0 seconds")
    return value


def _names(on: object) -> tuple[str, ...] | None:
    if on is None:
        return None
    names = [_name(kind) for kind in (on if isinstance(on, tuple) else (on,))]
    if not names or not all(names):
        raise ConfigurationError(
            f"Breaker(on={on!r}) must be an exception class or a tuple of some, such as OSError, or of their names"
        )
    return tuple(sorted({name for name in names if name}))


def _name(kind: object) -> str | None:
    if isinstance(kind, str):
        return kind if _CLASS.fullmatch(kind) else None
    return type_name(kind) if isinstance(kind, type) and issubclass(kind, BaseException) else None
