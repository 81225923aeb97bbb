"""`pgqueue tasks`: what workers have registered."""

from __future__ import annotations

import click

from pgqueue.cli.listings import TASKS
from pgqueue.cli.options import operates, target_options, watch_option
from pgqueue.cli.target import Target


@click.group("tasks")
@target_options
def command() -> None:
    """List the tasks that workers have registered."""


@command.command("list")
@watch_option
@operates
def list_tasks(target: Target, watch: float | None) -> None:
    """List tasks by name, with the live jobs of each."""
    from pgqueue.queries import inspecting

    app = target.database_app()
    statement = inspecting.list_tasks(app.schema)
    TASKS.show(lambda: app.database.fetch(statement), as_json=target.as_json, watch=watch)
