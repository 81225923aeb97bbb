"""`pgqueue workers`: the processes that run jobs."""

from __future__ import annotations

import click

from pgqueue.cli.listings import WORKERS
from pgqueue.cli.options import operates, target_options, watch_option
from pgqueue.cli.target import Target


@click.group("workers")
@target_options
def command() -> None:
    """List the worker processes."""


@command.command("list")
@watch_option
@operates
def list_workers(target: Target, watch: float | None) -> None:
    """List workers, oldest first, with the jobs that they run."""
    app = target.database_app()
    WORKERS.show(app.workers.list, as_json=target.as_json, watch=watch)
