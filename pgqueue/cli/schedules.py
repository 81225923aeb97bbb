"""`pgqueue schedules`: repeatable jobs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from pgqueue.cli.bulk import confirm
from pgqueue.cli.errors import NotFound, OperationFailed, did_you_mean
from pgqueue.cli.listings import SCHEDULES, UPCOMING
from pgqueue.cli.options import operates, target_options, watch_option, yes_option
from pgqueue.cli.output import note, print_json, relative
from pgqueue.cli.target import Target
from pgqueue.errors import ConfigurationError

if TYPE_CHECKING:
    from pgqueue.app import PgQueue
    from pgqueue.queries.scheduling import ScheduleRow


@click.group("schedules")
@target_options
def command() -> None:
    """List, run, pause and remove schedules."""


@command.command("list")
@watch_option
@operates
def list_schedules(target: Target, watch: float | None) -> None:
    """List schedules by name, with their next time."""
    app = target.database_app()
    SCHEDULES.show(app.schedules.list, as_json=target.as_json, watch=watch)


@command.command("next")
@click.argument("name", required=False)
@click.option("-n", "--count", type=click.IntRange(min=1, max=1000), default=5, show_default=True, help="How many.")
@operates
def upcoming(target: Target, name: str | None, count: int) -> None:
    """Show the next times, of one schedule or of all."""
    app = target.database_app()
    rows = [find(app, name)] if name else [row for row in app.schedules.list() if row.enabled]
    times = []
    for row in rows:
        try:
            times += [(row.name, moment) for moment in app.schedules.upcoming(row.name, count)]
        except ConfigurationError as error:
            if name:
                raise
            note(f"{row.name} is bad: {error}")
    times.sort(key=lambda pair: pair[1])
    UPCOMING.show(lambda: times[:count], as_json=target.as_json)


@command.command()
@click.argument("name")
@operates
def run(target: Target, name: str) -> None:
    """Enqueue a schedule's job now. Its next times stay."""
    app = target.database_app()
    row = find(app, name)
    if row.unreadable is not None:
        raise OperationFailed(f"the args of schedule {name} cannot be read: {row.unreadable}")
    headers = {"schedule": row.name, "scheduled_for": datetime.now(UTC).isoformat()}
    job = app.enqueue(row.task, row.args, headers=headers, queue=row.queue)
    if target.as_json:
        print_json([{"id": job.id, "queue": job.queue, "task": job.task, "state": job.state}])
    note(f"Enqueued job {job.id}: {job.task} in {job.queue}.")


@command.command()
@click.argument("name")
@operates
def pause(target: Target, name: str) -> None:
    """Fire no more until it is resumed."""
    app = target.database_app()
    app.schedules.pause(find(app, name).name)
    note(f"Paused {name}: `pgqueue schedules resume {name}` lets it go on.")


@command.command()
@click.argument("name")
@operates
def resume(target: Target, name: str) -> None:
    """Fire again, from the next time on; missed times are left out."""
    app = target.database_app()
    app.schedules.resume(find(app, name).name)
    following = find(app, name).next_run_at
    note(f"Resumed {name}" + (f": it fires {relative(following)}." if following else "."))


@command.command()
@click.argument("name")
@yes_option
@operates
def remove(target: Target, name: str, yes: bool) -> None:
    """Delete a schedule. One that the code declares comes back at the scheduler's next start."""
    app = target.database_app()
    row = find(app, name)
    confirm(f"Remove the schedule {name}?", yes=yes)
    app.schedules.remove(name)
    back = ": the code declares it, so it comes back at the scheduler's next start" if row.source == "code" else ""
    note(f"Removed {name}{back}.")


def find(app: PgQueue, name: str) -> ScheduleRow:
    rows = {row.name: row for row in app.schedules.list()}
    if name not in rows:
        hint = did_you_mean(name, rows) or ": `pgqueue schedules list` shows them"
        raise NotFound(f"there is no schedule `{name}`{hint}")
    return rows[name]
