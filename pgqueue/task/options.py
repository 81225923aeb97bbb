"""What a task declares about its jobs, and what one enqueue asks for."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from difflib import get_close_matches
from typing import Any, Literal, get_args

from pgqueue import arguments
from pgqueue.backoff import Backoff
from pgqueue.breaker import Breaker
from pgqueue.errors import ArgumentError, ConfigurationError, seconds
from pgqueue.job import NewJob, checked_key, checked_tag, checked_time
from pgqueue.limit import Limit
from pgqueue.names import data_name
from pgqueue.retention import Retention, retention
from pgqueue.template import UNFIT, as_text, checked_template, names_in, replaced

OnConflict = Literal["skip", "replace", "reschedule", "keep_last_if_running", "error"]
Errors = type[BaseException] | tuple[type[BaseException], ...]
RunIn = Literal["coroutine", "thread", "process"]

FOREVER = timedelta(days=36_525)
PRIORITIES = range(-(2**15), 2**15)


@dataclass(frozen=True, slots=True)
class Unique:
    """A template of the unique key, filled with the job's arguments: at most one live job of a queue has the key.

    `on_conflict` says what an enqueue does while a job holds it:

    - "skip": nothing; that job is returned;
    - "replace": the waiting job gets the new arguments, options and time, and its attempts anew;
    - "reschedule": the waiting job gets the new time (debounce);
    - "keep_last_if_running": the waiting job gets the new arguments and keeps its time; beside a running job one more
      waits, and begins when that has ended;
    - "error": KeyHeld is raised.

    A running job is left alone: with "replace", "reschedule" and "keep_last_if_running" it gives its key to a new
    job, and where it fails while that one lives it does not run again. `until` is how long the key is held: "ended", a
    time (at most one enqueue in it, whether the job has ended or not), or "forever". Raises ConfigurationError.

        @app.task(unique=Unique("thumb:{image_id}"))
        @app.task(unique=Unique("report:{day}", until=timedelta(hours=1)))
        @app.task(unique=Unique("sync:{customer_id}", on_conflict="keep_last_if_running"))
    """

    key: str
    on_conflict: OnConflict = "skip"
    until: Literal["ended", "forever"] | timedelta = "ended"

    def __post_init__(self) -> None:
        checked_template(self.key, "Unique(key)")
        if self.on_conflict not in get_args(OnConflict):
            known = ", ".join(map(repr, get_args(OnConflict)))
            raise ConfigurationError(f"Unique(on_conflict={self.on_conflict!r}) is not known: use one of {known}")
        until: object = self.until
        if until not in ("ended", "forever") and not (isinstance(until, timedelta) and timedelta() < until <= FOREVER):
            raise ConfigurationError(
                f"Unique(until={until!r}) is not valid: use 'ended', 'forever', or a timedelta above 0, below a century"
            )

    @property
    def keep_key(self) -> timedelta | None:
        """How long the key stays used after the enqueue; None: until the job has ended."""
        match self.until:
            case "ended":
                return None
            case "forever":
                return 2 * FOREVER
            case time:
                return time

    @property
    def conflict(self) -> OnConflict | None:
        """None for what needs no word: the key is held by a live job, and an enqueue skips."""
        return None if self.on_conflict == "skip" and self.until == "ended" else self.on_conflict


def filled(template: str, args: Mapping[str, Any], what: str = "key") -> str:
    """The key of a job with these arguments. Raises ArgumentError."""

    def text_of(name: str) -> str:
        if name not in args:
            missing = ", ".join(sorted(names_in(template) - args.keys()))
            raise ArgumentError(f"the {what} {template!r} names {missing}, which is no argument of the job: pass it")
        if isinstance(value := args[name], UNFIT):
            raise ArgumentError(
                f"the {what} {template!r} cannot be filled with {name}={str(value)[:60]}: a key is made of text, whole "
                "numbers and booleans. Pass the argument as one of those, or give the key itself"
            )
        return as_text(value)

    return checked_key(replaced(template, text_of), what)


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """What a task declares about its jobs; None leaves it to the queue and the app. `timeout` is in seconds.

    An error is retried if it is one of `retry_on`, or that is not given, and none of `give_up_on`. `chunk` is how many
    jobs a call gets at most, `wait` for how many seconds they are gathered.
    """

    queue: str = "default"
    priority: int | None = None
    max_attempts: int | None = None
    timeout: float | None = None
    backoff: Backoff | None = None
    retry_on: Errors | None = None
    give_up_on: Errors | None = None
    unique: Unique | None = None
    serial_key: str | None = None
    limit: Limit | Sequence[Limit] | None = None
    breaker: Breaker | None = None
    keep_completed: Retention | None = None
    keep_failed: Retention | None = None
    on_failed: Any = None
    halt_on_failed: bool = False
    transactional: bool = False
    bind: bool = False
    run_in: RunIn | None = None
    aliases: Sequence[str] = ()
    chunk: int | None = None
    wait: float | timedelta | None = None

    def gives_up(self, error: BaseException) -> bool:
        """Whether the error is not one to be retried."""
        wrong = self.give_up_on is not None and isinstance(error, self.give_up_on)
        return wrong or (self.retry_on is not None and not isinstance(error, self.retry_on))


def task_options(**given: Any) -> TaskOptions:
    """What a decorator was given. Raises ConfigurationError for an option that there is not."""
    known = ["name", *(field.name for field in fields(TaskOptions))]
    for name in given:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            fix = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
            raise ConfigurationError(f"@app.task has no option {name!r}: {fix}")
    for name in ("keep_completed", "keep_failed"):
        given[name] = retention(given.get(name), f"{name} of @app.task")
    return TaskOptions(**given)


def new_job(
    task: str,
    args: str,
    *,
    queue: str | None = None,
    delay: float | timedelta | None = None,
    run_at: datetime | None = None,
    priority: int | None = None,
    key: str | None = None,
    serial_key: str | None = None,
    unique: Unique | None = None,
    max_attempts: int | None = None,
    timeout: float | timedelta | None = None,
    tags: Sequence[str] | None = None,
    headers: Mapping[str, Any] | None = None,
) -> NewJob:
    """A job with every option checked. `args` is JSON text. Raises ArgumentError that names the option and the fix."""
    if run_at is not None:
        if delay is not None:
            raise ArgumentError(f"{task}: both delay={delay!r} and run_at={run_at!r} were given: give one of the two")
        checked_time(task, run_at)
    if priority is not None and (type(priority) is not int or priority not in PRIORITIES):
        raise ArgumentError(
            f"{task}: priority={priority!r} must be a whole number from -32768 to 32767; lower runs first"
        )
    if max_attempts is not None and (type(max_attempts) is not int or not 1 <= max_attempts <= 2**31 - 1):
        raise ArgumentError(f"{task}: max_attempts={max_attempts!r} must be a whole number from 1 to 2,147,483,647")
    if timeout is not None and seconds(timeout, "timeout") <= 0:
        raise ArgumentError(f"{task}: timeout={timeout!r} must be above 0 seconds")
    if tags is not None and not (_is_list(tags) and all(isinstance(tag, str) for tag in tags)):
        raise ArgumentError(f"{task}: tags={tags!r} must be a list of strings")
    for tag in tags or ():
        checked_tag(tag, task)
    if headers is not None and not isinstance(headers, Mapping):
        raise ArgumentError(f"{task}: headers={headers!r} must be a mapping")
    if queue is not None:
        _checked(task, queue)
    limit = arguments.ARGUMENTS_LIMIT
    return NewJob(
        task,
        args,
        queue,
        priority,
        run_at,
        None if delay is None else seconds(delay),
        max_attempts,
        None if key is None else checked_key(key),
        None if serial_key is None else checked_key(serial_key, "serial_key"),
        None if unique is None else unique.conflict,
        None if unique is None else unique.keep_key,
        arguments.dumps(list(tags), what=f"tags of {task}", limit=limit) if tags else None,
        arguments.dumps(dict(headers), what=f"headers of {task}", limit=limit) if headers else None,
        None if timeout is None else json.dumps({"timeout": seconds(timeout)}),
    )


def _is_list(value: object) -> bool:
    return isinstance(value, Collection) and not isinstance(value, str | bytes | Mapping)


def _checked(task: str, queue: str) -> None:
    try:
        data_name("queue", queue)
    except ConfigurationError as error:
        raise ArgumentError(f"{task}: {error}") from None
