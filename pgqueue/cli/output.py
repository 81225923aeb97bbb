"""Data on stdout: tables for people, JSON lines for programs. Messages on stderr."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import click

from pgqueue.errors import PgQueueError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

T = TypeVar("T")

# One colour a state, the same everywhere; its name always stands beside it.
STATES = {
    "scheduled": "medium_purple1",
    "available": "dodger_blue1",
    "running": "slate_blue1",
    "blocked": "dark_orange",
    "completed": "green3",
    "failed": "red1",
    "cancelled": "grey62",
}
DIM = "grey62"
UNWRAPPED = 10_000
NARROWEST = 8
BETWEEN = 3


@dataclass(frozen=True, slots=True)
class Column(Generic[T]):
    """A column of a table. One that is `from_width` is left out of narrower terminals.

    One that `shrinks` may lose its end; its beginning where the `end` tells more. One that is `whole` wraps instead.
    """

    title: str
    cell: Callable[[T], Any]
    number: bool = False
    from_width: int = 0
    shrinks: bool = False
    end: bool = False
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Listing(Generic[T]):
    """How rows of one kind look; `empty` says what to do when there are none."""

    columns: Sequence[Column[T]]
    record: Callable[[T], Mapping[str, Any]]
    empty: str

    def show(self, fetch: Callable[[], Sequence[T]], *, as_json: bool, watch: float | None = None) -> None:
        """Print what `fetch` returns; every `watch` seconds anew, until interrupted."""
        if watch is not None:
            if as_json:
                raise click.UsageError("--watch redraws a table: leave out --json")
            self._watch(fetch, watch)
            return
        rows = fetch()
        if as_json:
            print_json(map(self.record, rows))
        elif rows:
            show(lambda width: self.table(rows, width))
        else:
            note(self.empty)

    def table(self, rows: Iterable[T], width: int) -> Table:
        from rich import box
        from rich.cells import cell_len
        from rich.table import Table

        table = Table(box=box.SIMPLE_HEAD, header_style=f"bold {DIM}", pad_edge=False, show_edge=False)
        shown = [column for column in self.columns if width >= column.from_width]
        cells = [[as_cell(column.cell(row)) for column in shown] for row in rows]
        widths = [
            max([cell_len(column.title), *(cell_len(str(line[n])) for line in cells)]) for n, column in enumerate(shown)
        ]
        shrink(widths, [n for n, column in enumerate(shown) if column.shrinks], width - BETWEEN * (len(shown) - 1))
        for column, room in zip(shown, widths, strict=True):
            justify: Literal["left", "right"] = "right" if column.number else "left"
            overflow: Literal["fold", "ellipsis"] = "fold" if column.whole else "ellipsis"
            table.add_column(column.title, justify=justify, no_wrap=not column.whole, overflow=overflow, width=room)
        for line in cells:
            table.add_row(
                *(
                    ending(cell, room) if column.end else cell
                    for column, cell, room in zip(shown, line, widths, strict=True)
                )
            )
        return table

    def _watch(self, fetch: Callable[[], Sequence[T]], seconds: float) -> None:
        from rich.text import Text

        def look(width: int) -> RenderableType:
            rows = fetch()
            return self.table(rows, width) if rows else Text(self.empty)

        watched(look, seconds)


def watched(look: Callable[[int], RenderableType], seconds: float) -> None:
    """Show what `look(width)` returns, every so many seconds anew, until interrupted."""
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    console = stdout()
    if not console.is_terminal:
        raise click.UsageError("--watch needs a terminal")
    body: RenderableType = Text("")
    with suppress(KeyboardInterrupt), Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            head = f"{datetime.now():%H:%M:%S}  every {duration(seconds)}, Ctrl-C ends"
            try:
                body = look(console.width)
            except PgQueueError as error:
                head = f"{datetime.now():%H:%M:%S}  {error}; trying again"
            live.update(Group(Text(head, style=DIM, overflow="ellipsis", no_wrap=True), body), refresh=True)
            time.sleep(seconds)


def ending(text: Any, room: int) -> Any:
    """The end of a text that has too little room."""
    return "…" + text[1 - room :] if isinstance(text, str) and len(text) > room else text


def shrink(widths: list[int], shrinkable: Sequence[int], room: int) -> None:
    """Take from the widest of the shrinkable columns until all fit; none gets narrower than 8."""
    while sum(widths) > room:
        widest = max(shrinkable, key=lambda n: widths[n], default=None)
        if widest is None or widths[widest] <= NARROWEST:
            return
        widths[widest] -= 1


def show(look: Callable[[int], RenderableType]) -> None:
    """Print what `look(width)` returns. In what is piped lines end where their text does."""
    console = stdout()
    if console.is_terminal:
        console.print(look(console.width))
        return
    with console.capture() as captured:
        console.print(look(console.width))
    for line in captured.get().splitlines():
        click.echo(line.rstrip())


def stdout() -> Console:
    """The console of data. What is piped is neither coloured nor cut to a width."""
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    return console if console.is_terminal else Console(highlight=False, markup=False, width=UNWRAPPED)


def stderr() -> Console:
    """The console of messages."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


