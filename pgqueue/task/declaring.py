"""What a function must be to be a task: its name, how it runs, and declarations that cannot work."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from pgqueue.backoff import Backoff
from pgqueue.breaker import checked
from pgqueue.errors import ArgumentError, ConfigurationError
from pgqueue.limit import limits_of
from pgqueue.names import data_name
from pgqueue.task.hooks import hook_name
from pgqueue.task.options import RunIn, TaskOptions, Unique, new_job
from pgqueue.template import checked_template, names_in

LAST = "keep_last_if_running"


def name_of(function: Callable[..., Any]) -> str:
    module, qualname = function.__module__, function.__qualname__
    if module == "__main__":
        spec = getattr(sys.modules["__main__"], "__spec__", None)
        file = getattr(sys.modules["__main__"], "__file__", None)
        if spec is not None:
            module = spec.name.removesuffix(".__main__")
        elif file is not None:
            module = Path(file).stem
        else:
            raise ConfigurationError(
                f"task {qualname} is defined in an interactive session: workers cannot import it. "
                'Put it in a module, or give it a name: @app.task(name="…")'
            )
    if "<lambda>" in qualname:
        raise ConfigurationError('a lambda has no name to register: give it one with @app.task(name="…")')
    return f"{module}.{qualname.replace('<locals>.', '')}"


def aliases_of(name: str, given: object) -> tuple[str, ...]:
    """The former names of a task, checked. Raises ConfigurationError."""
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise ConfigurationError(f"task {name}: aliases={given!r} must be a list of the names that it had before")
    aliases = tuple(data_name("task", alias) for alias in given)
    if len({name, *aliases}) <= len(aliases):
        raise ConfigurationError(f"task {name}: aliases={list(aliases)} names it twice: name each former name once")
    return aliases


def how_to_run(function: Callable[..., Any], options: TaskOptions, name: str) -> RunIn:
    coroutine = inspect.iscoroutinefunction(function)
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        raise ConfigurationError(f"task {name} is a generator: a task returns its result")
    if options.run_in is None:
        return "coroutine" if coroutine else "thread"
    if options.run_in not in ("coroutine", "thread", "process"):
        raise ConfigurationError(f"task {name}: run_in={options.run_in!r} must be 'coroutine', 'thread' or 'process'")
    if coroutine is not (options.run_in == "coroutine"):
        kind = "a coroutine function" if coroutine else "a plain function"
        raise ConfigurationError(f"task {name} is {kind}: it cannot run in a {options.run_in}")
    if options.run_in == "process" and "<locals>" in function.__qualname__:
        raise ConfigurationError(
            f"task {name} is a local function: a process cannot import it. Move it to module level"
        )
    return options.run_in


def check(name: str, options: TaskOptions, arguments: Collection[str] | None) -> None:
    """Whether its options go together. `arguments`: the names that its keys may use; None for any."""
    try:
        new_job(name, "{}", priority=options.priority, max_attempts=options.max_attempts, timeout=options.timeout)
    except ArgumentError as error:
        raise ConfigurationError(str(error)) from None
    unique: object = options.unique
    if unique is not None and not isinstance(unique, Unique):
        raise ConfigurationError(f"task {name}: unique={unique!r} must be a Unique, as Unique({str(unique)[:60]!r})")
    backoff: object = options.backoff
    if backoff is not None and not isinstance(backoff, Backoff):
        raise ConfigurationError(f"task {name}: backoff={backoff!r} must be a Backoff, as Backoff.fixed(30)")
    for option in ("retry_on", "give_up_on"):
        given = getattr(options, option)
        kinds = given if isinstance(given, tuple) else () if given is None else (given,)
        if given == () or not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds):
            raise ConfigurationError(
                f"task {name}: {option}={given!r} must be an exception class or a tuple of some, such as OSError"
            )
    checked(options.breaker, f"task {name}")
    hook_name(options.on_failed, f"on_failed of task {name}")
    if type(options.halt_on_failed) is not bool:
        raise ConfigurationError(f"task {name}: halt_on_failed={options.halt_on_failed!r} must be True or False")
    if options.transactional and options.run_in == "process":
        raise ConfigurationError(
            f"task {name}: a transactional task cannot run in a process, which has no part in the worker's transaction"
        )
    if options.serial_key is not None and options.unique is not None and options.unique.on_conflict == LAST:
        raise ConfigurationError(
            f"task {name}: on_conflict={LAST!r} orders the jobs of its unique key by itself: leave serial_key out"
        )
    limits = limits_of(options.limit, f"task {name}")
    if any(limit.fair for limit in limits):
        raise ConfigurationError(
            f"task {name}: slots are those of a queue: app.queue({options.queue!r}, limit=Limit(fair=True, …))"
        )
    keyed = [limit.key for limit in limits]
    unique = options.unique.key if options.unique else None
    if options.serial_key is not None:
        checked_template(options.serial_key, f"task {name}: serial_key")
    for template in (unique, options.serial_key, *keyed):
        if template is not None:
            check_key(name, template, arguments)


def check_key(name: str, template: str, arguments: Collection[str] | None) -> None:
    """Whether a key of the task `name` is made of its `arguments`; None for any. Raises ConfigurationError."""
    unknown = set() if arguments is None else names_in(template).difference(arguments)
    if unknown:
        raise ConfigurationError(
            f"task {name}: the key {template!r} names {', '.join(sorted(unknown))}, which is no parameter of it"
        )
