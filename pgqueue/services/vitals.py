"""How a process is that runs one service, such as the scheduler; read from another thread."""

from __future__ import annotations

import time

from pgqueue.health import Health
from pgqueue.services.service import Service

HUNG_SECONDS = 120.0


def health_of(service: Service, longest: float) -> Health:
    """What it says of itself, where it takes a turn every `longest` seconds at least."""
    now, limit = time.monotonic(), 3 * longest
    if service.turned_at is None:
        return Health(starting=("it waits for PostgreSQL",))
    tried, turned = now - service.tried_at, now - service.turned_at
    hung = (f"a turn of the {service.name} has not ended for {tried:.0f} s",) if tried > HUNG_SECONDS else ()
    late = (f"no turn of the {service.name} has succeeded for {turned:.0f} s, where {limit:g} are allowed",)
    return Health(hung, (), late if turned > limit else ())
