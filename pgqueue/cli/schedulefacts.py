"""What there is to say of a schedule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pgqueue.cli.detail import moment, text_of
from pgqueue.cli.output import duration, printable, zoned
from pgqueue.english import in_words

if TYPE_CHECKING:
    from datetime import datetime

    from pgqueue.queries.scheduling import ScheduleRow


def facts(row: ScheduleRow) -> list[tuple[str, Any]]:
    """What there is to say of a schedule, without what it does not have."""
    late = "" if row.grace is None else f", no later than {duration(row.grace.total_seconds())}"
    runs = str(row.runs) if row.max_runs is None else f"{row.runs} of {row.max_runs}"
    pairs = [
        ("schedule", row.name),
        ("fires", printable(in_words(row))),
        ("pattern", row.cron or ""),
        ("task", row.task),
        ("queue", row.queue or ""),
        ("arguments", text_of(row.args) if row.args else ""),
        ("options", text_of(row.job_options) if row.job_options else ""),
        ("next", "" if row.ended or not row.enabled else _told(row.next_run_at, row)),
        ("last", _told(row.last_run_at, row)),
        ("last job", "" if row.last_job_id is None else str(row.last_job_id)),
        ("runs", runs),
        ("missed times", f"{row.catch_up}{late}"),
        ("overlap", row.overlap),
        ("jitter", "" if not row.jitter else duration(row.jitter.total_seconds())),
        ("start", _told(row.start, row)),
        ("end", _told(row.end, row)),
        ("from", {"code": "the code", "removed": "the code, which no longer has it"}.get(row.source, "added live")),
        ("state", "ended" if row.ended else "on" if row.enabled else "paused"),
        ("bad", printable(row.error or row.unreadable or "")),
    ]
    return [(name, value) for name, value in pairs if value != ""]


def _told(time: datetime | None, row: ScheduleRow) -> str:
    """In the zone of a pattern, and by this machine's clock. An interval is the same in all zones."""
    there = None if time is None or row.cron is None else zoned(time, row.tz)
    return moment(time) if there is None else f"{there} = {moment(time)}"
