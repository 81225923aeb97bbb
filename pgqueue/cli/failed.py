"""`pgqueue failed`: the dead letter queue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pgqueue.cli.bulk import confirm, in_batches
from pgqueue.cli.detail import show_job
from pgqueue.cli.errors import NAMED, NotFound, did_you_mean
from pgqueue.cli.listings import FAILED, FAILURES
from pgqueue.cli.naming import full_names
from pgqueue.cli.options import limit_option, operates, target_options, watch_option, yes_option
from pgqueue.cli.output import note
from pgqueue.cli.target import Target
from pgqueue.errors import JobNotFound
from pgqueue.limit import per_second
from pgqueue.wording import counted, listed

if TYPE_CHECKING:
    from pgqueue.app import PgQueue

F = TypeVar("F", bound=Callable[..., Any])
GROUPS_NAMED = 50
FILTERS = ("queue", "task", "error", "fingerprint")


@click.group("failed")
@target_options
def command() -> None:
    """List, redrive and purge failed jobs."""


def filters(function: F) -> F:
    """`--queue --task --error --fingerprint`."""
    fingerprint = click.option("-f", "--fingerprint", help="With this fingerprint: `pgqueue failed groups` shows them.")
    error = click.option("-e", "--error", metavar="CLASS", help="With this error class, or fingerprint.")
    task = click.option("-t", "--task", help="Of this task.")
    queue = click.option("-q", "--queue", help="Of this queue.")
    return queue(task(error(fingerprint(function))))


@command.command("list")
@filters
@click.option("--before", type=int, metavar="ID", help="Only ids below this one: the next page.")
@limit_option
@watch_option
@operates
def list_failed(target: Target, limit: int, watch: float | None, **where: Any) -> None:
    """List failed jobs, newest first."""
    app = target.database_app()
    which = full_names(app, where)
    FAILED.show(lambda: app.failed.list(limit=limit, **which), as_json=target.as_json, watch=watch)


@command.command()
@filters
@limit_option
@watch_option
@operates
def groups(target: Target, limit: int, watch: float | None, **where: Any) -> None:
    """Count failed jobs by fingerprint: the same task, class and place in the code are one.

    The 100,000 newest that match are counted.

    \b
      pgqueue failed groups --queue email
      pgqueue failed redrive --fingerprint 3f9a0c41b7e2 --dry-run
    """
    app = target.database_app()
    which = full_names(app, where)
    FAILURES.show(lambda: app.failed.groups(limit=limit, **which), as_json=target.as_json, watch=watch)


@command.command()
@click.argument("job_id", type=int)
@operates
def show(target: Target, job_id: int) -> None:
    """Show one failed job: arguments, and the error and traceback of every attempt."""
    app = target.database_app()
    try:
        job = app.failed.get(job_id)
    except JobNotFound:
        # Raises the same where there is no such job at all.
        state = app.jobs.get(job_id).state
        raise NotFound(f"job {job_id} is {state}, not failed: `pgqueue jobs show {job_id}` shows it") from None
    show_job(job, app.jobs.progress(job_id), app.jobs.logs(job_id), as_json=target.as_json)


def bulk(*options: Callable[[Any], Any]) -> Callable[[Callable[..., None]], click.Command]:
    """A command on failed jobs that are named by id, by filters, or --all; its verb works on those that there are."""

    def made(verb: Callable[..., None]) -> click.Command:
        @click.argument("job_ids", type=int, nargs=-1)
        @filters
        @click.option("--all", is_flag=True, help="All failed jobs.")
        @click.option("-n", "--limit", type=click.IntRange(min=1), help="At most so many, the oldest.")
        @click.option("--dry-run", is_flag=True, help="Only say how many.")
        @yes_option
        @operates
        @wraps(verb)
        def act(target: Target, job_ids: tuple[int, ...], yes: bool, dry_run: bool, **given: Any) -> None:
            # A rehearsal says what would be refused too.
            per_second(given.get("rate"))
            app = target.database_app()
            where = full_names(app, {name: given.pop(name) for name in FILTERS})
            ids = chosen(app, job_ids, everything=given.pop("all"), limit=given.pop("limit"), **where)
            if dry_run:
                note(f"{counted(len(ids), 'failed job')} would be meant.")
            elif ids:
                verb(app, ids, named=bool(job_ids), yes=yes, **given)
            else:
                note(none_match(app, **where))

        for option in options:
            act = option(act)
        return command.command()(act)

    return made


@bulk(
    click.option("--rate", help="So many become due in a time: 10/s, 100/min."),
    click.option("--to-queue", help="Into this queue, instead of their own."),
)
def redrive(
    app: PgQueue, ids: Sequence[int], *, named: bool, yes: bool, rate: str | None, to_queue: str | None
) -> None:
    """Send failed jobs back to their queues: by id, by filters, or --all. Attempts start anew."""
    if not named:
        confirm(f"Redrive {counted(len(ids), 'failed job')}?", yes=yes)
    went: set[int] = set()

    def act(batch: Sequence[int]) -> int:
        back = app.failed.redrive(batch, rate=rate, to_queue=to_queue)
        went.update(back)
        return len(back)

    # At a rate, one after the other over all of them.
    done = in_batches("Redriving", ids, act) if rate is None else act(ids)
    left = [id_ for id_ in ids if id_ not in went]
    note(f"Redrove {counted(done, 'failed job')}{_stayed(app, left, to_queue) if left else ''}.")


def _stayed(app: PgQueue, ids: Sequence[int], to_queue: str | None) -> str:
    """Of jobs that were to be redriven and were not: what holds each."""
    from pgqueue.queries.failures import stayed

    still = {id_: rest for id_, *rest in app.database.fetch(stayed(app.schema, ids, to_queue))}
    said = []
    for id_ in ids[:NAMED]:
        match still.get(id_):
            case None:
                said.append(f"job {id_} is no longer failed")
            case [int(holder), _]:
                said.append(f"job {id_} stayed, since live job {holder} holds its key")
            case [_, "child_failed"]:
                said.append(f"job {id_} comes back with the job that it failed for")
            case _:
                said.append(f"job {id_} stayed, since another transaction has locked its row: try again")
    more = [f"and {len(ids) - NAMED:,} more"] if len(ids) > NAMED else []
    return "; " + "; ".join([*said, *more])


@bulk()
def purge(app: PgQueue, ids: Sequence[int], *, named: bool, yes: bool) -> None:
    """Delete failed jobs for good: by id, by filters, or --all."""
    confirm(f"Delete {counted(len(ids), 'failed job')} for good?", yes=yes)
    done = in_batches("Purging", ids, app.failed.purge)
    note(f"Purged {counted(done, 'failed job')}.")


def chosen(
    app: PgQueue, job_ids: Sequence[int], *, everything: bool, limit: int | None, **where: str | None
) -> Sequence[int]:
    """The ids of the failed jobs that are meant; all of those that are named must exist."""
    from pgqueue.queries.failures import FailureFilter, failed_ids

    named = [name for name, value in where.items() if value is not None] + (["all"] if everything else [])
    if job_ids and named:
        raise click.UsageError(f"give either ids or --{named[0]}, not both")
    if not job_ids and not named:
        raise click.UsageError("which failed jobs? give ids, --queue, --task, --error, --fingerprint, or --all")
    which = FailureFilter(ids=tuple(job_ids) or None, **where)
    found = app.database.fetch(failed_ids(app.schema, which, limit))
    missing = sorted(set(job_ids) - set(found))
    if missing and limit is None:
        raise NotFound(_not_failed(app, missing))
    return found


def _not_failed(app: PgQueue, ids: Sequence[int]) -> str:
    states = {job.id: job.state for job in app.jobs.list(ids=tuple(ids), limit=2 * len(ids))}
    said = [f"job {id_} is {states[id_]}, not failed" if id_ in states else f"there is no job {id_}" for id_ in ids]
    return f"nothing was done: {listed(said, NAMED)}"


def none_match(app: PgQueue, **where: Any) -> str:
    """What was looked for, and the errors that there are: in that queue and task, else anywhere."""
    from pgqueue.queries.failures import FailureFilter, failure_groups

    asked = {name: where[name] for name in FILTERS if where[name] is not None}
    for which in (FailureFilter(queue=where["queue"], task=where["task"]), FailureFilter()):
        groups = app.database.fetch(failure_groups(app.schema, which, GROUPS_NAMED))
        if groups:
            break
    else:
        return "There are no failed jobs."
    kinds = list(dict.fromkeys(group.error_type for group in groups))
    words = [*kinds, *(kind.rpartition(".")[2] for kind in kinds)]
    near = did_you_mean(asked["error"], words) if "error" in asked else ""
    looked = " ".join(f"--{name} {value}" for name, value in asked.items()) or "the ids"
    return f"No failed job matches {looked}: nothing was done{near}. Errors that there are: {', '.join(kinds)}"
