"""`pgqueue limits`: how many jobs may run at once and how often they may begin, changed while everything runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import click

from pgqueue.cli.errors import NotFound
from pgqueue.cli.listings import HALTED, LIMITS, PAUSED
from pgqueue.cli.naming import require, task_itself
from pgqueue.cli.options import operates, target_options, watch_option
from pgqueue.cli.output import note
from pgqueue.cli.target import Target
from pgqueue.wording import agreeing, counted, listed

if TYPE_CHECKING:
    from pgqueue.app import PgQueue

COUNT = click.IntRange(1, 2**31 - 1)


@click.group("limits")
@target_options
def command() -> None:
    """List, set, remove, pause and resume limits of queues and tasks, and serial keys."""


def _of_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--queue`, `--task` and `--key`."""
    options = (
        click.option("-q", "--queue", help="Of this queue."),
        click.option("-t", "--task", help="Of this task."),
        click.option("--key", help="A limit of its own for each value: '{customer_id}'."),
    )
    for option in reversed(options):
        function = option(function)
    return function


def _pause_options(function: Callable[..., Any]) -> Callable[..., Any]:
    options = (
        click.option("--value", help="This value of the key alone."),
        click.option("--serial-key", help="This serial key of the queue alone."),
    )
    for option in reversed(options):
        function = option(function)
    return function


@command.command("list")
@watch_option
@operates
def list_limits(target: Target, watch: float | None) -> None:
    """List limits: what they allow, how many jobs run under them, and how many are blocked."""
    app = target.database_app()
    LIMITS.show(app.limits.list, as_json=target.as_json, watch=watch)
    if halted := app.limits.halted():
        note(f"{_are(len(halted), 'serial key')} halted by failed jobs: `pgqueue limits halted` shows which.")
    if paused := app.limits.paused():
        note(f"{_are(len(paused), 'key')} paused by hand: `pgqueue limits paused` shows which.")


@command.command()
@watch_option
@operates
def halted(target: Target, watch: float | None) -> None:
    """List serial keys of which nothing runs since a job of them failed.

    \b
      pgqueue failed redrive 42                              # it runs first, then the others
      pgqueue failed purge 42                                # the others go on without it
      pgqueue limits resume --queue orders --serial-key 7    # so they do here, and it stays failed
    """
    app = target.database_app()
    HALTED.show(app.limits.halted, as_json=target.as_json, watch=watch)


@command.command()
@watch_option
@operates
def paused(target: Target, watch: float | None) -> None:
    """List values of keys, and serial keys, that are paused by hand.

    Whole tasks that are paused are marked in the list of limits, and whole queues in that of queues.
    """
    app = target.database_app()
    PAUSED.show(app.limits.paused, as_json=target.as_json, watch=watch)


@command.command("set")
@_of_options
@click.option("--concurrency", type=COUNT, help="So many at once, on all workers together.")
@click.option("--rate", help="So many begin in a time: 100/min, 5/s.")
@click.option("--burst", type=COUNT, default=1, show_default=True, help="So many may begin together.")
@click.option("--fair", is_flag=True, help="Values of the key share the slots of the queue evenly.")
@operates
def set_limit(
    target: Target,
    queue: str | None,
    task: str | None,
    key: str | None,
    concurrency: int | None,
    rate: str | None,
    burst: int,
    fair: bool,
) -> None:
    """Make a limit, or change the one with the same key.

    It holds on every worker from its next claim on, until the code declares something else than it does now.

    \b
      pgqueue limits set --queue email --rate 100/min
      pgqueue limits set --task shop.tasks.charge --key '{customer_id}' --concurrency 2
    """
    from pgqueue.limit import Limit

    if concurrency is None and rate is None and not fair:
        raise click.UsageError("it would limit nothing: give --concurrency, --rate or both")
    if burst != 1 and rate is None:
        raise click.UsageError("--burst is how many may begin together at a rate: give --rate too")
    if fair and (key is None or task is not None):
        raise click.UsageError("--fair shares the slots of a queue among the values of a key: give --queue and --key")
    app = target.database_app()
    name = known(app, queue, task)
    _check_key(app, name, key)
    app.limits.set(Limit(concurrency, _number(rate), burst, key, fair), queue=queue, task=name)
    note(f"Set for {_named(queue, name, key)}.")


