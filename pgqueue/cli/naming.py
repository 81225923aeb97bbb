"""Tasks by the name that people type."""

from __future__ import annotations

from collections.abc import Iterable

import click

from pgqueue.cli.errors import NotFound, did_you_mean


def full_name(name: str, known: Iterable[str], *, whose: str, none: str = "", force: bool = False) -> str:
    """`shop.tasks.send_email` for `send_email`, if only one task ends so. `force` lets unknown names pass.

    `none` says what to do when nothing is known.
    """
    names = sorted(known)
    if name in names:
        return name
    ends = [candidate for candidate in names if candidate.endswith(f".{name}")]
    if len(ends) == 1:
        return ends[0]
    if len(ends) > 1:
        raise click.UsageError(f"several tasks are called {name!r}: {', '.join(ends)}")
    if force:
        return name
    near = did_you_mean(name, [*names, *(candidate.rpartition(".")[2] for candidate in names)])
    listed = f"; known are {', '.join(names[:10])}" if names else none
    raise NotFound(f"{whose} no task `{name}`{near or listed}")
