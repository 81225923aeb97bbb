"""`pgqueue config`: each setting and where it comes from."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import click

from pgqueue.cli.options import operates
from pgqueue.cli.output import Column, Listing, faint, note
from pgqueue.cli.target import Target

PREFIX = "PGQUEUE_"
ALSO_READ = {"PGQUEUE_DEBUG", "PGQUEUE_LIFELINE", "PGQUEUE_LINK"}


@dataclass(frozen=True, slots=True)
class Shown:
    """A setting as it is in force."""

    name: str
    value: Any
    source: str
    variable: str


SETTINGS: Listing[Shown] = Listing(
    [
        Column("Setting", lambda row: row.name),
        Column("Value", lambda row: None if row.value is None else str(row.value), shrinks=True, whole=True),
        Column("Source", lambda row: faint(row.source) if row.source in ("default", "not set") else row.source),
        Column("Variable", lambda row: faint(row.variable), from_width=100),
    ],
    asdict,
    "",
)


@click.command("config")
@operates
@click.pass_context
def command(ctx: click.Context, target: Target) -> None:
    """Show each setting and where it comes from. Passwords are masked."""
    rows = [*target_settings(target), *option_settings(ctx.find_root())]
    SETTINGS.show(lambda: rows, as_json=target.as_json)
    unknown = sorted(name for name in os.environ if name.startswith(PREFIX) and name not in known(ctx.find_root()))
    for name in unknown:
        note(f"Nothing reads {name}: is it spelled as `pgqueue config` shows it?")


def target_settings(target: Target) -> Iterator[Shown]:
    from pgqueue import config

    own, shown = app_settings(target), {}
    asks_app = target.asks_app()
    for name, given in (("dsn", target.dsn), ("schema", target.schema), ("app", target.app)):
        found = config.find(name, given)
        value, source = found.value, found.source
        if source == "given":
            source = f"--{name}"
        if name == "dsn" and value is not None:
            value = config.masked(value)
        if (asks_app or value is None) and own.get(name, value) != value:
            value, source = own[name], "the app"
        if name == "schema" and value is None:
            value, source = "pgqueue", "default"
        shown[name] = value
        yield Shown(name, value, source, f"{PREFIX}{name.upper()}")

    # What workers and schedulers go by, where commands that need no code go by what is set.
    for name, value in own.items():
        if value != shown[name]:
            yield Shown(f"app {name}", value, "the app", "")


def app_settings(target: Target) -> dict[str, str]:
    """Schema and database of the app that is named, as workers use them; nothing where none is, or it cannot be had."""
    from pgqueue import config

    app = target.named_app()
    if app is None:
        return {}
    try:
        return {"schema": app.schema, "dsn": config.masked(app.database.dsn)}
    except config.NoDatabase:
        return {"schema": app.schema}


def option_settings(root: click.Context) -> Iterator[Shown]:
    """Every option of `worker`, and those of other commands that a variable sets."""
    for command, option, variable in options(root):
        value = os.environ.get(variable)
        name = f"{command} {max(option.opts, key=len)}"
        if value:
            yield Shown(name, value, variable, variable)
        elif command == "worker":
            default = option.default if isinstance(option.default, str | int | float) else None
            yield Shown(name, default, "not set" if default is None else "default", variable)


def options(root: click.Context) -> Iterator[tuple[str, click.Option, str]]:
    """(command, option, variable) of all that read one."""

    def walk(path: str, command: click.Command) -> Iterator[tuple[str, click.Option, str]]:
        for parameter in command.params:
            if isinstance(parameter, click.Option) and parameter.allow_from_autoenv and parameter.name:
                variable = f"{PREFIX}{path}_{parameter.name}".upper().replace(" ", "_").replace("-", "_")
                yield path, parameter, variable
        if isinstance(command, click.Group):
            for name, child in command.commands.items():
                yield from walk(f"{path} {name}", child)

    assert isinstance(root.command, click.Group)
    for name in root.command.list_commands(root):
        child = root.command.get_command(root, name)
        if child is not None:
            yield from walk(name, child)


def known(root: click.Context) -> set[str]:
    names = {f"{PREFIX}{name}" for name in ("DSN", "SCHEMA", "APP")}
    return names | ALSO_READ | {variable for _, _, variable in options(root)}
