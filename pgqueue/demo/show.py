"""What the demo shows: the live view while the shop runs, then the ledger and the figures. It only draws."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from rich.console import Console, Group, RenderableType
from rich.constrain import Constrain
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pgqueue.demo.ledger import Line
from pgqueue.demo.reading import Figures

TITLES = {
    "send_confirmation": "e-mails",
    "make_preview": "previews",
    "notify_printer": "webhooks",
    "book_stock": "stock",
    "mark_ready": "orders ready",
    "report_sales": "reports",
    "count_orders": "daily count",
    "send_statement": "statements",
}
STATE_STYLES = {"running": "green", "stopped": "dim", "killed": "bold red"}
EVENTS = 4
WIDTH = 100


@dataclass(frozen=True)
class TaskCounts:
    """Jobs of one task, by what has become of them."""

    done: int = 0
    running: int = 0
    waiting: int = 0
    retrying: int = 0
    failed: int = 0


@dataclass(frozen=True)
class ProcessState:
    """One process of the demo; `holds` is None where it runs no jobs."""

    name: str
    pid: int
    state: Literal["running", "stopped", "killed"]
    holds: int | None = None


@dataclass
class Scene:
    """All that the live view shows."""

    orders: int
    seed: int
    seconds: float = 0.0
    placed: int = 0
    declined: int = 0
    tasks: dict[str, TaskCounts] = field(default_factory=dict)
    report: tuple[int, int] | None = None
    """Orders and cents, as the shop's last report says."""
    processes: list[ProcessState] = field(default_factory=list)
    events: list[tuple[float, str]] = field(default_factory=list)

    def __rich__(self) -> RenderableType:
        parts = [self._orders(), Text(), self._tasks(), self._report(), Text(), self._processes(), Text()]
        parts += [Text.from_markup(f"[dim]{at:5.1f} s[/]  {what}") for at, what in self.events[-EVENTS:]]
        return Constrain(Group(*parts), WIDTH)

    def _orders(self) -> RenderableType:
        line = Table.grid(padding=(0, 2), expand=True)
        line.add_column(no_wrap=True)
        line.add_column(ratio=1)
        line.add_column(no_wrap=True, justify="right")
        taken = self.placed + self.declined
        line.add_row(
            Text.from_markup(f"[bold]orders[/] {taken}/{self.orders}"),
            ProgressBar(total=self.orders, completed=taken, complete_style="blue", finished_style="green"),
            Text.from_markup(f"{self.placed} placed, {self.declined} rolled back  [dim]{self.seconds:4.1f} s[/]"),
        )
        return line

    def _tasks(self) -> RenderableType:
        table = _table("jobs", "done", "running", "waiting", "retrying", "failed")
        styles = ("green", "blue", "", "yellow", "red")
        for task, title in TITLES.items():
            counts = self.tasks.get(task, TaskCounts())
            numbers = (counts.done, counts.running, counts.waiting, counts.retrying, counts.failed)
            table.add_row(
                title,
                *(Text(str(n), style=style if n else "dim") for n, style in zip(numbers, styles, strict=True)),
            )
        return table

    def _report(self) -> RenderableType:
        if self.report is None:
            return Text("no report yet", style="dim")
        orders, cents = self.report
        return Text(f"the last report: {number(orders, 'order')}, {cents / 100:,.2f} €", style="dim")

    def _processes(self) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        for process in self.processes:
            work = "" if process.holds is None else f"holds {number(process.holds, 'job')}"
            state = Text(process.state, style=STATE_STYLES[process.state])
            table.add_row(process.name, Text(f"pid {process.pid}", style="dim"), state, work)
        return table


def show_ledger(console: Console, lines: list[Line]) -> None:
    """The ledger, each line that does not balance in red, with its orders."""
    table = Table(title="The ledger, counted from the outside", title_justify="left", title_style="bold", box=None)
    table.show_header = False
    for line in lines:
        mark = Text("✓", style="bold green") if line.balances else Text("✗", style="bold red")
        finding = Text(line.finding, style="" if line.balances else "red")
        if line.remark:
            finding.append(f"\n{line.remark}", style="yellow")
        for wrong in line.wrong:
            finding.append(f"\n{wrong}", style="bold red")
        table.add_row(mark, Text(line.title, style="bold"), finding)
    console.print(table)


def show_figures(console: Console, figures: list[Figures], throughput: float) -> None:
    """Attempts, wait and run times of each task."""
    table = _table("task", "jobs", "attempts", "wait p50", "p95", "run p50", "p95")
    for row in sorted(figures, key=lambda row: list(TITLES).index(row.task)):
        times = (_duration(seconds) for seconds in (*row.wait, *row.run))
        table.add_row(TITLES[row.task], str(row.jobs), str(row.attempts), *times)
    console.print(table)
    console.print(f"[dim]{throughput:.0f} jobs a second; the wait is that of the last attempt[/]")


def number(count: int, what: str) -> str:
    """`1 job`, `2 jobs`."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _table(*headers: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column(headers[0], min_width=14)
    for header in headers[1:]:
        table.add_column(header, justify="right", min_width=8)
    return table


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"
