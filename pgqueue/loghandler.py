"""A task's own logging, filed with its job."""

from __future__ import annotations

import logging

from pgqueue.context import find_job
from pgqueue.journal import Level

OWN = "pgqueue"


class JobLogHandler(logging.Handler):
    """Files what is logged while a job runs with that job, as `ctx.log` does; what is logged elsewhere is none of it.

    logging.getLogger("shop").addHandler(JobLogHandler())
    """

    def emit(self, record: logging.LogRecord) -> None:
        # What pgqueue says of a journal must not go into it.
        if record.name == OWN or record.name.startswith(f"{OWN}."):
            return
        context = find_job()
        if context is None:
            return
        try:
            context.log(self.format(record), _level(record.levelno))
        except Exception:
            self.handleError(record)


def _level(number: int) -> Level:
    if number >= logging.ERROR:
        return "error"
    if number >= logging.WARNING:
        return "warning"
    return "info" if number >= logging.INFO else "debug"
