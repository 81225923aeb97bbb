"""Tasks that pgqueue itself enqueues: what they are told, and which tasks can be told it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pgqueue.alert import TOLD
from pgqueue.errors import ArgumentError, ConfigurationError
from pgqueue.names import data_name
from pgqueue.task.options import TaskOptions
from pgqueue.template import names_in

if TYPE_CHECKING:
    from pgqueue.arguments import Signature

FAILED_JOB = ("job_id", "task", "queue", "args", "reason", "error", "fingerprint")
"""What an `on_failed` task is called with; `enqueue_on_failed` in SQL makes it."""
# A serial key is filled in SQL, with what can stand in a key.
PLAIN = (frozenset(FAILED_JOB) | frozenset(TOLD)) - {"args", "error"}

NONE = ""
"""In the tables: none, where a level above names one."""


class Called(Protocol):
    """What is needed to know of a task that is to be called."""

    name: str
    options: TaskOptions
    signature: Signature


Hook = Called | str | Literal[False]


def hook_name(hook: Any, what: str, arguments: Sequence[str] = FAILED_JOB) -> str | None:
    """The name of the task that `what` names; "" for False, which is none, and None where nothing is said.

    Raises ConfigurationError for a task that cannot be called with `arguments`, and for what is no task.

        hook_name(notify, "on_failed of task shop.send")    # "shop.notify"
    """
    if hook is None:
        return None
    if hook is False:
        return NONE
    if isinstance(hook, str):
        return data_name("task", hook)
    if not hasattr(hook, "signature"):
        raise ConfigurationError(f"{what} is {hook!r}: give a task, its name, or False for none")
    check_called(hook, what, arguments)
    return str(hook.name)


def check_called(task: Called, what: str, arguments: Sequence[str] = FAILED_JOB) -> None:
    """Whether pgqueue can enqueue `task` with these arguments. Raises ConfigurationError."""
    try:
        task.signature.check_names(arguments, f"{what}: task {task.name}", "let it take that too, or **rest")
    except ArgumentError as error:
        raise ConfigurationError(f"{error}. It is called with {', '.join(arguments)}") from None
    if task.options.unique is not None:
        raise ConfigurationError(
            f"{what}: task {task.name} has unique=…, which would skip some of what it is to be told: leave it out, "
            "and bound how often it runs with Limit(rate=…)"
        )
    serial_key, can_name = task.options.serial_key, PLAIN.intersection(arguments)
    unknown = set() if serial_key is None else names_in(serial_key) - can_name
    if unknown:
        raise ConfigurationError(
            f"{what}: the serial key {serial_key!r} of task {task.name} names {', '.join(sorted(unknown))}: "
            f"it can name {', '.join(sorted(can_name))}"
        )
