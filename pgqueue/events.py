"""What happened, as data, and who wants to know."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from pgqueue.errors import ConfigurationError

EventName = Literal[
    "enqueued", "started", "completed", "retried", "snoozed", "cancelled", "failed", "released", "rescued"
]
NAMES: frozenset[str] = frozenset(get_args(EventName))

logger = logging.getLogger("pgqueue.events")


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened to one job in this process. `duration` is in seconds; `detail` differs by name."""

    name: EventName
    job_id: int
    task: str
    queue: str
    attempt: int = 0
    duration: float | None = None
    detail: Any = None


Callback = Callable[[Event], Any]


@dataclass(slots=True)
class Subscribers:
    """Callbacks by event. One that raises is logged; it never hurts the job."""

    callbacks: dict[str, list[Callback]] = field(default_factory=dict)

    def add(self, name: str, callback: Callback) -> None:
        if name not in NAMES:
            raise ConfigurationError(f"there is no event {name!r}: use one of {', '.join(sorted(NAMES))}")
        self.callbacks.setdefault(name, []).append(callback)

    def remove(self, name: str, callback: Callback) -> None:
        self.callbacks.get(name, []).remove(callback)
        if not self.callbacks[name]:
            del self.callbacks[name]

    def wants(self, name: str) -> bool:
        """Whether anybody listens: the hot path builds no event for nobody."""
        return name in self.callbacks

    def emit(self, event: Event) -> None:
        for callback in tuple(self.callbacks.get(event.name, ())):
            try:
                callback(event)
            except Exception:
                logger.exception("a subscriber to %r raised", event.name)
