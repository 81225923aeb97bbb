"""Whether a command line, or a variable that stands for an option, is one that the CLI knows."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import click

from pgqueue.cli import pgqueue as root

# Settings, which every command reads.
SETTINGS = {"PGQUEUE_DSN", "PGQUEUE_SCHEMA", "PGQUEUE_APP"}


def check(line: str) -> None:
    """Fails where `line`, without its `pgqueue`, is no command, or has options that it does not take."""
    words = shlex.split(line, comments=True)
    path: tuple[str, ...] = ()
    command: click.Command = root
    context = click.Context(command, info_name="pgqueue")
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        path = (*path, words[0])
        found = command.get_command(context, words[0])
        assert found is not None, f"there is no command pgqueue {' '.join(path)}"
        command = found
        words.pop(0)
    command.make_context("pgqueue", words, parent=context)


def is_known(name: str) -> bool:
    """Whether a variable is a setting, or stands for an option."""
    return name in SETTINGS or name in set(variables())


def variables() -> Iterator[str]:
    """Of every option of the commands that are no groups, as click makes them."""
    context = click.Context(root)
    for name in root.list_commands(context):
        command = root.get_command(context, name)
        assert command is not None
        for parameter in command.params:
            if isinstance(parameter, click.Option) and parameter.name is not None:
                yield f"PGQUEUE_{name}_{parameter.name}".upper()
