"""`pgqueue run`: a task in this process, without a queue."""

from __future__ import annotations

import asyncio
import inspect
import sys
import traceback
from contextvars import copy_context
from types import TracebackType
from typing import TYPE_CHECKING, Any

import click

from pgqueue.cli.enqueue import typed
from pgqueue.cli.errors import OperationFailed
from pgqueue.cli.naming import full_name
from pgqueue.cli.options import app_option, database_options, json_option
from pgqueue.cli.target import Target

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgqueue.app import PgQueue
    from pgqueue.context import Context
    from pgqueue.task import Task


@click.command("run")
@click.argument("task")
@click.argument("arguments", nargs=-1, metavar="[NAME=VALUE]...")
@database_options
@app_option
@json_option
@click.pass_obj
def command(target: Target, task: str, arguments: tuple[str, ...]) -> None:
    """Run a task here and now, and print its result as JSON.

    No job is made, nothing is retried, and no database is needed, but for transactional tasks. Its timeout holds:

    \b
      pgqueue run shop.tasks.send_email to=a@b.c
    """
    from pgqueue.context import Context
    from pgqueue.errors import PgQueueError, TaskSignal

    app = target.load_app()
    none = ", nor any other: name the module of your tasks with -a MODULE:APP"
    found = app.tasks[full_name(app.tasks.aliases.get(task, task), app.tasks, whose="this app has", none=none)]
    kwargs = typed(found, arguments)
    context = Context(0, found.name, found.options.queue, 1, found.options.max_attempts or app.max_attempts)
    try:
        # In a context of its own: what runs next in this process is not part of this job.
        value = copy_context().run(run, app, found, kwargs, context)
    except TaskSignal as signal:
        raise OperationFailed(f"{found.name} ended with {type(signal).__name__}: {signal}") from signal
    except Exception as error:
        if isinstance(error, PgQueueError) and found.options.transactional and context.connection is None:
            # The transaction could not begin: none of the task's code has run.
            raise
        traceback.print_exception(error.with_traceback(own_part(error.__traceback__)), file=sys.stderr)
        raise OperationFailed(f"{found.name} raised {type(error).__name__}") from error
    ended = found.completed(value)
    if ended.result is not None:
        click.echo(ended.result)


def own_part(trace: TracebackType | None) -> TracebackType | None:
    """From the task's first line on: what follows the last frame of this module."""
    found = step = trace
    while step is not None:
        if step.tb_frame.f_code.co_filename == __file__:
            found = step.tb_next
        step = step.tb_next
    return found


def declared_timeout(app: PgQueue, task: Task[..., Any]) -> float | None:
    """Seconds, as a worker would allow."""
    from pgqueue.worker.timeouts import timeout_of

    queue = app.declared_queues.get(task.options.queue)
    return timeout_of(task, None if queue is None else queue.timeout, app.timeout)


def run(app: PgQueue, task: Task[..., Any], kwargs: dict[str, Any], context: Context) -> Any:
    from pgqueue.context import enter
    from pgqueue.worker.timeouts import bounded

    enter(context)
    timeout = declared_timeout(app, task)
    if inspect.iscoroutinefunction(task.function):
        return asyncio.run(bounded(run_coroutine(app, task, kwargs, context), timeout, task.name))

    def call() -> Any:
        return run_function(app, task, kwargs, context)

    return call() if timeout is None else asyncio.run(run_in_thread(call, timeout, task, context))


async def run_in_thread(call: Callable[[], Any], timeout: float, task: Task[..., Any], context: Context) -> Any:
    """A thread cannot be stopped: it is told, and ends with this process."""
    from pgqueue.worker.threads import Threads
    from pgqueue.worker.timeouts import timed_out

    future = Threads(1, "pgqueue-run").run(call)
    done, _ = await asyncio.wait({future}, timeout=timeout)
    if not done:
        context.stop()
        raise timed_out(task.name, timeout)
    return future.result()


def run_function(app: PgQueue, task: Task[..., Any], kwargs: dict[str, Any], context: Context) -> Any:
    if not task.options.transactional:
        return called(task, kwargs, context)
    from pgqueue.database import lent

    with app.database.transaction() as connection, lent(connection):
        context.connection = connection
        return called(task, kwargs, context)


async def run_coroutine(app: PgQueue, task: Task[..., Any], kwargs: dict[str, Any], context: Context) -> Any:
    from pgqueue.database import alent

    try:
        if not task.options.transactional:
            return await called(task, kwargs, context)
        async with app.database.atransaction() as connection, alent(connection):
            context.connection = connection
            return await called(task, kwargs, context)
    finally:
        await app.aclose()


def called(task: Task[..., Any], kwargs: dict[str, Any], context: Context) -> Any:
    """What the function returns, or a chunk task for the one job."""
    if task.chunk is not None:
        from pgqueue.task.chunkcall import alone

        return alone(task, kwargs, context)
    if task.options.bind:
        kwargs = {**kwargs, task.signature.context_name: context}
    return task.function(**kwargs)
