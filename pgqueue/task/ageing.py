"""What a queue may say of the ageing of its jobs."""

from __future__ import annotations

from datetime import timedelta

from pgqueue.errors import ArgumentError, ConfigurationError, seconds
from pgqueue.task.options import PRIORITIES


def ageing_of(every: float | timedelta | None, floor: int | None, what: str) -> tuple[timedelta | None, int | None]:
    """How often a waiting job's priority is one sooner, and down to which one. Raises ConfigurationError.

    ageing_of(600, 0, "queue email")    # (timedelta(minutes=10), 0)
    """
    if every is None:
        if floor is not None:
            raise ConfigurationError(f"{what}: ageing_floor={floor!r} needs ageing=…: how long a priority waits")
        return None, None
    try:
        time = seconds(every, "ageing")
    except ArgumentError as error:
        raise ConfigurationError(f"{what}: {error}") from None
    if time < 1:
        raise ConfigurationError(f"{what}: ageing={every!r} must be at least a second")
    if floor is not None and (type(floor) is not int or floor not in PRIORITIES):
        raise ConfigurationError(
            f"{what}: ageing_floor={floor!r} must be a whole number from -32768 to 32767; lower runs first"
        )
    return timedelta(seconds=time), floor
