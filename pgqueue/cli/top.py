"""`pgqueue top`: queues, running jobs, workers and failures, live in the terminal."""

from __future__ import annotations

import sys

import click

from pgqueue import config
from pgqueue.cli.options import operates
from pgqueue.cli.target import Target
from pgqueue.cli.values import DURATION
from pgqueue.errors import ConfigurationError

EXTRA = "the screen needs textual: install pgqueue[tui]"


@click.command("top")
@click.option("--every", type=DURATION, default="2s", show_default=True, help="Look again after this time (500ms, 5s).")
@click.option("-q", "--queue", default="", help="Begin with what has this in its name.")
@operates
def command(target: Target, every: float, queue: str) -> None:
    """Watch queues, running jobs, workers and failures, live.

    \b
      pgqueue top
      pgqueue top --every 5s -q email

    Keys: 1 to 4 the panes, s and r the order, / a filter, p pauses a queue or lets it go on,
    c cancels a running job after a question, + and - the pace, q ends it.
    """
    if target.as_json or not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise click.UsageError(
            "top draws on a terminal, and this is none: for programs there are `pgqueue queues list --json`, "
            "`pgqueue workers list --json` and `pgqueue jobs list --state running --json`"
        )
    try:
        from pgqueue.cli.screen.screen import FASTEST, SLOWEST, Top
    except ImportError as error:
        raise ConfigurationError(f"{EXTRA} ({error})") from error
    if not FASTEST <= every <= SLOWEST:
        raise click.UsageError(f"--every {every:g}s is not between {FASTEST:g}s and {SLOWEST:g}s")
    app = target.database_app()
    Top(app, place=config.place(app.database.dsn, app.schema), every=every, words=queue).run()
