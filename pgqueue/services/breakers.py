"""Circuit breakers: opens those whose attempts fail too often, and sees that a half-open one tries a job."""

from __future__ import annotations

import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Collection

from pgqueue.breaker import Counts, Of
from pgqueue.queries import breakers
from pgqueue.queries.breakers import Known
from pgqueue.services.service import Runner, Service

logger = logging.getLogger("pgqueue.services")

WATCHED, UNWATCHED = 1.0, 2.0
SOON = 0.1
UNTRIED = 5.0
COMPACT = 30.0


class BreakerKeeper(Service):
    """Looks at all breakers once a second, and at those that have counted a failure at once.

    `completed()` gives, and forgets, the attempts that completed and are still to be counted; `failing()` says where
    failures have lately been counted; `on_read(all)` is told how all are, and returns whether one has just opened.
    """

    name = "breakers"

    def __init__(
        self,
        runner: Runner,
        schema: str,
        *,
        completed: Callable[[], dict[Of, int]],
        failing: Callable[[], Collection[Of]],
        on_read: Callable[[list[Known]], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(runner, schema)
        self._completed = completed
        self._failing = failing
        self._on_read = on_read
        self._clock = clock
        self._read_at = clock()
        self._compact_at = clock() + COMPACT * random.uniform(0.0, 1.0)
        self._pending: Counter[Of] = Counter()
        self._untried: dict[Of, tuple[int, float]] = {}

    def failed(self) -> None:
        """Failures have been counted."""
        self.wake()

    def changed(self) -> None:
        """A breaker has opened or closed, or somebody has changed one."""
        self._read_at = self._clock()
        self.wake()

    async def run_once(self) -> float:
        self._pending.update(self._completed())
        if self._pending:
            counts = {of: Counts(0, number) for of, number in self._pending.items()}
            await self.runner.fetch(breakers.count(self.schema, counts))
            self._pending.clear()
        everything = self._clock() >= self._read_at
        found = await self._read(None if everything else self._failing())
        if not everything and not await self._open(found):
            return max(0.0, self._read_at - self._clock())
        if not everything or await self._open(found):
            found = await self._read(None)
        opened = self._on_read(found)
        await self._try_others(found)
        await self._compact(found)
        # What was being claimed while it opened comes in a moment, and is to go back too.
        pause = SOON if opened else (WATCHED if found else UNWATCHED) * random.uniform(0.8, 1.0)
        self._read_at = self._clock() + pause
        return pause

    async def _read(self, only: Collection[Of] | None) -> list[Known]:
        return await self.runner.fetch(breakers.read(self.schema, only)) if only is None or only else []

    async def _open(self, found: list[Known]) -> bool:
        """Open those that have seen enough; whether there were any."""
        passed = [known.of for known in found if known.opens]
        for of in passed:
            known = await self.runner.run(breakers.open_if_passed(self.schema, of), atomic=True)
            if known is not None:
                logger.warning(
                    "the circuit breaker of %s opens for %g s: %d of %d counted attempts failed within %g s",
                    of,
                    known.rule.pause(0),
                    *known.seen,
                    known.rule.within,
                )
        return bool(passed)

    async def _try_others(self, found: list[Known]) -> None:
        """A job that was let go to be tried, and that nobody has claimed, must not keep the others waiting."""
        now = self._clock()
        before, self._untried = self._untried, {}
        for known in found:
            if known.state != "half_open" or known.untried is None:
                continue
            place, since = before.get(known.of, (None, now))
            self._untried[known.of] = known.untried, since if place == known.untried else now
            if now - self._untried[known.of][1] >= UNTRIED:
                await self.runner.run(breakers.try_another(self.schema, known), atomic=True)
                del self._untried[known.of]

    async def _compact(self, found: list[Known]) -> None:
        if found and self._clock() >= self._compact_at:
            self._compact_at = self._clock() + COMPACT * random.uniform(0.8, 1.2)
            while await self.runner.fetch(breakers.compact(self.schema)) == [breakers.COMPACT_AT_ONCE]:
                pass
