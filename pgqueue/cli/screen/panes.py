"""The panes of the screen: which rows each has, their columns, and by what they are sorted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from rich.text import Text

from pgqueue.cli.output import DIM, STATES, duration, printable, relative
from pgqueue.cli.screen.looking import Snapshot
from pgqueue.queries.failures import FailureGroup
from pgqueue.queries.figures import Summary
from pgqueue.queries.fleet import WorkerInfo
from pgqueue.queries.overview import QueueCounts
from pgqueue.queries.running import RunningJob

LONGEST = 36
WIDE = 110


@dataclass(frozen=True, slots=True)
class Column:
    """A column. `by` is what it is sorted by, None last. One that is `from_width` is left out of narrower screens."""

    title: str
    by: Callable[[Any], Any]
    cell: Callable[[Any], Text]
    number: bool = True
    from_width: int = 0


@dataclass(frozen=True, slots=True)
class Pane:
    """A list of one kind. `key` tells rows apart, `text` is what a filter looks through, `sort` the first order: a
    column, and whether it falls."""

    id: str
    title: str
    columns: Sequence[Column]
    rows: Callable[[Snapshot], Sequence[Any]]
    key: Callable[[Any], str]
    text: Callable[[Any], str]
    sort: tuple[int, bool]
    empty: str

    def ordered(self, snapshot: Snapshot, words: str, sort: tuple[int, bool]) -> list[Any]:
        """Its rows that have all of `words`, sorted."""
        wanted = words.lower().split()
        found = [row for row in self.rows(snapshot) if all(word in self.text(row).lower() for word in wanted)]
        number, falls = sort
        by = self.columns[number].by
        known = sorted((row for row in found if by(row) is not None), key=by, reverse=falls)
        return [*known, *(row for row in found if by(row) is None)]


@dataclass(frozen=True, slots=True)
class QueueRow:
    """A queue, and what ran of it lately."""

    counts: QueueCounts
    lately: Summary | None


def name(text: str, longest: int = LONGEST) -> Text:
    """Others' text: no markup, nothing that moves the cursor, and its end cut off where it is long."""
    shown = printable(text)
    return Text(shown if len(shown) <= longest else shown[: longest - 1] + "…")


def number(value: float | None, style: str = "") -> Text:
    """A zero steps back."""
    if not value:
        return Text("–" if value is None else "0", style=DIM)
    return Text(f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.2g}", style=style)


def time(value: float | timedelta | None) -> Text:
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    return Text("–", style=DIM) if seconds is None else Text(duration(max(0.0, seconds)))


def _counted(title: str, of: str, *, from_width: int = 0) -> Column:
    style = STATES.get(of, "")

    def cell(row: QueueRow) -> Text:
        return number(getattr(row.counts, of), style).append("+" if of in row.counts.capped else "")

    return Column(title, lambda row: getattr(row.counts, of), cell, True, from_width)


def _lately(title: str, of: Callable[[Summary], float | None], cell: Callable[[float | None], Text]) -> Column:
    def value(row: QueueRow) -> float | None:
        return None if row.lately is None else of(row.lately)

    return Column(title, value, lambda row: cell(value(row)), from_width=WIDE)


def _queue_name(row: QueueRow) -> Text:
    counts, text = row.counts, name(row.counts.queue)
    if counts.stopped is not None:
        text.append(" paused" if counts.stopped == "paused" else " breaker open", style="bold")
    elif counts.available and not counts.workers:
        text.append(" no worker", style=f"bold {STATES['failed']}")
    return text


