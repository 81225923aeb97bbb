"""`pgqueue jobs`: jobs in every state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import IO, TYPE_CHECKING, Any, get_args

import click

from pgqueue.cli.bulk import confirm, in_batches
from pgqueue.cli.detail import show_job
from pgqueue.cli.errors import NAMED, NotFound
from pgqueue.cli.listings import JOBS, job_record
from pgqueue.cli.naming import full_names, require
from pgqueue.cli.options import limit_option, operates, target_options, watch_option, yes_option
from pgqueue.cli.output import note, print_json, relative
from pgqueue.cli.target import Target
from pgqueue.cli.values import DURATION, MOMENT, parse_arguments
from pgqueue.job import JobState
from pgqueue.wording import counted

if TYPE_CHECKING:
    from pgqueue.app import PgQueue

STATES = get_args(JobState)
LIVE = ("available", "scheduled", "blocked", "running")
FORMATS = ("jsonl", "csv")
PURGED = ("available", "scheduled", "blocked", "completed", "cancelled", "failed")


@click.group("jobs")
@target_options
def command() -> None:
    """List, show, edit, cancel, promote, delete, purge and export jobs."""


def filters(states: Sequence[str]) -> Callable[[Any], Any]:
    """`--queue --task --state --key --tag`."""

    def add(function: Any) -> Any:
        for name, text in (
            ("tag", "With this tag."),
            ("key", "With this unique key."),
            ("task", "Of this task."),
            ("queue", "In this queue."),
        ):
            short = [f"-{name[0]}"] if name in ("queue", "task") else []
            function = click.option(*short, f"--{name}", help=text)(function)
        return click.option("-s", "--state", type=click.Choice(list(states)), help="In this state.")(function)

    return add


@command.command("list")
@filters(STATES)
@click.option("--before", type=int, metavar="ID", help="Only ids below this one: the next page.")
@limit_option
@watch_option
@operates
def list_jobs(target: Target, limit: int, watch: float | None, **where: Any) -> None:
    """List jobs, newest first: live, completed, cancelled and failed."""
    app = target.database_app()
    which = full_names(app, where)
    JOBS.show(lambda: app.jobs.list(limit=limit, **which), as_json=target.as_json, watch=watch)


@command.command()
@click.argument("job_id", type=int)
@operates
def show(target: Target, job_id: int) -> None:
    """Show one job: arguments, progress, result, the error of every attempt, and what its task has logged."""
    jobs = target.database_app().jobs
    show_job(jobs.get(job_id), jobs.progress(job_id), jobs.logs(job_id), as_json=target.as_json)


@command.command()
@click.argument("job_ids", type=int, nargs=-1)
@filters(LIVE)
@click.option("--why", default="cancelled from the command line", show_default=True, help="Reason that is kept.")
@yes_option
@operates
def cancel(target: Target, job_ids: tuple[int, ...], why: str, yes: bool, **where: Any) -> None:
    """Cancel jobs by id, or all live ones that match the filters.

    A waiting job ends at once. A running one is asked to stop, and is not retried.
    """
    app = target.database_app()
    ids = chosen(app, job_ids, LIVE, where)
    if ids and not job_ids:
        confirm(f"Cancel {counted(len(ids), 'job')}?", yes=yes)
    done = in_batches("Cancelling", ids, lambda batch: len(app.jobs.cancel(batch, why=why)))
    refuse_none(job_ids, done, "live")
    note(f"Cancelled {counted(done, 'job')}{_of(done, ids, 'had ended, or are not known')}.")


@command.command()
@click.argument("job_id", type=int)
@click.argument("arguments", nargs=-1, metavar="[NAME=VALUE]...")
@click.option("--unset", multiple=True, metavar="NAME", help="Leave this argument out. Repeatable.")
@click.option("-q", "--queue", help="Move it to this queue.")
@click.option("--priority", type=int, help="Lower runs first.")
@click.option("--max-attempts", type=click.IntRange(min=1), help="Attempts, those that it has used included.")
@click.option("--delay", type=DURATION, help="Run after so long, from now: 30, 5m, 1h30m.")
@click.option("--at", type=MOMENT, help="Run at this time: 2026-12-31T09:00+01:00.")
@click.option("--force", is_flag=True, help="Also into a queue that nobody knows yet.")
@operates
def edit(
    target: Target, job_id: int, arguments: tuple[str, ...], force: bool, at: datetime | None, **given: Any
) -> None:
    """Change a job that waits: arguments, queue, priority, attempts or time.

    What is not named stays. Values are read as `pgqueue enqueue` reads them, and checked against the task's signature
    where its code is at hand. Refused for a job that runs, and for what its keys would not allow.

    \b
      pgqueue jobs edit 42 to=a@b.c copies:=2 --priority -5
      pgqueue jobs edit 42 --delay 1h
    """
    from pgqueue.cli.enqueue import texts
    from pgqueue.cli.target import check

    if (app := target.optional_app()) is None:
        app = target.database_app()
    else:
        check(app)
    if given["queue"] is not None and not force:
        require(app, given["queue"], forced=True)
    task = app.tasks.named(app.jobs.get(job_id).task)
    named = parse_arguments(arguments, frozenset() if task is None else texts(task))
    changed = {name: value for name, value in {**given, "run_at": at}.items() if value not in (None, ())}
    if not named and not changed:
        raise click.UsageError(
            "nothing is to change: give NAME=VALUE, --unset, --queue, --priority, --max-attempts, --at or --delay"
        )
    job = app.jobs.edit(job_id, named, **changed)
    if task is None and (named or given["unset"]):
        note(f"The arguments were not checked: the code of {job.task} is not at hand; -a MODULE:APP reads it.")
    if target.as_json:
        print_json([job_record(job)])
        return
    late = f", {relative(job.run_at)}" if job.state == "scheduled" else ""
    note(f"Edited job {job.id}: {job.task} in {job.queue}, priority {job.priority}{late}.")


@command.command()
@click.argument("job_ids", type=int, nargs=-1)
@filters(("scheduled",))
@yes_option
@operates
def promote(target: Target, job_ids: tuple[int, ...], yes: bool, **where: Any) -> None:
    """Let scheduled jobs run now instead of later, retries included.

    It is told which of those that were named wait for something else than their time.
    """
    from pgqueue.queries import inspecting

    app = target.database_app()
    ids = chosen(app, job_ids, ("scheduled",), where)
    if ids and not job_ids:
        confirm(f"Promote {counted(len(ids), 'job')}?", yes=yes)

    promoted: set[int] = set()

    def act(batch: Sequence[int]) -> int:
        moved = [id_ for (id_,) in app.database.fetch(inspecting.promote(app.schema, batch))]
        promoted.update(moved)
        return len(moved)

    done = in_batches("Promoting", ids, act)
    others = sorted({*job_ids} - promoted)
    why = _not_scheduled(app, others) if others else ""
    if job_ids and not done:
        raise NotFound(f"nothing was promoted: {why}")
    note(f"Promoted {counted(done, 'job')}{_of(done, ids, 'were not waiting for their time')}{why and f': {why}'}.")


@command.command()
@click.argument("job_ids", type=int, nargs=-1)
@filters(PURGED)
@yes_option
@operates
def delete(target: Target, job_ids: tuple[int, ...], yes: bool, **where: Any) -> None:
    """Delete waiting and ended jobs for good, by id or all that match the filters; no history is left.

    Running jobs stay: cancel them. In flows a waiting job counts as cancelled to those that wait for it. `jobs purge`
    deletes by state and age, and is meant for many.

    \b
      pgqueue jobs delete 41 42
      pgqueue jobs delete --tag trial --state failed
    """
    app = target.database_app()
    ids = chosen(app, job_ids, PURGED, where)
    if ids:
        confirm(f"Delete {counted(len(ids), 'job')} for good?", yes=yes)
    done = in_batches("Deleting", ids, lambda batch: len(app.jobs.delete(batch)))
    refuse_none(job_ids, done, "waiting or ended")
    note(f"Deleted {counted(done, 'job')}{_of(done, ids, 'run, are being redriven, or are gone already')}.")


@command.command()
@filters(STATES)
@click.option("-f", "--format", type=click.Choice(FORMATS), help="[by FILE's suffix, else jsonl]")
@click.option("-o", "--output", type=click.File("w", encoding="utf-8"), default="-", help="A file, instead of stdout.")
@operates
def export(target: Target, format: str | None, output: IO[str], **where: Any) -> None:
    """Write jobs of every state, oldest first, as JSON lines or CSV.

    Whole: arguments, results, headers and errors, with whatever secrets are in them. Millions fill no memory, and hold
    nothing up.

    \b
      pgqueue jobs export --state failed -o failed.csv
      pgqueue jobs export -q email | jq -r .args.to
    """
    from pgqueue.cli.exporting import write

    app = target.database_app()
    which = full_names(app, where)
    done = write(
        app.jobs.export(**which), output, format or ("csv" if output.name.lower().endswith(".csv") else "jsonl")
    )
    note(f"Exported {counted(done, 'job')}.")


@command.command()
@click.option("-s", "--state", type=click.Choice(PURGED), multiple=True, required=True, help="Repeatable.")
@click.option("--older-than", type=DURATION, help="Enqueued, or ended, longer ago: 12h, 30d.")
@click.option("-q", "--queue", help="In this queue.")
@click.option("-t", "--task", help="Of this task.")
@click.option("--dry-run", is_flag=True, help="Only say how many.")
@yes_option
@operates
def purge(target: Target, state: tuple[Any, ...], dry_run: bool, yes: bool, **where: Any) -> None:
    """Delete jobs in a state for good; no history is left.

    Waiting jobs of which a history is to be kept are cancelled instead, and running ones cannot be purged.

    \b
      pgqueue jobs purge -s completed -s cancelled --older-than 12h
      pgqueue jobs purge -s scheduled -q email
    """
    from pgqueue.client.jobs import purging_of
    from pgqueue.queries import purging

    app = target.database_app()
    where = full_names(app, where)
    number = sum(app.database.fetch(purging.count(app.schema, one))[0] for one in purging_of(state, **where))
    if dry_run or not number:
        note(f"{counted(number, 'job')} would be meant." if dry_run else "No job matches: nothing was done.")
        return
    confirm(f"Delete {counted(number, 'job')} for good?", yes=yes)
    note(f"Purged {counted(app.jobs.purge(state, **where), 'job')}.")


def chosen(app: PgQueue, job_ids: Sequence[int], states: Sequence[str], where: dict[str, Any]) -> Sequence[int]:
    """The ids given, or those that match: one of the two."""
    from pgqueue.queries.inspecting import JobFilter, ids_of

    given = {name: value for name, value in where.items() if value is not None}
    if job_ids:
        if given:
            raise click.UsageError(f"give either ids or --{next(iter(given))}, not both")
        return job_ids
    if not given:
        raise click.UsageError("which jobs? give ids, or a filter such as --queue or --task")
    given = full_names(app, given)
    found: list[int] = []
    for state in states if given.get("state") is None else [given["state"]]:
        found += app.database.fetch(ids_of(app.schema, JobFilter(**{**given, "state": state}), 2**31 - 1))
    return found


def _not_scheduled(app: PgQueue, ids: Sequence[int]) -> str:
    """What each of these jobs is, since it is not scheduled."""
    states = {job.id: job.state for job in app.jobs.list(ids=tuple(ids), limit=2 * len(ids))}
    said = []
    for id_ in ids[:NAMED]:
        match states.get(id_):
            case None:
                said.append(f"there is no job {id_}")
            case "blocked":
                said.append(f"job {id_} is blocked, and not by its time (`pgqueue why {id_}`)")
            case "available":
                said.append(f"job {id_} is available already (`pgqueue why {id_}`)")
            case "running":
                said.append(f"job {id_} is running")
            case "scheduled":
                said.append(f"job {id_} is scheduled since: try again")
            case ended:
                said.append(f"job {id_} has ended: it is {ended}")
    more = f"; and {len(ids) - NAMED:,} more" if len(ids) > NAMED else ""
    return "; ".join(said) + more


def refuse_none(job_ids: Sequence[int], done: int, what: str) -> None:
    if job_ids and not done:
        ids = ", ".join(map(str, job_ids[:5])) + (", …" if len(job_ids) > 5 else "")
        raise NotFound(f"no {what} job has the id {ids}: `pgqueue jobs show ID` tells its state")


def _of(done: int, ids: Sequence[int], why: str) -> str:
    return f" of {len(ids):,}: the rest {why}" if done < len(ids) else ""
