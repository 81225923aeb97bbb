"""How long a run may take, and what is raised when it took longer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, TypeVar

from pgqueue.errors import TaskTimeout

if TYPE_CHECKING:
    from pgqueue.task import Task

Value = TypeVar("Value")


def timeout_of(task: Task[..., Any], of_queue: float | None, of_app: float | None) -> float | None:
    """Seconds: the task's own, else its queue's, else the app's."""
    if task.options.timeout is not None:
        return task.options.timeout
    return of_app if of_queue is None else of_queue


async def bounded(run: Awaitable[Value], timeout: float | None, task: str) -> Value:
    """What `run` returns. Raises TaskTimeout after `timeout` seconds; a TimeoutError of its own stays as it is."""
    bound = asyncio.timeout(timeout)
    try:
        async with bound:
            return await run
    except TimeoutError as error:
        if bound.expired():
            raise timed_out(task, timeout) from error
        raise


def timed_out(task: str, timeout: float | None) -> TaskTimeout:
    return TaskTimeout(f"task {task} ran longer than its timeout of {timeout:g} s")
