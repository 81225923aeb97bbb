"""`pgqueue workers`: the processes that run jobs."""

from __future__ import annotations

import click

from pgqueue.cli.listings import WORKERS
from pgqueue.cli.options import operates, target_options, watch_option
from pgqueue.cli.output import note
from pgqueue.cli.target import Target


@click.group("workers")
@target_options
def command() -> None:
    """List, drain and stop the worker processes."""


@command.command("list")
@watch_option
@operates
def list_workers(target: Target, watch: float | None) -> None:
    """List workers, oldest first, with the jobs that they run."""
    app = target.database_app()
    WORKERS.show(app.workers.list, as_json=target.as_json, watch=watch)


@command.command()
@click.argument("names", metavar="NAME|ID...", nargs=-1, required=True)
@operates
def drain(target: Target, names: tuple[str, ...]) -> None:
    """Let workers end what runs, claim no more, and stop then.

    On whatever host they are. `pgqueue workers list` shows when they have gone; `workers stop` cuts it short. A
    supervisor (--processes) starts no other in their place; systemd and Kubernetes do.
    """
    app = target.database_app()
    for name in names:
        asked = app.workers.drain(name)
        note(f"{name} drains: it stops when what runs has ended." if asked else f"{name} drains or stops already.")


@command.command()
@click.argument("names", metavar="NAME|ID...", nargs=-1, required=True)
@operates
def stop(target: Target, names: tuple[str, ...]) -> None:
    """Stop workers as SIGTERM does: what runs may end within their --shutdown-timeout.

    On whatever host they are. What still runs then is given back, without using an attempt. A supervisor
    (--processes) starts no other in their place; systemd and Kubernetes do.
    """
    app = target.database_app()
    for name in names:
        note(f"{name} stops." if app.workers.stop(name) else f"{name} stops already.")
