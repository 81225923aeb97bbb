"""Crontab files, whose commands are tasks and their arguments."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from typing import NamedTuple

import click

from pgqueue.errors import ConfigurationError
from pgqueue.schedule import ALIASES, Cron

_VARIABLE = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_]*)\s*=\s*(.*)")
_ZONES = ("CRON_TZ", "TZ")


class Line(NamedTuple):
    """A line of a crontab: its number, its rule, its task and what stands behind that."""

    number: int
    cron: Cron
    task: str
    arguments: tuple[str, ...]


def read_crontab(lines: Iterable[str], tz: str) -> list[Line]:
    """The schedules of a crontab; `tz` holds until a CRON_TZ. Raises click.UsageError that names the line.

    read_crontab(["CRON_TZ=Europe/Paris", "0 9 * * MON-FRI shop.tasks.digest kind=daily"], "UTC")
    """
    found = []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        try:
            if (variable := _VARIABLE.fullmatch(text)) is not None:
                name, value = variable.groups()
                if name not in _ZONES:
                    raise click.UsageError(f"{name} is for cron's shell: only {' and '.join(_ZONES)} count here")
                tz = value.strip().strip("\"'")
                continue
            found.append(_line(number, text, tz))
        except (ConfigurationError, ValueError, click.UsageError) as error:
            why = error.message if isinstance(error, click.UsageError) else str(error)
            raise click.UsageError(f"line {number}: {text[:80]!r}: {why}") from None
    return found


def _line(number: int, text: str, tz: str) -> Line:
    count = 1 if text.startswith("@") else 5
    fields = text.split(None, count)
    if len(fields) <= count:
        names = " or ".join(ALIASES[:3])
        raise click.UsageError(f"write five fields (or {names} …), a task, and its arguments as name=value")
    task, *arguments = shlex.split(fields[count])
    return Line(number, Cron(" ".join(fields[:count]), tz), task, tuple(arguments))
