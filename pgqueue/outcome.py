"""What an attempt came to, and the one decision that says so."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING

from pgqueue.errors import CancelJob, FailJob, LimitHit, ProcessCrashed, RetryJob, SnoozeJob, TaskTimeout

if TYPE_CHECKING:
    from pgqueue.flow import Plan

CRASH_LIMIT = 3
TRACEBACK_LIMIT = 16_384
RUNNERS = ("pgqueue.worker.", "pgqueue.task", "asyncio.", "concurrent.futures.")


@dataclass(frozen=True, slots=True)
class AttemptError:
    """Why an attempt did not complete, as it is kept in `jobs.errors`: text without NUL or lone surrogates.

    Not kept are `kinds`, its class and the classes above, by which circuit breakers choose (none where the task asked
    for the retry), and `place`, the module and function that raised it, by which failed jobs are grouped.
    """

    type: str
    message: str
    traceback: str = ""
    kinds: tuple[str, ...] = ()
    place: str = ""

    @classmethod
    def of(cls, error: BaseException) -> AttemptError:
        frames = "".join(traceback.format_exception(type(error), error, _of_the_task(error.__traceback__)))
        kinds = tuple(map(type_name, type(error).__mro__[:-1]))
        place = storable(_place(error.__traceback__))
        return cls(type_name(type(error)), storable(_text(error)), storable(frames), kinds, place)


@dataclass(frozen=True, slots=True)
class Completed:
    """The task returned; `result` is JSON text, None when it returned None.

    `unstored`: why what it returned cannot be stored; there is no `result` then.
    """

    result: str | None = None
    unstored: str | None = None


@dataclass(frozen=True, slots=True)
class Retry:
    """Again after `delay` seconds; the attempt is used."""

    delay: float
    error: AttemptError
    crashed: bool = False


@dataclass(frozen=True, slots=True)
class Snooze:
    """Again after `delay` seconds; the attempt is given back.

    `hit`: the key of the limit of which nothing else begins before, empty for one without a key.
    """

    delay: float
    hit: str | None = None


@dataclass(frozen=True, slots=True)
class Wait:
    """Again when the jobs of `plan` have ended, which are enqueued with it; the attempt is given back.

    `on_failure`: what those at the end of the plan do to this job where they do not complete; `max_attempts` is the
    app's, for those that nobody else says it of.
    """

    plan: Plan
    on_failure: str
    max_attempts: int


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Ended on purpose, without a failure."""

    reason: str


@dataclass(frozen=True, slots=True)
class Failed:
    """To `failed_jobs`. `reason` is one of: attempts_used, fail_job, gave_up, crashed, interrupted, bad_arguments.

    One that failed for a child says child_failed there, which no attempt comes to.
    """

    reason: str
    error: AttemptError
    crashed: bool = False


Outcome = Completed | Retry | Snooze | Wait | Cancelled | Failed


def decide(
    error: BaseException,
    *,
    attempt: int,
    max_attempts: int,
    crashes: int,
    delay: Callable[[int], float],
    gives_up: Callable[[BaseException], bool] = lambda error: False,
) -> Outcome:
    """The outcome of an attempt that raised `error`.

    `attempt` counts from 1, `crashes` are those before this attempt, `delay(attempt)` is the task's backoff in seconds,
    `gives_up(error)` says which errors of the task are not retried; a crash and RetryJob always are.

        decide(KeyError("x"), attempt=1, max_attempts=3, crashes=0, delay=lambda n: 5.0)   # Retry(5.0, …)
    """
    match error:
        case SnoozeJob():
            return Snooze(error.delay, error.key if isinstance(error, LimitHit) else None)
        case CancelJob():
            return Cancelled(storable(str(error)))
        case FailJob():
            return Failed("fail_job", AttemptError.of(error.__cause__ or error))
    asked = isinstance(error, RetryJob)
    reported = AttemptError.of((error.__cause__ or error) if asked else error)
    if asked:
        reported = replace(reported, kinds=())
    crashed = isinstance(error, ProcessCrashed)
    if crashed and crashes + 1 >= CRASH_LIMIT:
        return Failed("crashed", reported, crashed)
    if not (crashed or isinstance(error, RetryJob)) and gives_up(error):
        return Failed("gave_up", reported)
    if attempt >= max_attempts:
        return Failed("crashed" if crashed else "attempts_used", reported, crashed)
    chosen = error.delay if isinstance(error, RetryJob) and error.delay is not None else delay(attempt)
    return Retry(chosen, reported, crashed)


def _of_the_task(frames: TracebackType | None) -> TracebackType | None:
    """The frames from the task's own on; all of them where pgqueue itself raised."""
    own = frames
    while own is not None and own.tb_frame.f_globals.get("__name__", "").startswith(RUNNERS):
        own = own.tb_next
    return own or frames


def _place(frames: TracebackType | None) -> str:
    """Where it was raised: the same wherever the code lies, and whatever line it is on."""
    if frames is None:
        return ""
    while frames.tb_next is not None:
        frames = frames.tb_next
    frame = frames.tb_frame
    return f"{frame.f_globals.get('__name__', '')}.{frame.f_code.co_qualname}"


def type_name(kind: type) -> str:
    """`KeyError` for a builtin, `shop.errors.CardDeclined` for others."""
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as failure:
        return f"(its text cannot be shown: {type(failure).__name__})"


def storable(text: str, limit: int = TRACEBACK_LIMIT) -> str:
    """Text as PostgreSQL's jsonb can hold it; the middle of a longer one is left out."""
    if len(text) > limit:
        half = limit // 2
        text = f"{text[:half]}\n… {len(text) - limit} characters left out …\n{text[-half:]}"
    return text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")


__all__ = [
    "CRASH_LIMIT",
    "AttemptError",
    "Cancelled",
    "Completed",
    "Failed",
    "Outcome",
    "Retry",
    "Snooze",
    "TaskTimeout",
    "Wait",
    "decide",
    "storable",
]
