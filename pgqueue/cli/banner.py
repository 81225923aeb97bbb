"""What a worker says at its start."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import textwrap
from typing import TYPE_CHECKING

import click

from pgqueue import __version__
from pgqueue.cli.logs import Format, coloured

if TYPE_CHECKING:
    from pgqueue.app import PgQueue

TASKS_SHOWN = 12


logger = logging.getLogger("pgqueue.worker")


def show(app: PgQueue, role: str, lines: list[tuple[str, str]], form: Format = "pretty") -> None:
    """Name, database and `lines` on stderr; in JSON one record."""
    from pgqueue import config

    schema = "" if app.schema == "pgqueue" else f"  schema {app.schema}"
    facts = [("database", config.masked(app.database.dsn) + schema), *lines]
    title = f"pgqueue {__version__} {role}"
    if form == "json":
        logger.info(title, extra={"fields": {"pid": os.getpid(), **dict(facts)}})
        return
    strong = coloured()
    click.echo(f"{click.style(title, bold=True) if strong else title}  pid {os.getpid()}", err=True)
    width = max(len(name) for name, _ in facts)
    room = max(shutil.get_terminal_size().columns, 60) if sys.stderr.isatty() else 10_000
    for name, text in facts:
        label = name.ljust(width)
        wrapped = textwrap.wrap(text, room - width - 4, break_long_words=False, break_on_hyphens=False)
        click.echo(f"  {click.style(label, fg='bright_black') if strong else label}  {wrapped[0]}", err=True)
        for line in wrapped[1:]:
            click.echo(" " * (width + 4) + line, err=True)


def queues(app: PgQueue, specs: list[str] | None, slots: int) -> str:
    """`email 20, thumb* 4, not slow`: what will be served, as far as it is known before the database answers."""
    from pgqueue.worker.queues import parse_queues

    spec = parse_queues(specs, slots)
    own = {task.options.queue for task in app.tasks.values()} | set(app.declared_queues) | {"default"}
    shown = dict.fromkeys(sorted(own), slots) if spec is None else dict(spec.slots)
    parts = [f"{name} {count}" for name, count in shown.items()]
    return ", ".join(parts + [f"not {name}" for name in (spec.excluded if spec else ())])


def tasks(app: PgQueue) -> str:
    """`3: shop.tasks.charge, …`."""
    names = sorted(app.tasks)
    more = f", and {len(names) - TASKS_SHOWN} more" if len(names) > TASKS_SHOWN else ""
    return f"{len(names)}: {', '.join(names[:TASKS_SHOWN])}{more}"
