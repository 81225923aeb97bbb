"""Takes back the jobs of workers whose lease has ended."""

from __future__ import annotations

from collections.abc import Callable

from pgqueue.queries import rescuing
from pgqueue.queries.rescuing import Orphan
from pgqueue.services.service import Runner, Service


class Rescuer(Service):
    """Rescues only after a lease's length of its own unbroken heartbeats.

    After an outage of PostgreSQL every lease has ended; whoever came back first would otherwise rob all the others.
    """

    name = "rescuer"

    def __init__(
        self,
        runner: Runner,
        schema: str,
        *,
        lease: float,
        healthy_for: Callable[[], float],
        delay: Callable[[str, int], float],
        on_rescued: Callable[[Orphan], None],
        gathers: Callable[[str], bool] = lambda task: False,
    ) -> None:
        super().__init__(runner, schema)
        self._lease = lease
        self._healthy_for = healthy_for
        self._delay = delay
        self._gathers = gathers
        self._on_rescued = on_rescued

    async def run_once(self) -> float:
        pause = self._lease / 4
        if self._healthy_for() < self._lease:
            return pause
        operation = rescuing.rescue(self.schema, self._delay, self._gathers)
        for orphan in await self.runner.run(operation, atomic=True):
            self._on_rescued(orphan)
        return pause
