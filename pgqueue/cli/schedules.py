"""`pgqueue schedules`: repeatable jobs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TextIO, get_args

import click

from pgqueue.cli.bulk import confirm
from pgqueue.cli.crontab import read_crontab
from pgqueue.cli.detail import show_facts
from pgqueue.cli.enqueue import new_job
from pgqueue.cli.errors import NotFound, OperationFailed, did_you_mean
from pgqueue.cli.listings import SCHEDULES, UPCOMING
from pgqueue.cli.naming import task_to_enqueue
from pgqueue.cli.options import operates, target_options, watch_option, yes_option
from pgqueue.cli.output import note, print_json, printable, relative
from pgqueue.cli.schedulefacts import facts
from pgqueue.cli.target import Target
from pgqueue.cli.values import DURATION, MOMENT
from pgqueue.english import in_words
from pgqueue.errors import ArgumentError, ConfigurationError
from pgqueue.policy import CatchUp, Overlap
from pgqueue.schedules import Schedule

if TYPE_CHECKING:
    from pgqueue.app import PgQueue
    from pgqueue.queries.scheduling import ScheduleRow


def choice(name: str, values: Any, *, default: str, help: str) -> Callable[[Any], Any]:
    return click.option(name, type=click.Choice(get_args(values)), default=default, show_default=True, help=help)


@click.group("schedules")
@target_options
def command() -> None:
    """List, add, run, pause and remove schedules."""


@command.command("list")
@watch_option
@operates
def list_schedules(target: Target, watch: float | None) -> None:
    """List schedules by name, with their next time."""
    app = target.database_app()
    SCHEDULES.show(app.schedules.list, as_json=target.as_json, watch=watch)


@command.command("next")
@click.argument("name", required=False)
@click.option(
    "-n", "--count", type=click.IntRange(min=1, max=1000), help="So many of each: 5 of one that is named, 1 of all."
)
@operates
def upcoming(target: Target, name: str | None, count: int | None) -> None:
    """Show the next times, of one schedule or of each."""
    app = target.database_app()
    count = count or (5 if name else 1)
    rows = [find(app, name)] if name else [row for row in app.schedules.list() if row.enabled]
    times = []
    for row in rows:
        try:
            zone = None if row.cron is None else row.tz
            times += [(row.name, moment, zone) for moment in app.schedules.upcoming(row.name, count)]
        except ConfigurationError as error:
            if name:
                raise
            note(f"{row.name} is bad: {error}")
    times.sort(key=lambda one: one[1])
    UPCOMING.show(lambda: times, as_json=target.as_json)


@command.command()
@click.argument("name")
@operates
def run(target: Target, name: str) -> None:
    """Enqueue a schedule's job now. Its next times stay."""
    app = target.database_app()
    try:
        job = app.schedules.run(find(app, name).name)
    except (ArgumentError, ConfigurationError) as error:
        raise OperationFailed(str(error)) from error
    if target.as_json:
        print_json([{"id": job.id, "queue": job.queue, "task": job.task, "state": job.state}])
    note(f"Enqueued job {job.id}: {job.task} in {job.queue}.")


@command.command()
@click.argument("name")
@operates
def show(target: Target, name: str) -> None:
    """Show one schedule: when it fires in plain English, and what becomes of missed times and overlaps."""
    row = find(target.database_app(), name)
    if target.as_json:
        print_json([{**asdict(row), "description": in_words(row)}])
        return
    show_facts(facts(row))


@command.command()
@click.argument("name")
@click.argument("task")
@click.argument("arguments", nargs=-1, metavar="[NAME=VALUE]...")
@click.option("--cron", help="A pattern: '0 9 * * MON-FRI'.")
@click.option("--every", type=DURATION, help="An interval: 30, 5m, 1h30m.")
@click.option("--tz", default="UTC", show_default=True, help="Time zone of the pattern.")
@choice("--catch-up", CatchUp, default="latest", help="What becomes of missed times.")
@click.option("--grace", type=DURATION, help="No time is fired later than this.")
@choice("--overlap", Overlap, default="allow", help="While the job before has not ended.")
@click.option("--jitter", type=DURATION, help="Jobs begin up to so much later.")
@click.option("--start", type=MOMENT, help="No time before this one.")
@click.option("--end", type=MOMENT, help="No time after this one.")
@click.option("--max-runs", type=click.IntRange(min=1), help="So many times in all.")
@click.option("-q", "--queue", help="Queue of its jobs, instead of the task's own.")
@click.option("--force", is_flag=True, help="Also a task that nobody knows yet.")
@operates
def add(
    target: Target,
    name: str,
    task: str,
    arguments: tuple[str, ...],
    cron: str | None,
    every: float | None,
    queue: str | None,
    force: bool,
    **policy: Any,
) -> None:
    """Add a schedule, or change one that was added before.

    \b
      pgqueue schedules add monthly-acme shop.tasks.report tenant=acme --cron '0 9 1 * *' --tz Europe/Paris
    """
    if (cron is None) is (every is None):
        raise click.UsageError("give --cron or --every, one of the two")
    app = app_of(target)
    options = {} if queue is None else {"queue": queue}
    job = new_job(app, task_to_enqueue(app, task, force=force), arguments, options)
    row = app.schedules.upsert(name, timedelta(seconds=every) if every is not None else cron or "", job, **policy)
    if target.as_json:
        print_json([asdict(row)])
    note(f"{name}: {printable(in_words(row))}.")


@command.command("import")
@click.argument("crontab", type=click.File())
@click.option("--tz", default="UTC", show_default=True, help="Time zone, until the file says CRON_TZ.")
@click.option("--dry-run", is_flag=True, help="Only show what would be added.")
@click.option("--force", is_flag=True, help="Also tasks that nobody knows yet.")
@operates
def import_crontab(target: Target, crontab: TextIO, tz: str, dry_run: bool, force: bool) -> None:
    """Add the lines of a crontab as schedules: all of them, or none.

    The command of a line is a task and its arguments. A schedule is named after its task, and numbered where there
    are several:

    \b
      CRON_TZ=Europe/Paris
      0 9 * * MON-FRI  shop.tasks.digest kind=daily
    """
    app = app_of(target)
    schedules: list[Schedule] = []
    counts: Counter[str] = Counter()
    for line in read_crontab(crontab, tz):
        task = task_to_enqueue(app, line.task, force=force)
        counts[task] += 1
        name = task if counts[task] == 1 else f"{task}-{counts[task]}"
        schedules.append(Schedule(name, line.cron, new_job(app, task, line.arguments, {}), source="live"))
    if not dry_run:
        app.schedules.upsert_all(schedules)
    now = datetime.now(UTC)
    rows = [schedule.row(now) for schedule in schedules]
    if target.as_json:
        print_json([asdict(row) for row in rows])
    for row in rows:
        note(f"{'Would add' if dry_run else 'Added'} {row.name}: {printable(in_words(row))}.")
    if not rows:
        note("The file has no schedules.")


def app_of(target: Target) -> PgQueue:
    """The app of the code where that is at hand: it checks the arguments."""
    from pgqueue.cli.target import check

    if (app := target.optional_app()) is None:
        return target.database_app()
    check(app)
    return app


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