def note(message: str) -> None:
    """A message for people, on stderr."""
    click.echo(message, err=True)


def print_json(records: Iterable[Mapping[str, Any]]) -> None:
    """Each record as one line of JSON on stdout."""
    for record in records:
        click.echo(json.dumps(record, default=plain, ensure_ascii=False))


def plain(value: Any) -> Any:
    """What JSON has no type for: ISO 8601 in UTC, seconds, text."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Mapping):
        return dict(value)
    return str(value)


def as_cell(value: Any) -> Any:
    if value is None or value == "":
        return styled("-", DIM)
    if isinstance(value, datetime):
        return relative(value)
    if isinstance(value, timedelta):
        return duration(value.total_seconds())
    return f"{value:,}" if type(value) is int else value if not isinstance(value, str) else printable(value)


def state(name: str) -> Any:
    """The name of a state in its colour."""
    return styled(name, STATES.get(name, ""))


def faint(text: str) -> Any:
    """Text that steps back."""
    return styled(text, DIM)


def alarming(count: int) -> Any:
    """A number that should be 0."""
    return styled(f"{count:,}", STATES["failed"]) if count else faint("0")


def printable(text: str) -> str:
    """One line that cannot move the cursor or change colours: task arguments and errors are others' text."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in text)


def stamp(moment: datetime) -> str:
    """`2026-12-31 09:00:00 CET`: the time on this machine's clock."""
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S %Z}"


def zoned(moment: datetime, tz: str) -> str | None:
    """`2026-12-31 09:00:00 CET`: the time in that zone; None where this machine's clock says the same."""
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        there = moment.astimezone(ZoneInfo(tz))
    except (ZoneInfoNotFoundError, ValueError, OSError):
        # SQL has written a name that is none.
        return None
    text = f"{there:%Y-%m-%d %H:%M:%S %Z}"
    return None if text == stamp(moment) else text


def relative(moment: datetime, now: datetime | None = None) -> str:
    """`12s ago`, `in 5m`."""
    away = (moment - (now or datetime.now(UTC))).total_seconds()
    if abs(away) < 1:
        return "now"
    return f"in {duration(away)}" if away > 0 else f"{duration(-away)} ago"


def duration(seconds: float) -> str:
    """Two figures at most: `250ms`, `1.4s`, `12s`, `5m`, `1h20m`, `3d`."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f}ms" if seconds >= 0.0095 else f"{seconds * 1000:.1f}ms"
    if seconds < 9.95:
        return f"{seconds:.1f}s".replace(".0s", "s")
    whole = round(seconds)
    for size, unit, below, rest in ((60, "s", 1, ""), (3600, "m", 60, "s"), (86400, "h", 3600, "m")):
        if whole < size:
            part = (whole % below) * 60 // below if rest and whole < 10 * below else 0
            return f"{whole // below}{unit}{part}{rest}" if part else f"{whole // below}{unit}"
    hours = whole % 86400 // 3600
    return f"{whole // 86400}d{hours}h" if hours and whole < 10 * 86400 else f"{whole // 86400}d"


def styled(text: str, style: str) -> Any:
    """Text in a style."""
    from rich.text import Text

    return Text(text, style=style)
