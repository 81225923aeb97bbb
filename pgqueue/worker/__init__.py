"""A process that runs jobs: claimer, executor, finisher, heartbeat, listener, and the background services."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pgqueue.worker.worker import Worker

__all__ = ["Worker"]


def __getattr__(name: str) -> Any:
    # The processes of CPU tasks live in this package too, and need none of the rest.
    if name == "Worker":
        from pgqueue.worker.worker import Worker

        return Worker
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
