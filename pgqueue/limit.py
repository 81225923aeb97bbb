"""Limits: how many jobs of a queue, a task or a key may run at once, and how often they may begin."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn

from pgqueue.errors import ConfigurationError, LimitHit
from pgqueue.template import as_text, checked_template, names_in, replaced

UNITS = {"s": 1.0, "sec": 1.0, "second": 1.0, "min": 60.0, "minute": 60.0, "h": 3600.0, "hour": 3600.0, "d": 86_400.0}
UNITS["day"] = UNITS["d"]
KEY_LIMIT = 400
_RATE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*/\s*(\d+(?:\.\d+)?)?\s*([a-z]+)\s*")


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `concurrency` jobs at once across all workers, and no more than `rate` beginning in a time.

    `rate` is "100/min", "5/s", "1/10s", or a number a second. Jobs begin evenly, not all at the start of each minute:
    in any time t, `burst` + rate * t begin at most. With `key`, a template filled with the job's arguments, each value
    has a limit of its own. `fair`, of a queue, lets the values that have jobs waiting share its slots evenly, so that
    one with a hundred thousand does not hold up another with ten. Raises ConfigurationError for what cannot be meant.

        Limit(concurrency=4)
        Limit(rate="100/min", key="{customer_id}")
        Limit(key="{tenant_id}", fair=True)
    """

    concurrency: int | None = None
    rate: str | float | None = None
    burst: int = 1
    key: str | None = None
    fair: bool = False

    def __post_init__(self) -> None:
        if self.concurrency is None and self.rate is None and not self.fair:
            raise ConfigurationError("a Limit limits nothing: give it concurrency=…, rate=… or both")
        if self.fair and self.key is None:
            raise ConfigurationError("Limit(fair=True) needs a key, whose values share the slots: key='{tenant_id}'")
        for name, value in (("concurrency", self.concurrency), ("burst", self.burst)):
            given: object = value
            if given is not None and (type(given) is not int or not 1 <= given <= 2**31 - 1):
                raise ConfigurationError(f"Limit({name}={given!r}): give a whole number from 1 to 2,147,483,647")
        if self.burst != 1 and self.rate is None:
            raise ConfigurationError(f"Limit(burst={self.burst}) needs a rate: it is how many may begin together")
        per_second(self.rate)
        if self.key is not None:
            checked_template(self.key, "Limit(key)")
            if not names_in(self.key):
                raise ConfigurationError(f"Limit(key={self.key!r}): name arguments in braces, as in '{{customer_id}}'")

    @property
    def per_second(self) -> float | None:
        """How many may begin in a second."""
        return per_second(self.rate)

    def hit(self, retry_after: float | timedelta) -> NoReturn:
        """End this run: whoever is called says that it is too much (429). It uses no attempt.

        Nothing of the same limit, and of the same value of its key, begins before `retry_after` (seconds or timedelta)
        has passed. Raises LimitHit, which the task must let through.

            if answer.status_code == 429:
                calls.hit(retry_after=int(answer.headers["Retry-After"]))
        """
        raise LimitHit(retry_after, key=self.key or "")


def limits_of(given: Limit | Sequence[Limit] | None, what: str) -> tuple[Limit, ...]:
    """One limit or several, each with a key of its own, as `what` declares them. Raises ConfigurationError."""
    several: object = () if given is None else (given,) if isinstance(given, Limit) else given
    if not isinstance(several, Sequence) or not all(isinstance(limit, Limit) for limit in several):
        raise ConfigurationError(f"{what}: limit={given!r} must be a Limit, or a list of them")
    limits: tuple[Limit, ...] = tuple(several)
    keys = [limit.key for limit in limits]
    for key in keys:
        if keys.count(key) > 1:
            which = f"with key={key!r}" if key else "without a key"
            raise ConfigurationError(f"{what} has two limits {which}: put concurrency and rate into one Limit")
    return limits


def per_second(rate: str | float | None) -> float | None:
    """A rate as jobs a second. Raises ConfigurationError.

    per_second("90/min")    # 1.5
    """
    if rate is None:
        return None
    wrong: object = rate
    value = math.nan
    if isinstance(rate, str) and (found := _RATE.fullmatch(rate.lower())):
        count, time, unit = found.groups()
        seconds = float(time or 1) * UNITS.get(unit.removesuffix("s") or unit, math.nan)
        value = float(count) / seconds if seconds else math.nan
    elif isinstance(wrong, int | float) and not isinstance(wrong, bool):
        value = float(wrong)
    # A job in a year, a million in a second.
    if not 1 / (366 * 86_400) <= value <= 1_000_000:
        raise ConfigurationError(
            f"rate={rate!r} is no rate: write '100/min', '5/s' or '1/10s', or a number a second, "
            "between one a year and a million a second"
        )
    return value


def fill(template: str, args: Mapping[str, Any]) -> str:
    """The key of a job with these arguments; what it lacks is empty. Cut at 400 characters.

    fill("{customer_id}", {"customer_id": 7})    # "7"
    """
    return replaced(template, lambda name: "" if args.get(name) is None else as_text(args[name]))[:KEY_LIMIT]
