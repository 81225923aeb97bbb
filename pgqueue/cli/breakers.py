"""`pgqueue breakers`: circuit breakers, seen, changed and operated while everything runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from pgqueue.cli.errors import NotFound
from pgqueue.cli.limits import known
from pgqueue.cli.listings import BREAKERS
from pgqueue.cli.options import operates, target_options, watch_option
from pgqueue.cli.output import duration, note
from pgqueue.cli.target import Target
from pgqueue.cli.values import DURATION

if TYPE_CHECKING:
    from pgqueue.app import PgQueue


@click.group("breakers")
@target_options
def command() -> None:
    """List, set, open, close, reset and remove circuit breakers of queues and tasks."""


def _of_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--queue` and `--task`."""
    function = click.option("-t", "--task", help="Of this task.")(function)
    return click.option("-q", "--queue", help="Of this queue.")(function)


@command.command("list")
@watch_option
@operates
def list_breakers(target: Target, watch: float | None) -> None:
    """List circuit breakers: how they are, what they have counted, and how many jobs wait for them."""
    app = target.database_app()
    BREAKERS.show(app.breakers.list, as_json=target.as_json, watch=watch)


@command.command("set")
@_of_options
@click.option("--failures", type=int, help="So many failed attempts open it.")
@click.option("--within", type=DURATION, help="Attempts of this time are counted (1m).")
@click.option("--open-for", type=DURATION, help="Then a job is tried (30s).")
@click.option("--cap", type=DURATION, help="Each trial that fails doubles the pause, up to this (10m).")
@click.option("--ratio", type=float, help="Such a share of the attempts must have failed: 0.5.")
@click.option("--minimum", type=int, help="From so many attempts on the share counts (20).")
@click.option("--on", multiple=True, help="Only errors of this class count: TimeoutError, httpx.ReadTimeout.")
@operates
def set_breaker(target: Target, queue: str | None, task: str | None, on: tuple[str, ...], **given: Any) -> None:
    """Make a circuit breaker, or change its thresholds: what is not given stays, and so does an open one.

    It holds until the code declares something else than it does now.

    \b
      pgqueue breakers set --task shop.tasks.charge --failures 10 --within 1m --open-for 30s
      pgqueue breakers set --queue partner --ratio 0.5 --minimum 50
    """
    from pgqueue.breaker import Breaker

    app = target.database_app()
    of = _of(app, queue, task)
    changes = {name: value for name, value in given.items() if value is not None} | ({"on": on} if on else {})
    for row in app.breakers.list():
        if (row.scope, row.name) == tuple(*of.items()):
            kept = {name: getattr(row, name) for name in given} | {"on": row.errors}
            changes = kept | {"cap": max(row.cap, given["open_for"] or 0.0)} | changes
    app.breakers.set(Breaker(**changes), **of)
    note(f"Set for {_named(of)}.")


@command.command("open")
@_of_options
@click.option("--for", type=DURATION, help="Then a job is tried. Without it, until it is closed.")
@operates
def open_breaker(target: Target, queue: str | None, task: str | None, **given: float | None) -> None:
    """Let nothing begin, without using attempts; what runs goes on."""
    app = target.database_app()
    of, time = _existing(app, queue, task), given["for"]
    app.breakers.open(**of, duration=time)
    until = "`pgqueue breakers close` with the same options lets it go on" if time is None else f"for {duration(time)}"
    note(f"Opened the circuit breaker of {_named(of)}: {until}.")


@command.command("close")
@_of_options
@operates
def close_breaker(target: Target, queue: str | None, task: str | None) -> None:
    """Let all jobs go on, and count failures from now on."""
    app = target.database_app()
    of = _existing(app, queue, task)
    app.breakers.close(**of)
    note(f"Closed the circuit breaker of {_named(of)}.")


@command.command("reset")
@_of_options
@operates
def reset_breaker(target: Target, queue: str | None, task: str | None) -> None:
    """Forget the failures that it has counted; one that is open tries a job now."""
    app = target.database_app()
    of = _existing(app, queue, task)
    app.breakers.reset(**of)
    note(f"Reset the circuit breaker of {_named(of)}.")


@command.command("remove")
@_of_options
@operates
def remove_breaker(target: Target, queue: str | None, task: str | None) -> None:
    """Take a circuit breaker away, and let its jobs go on.

    Code that declares it makes it again when a worker starts.
    """
    app = target.database_app()
    of = _existing(app, queue, task)
    app.breakers.remove(**of)
    note(f"Removed the circuit breaker of {_named(of)}.")


def _of(app: PgQueue, queue: str | None, task: str | None) -> dict[str, str]:
    name = known(app, queue, task, (row.name for row in app.breakers.list() if row.scope == "task"))
    return {"queue": queue} if queue is not None else {"task": str(name)}


def _existing(app: PgQueue, queue: str | None, task: str | None) -> dict[str, str]:
    of = _of(app, queue, task)
    if tuple(*of.items()) not in {(row.scope, row.name) for row in app.breakers.list()}:
        raise NotFound(f"there is no circuit breaker of {_named(of)}: `pgqueue breakers list` shows them")
    return of


def _named(of: dict[str, str]) -> str:
    return " ".join(*of.items())
