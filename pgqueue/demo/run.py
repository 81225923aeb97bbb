"""The course of the demo: a PostgreSQL, the world outside, the shop's run, and the ledger."""

from __future__ import annotations

import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.console import Console
from rich.live import Live

from pgqueue import migrate
from pgqueue.demo import reading
from pgqueue.demo.ledger import balance
from pgqueue.demo.outside import Outside
from pgqueue.demo.performance import Broken, Performance
from pgqueue.demo.show import Scene, show_figures, show_ledger
from pgqueue.dev import EmbeddedServer

BALANCED, UNBALANCED, SIGNALLED = 0, 1, 128


def run(orders: int, seed: int) -> int:
    """See `run_demo`."""
    console = Console(highlight=False)
    try:
        with _signals_unwind():
            return _run(orders, seed, console)
    except Broken as broken:
        console.print(f"{broken}", style="red", markup=False)
        return UNBALANCED
    except KeyboardInterrupt:
        console.print("Interrupted: everything is stopped.")
        return SIGNALLED + signal.SIGINT


def _run(orders: int, seed: int, console: Console) -> int:
    began = time.monotonic()
    with ExitStack() as undo:
        with console.status("Starting PostgreSQL"):
            server = undo.enter_context(EmbeddedServer())
            dsn = server.create_database("shop")
            migrate.upgrade(dsn)
        folder = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="pgqueue-demo-")))
        outside = undo.enter_context(Outside(seed))
        shop = undo.enter_context(Performance(Scene(orders, seed), dsn, outside, folder))
        with console.status("Opening the shop"):
            shop.open()
        with Live(shop.scene, console=console, refresh_per_second=8):
            shop.play()
        lines = balance(reading.read(dsn, shop.website.told, outside, folder / "previews", shop.held))
        # Where there is no terminal the view does not end its last line.
        console.print("" if console.is_terminal else "\n")
        show_ledger(console, lines)
        console.print()
        show_figures(console, *reading.figures(dsn))
    wrong = [line.title for line in lines if not line.balances]
    verdict = f"[bold red]Not balanced: {', '.join(wrong)}.[/]" if wrong else "[bold green]The ledger balances.[/]"
    console.print(f"\n{verdict} [dim]{orders} orders, seed {seed}, {time.monotonic() - began:.0f} s.[/]")
    return UNBALANCED if wrong else BALANCED


@contextmanager
def _signals_unwind() -> Iterator[None]:
    """SIGTERM and SIGHUP end the demo as Ctrl-C does: with all that it started."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, _leave) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _leave(number: int, _frame: object) -> None:
    raise SystemExit(SIGNALLED + number)
