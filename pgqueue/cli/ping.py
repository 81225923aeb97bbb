"""`pgqueue ping`: one connection, one look at the tables."""

from __future__ import annotations

import time

import click

from pgqueue.cli.options import operates
from pgqueue.cli.output import print_json
from pgqueue.cli.target import Target


@click.command("ping")
@operates
def command(target: Target) -> None:
    """Check the connection and the tables. Exit code 4: cannot connect; 5: schema out of date."""
    from pgqueue import config
    from pgqueue.cli.target import check

    app = target.unconnected_app()
    start = time.perf_counter()
    server = check(app)
    seconds = time.perf_counter() - start
    dsn = config.masked(app.database.dsn)
    if target.as_json:
        print_json([{"ok": True, "dsn": dsn, "schema": app.schema, "server": server, "seconds": round(seconds, 4)}])
        return
    click.echo(f"ok: {dsn}, PostgreSQL {server}, schema {app.schema}, {seconds * 1000:.0f} ms")
