"""`pgqueue migrate`: creates and upgrades the tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pgqueue.cli.bulk import confirm
from pgqueue.cli.options import operates, target_options, yes_option
from pgqueue.cli.output import note, print_json
from pgqueue.cli.target import Target
from pgqueue.wording import counted

if TYPE_CHECKING:
    from pgqueue.app import PgQueue
    from pgqueue.migrate import Status


@click.group("migrate", invoke_without_command=True)
@click.option("--to", default="head", metavar="REVISION", show_default=True, help="Upgrade to this revision.")
@click.option("--sql", is_flag=True, help="Print the SQL of an upgrade from nothing; touch nothing.")
@click.option("--dry-run", is_flag=True, help="Say what would be done; touch nothing.")
@target_options
@click.pass_context
def command(ctx: click.Context, to: str, sql: bool, dry_run: bool) -> None:
    """Create or upgrade the tables. Safe to run from several places at once."""
    if ctx.invoked_subcommand is not None:
        return
    from pgqueue import config, migrate

    target: Target = ctx.obj
    if sql:
        click.echo(migrate.script(schema=target.schema_of_tables(), to=to))
        return
    app = target.unconnected_app()
    dsn, schema = app.database.dsn, app.schema
    before = migrate.status(dsn, schema=schema)
    if dry_run:
        report(target, app, before)
        return
    after = before if not before.pending and to == "head" else migrate.upgrade(dsn, schema=schema, to=to)
    if target.as_json:
        print_json([{"schema": schema, "from": before.current, "to": after.current}])
    place = f"schema {schema} of {config.masked(dsn)}"
    if before.current == after.current:
        note(f"Nothing to do: {place} is at revision {after.current}.")
    else:
        note(f"Upgraded {place} from {before.current or 'nothing'} to revision {after.current}.")


@command.command()
@operates
def status(target: Target) -> None:
    """Show the revision of the tables, and what is missing. Exit code 5 when something is."""
    from pgqueue import migrate
    from pgqueue.cli.errors import OUT_OF_DATE

    app = target.unconnected_app()
    found = migrate.status(app.database.dsn, schema=app.schema)
    report(target, app, found)
    if found.pending:
        raise click.exceptions.Exit(OUT_OF_DATE)


@command.command()
@click.option("--to", required=True, metavar="REVISION", help="Go back to this revision; `base` drops all tables.")
@yes_option
@operates
def down(target: Target, to: str, yes: bool) -> None:
    """Go back to an older revision. What only the newer tables can hold is lost."""
    from pgqueue import migrate

    app = target.unconnected_app()
    schema = app.schema
    if to == "base":
        confirm(f"Drop all tables of schema {schema}, with every job?", yes=yes)
    else:
        confirm(f"Downgrade schema {schema} to revision {to}?", yes=yes)
    found = migrate.downgrade(app.database.dsn, schema=schema, to=to)
    note(f"Schema {schema} is at {'revision ' + found.current if found.current else 'nothing: its tables are gone'}.")


def report(target: Target, app: PgQueue, found: Status) -> None:
    if target.as_json:
        record = {"schema": app.schema, "current": found.current, "newest": found.newest, "pending": found.pending}
        print_json([record])
        return
    click.echo(f"schema {app.schema}: {'revision ' + found.current if found.current else 'no tables'}")
    if found.pending:
        click.echo(f"missing {counted(len(found.pending), 'revision')}: {', '.join(found.pending)}")
        note(f"Run `{target.migration(app)}`.")
    elif found.current != found.newest:
        click.echo(f"newer than this pgqueue, which knows {found.newest}: upgrade pgqueue")
    else:
        click.echo("up to date")
