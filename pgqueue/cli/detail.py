"""One job, whole."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from pgqueue.cli.listings import job_record
from pgqueue.cli.output import DIM, plain, print_json, printable, relative, show, stamp, state, stdout
from pgqueue.job import Job
from pgqueue.journal import LogLine, Progress


def show_job(job: Job, progress: Progress | None, logs: Sequence[LogLine], *, as_json: bool) -> None:
    """Everything about a job: its data, then the error of every attempt, then its log."""
    if as_json:
        told = {"progress": progress and progress._asdict(), "logs": [line._asdict() for line in logs]}
        print_json([{**job_record(job), **told}])
        return
    from rich.text import Text

    show_facts(facts(job, progress))
    console = stdout()
    for error in job.errors:
        console.print()
        console.print(Text(f"attempt {error.get('attempt', '?')}  {attempted(error)}", style=DIM))
        frames = str(error.get("traceback") or f"{error.get('type')}: {error.get('message')}")
        console.print(Text("\n".join(printable_line(line) for line in frames.rstrip().splitlines())))
    if logs:
        console.print()
    for line in logs:
        head = f"{stamp(line.at)}  attempt {line.attempt}  {line.level:<7}  "
        console.print(
            Text(head, style=DIM) + Text("\n".join(printable_line(part) for part in line.message.splitlines()))
        )


def show_facts(pairs: Iterable[tuple[str, Any]]) -> None:
    """Names, dim, and their values."""
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(style=DIM, no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in pairs:
        table.add_row(name, value)
    show(lambda width: table)


def facts(job: Job, progress: Progress | None = None) -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = [
        ("job", str(job.id)),
        ("state", state(job.state)),
        ("task", job.task),
        ("queue", job.queue),
        ("arguments", "" if job.unreadable and "args" in job.unreadable else text_of(job.args)),
        ("attempt", f"{job.attempt} of {job.max_attempts}"),
        (
            "progress",
            "" if progress is None else f"{progress.percent:g} %  {printable(progress.message or '')}".rstrip(),
        ),
        ("priority", str(job.priority)),
        ("key", printable(job.key or "")),
        ("serial key", printable(job.serial_key or "")),
        ("tags", printable(" ".join(job.tags))),
        ("headers", text_of(job.headers) if job.headers else ""),
        ("created", moment(job.created_at)),
        ("run at", moment(job.run_at) if job.state == "scheduled" else ""),
        ("started", moment(job.started_at)),
        ("ended", moment(job.ended_at)),
        ("reason", printable(job.reason or "")),
        ("result", text_of(job.value) if job.state == "completed" and job.value is not None else ""),
    ]
    pairs += [("unreadable", printable(f"{column}: {why}")) for column, why in (job.unreadable or {}).items()]
    return [(name, value) for name, value in pairs if value != ""]


def attempted(error: Mapping[str, Any]) -> str:
    """When an attempt failed; as it stands where SQL has written what is no time."""
    try:
        return stamp(datetime.fromisoformat(str(error.get("at"))))
    except ValueError:
        return printable(str(error.get("at", "")))


def text_of(value: Any) -> str:
    return printable(json.dumps(value, default=plain, ensure_ascii=False))


def moment(value: datetime | None) -> str:
    return "" if value is None else f"{stamp(value)}  ({relative(value)})"


def printable_line(line: str) -> str:
    indent = line[: len(line) - len(line.lstrip(" "))]
    return indent + printable(line.lstrip(" "))
