"""`pgqueue flows`: jobs that depend on each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from pgqueue.cli.bulk import confirm
from pgqueue.cli.errors import NotFound
from pgqueue.cli.flowtree import draw
from pgqueue.cli.listings import FLOWS
from pgqueue.cli.options import limit_option, operates, target_options, watch_option, yes_option
from pgqueue.cli.output import note, print_json, watched
from pgqueue.cli.output import show as show_drawn
from pgqueue.cli.target import Target
from pgqueue.errors import JobNotFound
from pgqueue.wording import counted

if TYPE_CHECKING:
    from pgqueue.app import PgQueue
    from pgqueue.queries.flows import FlowJob, FlowRow

SHOWN = 1_000


@click.group("flows")
@target_options
def command() -> None:
    """List, show, cancel and retry flows."""


@command.command("list")
@click.option("--name", help="With this name.")
@click.option("--before", type=int, metavar="ID", help="Only ids below this one: the next page.")
@limit_option
@watch_option
@operates
def list_flows(target: Target, limit: int, watch: float | None, name: str | None, before: int | None) -> None:
    """List flows, newest first."""
    app = target.database_app()
    FLOWS.show(lambda: app.flows.list(name=name, limit=limit, before=before), as_json=target.as_json, watch=watch)


@command.command()
@click.argument("flow_id", type=int)
@click.option("--job", is_flag=True, help="FLOW_ID is the id of one of its jobs.")
@watch_option
@operates
def show(target: Target, flow_id: int, job: bool, watch: float | None) -> None:
    """Show a flow as a tree.

    Below each job are those that it waits for. One that several wait for has its own below it once. Where the terminal
    is too narrow, `7 ← 6` says that 7 waits for 6.
    """
    app = target.database_app()
    row = find(app, flow_id, job=job)
    if target.as_json:
        if watch is not None:
            raise click.UsageError("--watch redraws a tree: leave out --json")
        print_json({"flow_id": row.id, **asdict(one)} for one in app.flows.jobs(row.id, limit=SHOWN))
        return

    def look() -> tuple[FlowRow, Sequence[FlowJob]]:
        return app.flows.get(row.id), app.flows.jobs(row.id, limit=SHOWN)

    if watch is not None:
        watched(lambda width: draw(*look(), width), watch)
        return
    show_drawn(lambda width: draw(*look(), width))


@command.command()
@click.argument("flow_id", type=int)
@yes_option
@operates
def cancel(target: Target, flow_id: int, yes: bool) -> None:
    """Cancel all live jobs of a flow. Running ones are not retried."""
    app = target.database_app()
    row = find(app, flow_id)
    confirm(f"Cancel {counted(row.live, 'live job')} of flow {row.id}?", yes=yes)
    report(target, app.flows.cancel(row.id), "Cancelled")


@command.command()
@click.argument("flow_id", type=int)
@operates
def retry(target: Target, flow_id: int) -> None:
    """Redrive the failed jobs of a flow. Those that failed for them wait again, and what was cancelled stays so."""
    app = target.database_app()
    row = find(app, flow_id)
    done = app.flows.retry(row.id)
    report(target, done, "Redriven")
    if not done and not row.failed:
        note(f"Flow {row.id} is {row.state}, and none of its jobs has failed: what ended otherwise is enqueued anew.")


def find(app: PgQueue, flow_id: int, *, job: bool = False) -> FlowRow:
    look: Callable[[int], Any] = app.flows.of if job else app.flows.get
    try:
        return look(flow_id)  # type: ignore[no-any-return]
    except JobNotFound as error:
        raise NotFound(str(error)) from error


def report(target: Target, ids: Sequence[int], what: str) -> None:
    if target.as_json:
        print_json({"id": id_} for id_ in ids)
    note(f"{what}: {counted(len(ids), 'job')}.")
