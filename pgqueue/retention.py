"""How long ended jobs are kept: by age, or by count."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from pgqueue.errors import ConfigurationError

Keep = timedelta | int | Literal[False]
"""As it is declared: an age, the newest so many jobs, or 0 or False for none."""

LONGEST = timedelta(days=36_525)
MOST = 100_000


@dataclass(frozen=True, slots=True)
class Retention:
    """One of the two is set; an `age` of 0 keeps nothing.

    With a `count` the age is that of the level above; where that keeps nothing, a day for completed jobs, and none
    for failed ones.
    """

    age: timedelta | None = None
    count: int | None = None

    @property
    def keeps(self) -> bool:
        """Whether anything is kept at all."""
        return self.age is None or bool(self.age)


DAY = Retention(timedelta(days=1))


def retention(given: object, what: str) -> Retention | None:
    """What `what` declares; None where it says nothing. Raises ConfigurationError.

    retention(timedelta(days=7), "keep_completed of queue email")
    retention(1000, "keep_failed of the app")
    """
    if given is None:
        return None
    if given is False or given == 0:
        return Retention(timedelta())
    if isinstance(given, timedelta) and timedelta() <= given <= LONGEST:
        return Retention(age=given)
    if type(given) is int and 1 <= given <= MOST:
        return Retention(count=given)
    raise ConfigurationError(
        f"{what} is {given!r}: give an age as a timedelta of up to a century, a number of jobs up to {MOST:,} "
        "(the newest are kept), or 0 for none"
    )
