"""Jobs written to a file or a pipe, as JSON lines or CSV."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from datetime import datetime
from typing import IO, Any

from pgqueue.cli.listings import job_record
from pgqueue.cli.output import plain
from pgqueue.job import Job

CSV_COLUMNS = (
    *("id", "state", "queue", "task", "priority", "attempt", "max_attempts", "key", "serial_key"),
    *("created_at", "run_at", "started_at", "ended_at", "reason", "tags", "args", "value", "headers", "errors"),
)
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def write(jobs: Iterable[Job], output: IO[str], form: str) -> int:
    """Write each job as a line of JSON, or as a row of CSV below a header; how many there were."""
    count = 0
    rows = csv.writer(output, lineterminator="\n")
    if form == "csv":
        rows.writerow(CSV_COLUMNS)
    for count, job in enumerate(jobs, 1):  # noqa: B007 - how many there were
        record = job_record(job)
        if form == "csv":
            rows.writerow([cell(record[name]) for name in CSV_COLUMNS])
        else:
            output.write(dumped(record) + "\n")
    return count


def cell(value: Any) -> Any:
    """What a cell of CSV says: JSON, but for text and times; nothing for None and for what is empty.

    A text that a spreadsheet would take for a formula begins with an apostrophe: who enqueues is not who opens it.
    """
    if value is None or value in ({}, [], ()):
        return ""
    if isinstance(value, str):
        return f"'{value}" if value.startswith(FORMULA) else value
    return str(plain(value)) if isinstance(value, datetime) else dumped(value)


def dumped(value: Any) -> str:
    return json.dumps(value, default=plain, ensure_ascii=False)
