"""`pgqueue bench`: pgqueue on your server, beside bare loops of the same work."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from pgqueue.bench import GROUPS, SCHEMA
from pgqueue.cli.options import app_option, dsn_option, json_option
from pgqueue.cli.output import note, print_json, stderr
from pgqueue.cli.target import Target

if TYPE_CHECKING:
    from pgqueue.bench.measure import Progress, Step


class Groups(click.ParamType[tuple[str, ...]]):
    """Names of measurements, with commas between them."""

    name = "groups"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        chosen = value if isinstance(value, tuple) else tuple(part.strip() for part in str(value).split(","))
        for name in chosen:
            if name not in GROUPS:
                self.fail(f"{name!r} is no measurement: choose of {', '.join(GROUPS)}", param, ctx)
        return chosen


@click.command("bench")
@click.option(
    "--jobs",
    type=click.IntRange(min=10),
    metavar="N",
    default=20_000,
    show_default=True,
    help="Jobs of a drain; other sizes follow.",
)
@click.option(
    "--rounds", type=click.IntRange(min=1), metavar="N", default=3, show_default=True, help="Times for each, in turn."
)
@click.option(
    "--only",
    type=Groups(),
    metavar="NAMES",
    default=",".join(GROUPS),
    show_default=True,
    help="What to measure.",
)
@click.option(
    "--schema", metavar="NAME", default=None, show_default=SCHEMA, help="Schema to make for it, and to drop at the end."
)
@dsn_option
@app_option
@json_option
@click.pass_obj
def command(target: Target, jobs: int, rounds: int, only: tuple[str, ...], schema: str | None) -> None:
    """Measure pgqueue on your server and its settings, in about a minute.

    Beside each figure stands that of a bare loop of the same work, measured in turn: what PostgreSQL and the driver
    allow. It works in a schema of its own, and writes nothing else. Exit code 1 when a job was lost or ran twice.

    \b
      pgqueue bench --only drain,pickup --jobs 100000
    """
    from pgqueue.bench.measure import run
    from pgqueue.bench.sides import Sizes
    from pgqueue.cli.benchview import record, show

    app = target.unconnected_app()
    place = schema or target.schema or SCHEMA
    try:
        with unwinding(), drawn(rounds) as progress:
            report = run(
                app.database.dsn,
                schema=place,
                pooler=app.database.pooler,
                sizes=Sizes(jobs, rounds),
                only=only,
                progress=progress,
            )
    except KeyboardInterrupt:
        note("Interrupted.")
        raise
    if target.as_json:
        print_json([record(report)])
    else:
        show(report, app.database.dsn)


@contextmanager
def drawn(rounds: int) -> Iterator[Progress]:
    """A bar on the terminal, gone at the end."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = stderr()
    columns = (BarColumn(24), TimeElapsedColumn(), TextColumn("{task.description}"))
    hidden = not console.is_terminal
    # Drawing takes time from what is measured.
    with Progress(*columns, console=console, transient=True, disable=hidden, refresh_per_second=2) as bar:
        task = bar.add_task("making the tables")

        def draw(step: Step) -> None:
            what = f"{step.what}, round {step.round} of {rounds}"
            bar.update(task, completed=step.number - 1, total=step.of, description=what)

        yield draw


@contextmanager
def unwinding() -> Iterator[None]:
    """SIGTERM and SIGHUP end it as Ctrl-C does, and the first of them all is the last: what was made is dropped."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    known = [number for name in ("SIGINT", "SIGTERM", "SIGHUP") if (number := getattr(signal, name, None))]
    # What nohup or a shell has turned off stays so.
    numbers = [number for number in known if signal.getsignal(number) is not signal.SIG_IGN]

    def leave(number: int, _frame: object) -> None:
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    before = [signal.signal(number, leave) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
