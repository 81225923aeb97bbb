"""What a task declares about its jobs, and what one enqueue asks for."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from difflib import get_close_matches
from string import Formatter
from typing import Any, Literal

from pgqueue import arguments
from pgqueue.backoff import Backoff
from pgqueue.errors import ArgumentError, ConfigurationError, seconds
from pgqueue.job import NewJob, checked_key, checked_time
from pgqueue.limit import Limit
from pgqueue.names import data_name

RunIn = Literal["coroutine", "thread", "process"]

PRIORITIES = range(-(2**15), 2**15)


@dataclass(frozen=True, slots=True)
class Unique:
    """A template of the unique key, filled with the job's arguments: at most one live job of a queue has the key.

    @app.task(unique=Unique("thumb:{image_id}"))
    """

    key: str


def names_in(template: str) -> set[str]:
    """The arguments that the template of a key names. Raises ValueError where it is none."""
    return {name.split(".")[0].split("[")[0] for _, name, _, _ in Formatter().parse(template) if name is not None}


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """What a task declares about its jobs; None leaves it to the queue and the app. `timeout` is in seconds."""

    queue: str = "default"
    priority: int | None = None
    max_attempts: int | None = None
    timeout: float | None = None
    backoff: Backoff | None = None
    unique: Unique | None = None
    serial_key: str | None = None
    limit: Limit | Sequence[Limit] | None = None
    keep_completed: bool = True
    transactional: bool = False
    bind: bool = False
    run_in: RunIn | None = None


def task_options(**given: Any) -> TaskOptions:
    """What a decorator was given. Raises ConfigurationError for an option that there is not."""
    known = ["name", *(field.name for field in fields(TaskOptions))]
    for name in given:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            fix = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
            raise ConfigurationError(f"@app.task has no option {name!r}: {fix}")
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
