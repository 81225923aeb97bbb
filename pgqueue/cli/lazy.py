"""Groups that know their commands by name and one line of help, and import them when they run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import click
from click.core import ParameterSource

from pgqueue.cli.errors import exit_code_of
from pgqueue.cli.target import Target


@dataclass(frozen=True, slots=True)
class Entry:
    """A command: `pgqueue.cli.<name>` has it under the name `command`."""

    name: str
    help: str
    section: str

    def load(self) -> click.Command:
        found = import_module(f"pgqueue.cli.{self.name}").command
        assert isinstance(found, click.Command)
        return found


class LazyGroup(click.Group):
    """A group of entries, listed by section."""

    def __init__(self, *args: Any, entries: Sequence[Entry], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.entries = {entry.name: entry for entry in entries}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = self.entries.get(cmd_name)
        return None if entry is None else entry.load()

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.NoSuchCommand as error:
            # Click looks for what was meant among commands that it has imported.
            raise click.NoSuchCommand(error.command_name, possibilities=self.entries, ctx=ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(len(name) for name in self.entries)
        for section in dict.fromkeys(entry.section for entry in self.entries.values()):
            with formatter.section(section):
                rows = [(e.name.ljust(width), e.help) for e in self.entries.values() if e.section == section]
                formatter.write_dl(rows)


class RootGroup(LazyGroup):
    """The whole command line: errors become one line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.BadParameter as error:
            raise _naming_variable(error) from None
        except (click.ClickException, click.exceptions.Exit, click.Abort, OSError, SystemExit):
            raise
        except BaseException as error:
            ctx.exit(exit_code_of(error, ctx.ensure_object(Target)))


def _naming_variable(error: click.BadParameter) -> click.BadParameter:
    """Where a value comes from the environment, nobody has written the option that click blames."""
    ctx, param = error.ctx, error.param
    if ctx is None or not isinstance(param, click.Option) or param.name is None:
        return error
    if ctx.get_parameter_source(param.name) is not ParameterSource.ENVIRONMENT:
        return error
    variable = param.envvar or f"{ctx.auto_envvar_prefix}_{param.name.upper()}"
    return click.BadParameter(f"{error.message} (from the variable {variable})", ctx, param, error.param_hint)
