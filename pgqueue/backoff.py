"""How long a job waits before its next attempt."""

from __future__ import annotations

import inspect
import math
import random as _random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from pgqueue.errors import ConfigurationError

LONGEST = 100 * 366 * 86_400.0
"""No delay is longer, in seconds: beyond it a sum with the present leaves what timestamps can hold."""


class _Curve(Protocol):
    """The delay of an attempt before jitter, and how it is written."""

    def __call__(self, attempt: int) -> float: ...
    def words(self) -> str: ...


@dataclass(frozen=True, slots=True, repr=False)
class Backoff:
    """The delays between a job's attempts; made by one of the constructors below, immutable and comparable.

    Delays are seconds or a timedelta. `jitter` is a fraction from 0 to 1: 0.2 spreads each delay uniformly within 20 %
    of it, never above the cap. Without a cap a delay ends at 100 years. Bad values raise ConfigurationError.

        Backoff.exponential(1, cap=3600, jitter=0.2)    # 1, 2, 4, … 3600 seconds, each ± 20 %
        Backoff.delays([1, 5, 30])                      # then every 30 seconds
    """

    _curve: _Curve
    _jitter: float = 0.0
    _cap: float = LONGEST

    @classmethod
    def exponential(
        cls,
        base: float | timedelta = 1.0,
        *,
        factor: float = 2.0,
        cap: float | timedelta | None = None,
        jitter: float = 0.0,
    ) -> Backoff:
        """`base`, then `factor` times the delay before: `base * factor ** (attempt - 1)`. `factor` is at least 1."""
        start = _positive("base", base)
        return cls(_Exponential(start, _number("factor", factor, 1.0)), _fraction(jitter), _cap(cap, start))

    @classmethod
    def fixed(cls, delay: float | timedelta, *, jitter: float = 0.0) -> Backoff:
        """The same delay before each attempt; 0 is allowed."""
        return cls(_Steps((_seconds("delay", delay),)), _fraction(jitter))

    @classmethod
    def polynomial(
        cls,
        power: float = 4,
        *,
        base: float | timedelta = 1.0,
        cap: float | timedelta | None = None,
        jitter: float = 0.0,
    ) -> Backoff:
        """`base * attempt ** power`: with the defaults 1, 16, 81, 256, 625 seconds."""
        start = _positive("base", base)
        return cls(_Polynomial(start, _number("power", power, 0.0)), _fraction(jitter), _cap(cap, start))

    @classmethod
    def delays(cls, delays: Iterable[float | timedelta], *, jitter: float = 0.0) -> Backoff:
        """These delays one after the other; the last one repeats."""
        given: object = delays
        if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
            raise ConfigurationError(f"delays must be a list of delays such as [1, 5, 30], not {given!r}")
        steps = tuple(_seconds(f"delay {number}", delay) for number, delay in enumerate(delays, 1))
        if not steps:
            raise ConfigurationError("delays must hold at least one delay, such as [1, 5, 30]")
        return cls(_Steps(steps), _fraction(jitter))

    @classmethod
    def of(cls, function: Callable[[int], float | timedelta]) -> Backoff:
        """Whatever `function(attempt)` returns, from attempt 1.

        A result that is negative, NaN, infinite or no delay, and an error in it, raise ConfigurationError from `delay`.
        """
        given: object = function
        if not callable(given) or inspect.iscoroutinefunction(given):
            raise ConfigurationError(
                f"a backoff function is a plain function from the attempt to seconds, not {function!r}:"
                " write `def backoff(attempt): return 10 * attempt`"
            )
        return cls(_Own(function))

    @classmethod
    def default(cls) -> Backoff:
        """`e ** min(attempt, 10)` seconds with 10 % jitter: 25 attempts take about four days."""
        return cls(_Natural(), 0.1)

    def delay(self, attempt: int, random: Callable[[], float] = _random.random) -> float:
        """Seconds to wait after `attempt` failed. Attempts count from 1; a lower number is taken as 1.

        `random` returns a float from 0 to 1.

            Backoff.exponential(1).delay(4)    # 8.0
        """
        try:
            seconds = min(self._curve(max(1, attempt)), self._cap)
        except OverflowError:
            seconds = self._cap
        if not (jitter := self._jitter):
            return seconds
        # Spread below the cap instead of cutting at it: cut values would all meet at one moment.
        low, high = seconds * (1.0 - jitter), min(seconds * (1.0 + jitter), self._cap)
        return low + (high - low) * random()

    def describe(self) -> str:
        """One line for people: `exponential 1 s, cap 3600 s, jitter 20 %`."""
        cap = "" if self._cap == LONGEST else f", cap {_plain(self._cap)} s"
        jitter = f", jitter {_plain(round(self._jitter * 100, 6))} %" if self._jitter else ""
        return self._curve.words() + cap + jitter

    def __repr__(self) -> str:
        return f"<Backoff: {self.describe()}>"


