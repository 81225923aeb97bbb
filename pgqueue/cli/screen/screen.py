"""The screen itself: a line of totals, a table a pane, and what its keys do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from rich.text import Text
from textual import events, on
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import DataTable, Footer, Input, Static, TabbedContent, TabPane

from pgqueue.cli.output import DIM, STATES, printable
from pgqueue.cli.screen.looking import Snapshot, look_of
from pgqueue.cli.screen.panes import PANES, QUEUES, RUNNING, Pane
from pgqueue.errors import PgQueueError

if TYPE_CHECKING:
    from pgqueue.app import PgQueue

# By so much a key makes it faster or slower; and its bounds, in seconds.
SLOWER = 1.5
FASTEST, SLOWEST = 0.5, 60.0
TOTALS = ("available", "running", "scheduled", "blocked", "failed")


class Question(ModalScreen[bool]):
    """Asks before what cannot be undone."""

    BINDINGS: ClassVar[list[BindingType]] = [("y", "answer(True)", "Yes"), ("n,escape", "answer(False)", "No")]
    DEFAULT_CSS = """
    Question { align: center middle; }
    Question Static { width: auto; max-width: 90%; padding: 1 3; border: round $primary; background: $surface; }
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def compose(self) -> ComposeResult:
        yield Static(Text(f"{self._text}\n\ny yes   n no"))

    def action_answer(self, answer: bool) -> None:
        self.dismiss(answer)


class Table(DataTable[Text]):
    """The rows of a pane, sorted and filtered. The cursor stays with its row."""

    def __init__(self, pane: Pane) -> None:
        super().__init__(cursor_type="row", zebra_stripes=True, id=f"table-{pane.id}")
        self.pane = pane
        self.order = pane.sort
        self._shape: tuple[Any, ...] = ()
        self._rows: list[Any] = []

    @property
    def chosen(self) -> Any:
        """The row under the cursor; None where there is none."""
        return self._rows[self.cursor_row] if 0 <= self.cursor_row < len(self._rows) else None

    def show(self, snapshot: Snapshot, words: str, width: int) -> None:
        """Draw what of the snapshot belongs here."""
        columns = [column for column in self.pane.columns if width >= column.from_width]
        self._rows = self.pane.ordered(snapshot, words, self.order)
        keys = [self.pane.key(row) for row in self._rows]
        cells = [[column.cell(row) for column in columns] for row in self._rows]
        for line in cells:
            for column, cell in zip(columns, line, strict=True):
                cell.justify = "right" if column.number else "left"
        if (shape := (len(columns), self.order, keys)) == self._shape:
            for key, line in zip(keys, cells, strict=True):
                for n, cell in enumerate(line):
                    self.update_cell(key, str(n), cell, update_width=True)
            return
        held, top = (self._key_at(self.cursor_row), self.scroll_y)
        self._shape = shape
        self.clear(columns=True)
        for n, column in enumerate(columns):
            falls = self.pane.columns[self.order[0]] is column
            mark = (" ▼" if self.order[1] else " ▲") if falls else ""
            self.add_column(Text(column.title + mark, justify="right" if column.number else "left"), key=str(n))
        for key, line in zip(keys, cells, strict=True):
            self.add_row(*line, key=key)
        if held in keys:
            self.move_cursor(row=keys.index(held), scroll=False)
        self.scroll_to(y=top, animate=False)

    def sort_by_next(self) -> None:
        """By the next column; names rise, figures fall."""
        n = (self.order[0] + 1) % len(self.pane.columns)
        self.order = n, self.pane.columns[n].number

    def reverse(self) -> None:
        self.order = self.order[0], not self.order[1]

    def _key_at(self, row: int) -> str | None:
        keys = self._shape[2] if self._shape else []
        return keys[row] if 0 <= row < len(keys) else None


