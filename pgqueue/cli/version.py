"""`pgqueue version`."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import click

from pgqueue import __version__
from pgqueue.cli.options import json_option
from pgqueue.cli.output import print_json
from pgqueue.cli.target import Target

LIBRARIES = ("psycopg", "sqlalchemy", "alembic", "croniter", "click", "rich", "uvloop", "orjson")


@click.command("version")
@json_option
@click.pass_obj
def command(target: Target) -> None:
    """Show the versions in use."""
    found = {"pgqueue": __version__, "python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            found[library] = "not installed"
    if target.as_json:
        print_json([found])
        return
    for name, number in found.items():
        click.echo(f"{name:<12}{number}")
