"""How a worker is, read from another thread: also while its event loop stands still."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pgqueue.health import Health

if TYPE_CHECKING:
    from pgqueue.worker.worker import Worker

# A worker that has room looks for jobs at every poll: after so many without a success something is wrong.
POLLS = 5
LEAST_SECONDS = 5.0


def ready_within(poll_interval: float) -> float:
    """Seconds since its last successful claim after which a worker is not ready."""
    return max(LEAST_SECONDS, POLLS * poll_interval)


def health_of(worker: Worker) -> Health:
    """What it says of itself. Claims count only while there is room for jobs: who is busy need not claim."""
    now, limit = time.monotonic(), ready_within(worker.poll_interval)
    heartbeat = worker.life.heartbeat
    stood = 0.0 if heartbeat is None else now - heartbeat.ticked_at
    hung = (f"its event loop has stood still for {stood:.0f} s",) if stood > worker.life.blocked_limit else ()
    if not worker.started:
        return Health(hung, ("it waits for PostgreSQL",))
    unready = []
    if worker.stopping:
        unready.append("it stops")
    elif worker.draining:
        unready.append("it drains: it claims no more, and stops when what runs has ended")
    elif not worker.life.registered.is_set():
        unready.append("its lease was lost, and it registers anew")
    elif heartbeat is not None and heartbeat.is_in_doubt():
        unready.append(f"its lease was renewed {now - heartbeat.beat_at:.0f} s ago, and may have ended")
    if stood > limit and not hung:
        unready.append(f"its event loop has stood still for {stood:.0f} s, where {limit:g} are allowed")
    elif not worker.leaving:
        for queue, claimer in list(worker.serving.claimers.items()):
            if (since := now - claimer.looked_at) > limit:
                why = f"no claim of queue {queue} has succeeded for {since:.0f} s, where {limit:g} are allowed"
                unready.append(why)
    return Health(hung, (), tuple(unready))
