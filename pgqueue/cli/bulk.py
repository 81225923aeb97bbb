"""Verbs on many rows: count first, ask, work in batches, say what came of it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import click

BATCH = 500


def confirm(question: str, *, yes: bool) -> None:
    """Ask on the terminal unless `yes`. Without a terminal nobody could answer: exit code 2."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} Nobody can answer without a terminal: give --yes")
    click.confirm(question, abort=True, err=True)


def in_batches(what: str, ids: Sequence[int], act: Callable[[Sequence[int]], int]) -> int:
    """Call `act` with at most 500 ids at a time, with a progress bar on stderr; the sum of what it returns."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from pgqueue.cli.output import stderr

    done = 0
    console = stderr()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task(what, total=len(ids))
        for start in range(0, len(ids), BATCH):
            batch = ids[start : start + BATCH]
            done += act(batch)
            progress.advance(bar, len(batch))
    return done