QUEUES = Pane(
    "queues",
    "Queues",
    [
        Column("Queue", lambda row: row.counts.queue, _queue_name, number=False),
        _counted("Available", "available"),
        _counted("Running", "running"),
        _counted("Scheduled", "scheduled", from_width=WIDE),
        _counted("Blocked", "blocked"),
        _counted("Failed", "failed"),
        Column("Oldest", lambda row: row.counts.oldest_waiting, lambda row: time(row.counts.oldest_waiting)),
        _lately("A second", lambda one: one.per_second, number),
        _lately("Run p95", lambda one: one.run.p95, time),
        _lately("Wait p95", lambda one: one.wait.p95, time),
        _counted("Workers", "workers"),
    ],
    lambda snapshot: [QueueRow(queue, snapshot.lately.get(queue.queue)) for queue in snapshot.queues],
    lambda row: row.counts.queue,
    lambda row: row.counts.queue,
    (1, True),
    "No queue is known yet: one appears when a worker starts, or with its first job.",
)


def _progress(job: RunningJob) -> Text:
    if job.cancel_requested:
        return Text("to stop", style="bold")
    if job.percent is None:
        return Text("–", style=DIM)
    text = Text(f"{job.percent:.0f}%")
    if job.message:
        text.append(" ").append(name(job.message, 24).plain, style=DIM)
    return text


RUNNING = Pane(
    "running",
    "Running",
    [
        Column("Job", lambda job: job.id, lambda job: Text(str(job.id))),
        Column("Task", lambda job: job.task, lambda job: name(job.task), number=False),
        Column("Queue", lambda job: job.queue, lambda job: name(job.queue, 20), number=False),
        Column("For", lambda job: job.held_for, lambda job: time(job.held_for)),
        Column("Progress", lambda job: job.percent, _progress, number=False),
        Column(
            "Attempt", lambda job: job.attempt, lambda job: Text(f"{job.attempt}/{job.max_attempts}"), from_width=WIDE
        ),
    ],
    lambda snapshot: snapshot.running,
    lambda job: str(job.id),
    lambda job: f"{job.id} {job.task} {job.queue}",
    (3, True),
    "Nothing runs.",
)


def _slots(worker: WorkerInfo) -> int:
    return sum(worker.queues.values())


def _started(worker: WorkerInfo) -> Text:
    return Text(relative(worker.started_at))


WORKERS = Pane(
    "workers",
    "Workers",
    [
        Column("Worker", lambda worker: worker.name, lambda worker: name(worker.name), number=False),
        Column("State", lambda worker: worker.state, lambda worker: name(worker.state), number=False),
        Column("Running", lambda worker: worker.running, lambda worker: number(worker.running, STATES["running"])),
        Column("Slots", _slots, lambda worker: number(_slots(worker))),
        Column("Heartbeat", lambda worker: worker.heartbeat_at, lambda worker: Text(relative(worker.heartbeat_at))),
        Column("Started", lambda worker: worker.started_at, _started, from_width=WIDE),
        Column(
            "Queues",
            lambda worker: sorted(worker.queues),
            lambda worker: name(", ".join(sorted(worker.queues)), 40),
            number=False,
            from_width=WIDE,
        ),
    ],
    lambda snapshot: snapshot.workers,
    lambda worker: str(worker.id),
    lambda worker: " ".join([worker.name, worker.host, *worker.queues]),
    (2, True),
    "No worker is alive: pgqueue worker shop.tasks:app",
)


def _error(group: FailureGroup) -> Text:
    text = name(group.error_type.rpartition(".")[2], 30)
    first, _, _ = group.error_message.strip().partition("\n")
    return text.append(" ").append(name(first, 60).plain, style=DIM)


FAILURES = Pane(
    "failures",
    "Failures",
    [
        Column("Jobs", lambda group: group.jobs, lambda group: number(group.jobs, STATES["failed"])),
        Column("Last", lambda group: group.last_failed_at, lambda group: Text(relative(group.last_failed_at))),
        Column("Task", lambda group: group.task, lambda group: name(group.task), number=False),
        Column("Error", lambda group: group.error_type, _error, number=False),
    ],
    lambda snapshot: snapshot.failures,
    lambda group: f"{group.fingerprint} {group.task}",
    lambda group: f"{group.task} {group.error_type} {group.error_message}",
    (1, True),
    "No job has failed.",
)

PANES = (QUEUES, RUNNING, WORKERS, FAILURES)
