"""`pgqueue queues`: figures, pause and resume, ageing, and the end of a queue."""

from __future__ import annotations

from dataclasses import asdict

import click

from pgqueue.cli.bulk import confirm
from pgqueue.cli.listings import QUEUES
from pgqueue.cli.naming import require
from pgqueue.cli.options import operates, target_options, watch_option, yes_option
from pgqueue.cli.output import duration, note, print_json
from pgqueue.cli.target import Target
from pgqueue.cli.values import DURATION
from pgqueue.wording import counted


@click.group("queues")
@target_options
def command() -> None:
    """List, pause, resume and obliterate queues, and let their jobs age."""


@command.command("list")
@watch_option
@operates
def list_queues(target: Target, watch: float | None) -> None:
    """List queues: jobs by state, the longest wait, and who serves them."""
    app = target.database_app()
    QUEUES.show(app.queues.stats, as_json=target.as_json, watch=watch)


@command.command()
@click.argument("name")
@watch_option
@operates
def stats(target: Target, name: str, watch: float | None) -> None:
    """Show one queue."""
    app = target.database_app()
    require(app, name)
    rows = lambda: [row for row in app.queues.stats() if row.queue == name]  # noqa: E731
    QUEUES.show(rows, as_json=target.as_json, watch=watch)


@command.command()
@click.argument("names", nargs=-1, required=True)
@click.option("--force", is_flag=True, help="Also a queue that nobody knows yet.")
@operates
def pause(target: Target, names: tuple[str, ...], force: bool) -> None:
    """Stop the claims of queues on every worker; running jobs go on."""
    app = target.database_app()
    for name in names:
        if not force:
            require(app, name, forced=True)
    for name in names:
        app.queues[name].pause()
        note(f"Paused {name}: `pgqueue queues resume {name}` lets it go on.")


@command.command()
@click.argument("names", nargs=-1, required=True)
@operates
def resume(target: Target, names: tuple[str, ...]) -> None:
    """Let paused queues go on."""
    app = target.database_app()
    for name in names:
        require(app, name)
    for name in names:
        note(f"Resumed {name}." if app.queues[name].resume() else f"{name} was not paused: nothing was done.")


@command.command()
@click.argument("name")
@click.argument("every", type=DURATION, required=False)
@click.option("--floor", type=int, help="No priority ages beyond this one.")
@click.option("--off", is_flag=True, help="Let priorities stay as they are.")
@operates
def age(target: Target, name: str, every: float | None, floor: int | None, off: bool) -> None:
    """Treat the jobs of a queue one priority sooner for each time EVERY that they have waited.

    Without --floor down to the soonest priority at which its jobs wait or run. Code that declares it sets it again
    when a worker starts.

    \b
      pgqueue queues age email 10m --floor 0
      pgqueue queues age email --off
    """
    if off is (every is not None):
        raise click.UsageError("give a time, as in `pgqueue queues age email 10m`, or --off")
    app = target.database_app()
    require(app, name)
    app.queues[name].age(every, floor=floor)
    note(f"Jobs of {name} age no more." if every is None else f"Jobs of {name} age every {duration(every)}.")


@command.command()
@click.argument("name")
@click.option("--force", is_flag=True, help="Also while jobs of it run: what they come to is not written.")
@yes_option
@operates
def obliterate(target: Target, name: str, force: bool, yes: bool) -> None:
    """Delete a queue: its jobs in every state, its settings, limits and breaker.

    It is paused meanwhile; after an interruption it stays so: say it again. What is enqueued meanwhile stays.
    """
    app = target.database_app()
    require(app, name)
    confirm(f"Delete queue {name} with all its jobs, failed and ended ones too, for good?", yes=yes)
    gone = app.queues.obliterate(name, force=force)
    if target.as_json:
        print_json([{"queue": name, **asdict(gone)}])
    counts = (("waiting", gone.waiting), ("running", gone.running), ("ended", gone.ended), ("failed", gone.failed))
    of = ", ".join(f"{number:,} {what}" for what, number in counts if number)
    note(f"Obliterated {name}: {counted(gone.jobs, 'job')}{f' ({of})' if of else ''}.")
    if gone.schedules:
        note(f"Schedules that enqueue into it again: {', '.join(gone.schedules)}. `pgqueue schedules pause` stops one.")
