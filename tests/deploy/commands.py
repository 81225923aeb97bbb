"""Whether a command line, or a variable that stands for an option, is one that the CLI knows."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import click

from pgqueue.cli import pgqueue as root

# Built beside this: while the CLI has not got them, nobody looks; once it has, they are checked as all others.
PENDING_COMMANDS = {("top",), ("workers", "drain"), ("workers", "stop")}
PENDING_OPTIONS = {
    f"PGQUEUE_{command}_{option}"
    for command in ("WORKER", "SCHEDULER")
    for option in ("METRICS_PORT", "PROBE_PORT", "HOST")
}
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
        if found is None and path in PENDING_COMMANDS:
            return
        assert found is not None, f"there is no command pgqueue {' '.join(path)}"
        command = found
        words.pop(0)
    known = {name for parameter in command.params for name in parameter.opts}
    prefix = "_".join(("PGQUEUE", *path)).upper()
    left = list(words)
    for place, word in enumerate(words):
        if word.startswith("--") and word not in known and variable(prefix, word) in PENDING_OPTIONS:
            left[place : place + 2] = ["", ""]
    command.make_context("pgqueue", [word for word in left if word], parent=context)


def is_known(name: str) -> bool:
    """Whether a variable is a setting, or stands for an option."""
    if name in SETTINGS | PENDING_OPTIONS:
        return True
    if any(name.startswith(f"PGQUEUE_{'_'.join(path).upper()}_") for path in pending()):
        return True
    return name in set(variables())


def pending() -> Iterator[tuple[str, ...]]:
    context = click.Context(root)
    for path in PENDING_COMMANDS:
        if len(path) == 1 and root.get_command(context, path[0]) is None:
            yield path


def variables() -> Iterator[str]:
    """Of every option of the commands that are no groups, as click makes them."""
    context = click.Context(root)
    for name in root.list_commands(context):
        command = root.get_command(context, name)
        assert command is not None
        for parameter in command.params:
            if isinstance(parameter, click.Option) and parameter.name is not None:
                yield f"PGQUEUE_{name}_{parameter.name}".upper()


def variable(prefix: str, option: str) -> str:
    return f"{prefix}_{option.lstrip('-').replace('-', '_').upper()}"
