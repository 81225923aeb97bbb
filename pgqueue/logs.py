"""Log records that say of which job they are, and JSON lines."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from pgqueue.context import Context, find_job

OWN = ("job_id", "task", "queue", "attempt", "trace_id")
STANDARD = frozenset({*logging.makeLogRecord({}).__dict__, "message", "asctime", "taskName", "fields"})


class JobLogFilter(logging.Filter):
    """Gives every record the attributes `job_id`, `task`, `queue`, `attempt` and `trace_id` of the job that it was
    logged in, and those of `headers`. Outside of a job they are None, and so is `trace_id` where nobody traces; what a
    record has already stays.

    It lets every record pass. It belongs on handlers: what is on a logger sees nothing of the loggers below it. Works
    in coroutines and in the threads of tasks; a task in a process of its own has the logging that its module sets up.
    Override `fields` for more.

        handler.addFilter(JobLogFilter(headers=["request_id"]))
        handler.setFormatter(logging.Formatter("%(levelname)s job=%(job_id)s request=%(request_id)s %(message)s"))
    """

    def __init__(self, *, headers: Iterable[str] = ()) -> None:
        super().__init__()
        self.headers = (headers,) if isinstance(headers, str) else tuple(headers)

    def filter(self, record: logging.LogRecord) -> bool:
        for name, value in self.fields(find_job()).items():
            record.__dict__.setdefault(name, value)
        return True

    def fields(self, context: Context | None) -> dict[str, Any]:
        """The attributes of a record that is logged in the job, None: outside of any."""
        if context is None:
            return dict.fromkeys((*OWN, *self.headers))
        own = {name: getattr(context, name) for name in OWN}
        return {**{name: context.headers.get(name) for name in self.headers}, **own}


class JsonLines(logging.Formatter):
    """One object a line: time, level, logger, message, and whatever else the record has, such as from `extra`.

    handler.setFormatter(JsonLines())
    """

    def format(self, record: logging.LogRecord) -> str:
        extra = {name: value for name, value in record.__dict__.items() if name not in STANDARD and value is not None}
        own = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        # Its own come first, and no other takes their place.
        line: dict[str, Any] = {**own, **extra, **getattr(record, "fields", {}), **own}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        # A lone surrogate cannot be written to a stream.
        return json.dumps(line, default=str, ensure_ascii=False).encode("utf-8", "backslashreplace").decode("utf-8")


__all__ = ["JobLogFilter", "JsonLines"]