class Top(App[None]):
    """`pgqueue top`: looks at the database every so many seconds, and draws what it finds."""

    TITLE = "pgqueue top"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    Screen { overflow: hidden; }
    TabbedContent { height: 1fr; }
    #totals { height: auto; padding: 0 1; }
    #trouble { height: auto; padding: 0 1; display: none; }
    #filter { display: none; height: 1; border: none; padding: 0 1; }
    .empty { padding: 1 2; }
    TabPane { padding: 0; }
    DataTable { height: 1fr; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        # Their titles stand above.
        *(Binding(str(n), f"pane('{pane.id}')", pane.title, show=False) for n, pane in enumerate(PANES, 1)),
        ("s", "sort", "Sort"),
        ("r", "reverse", "Reverse"),
        ("slash", "filter", "Filter"),
        ("p", "pause", "Pause"),
        ("c", "cancel", "Cancel"),
        ("plus", "pace(1)", "Faster"),
        ("minus", "pace(-1)", "Slower"),
        ("q", "quit", "Quit"),
    ]

    def __init__(self, app: PgQueue, *, place: str, every: float, words: str = "") -> None:
        super().__init__()
        self._app = app
        self._look = look_of(app)
        self._place = place
        self._every = every
        self._words = words
        self._snapshot: Snapshot | None = None
        self._trouble: str | None = None

    def compose(self) -> ComposeResult:
        yield Static(id="totals")
        yield Static(id="trouble")
        yield Input(self._words, placeholder="words of a name; Esc ends it", id="filter")
        with TabbedContent():
            for n, pane in enumerate(PANES, 1):
                with TabPane(f"{n} {pane.title}", id=pane.id), Vertical():
                    yield Table(pane)
                    yield Static(Text(pane.empty, style=DIM), classes="empty", id=f"empty-{pane.id}")
        yield Footer()

    def on_mount(self) -> None:
        self._draw()
        self.run_worker(self._follow(), exclusive=True, group="looks")
        self.table.focus()

    @property
    def pane(self) -> str:
        """The one that is shown."""
        return self.query_one(TabbedContent).active

    @property
    def table(self) -> Table:
        return self.query_one(f"#table-{self.pane}", Table)

    async def _follow(self) -> None:
        while True:
            await self._look_once()
            await asyncio.sleep(self._every)

    async def _look_once(self) -> None:
        try:
            self._snapshot = await asyncio.to_thread(self._look.result)
            self._trouble = None
        except Exception as error:
            # Whatever it is, what was seen last stays, and the next look comes.
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            self._trouble = f"No answer: {printable(first)}. Trying again; what is shown is of the last answer."
        self._draw()

    def _draw(self) -> None:
        snapshot = self._snapshot
        trouble = self.query_one("#trouble", Static)
        trouble.display = self._trouble is not None
        trouble.update(Text(self._trouble or "", style=f"bold {STATES['failed']}"))
        self.query_one("#totals", Static).update(self._totals(snapshot))
        for pane in PANES:
            table = self.query_one(f"#table-{pane.id}", Table)
            if snapshot is not None:
                table.show(snapshot, self._words, self.size.width)
            table.display = table.row_count > 0
            empty = self.query_one(f"#empty-{pane.id}", Static)
            empty.display = snapshot is not None and not table.display
            empty.update(Text("Nothing has these words in it." if self._words else pane.empty, style=DIM))

    def _totals(self, snapshot: Snapshot | None) -> Text:
        text = Text("pgqueue ", style="bold")
        text.append(printable(self._place), style=DIM)
        if snapshot is None:
            return text.append("  looking…", style=DIM)
        capped = frozenset().union(*(queue.capped for queue in snapshot.queues))
        for name in TOTALS:
            count = snapshot.total(name)
            text.append(f"  {name} ", style=DIM)
            text.append(f"{count:,}{'+' if name in capped else ''}", style=STATES[name] if count else DIM)
        text.append("  a second ", style=DIM).append(f"{snapshot.per_second:,.1f}")
        slots = sum(sum(worker.queues.values()) for worker in snapshot.workers)
        text.append("  workers ", style=DIM).append(f"{len(snapshot.workers)} ({slots:,} slots)")
        text.append(f"  {snapshot.at.astimezone():%H:%M:%S}, every {self._every:.2g} s", style=DIM)
        if self._words:
            text.append(f"  only {printable(self._words)}", style="bold")
        return text

    @on(events.Resize)
    def _resized(self) -> None:
        if self._snapshot is not None:
            self._draw()

    def action_pane(self, name: str) -> None:
        self.query_one(TabbedContent).active = name
        self.table.focus()

    def action_sort(self) -> None:
        self.table.sort_by_next()
        self._draw()

    def action_reverse(self) -> None:
        self.table.reverse()
        self._draw()

    def action_pace(self, faster: int) -> None:
        """Look more often, or less."""
        self._every = min(max(self._every / SLOWER**faster, FASTEST), SLOWEST)
        self._draw()

    def action_filter(self) -> None:
        field = self.query_one("#filter", Input)
        field.display = True
        field.focus()

    @on(Input.Changed, "#filter")
    def _typed(self, event: Input.Changed) -> None:
        self._words = event.value
        self._draw()

    @on(Input.Submitted, "#filter")
    def _entered(self) -> None:
        self.query_one("#filter", Input).display = False
        self.table.focus()

    def on_key(self, event: events.Key) -> None:
        if event.key == "escape" and not isinstance(self.screen, Question):
            field = self.query_one("#filter", Input)
            field.value = ""
            field.display = False
            self.table.focus()

    def action_pause(self) -> None:
        """Pause the queue under the cursor, or let it go on."""
        if self.pane != QUEUES.id or (row := self.table.chosen) is None:
            self.notify(f"Choose a queue under {QUEUES.title}.")
            return
        name, goes_on = row.counts.queue, row.counts.stopped == "paused"
        queue = self._app.queues[name]
        text = f"Queue {name} goes on." if goes_on else f"Queue {name} is paused: running jobs go on."
        self._act(queue.resume if goes_on else queue.pause, text)

    def action_cancel(self) -> None:
        """Cancel the running job under the cursor, after a question."""
        if self.pane != RUNNING.id or (job := self.table.chosen) is None:
            self.notify(f"Choose a job under {RUNNING.title}.")
            return

        def answered(yes: bool | None) -> None:
            if yes:
                self._act(lambda: self._app.jobs.cancel(job.id), f"Job {job.id} is told to stop.")

        self.push_screen(Question(f"Cancel job {job.id} ({printable(job.task)[:40]})?"), answered)

    def _act(self, verb: Callable[[], Any], text: str) -> None:
        async def act() -> None:
            try:
                await asyncio.to_thread(verb)
            except PgQueueError as error:
                self.notify(printable(str(error)), severity="error", markup=False)
            else:
                self.notify(printable(text), markup=False)
            await self._look_once()

        self.run_worker(act(), group="acts")
