"""Running one task without a database."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

from pgqueue import arguments
from pgqueue.context import Context, enter
from pgqueue.errors import ConfigurationError
from pgqueue.task import BoundTask, Task
from pgqueue.task.chunkcall import alone

P = ParamSpec("P")
R = TypeVar("R")


def run_inline(task: Task[P, R] | BoundTask[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """Run a task here, without a database, and return what it returns: an awaitable for a coroutine task.

    The arguments are checked, written as JSON and read back typed, as a job's are; `current_job()` and the Context are
    those of a first attempt. What the task raises comes through, RetryJob and the like too. Options of `task.using`
    show in the Context: `headers`, `queue`, `max_attempts`; its connection is `ctx.connection`, which a transactional
    task needs. A process task runs in this process. A chunk task gets the one job, and what comes of it is returned
    or raised. `once` and `step` make every call, and remember none.

    Raises ArgumentError, and ConfigurationError for a transactional task without a connection.

        assert run_inline(add, 2, 3) == 5
        assert await run_inline(send_email, "a@b.c") == "sent"
        run_inline(charge.using(session), order_id=7)
    """
    bound: BoundTask[P, R] = task.using() if isinstance(task, Task) else task
    job = bound.new_job(*args, **kwargs)
    ran = bound.task
    if ran.options.transactional and bound.connection is None:
        raise ConfigurationError(
            f"task {ran.name} is transactional: give it a connection, as in run_inline({ran.__name__}.using(session))"
        )
    headers = arguments.loads(job.headers) if job.headers else {}
    queue, attempts = job.queue or ran.options.queue, job.max_attempts or _attempts(ran)
    context = Context(0, ran.name, queue, 1, attempts, headers, connection=bound.connection)
    call: dict[str, Any] = ran.load(job.args, context)
    inside = contextvars.copy_context()
    if ran.chunk is not None:
        return cast(R, inside.run(alone, ran, call, context))
    inside.run(enter, context)
    if ran.run_in == "coroutine":
        return cast(R, _awaited(ran, call, inside))
    result: R = inside.run(cast(Callable[..., Any], ran.function), **call)
    return result


async def _awaited(task: Task[..., Any], call: dict[str, Any], inside: contextvars.Context) -> Any:
    return await asyncio.create_task(task.function(**call), context=inside)


def _attempts(task: Task[..., Any]) -> int:
    return task.app.max_attempts
