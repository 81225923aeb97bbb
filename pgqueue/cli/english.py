"""Schedules in plain English."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pgqueue.cli.detail import moment, text_of
from pgqueue.cli.output import duration, printable
from pgqueue.errors import ConfigurationError

if TYPE_CHECKING:
    from pgqueue.queries.scheduling import ScheduleRow

SHORT_FORMS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}


def in_words(row: ScheduleRow) -> str:
    """`At 09:00, Monday through Friday (Europe/Paris)`; the pattern itself where there are no words for it.

    Of a rule that SQL has written and that cannot be used: why.
    """
    from pgqueue.schedules import rule_of

    try:
        rule_of(row)
    except ConfigurationError as error:
        return f"Never: {printable(str(error))}"
    if row.every is not None:
        return f"Every {duration(row.every.total_seconds())}"
    words = pattern_in_words(row.cron or "")
    return words if row.tz == "UTC" else f"{words} ({row.tz})"


def pattern_in_words(expression: str) -> str:
    # Imported when it is needed: it takes longer than most commands do.
    from cron_descriptor import ExpressionDescriptor, FormatError, MissingFieldError, Options, WrongArgumentError

    options = Options()
    options.use_24hour_time_format = True
    options.locale_code = "en_US"
    fields = SHORT_FORMS.get(expression.lower(), expression).split()
    if len(fields) == 6:
        # Ours has the seconds last.
        fields = [fields[-1], *fields[:-1]]
    try:
        return str(ExpressionDescriptor(" ".join(fields), options).get_description())
    except (FormatError, MissingFieldError, WrongArgumentError, ValueError):
        return expression


def facts(row: ScheduleRow) -> list[tuple[str, Any]]:
    """What there is to say of a schedule, without what it does not have."""
    late = "" if row.grace is None else f", no later than {duration(row.grace.total_seconds())}"
    runs = str(row.runs) if row.max_runs is None else f"{row.runs} of {row.max_runs}"
    pairs = [
        ("schedule", row.name),
        ("fires", in_words(row)),
        ("pattern", row.cron or ""),
        ("task", row.task),
        ("queue", row.queue or ""),
        ("arguments", text_of(row.args) if row.args else ""),
        ("options", text_of(row.job_options) if row.job_options else ""),
        ("next", "" if row.ended or not row.enabled else moment(row.next_run_at)),
        ("last", moment(row.last_run_at)),
        ("last job", "" if row.last_job_id is None else str(row.last_job_id)),
        ("runs", runs),
        ("missed times", f"{row.catch_up}{late}"),
        ("overlap", row.overlap),
        ("jitter", "" if not row.jitter else duration(row.jitter.total_seconds())),
        ("start", moment(row.start)),
        ("end", moment(row.end)),
        ("from", {"code": "the code", "removed": "the code, which no longer has it"}.get(row.source, "added live")),
        ("state", "ended" if row.ended else "on" if row.enabled else "paused"),
        ("bad", printable(row.error or row.unreadable or "")),
    ]
    return [(name, value) for name, value in pairs if value != ""]
