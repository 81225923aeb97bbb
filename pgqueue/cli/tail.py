"""`pgqueue tail`: what workers do, as it happens."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, get_args

import click

from pgqueue.cli.joblog import MARKS
from pgqueue.cli.naming import full_names
from pgqueue.cli.options import operates
from pgqueue.cli.output import DIM, duration, note, print_json, printable, stdout
from pgqueue.cli.target import Target
from pgqueue.cli.values import DURATION
from pgqueue.events import EventName

if TYPE_CHECKING:
    from pgqueue.events import Event

# An enqueue tells no other process.
TOLD = [name for name in get_args(EventName) if name != "enqueued"]


@click.command("tail")
@click.argument("events", nargs=-1, type=click.Choice(TOLD), metavar="[EVENT]...")
@click.option("-q", "--queue", help="Of this queue.")
@click.option("--task", help="Of this task.")
@click.option("--timeout", type=DURATION, help="End after this time (30s); without it, with Ctrl-C.")
@operates
def command(target: Target, events: tuple[EventName, ...], timeout: float | None, **where: str | None) -> None:
    """Show events of all workers that publish them, as they happen: these, or all but progress.

    \b
      pgqueue worker --publish-events
      pgqueue tail failed retried -q email

    Events: started, progress, completed, retried, snoozed, cancelled, failed, released, rescued,
    paused, resumed, drained. Where many happen at once, some are left out.
    """
    app = target.database_app()
    which = {name: value for name, value in full_names(app, where).items() if value is not None}
    if not target.as_json:
        note("Listening to workers that run with --publish-events; Ctrl-C ends it.")
    # What one long job tells would hide the rest.
    wanted = events or [name for name in TOLD if name != "progress"]
    with app.watch(*wanted, timeout=timeout) as heard:
        for event in heard:
            if all(getattr(event, name) == value for name, value in which.items()):
                show(event, as_json=target.as_json)


def show(event: Event, *, as_json: bool) -> None:
    now = datetime.now().astimezone()
    if as_json:
        told = ("name", "job_id", "task", "queue", "attempt", "duration", "detail", "worker")
        print_json([{"at": now, **{name: getattr(event, name) for name in told}}])
        return
    from rich.text import Text

    mark, colour, _ = MARKS.get(event.name, ("·", "bright_black", 0))
    line = Text(f"{now:%H:%M:%S}  ", style=DIM)
    line.append(f"{mark} {event.name:<9}", style=colour)
    of = f"{event.task}  job {event.job_id}" if event.job_id else f"queue {event.queue}"
    line.append(f"  {printable(of)}")
    rest = [
        f"attempt {event.attempt}" if event.attempt > 1 else "",
        "" if event.duration is None else duration(event.duration),
    ]
    detail = f"{event.detail:.3g} %" if isinstance(event.detail, float) else str(event.detail or "")
    rest += [detail, f"in {event.worker}" if event.worker else ""]
    line.append("  " + "  ".join(printable(one) for one in rest if one), style=DIM)
    stdout().print(line)