@dataclass(frozen=True, slots=True)
class _Exponential:
    base: float
    factor: float

    def __call__(self, attempt: int) -> float:
        return self.base * math.pow(self.factor, attempt - 1)

    def words(self) -> str:
        return f"exponential {_plain(self.base)} s" + (f" × {_plain(self.factor)}" if self.factor != 2 else "")


@dataclass(frozen=True, slots=True)
class _Polynomial:
    base: float
    power: float

    def __call__(self, attempt: int) -> float:
        return self.base * math.pow(attempt, self.power)

    def words(self) -> str:
        return f"polynomial {_plain(self.base)} s × attempt^{_plain(self.power)}"


@dataclass(frozen=True, slots=True)
class _Steps:
    steps: tuple[float, ...]

    def __call__(self, attempt: int) -> float:
        return self.steps[min(attempt, len(self.steps)) - 1]

    def words(self) -> str:
        name = "fixed" if len(self.steps) == 1 else "delays"
        return f"{name} {', '.join(map(_plain, self.steps))} s"


@dataclass(frozen=True, slots=True)
class _Natural:
    def __call__(self, attempt: int) -> float:
        return math.exp(min(attempt, 10))

    def words(self) -> str:
        return "e^min(attempt, 10) s"


@dataclass(frozen=True, slots=True)
class _Own:
    function: Callable[[int], float | timedelta]

    def __call__(self, attempt: int) -> float:
        try:
            result = self.function(attempt)
        except Exception as error:
            raise ConfigurationError(
                f"the backoff function {self.name()} raised {error!r} for attempt {attempt}:"
                " it must return seconds or a timedelta for every attempt from 1"
            ) from error
        seconds = _as_seconds(result)
        if seconds is None or not 0 <= seconds < math.inf:
            raise ConfigurationError(
                f"the backoff function {self.name()} returned {result!r} for attempt {attempt}:"
                " it must return seconds (0 or more) or a timedelta"
            )
        return seconds

    def words(self) -> str:
        return f"function {self.name()}"

    def name(self) -> str:
        qualname = getattr(self.function, "__qualname__", None)
        return f"{self.function.__module__}.{qualname}" if qualname else repr(self.function)


def _as_seconds(value: object) -> float | None:
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _seconds(name: str, value: float | timedelta) -> float:
    seconds = _as_seconds(value)
    if seconds is None or not 0 <= seconds <= LONGEST:
        raise ConfigurationError(
            f"{name} must be between 0 seconds and 100 years, not {value!r}:"
            " pass seconds such as 30, or timedelta(minutes=5)"
        )
    return seconds


def _positive(name: str, value: float | timedelta) -> float:
    seconds = _seconds(name, value)
    if not seconds:
        raise ConfigurationError(f"{name} must be above 0, not {value!r}: for no delay write Backoff.fixed(0)")
    return seconds


def _cap(value: float | timedelta | None, base: float) -> float:
    if value is None:
        return LONGEST
    cap = _seconds("cap", value)
    if cap < base:
        raise ConfigurationError(f"cap ({_plain(cap)} s) is below base ({_plain(base)} s): raise cap or lower base")
    return cap


def _number(name: str, value: object, least: float) -> float:
    number = None if isinstance(value, timedelta) else _as_seconds(value)
    if number is None or not least <= number < math.inf:
        raise ConfigurationError(f"{name} must be a number from {_plain(least)} up, not {value!r}")
    return number


def _fraction(value: object) -> float:
    jitter = None if isinstance(value, timedelta) else _as_seconds(value)
    if jitter is None or not 0 <= jitter <= 1:
        raise ConfigurationError(f"jitter must be a fraction from 0 to 1, not {value!r}: 0.2 spreads by 20 %")
    return jitter


def _plain(value: float) -> str:
    return repr(value).removesuffix(".0")


DEFAULT = Backoff.default()
"""What a task without a backoff uses."""

__all__ = ["DEFAULT", "LONGEST", "Backoff"]