@command.command()
@_of_options
@operates
def remove(target: Target, queue: str | None, task: str | None, key: str | None) -> None:
    """Lift a limit, and let its jobs go.

    Code that declares it makes it again when a worker starts.
    """
    one_of(queue, task)
    app = target.database_app()
    name = None if task is None else task_itself(app, task, _limited(app))
    named = _named(queue, name, key)
    if not app.limits.remove(queue=queue, task=name, key=key):
        raise NotFound(f"there is no limit of {named}: `pgqueue limits list` shows them")
    note(f"Lifted the limit of {named}.")


@command.command()
@_of_options
@_pause_options
@operates
def pause(target: Target, queue: str | None, task: str | None, **which: str | None) -> None:
    """Let nothing begin: of a task, of one value of a key, or of a serial key; what runs goes on.

    \b
      pgqueue limits pause --task shop.tasks.charge
      pgqueue limits pause --queue email --key '{customer_id}' --value 7
    """
    _check_which(queue, **which)
    app = target.database_app()
    name = known(app, queue, task)
    key = which["key"]
    _check_key(app, name, key)
    keys = [row.key for row in app.limits.list() if row.key and row.name == (queue or name)]
    app.limits.pause(queue=queue, task=name, **which)
    note(f"Paused {_named(queue, name, **which)}: `pgqueue limits resume` with the same options lets it go on.")
    if key is not None and key not in keys:
        others = f": the keys there are {listed(keys)}" if keys else ""
        note(f"No limit of {_named(queue, name)} has the key {key}{others}. It holds for jobs with such arguments.")


@command.command()
@_of_options
@_pause_options
@operates
def resume(target: Target, queue: str | None, task: str | None, **which: str | None) -> None:
    """Let go on what was paused."""
    _check_which(queue, **which)
    app = target.database_app()
    name = known(app, queue, task, _limited(app))
    named = _named(queue, name, **which)
    resumed = app.limits.resume(queue=queue, task=name, **which)
    note(f"Resumed {named}." if resumed else f"Nothing was paused of {named}: `pgqueue limits list` shows what is.")


def known(app: PgQueue, queue: str | None, task: str | None, also: Iterable[str] = ()) -> str | None:
    """The task's full name, its own also for an alias. Refuses what nobody knows: it is a typo.

    `also` are names of tasks that are known besides.
    """
    one_of(queue, task)
    if queue is not None:
        require(app, queue)
    return None if task is None else task_itself(app, task, also)


def _check_key(app: PgQueue, task: str | None, key: str | None) -> None:
    """Refuses a template that names what the task does not take, where its code is known."""
    from pgqueue.task.declaring import check_key

    if task is not None and key is not None and (code := app.tasks.named(task)) is not None:
        check_key(task, key, code.signature.names)


def one_of(queue: str | None, task: str | None) -> None:
    if (queue is None) is (task is None):
        raise click.UsageError("give one of --queue and --task")


def _check_which(queue: str | None, key: str | None, value: str | None, serial_key: str | None) -> None:
    if (key is None) is not (value is None):
        raise click.UsageError("give --key and --value, the template and one value of it, or none of them")
    if serial_key is not None and (queue is None or key is not None):
        raise click.UsageError("--serial-key is of a queue: give --queue with it, and neither --task nor --key")


def _are(number: int, noun: str) -> str:
    return f"{counted(number, noun)} {agreeing(number, 'is', 'are')}"


def _limited(app: PgQueue) -> Iterable[str]:
    return (row.name for row in app.limits.list() if row.scope == "task")


def _number(rate: str | None) -> str | float | None:
    try:
        return None if rate is None else float(rate)
    except ValueError:
        return rate


def _named(
    queue: str | None, task: str | None, key: str | None = None, value: str | None = None, serial_key: str | None = None
) -> str:
    name = f"queue {queue}" if queue is not None else f"task {task}"
    if serial_key is not None:
        return f"serial key {serial_key} of {name}"
    if key is None:
        return name
    return f"{name}, {key}" if value is None else f"{name}, {key} = {value}"
