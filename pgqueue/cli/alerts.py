"""`pgqueue alerts`: what is wrong, and what would be."""

from __future__ import annotations

import click

from pgqueue.cli.listings import ALERTS
from pgqueue.cli.options import operates, target_options, watch_option
from pgqueue.cli.target import Target


@click.group("alerts")
@target_options
def command() -> None:
    """List alerts and their state."""


@command.command("list")
@watch_option
@operates
def list_alerts(target: Target, watch: float | None) -> None:
    """List the alerts that apps declare, and how each stands.

    firing: it is so, and has been said; pending: it is so, for not long enough yet; unknown: no worker or scheduler
    of an app that declares it looks.
    """
    app = target.database_app()
    ALERTS.show(app.alerts.list, as_json=target.as_json, watch=watch)
