"""The middleware around a run: each layer is told what the ones inside it, and the task, came to."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass

from pgqueue.context import Context
from pgqueue.errors import ConfigurationError, TaskSignal
from pgqueue.middleware import Middleware, name_of
from pgqueue.outcome import Completed, Outcome

logger = logging.getLogger("pgqueue.worker")


@dataclass(frozen=True, slots=True)
class Wrapped:
    """One run: `call` runs the task, `decide` says what becomes of an error.

    `commits`: when it has completed, that is in the database already.
    """

    context: Context
    call: Callable[[], Awaitable[Outcome]]
    decide: Callable[[BaseException], Outcome]
    commits: bool

    async def within(self, layers: Sequence[Middleware]) -> Outcome:
        """Run it in `layers`, outermost first. Raises CancelledError where it is interrupted, and nothing else."""
        if not layers:
            return await self._called()
        layer, *inner = layers
        generator = layer.run(self.context)
        try:
            await anext(generator)
        except asyncio.CancelledError:
            raise
        except StopAsyncIteration:
            return self._broke(layer, ConfigurationError("it returned without a `yield`: to end a run, raise"), None)
        except BaseException as error:
            return self._broke(layer, error, None)
        try:
            outcome = await self.within(inner)
        except asyncio.CancelledError as interrupted:
            await self._interrupt(layer, generator, interrupted)
            raise
        return await self._tell(layer, generator, outcome)

    async def _called(self) -> Outcome:
        try:
            return await self.call()
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self.context.error = error
            return self.decide(error)

    async def _tell(self, layer: Middleware, generator: AsyncGenerator[None, Outcome], outcome: Outcome) -> Outcome:
        try:
            await generator.asend(outcome)
            await generator.aclose()
        except StopAsyncIteration:
            return outcome
        except asyncio.CancelledError:
            if self._has_committed(outcome):
                return outcome
            raise
        except BaseException as error:
            return self._broke(layer, error, outcome)
        return self._broke(layer, ConfigurationError("it has a second `yield` in run: each yields once"), outcome)

    async def _interrupt(
        self, layer: Middleware, generator: AsyncGenerator[None, Outcome], interrupted: asyncio.CancelledError
    ) -> None:
        """Let it clean up. It cannot hold the interruption up."""
        try:
            await generator.athrow(interrupted)
            await generator.aclose()
        except (asyncio.CancelledError, StopAsyncIteration):
            return
        except BaseException as error:
            self._log(layer, error, "while its run was interrupted")

    def _broke(self, layer: Middleware, error: BaseException, outcome: Outcome | None) -> Outcome:
        """What the run comes to when a layer raised: before the task where there is no outcome yet, else after it."""
        asked_for = isinstance(error, TaskSignal)
        if outcome is not None and self._has_committed(outcome):
            self._log(layer, error, "after it had committed; the job stays completed")
            return outcome
        if not asked_for:
            self._log(layer, error, "before the task" if outcome is None else "after the task")
            if outcome is not None and not isinstance(outcome, Completed):
                return outcome
        self.context.error = error
        return self.decide(error)

    def _has_committed(self, outcome: Outcome) -> bool:
        return self.commits and isinstance(outcome, Completed)

    def _log(self, layer: Middleware, error: BaseException, when: str) -> None:
        context = self.context
        logger.error(
            "middleware %s raised around job %d (%s), %s",
            name_of(layer),
            context.job_id,
            context.task,
            when,
            exc_info=error,
        )
