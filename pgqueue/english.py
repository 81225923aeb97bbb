"""Schedules in plain English."""

from __future__ import annotations

from pgqueue.errors import ConfigurationError
from pgqueue.queries.scheduling import ScheduleRow
from pgqueue.schedules import rule_of
from pgqueue.wording import span

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
    try:
        rule_of(row)
    except ConfigurationError as error:
        return f"Never: {error}"
    if row.every is not None:
        seconds = row.every.total_seconds()
        return f"Every {span(seconds)}" if seconds >= 2 else f"Every {seconds:g} s"
    words = pattern_in_words(row.cron or "")
    return words if row.tz == "UTC" else f"{words} ({row.tz})"


def pattern_in_words(expression: str) -> str:
    """`At 09:00, Monday through Friday`; the expression itself where there are no words for it."""
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
