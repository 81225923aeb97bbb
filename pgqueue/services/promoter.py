"""`scheduled` → `available` when due. Sleeps until the next `run_at`."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pgqueue.queries import claiming
from pgqueue.services.service import Runner, Service

BATCH = 500
LONGEST = 1.0


class Promoter(Service):
    """Promotes the jobs of the queues that this worker serves. `on_promoted(queue)` wakes its claimer."""

    name = "promoter"

    def __init__(
        self, runner: Runner, schema: str, queues: Callable[[], Iterable[str]], on_promoted: Callable[[str], None]
    ) -> None:
        super().__init__(runner, schema)
        self._queues = queues
        self._on_promoted = on_promoted

    async def run_once(self) -> float:
        pause = LONGEST
        for queue in list(self._queues()):
            [(count, due_in)] = await self.runner.fetch(claiming.promote(self.schema, queue=queue, count=BATCH))
            if count:
                self._on_promoted(queue)
            if count == BATCH:
                return 0.0
            if due_in is not None:
                pause = min(pause, max(due_in, 0.0))
        return pause
