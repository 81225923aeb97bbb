"""Events on their way to other processes: notifications on a channel of their own, tiny, and lost where nobody listens."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pgqueue.events import NAMES, Event
from pgqueue.journal import Progress
from pgqueue.queries.statement import Statement

CHANNEL_LIMIT = 63
PAYLOAD_LIMIT = 7_000
"""In characters; all that is not ASCII is escaped. PostgreSQL takes 7,999 bytes."""


def channel(schema: str) -> str:
    """Not the one of the workers' hints: they would hear every event."""
    name = f"{schema}:events"
    return name if len(name) <= CHANNEL_LIMIT else hashlib.sha256(name.encode()).hexdigest()[:CHANNEL_LIMIT]


def publish(schema: str, payload: str) -> Statement[Any]:
    """Tell whoever listens."""
    return Statement("select pg_notify(%(channel)s, %(payload)s)", {"channel": channel(schema), "payload": payload})


def pack(worker: str, events: Sequence[Event]) -> str:
    """As many of the events of a worker as one notification takes: those of which there are few first."""
    by_name: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
    for place, event in enumerate(events):
        by_name[event.name].append((place, _packed(event)))
    left = PAYLOAD_LIMIT - len(json.dumps(worker))
    chosen: list[tuple[int, str]] = []
    for rows in sorted(by_name.values(), key=len):
        for row in rows:
            left -= len(row[1]) + 1
            if left < 0:
                break
            chosen.append(row)
    return f"[{json.dumps(worker)},{','.join(text for _, text in sorted(chosen))}]"


def unpack(payload: str) -> list[Event]:
    """The events of a notification; none where it is not of ours: whoever may connect may notify."""
    try:
        worker, *rows = json.loads(payload)
        events = [replace(Event(*row), worker=worker) for row in rows]
        return [event for event in events if event.name in NAMES]
    except (ValueError, TypeError, RecursionError):
        return []


def _packed(event: Event) -> str:
    duration = None if event.duration is None else round(event.duration, 6)
    row = (event.name, event.job_id, event.task, event.queue, event.attempt, duration, _detail(event.detail))
    return json.dumps(row, separators=(",", ":"))


def _detail(detail: Any) -> str | float | None:
    if isinstance(detail, Progress):
        return detail.percent
    error = getattr(detail, "error", None)
    return None if error is None else str(error.type)[:100]
