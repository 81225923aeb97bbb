"""`pgqueue enqueue`: one job from the shell."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from pgqueue.cli.naming import require, task_to_enqueue
from pgqueue.cli.options import operates
from pgqueue.cli.output import note, print_json, relative
from pgqueue.cli.target import Target
from pgqueue.cli.values import DURATION, MOMENT, parse_arguments

if TYPE_CHECKING:
    from pgqueue.app import PgQueue
    from pgqueue.job import NewJob
    from pgqueue.task import Task


@click.command("enqueue")
@click.argument("task")
@click.argument("arguments", nargs=-1, metavar="[NAME=VALUE]...")
@click.option("--delay", type=DURATION, help="Run after so long: 30, 5m, 1h30m.")
@click.option("--at", type=MOMENT, help="Run at this time: 2026-12-31T09:00+01:00.")
@click.option("-q", "--queue", help="Queue, instead of the task's own.")
@click.option("--priority", type=int, help="Lower runs first.")
@click.option("--key", help="Unique key: no second job while one with it lives.")
@click.option("--serial-key", help="Jobs of a queue with the same one run one at a time, in order.")
@click.option("--max-attempts", type=click.IntRange(min=1), help="Attempts, the first run included.")
@click.option("--timeout", type=DURATION, help="Time for one run.")
@click.option("--tag", multiple=True, help="Tag. Repeatable.")
@click.option("--force", is_flag=True, help="Also a task or queue that nobody knows yet.")
@operates
def command(target: Target, task: str, arguments: tuple[str, ...], force: bool, **options: Any) -> None:
    """Enqueue one job.

    Values are JSON where they are JSON, else text; name:=value must be JSON. The app is found by itself where the
    working directory has one, and the arguments are checked against the task's signature:

    \b
      pgqueue enqueue shop.tasks.send_email to=a@b.c copies=2 ids:=[1,2]
    """
    from pgqueue.cli.target import check

    if (app := target.optional_app()) is None:
        app = target.database_app()
    else:
        check(app)
    name = task_to_enqueue(app, task, force=force)
    if options["queue"] is not None and not force:
        require(app, options["queue"], forced=True)
    # What a variable sets is named after the option, and the option after what people type.
    options |= {"run_at": options.pop("at"), "tags": options.pop("tag")}
    given = {option: value for option, value in options.items() if value not in (None, ())}
    [job] = app.enqueue_many([new_job(app, name, arguments, given)])
    if app.tasks.named(name) is None:
        note(f"The arguments were not checked: the code of {name} is not at hand; -a MODULE:APP reads it.")
    if target.as_json:
        print_json([{"id": job.id, "queue": job.queue, "task": job.task, "state": job.state, "created": job.created}])
        return
    if not job.created:
        note(f"Job {job.id} holds the key {job.key!r} already ({job.state}): nothing was enqueued.")
        return
    late = f", {relative(job.run_at)}" if job.state == "scheduled" else ""
    note(f"Enqueued job {job.id}: {job.task} in {job.queue}{late}.")


def new_job(app: PgQueue, name: str, arguments: tuple[str, ...], options: dict[str, Any]) -> NewJob:
    task = app.tasks.named(name)
    if task is None:
        return app.new_job(name, parse_arguments(arguments), **options)
    return task.using(**options).job(**typed(task, arguments))


def typed(task: Task[..., Any], arguments: tuple[str, ...]) -> dict[str, Any]:
    """What was typed, as the types of the task's signature. Raises ArgumentError."""
    from pgqueue.errors import ArgumentError

    parsed = parse_arguments(arguments, texts(task))
    task.signature.bound((), parsed)
    try:
        return task.signature.load(json.dumps(parsed))
    except ArgumentError as error:
        # What is advised for stored arguments does not help with a command line.
        raise ArgumentError(str(error).partition(": correct the stored arguments")[0]) from error


def texts(task: Task[..., Any]) -> frozenset[str]:
    """Parameters that are text, where `zip=01234` must not become a number."""
    return frozenset(
        p.name for p in task.signature.parameters() if p.annotation in (str, "str", str | None, "str | None")
    )
