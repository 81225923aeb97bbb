"""pgqueue: background jobs for Python teams that already run PostgreSQL."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pgqueue.version import VERSION as __version__

if TYPE_CHECKING:
    from pgqueue.alert import Alert
    from pgqueue.app import PgQueue
    from pgqueue.backoff import Backoff
    from pgqueue.breaker import Breaker
    from pgqueue.chunk import ChunkJob
    from pgqueue.context import Context, current_job
    from pgqueue.errors import (
        ArgumentError,
        CancelJob,
        ChildFailed,
        ConfigurationError,
        ConnectionFailed,
        DeliveryFailed,
        EffectHeld,
        EffectMismatch,
        FailJob,
        JobCancelled,
        JobEnded,
        JobFailed,
        JobMarked,
        JobNotEditable,
        JobNotFound,
        KeyHeld,
        LimitHit,
        PgQueueError,
        ProcessCrashed,
        QueueBusy,
        ResultTimeout,
        RetryJob,
        SchemaOutOfDate,
        SnoozeJob,
        TaskSignal,
        TaskTimeout,
        UnknownTask,
        WorkerNotFound,
    )
    from pgqueue.events import Event
    from pgqueue.flow import Child, Flow, WaitForChildren, batch, chain, chord, group, tree
    from pgqueue.job import Job, NewJob
    from pgqueue.limit import Limit
    from pgqueue.loghandler import JobLogHandler
    from pgqueue.logs import JobLogFilter, JsonLines
    from pgqueue.middleware import Middleware, with_headers, with_tags
    from pgqueue.task import Task, Unique


__all__ = [
    "Alert",
    "ArgumentError",
    "Backoff",
    "Breaker",
    "CancelJob",
    "Child",
    "ChildFailed",
    "ChunkJob",
    "ConfigurationError",
    "ConnectionFailed",
    "Context",
    "DeliveryFailed",
    "EffectHeld",
    "EffectMismatch",
    "Event",
    "FailJob",
    "Flow",
    "Job",
    "JobCancelled",
    "JobEnded",
    "JobFailed",
    "JobLogFilter",
    "JobLogHandler",
    "JobMarked",
    "JobNotEditable",
    "JobNotFound",
    "JsonLines",
    "KeyHeld",
    "Limit",
    "LimitHit",
    "Middleware",
    "NewJob",
    "PgQueue",
    "PgQueueError",
    "ProcessCrashed",
    "QueueBusy",
    "ResultTimeout",
    "RetryJob",
    "SchemaOutOfDate",
    "SnoozeJob",
    "Task",
    "TaskSignal",
    "TaskTimeout",
    "Unique",
    "UnknownTask",
    "WaitForChildren",
    "WorkerNotFound",
    "__version__",
    "batch",
    "chain",
    "chord",
    "current_job",
    "group",
    "tree",
    "with_headers",
    "with_tags",
]

# A name is imported when it is first asked for: `pgqueue --help` passes here too, and must not wait for the driver.
_MODULES = {
    "Alert": "alert",
    "Backoff": "backoff",
    "Breaker": "breaker",
    "Child": "flow",
    "ChunkJob": "chunk",
    "Context": "context",
    "Event": "events",
    "Flow": "flow",
    "Job": "job",
    "JobLogFilter": "logs",
    "JobLogHandler": "loghandler",
    "JsonLines": "logs",
    "Limit": "limit",
    "Middleware": "middleware",
    "NewJob": "job",
    "PgQueue": "app",
    "Task": "task",
    "Unique": "task",
    "WaitForChildren": "flow",
    "batch": "flow",
    "chain": "flow",
    "chord": "flow",
    "current_job": "context",
    "group": "flow",
    "tree": "flow",
    "with_headers": "middleware",
    "with_tags": "middleware",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
