"""Options that commands share. Those of the target stand before or after the command: the later one counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from pgqueue.cli.target import Target
from pgqueue.cli.values import DURATION

F = TypeVar("F", bound=Callable[..., Any])


def _target_option(*names: str, field: str, **attributes: Any) -> Callable[[F], F]:
    def keep(ctx: click.Context, _: click.Parameter, value: Any) -> None:
        target = ctx.ensure_object(Target)
        if value is not None and value is not False:
            setattr(target, field, value)

    # `config.find` looks into the variables and files itself: click must not take its answer for a given option.
    return click.option(*names, expose_value=False, callback=keep, allow_from_autoenv=False, **attributes)


def dsn_option(command: F) -> F:
    """`--dsn`."""
    text = "PostgreSQL to use (PGQUEUE_DSN, DATABASE_URL)."
    return _target_option("--dsn", field="dsn", metavar="DSN", help=text)(command)


def database_options(command: F) -> F:
    """`--dsn` and `--schema`."""
    schema = _target_option("--schema", field="schema", metavar="NAME", help="Schema of the tables (PGQUEUE_SCHEMA).")
    return dsn_option(schema(command))


def app_option(command: F) -> F:
    """`-a`, `--app`."""
    text = "Module, and name in it, of the app (PGQUEUE_APP)."
    return _target_option("-a", "--app", field="app", metavar="MODULE[:APP]", help=text)(command)


def json_option(command: F) -> F:
    """`--json`."""
    return _target_option("--json", field="as_json", is_flag=True, help="Data as JSON lines on stdout.")(command)


def target_options(command: F) -> F:
    """All options of the target."""
    return database_options(app_option(json_option(command)))


def operates(command: Callable[..., Any]) -> Callable[..., Any]:
    """For commands on the database: the options of the target, which comes as the first argument."""
    return target_options(click.pass_obj(command))


def watch_option(command: F) -> F:
    """`--watch [SECONDS]`."""
    text = "Redraw the table every so many seconds (2)."
    return click.option(
        "--watch", is_flag=False, flag_value="2s", type=DURATION, default=None, metavar="[SECONDS]", help=text
    )(command)


def yes_option(command: F) -> F:
    """`--yes`."""
    return click.option("-y", "--yes", is_flag=True, help="Do not ask; needed without a terminal.")(command)


def limit_option(command: F) -> F:
    """`--limit`."""
    return click.option(
        "-n", "--limit", type=click.IntRange(min=1), default=50, show_default=True, help="At most so many."
    )(command)
