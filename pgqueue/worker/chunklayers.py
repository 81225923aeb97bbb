"""The middleware around the jobs of a chunk: each job is wrapped by itself, and all of them around the one call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import Any

from pgqueue.chunk import JobRun
from pgqueue.context import enter
from pgqueue.middleware import Middleware
from pgqueue.outcome import Outcome
from pgqueue.worker.wrapping import Wrapped


class JobLayers:
    """The layers around one job, in a task of their own: what they set in their context, no other job sees."""

    def __init__(
        self, layers: Sequence[Middleware], run: JobRun, decide: Callable[[BaseException], Outcome], *, commits: bool
    ) -> None:
        loop = asyncio.get_running_loop()
        self.run = run
        self._decide = decide
        self._reached: asyncio.Future[None] = loop.create_future()
        self._called: asyncio.Future[Outcome] = loop.create_future()
        self._interrupted = False
        wrapped = Wrapped(run.context, self._call, decide, commits)
        self._task = loop.create_task(self._within(wrapped, layers))

    async def entered(self) -> None:
        """Until the call may begin. A job whose run a layer has ended has its outcome then, and is not called."""
        either: set[asyncio.Future[Any]] = {self._reached, self._task}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if self._task.done():
            self.run.outcome = self._task.result()

    def tell(self, outcome: Outcome | None, error: BaseException | None) -> None:
        """What the job came to in the call; None: it was interrupted, or is to run again for another's crash."""
        if outcome is None:
            self.interrupt()
        elif not self._called.done():
            self.run.context.error = error
            self._called.set_result(outcome)

    def interrupt(self) -> None:
        self._interrupted = True
        self._task.cancel()

    async def _call(self) -> Outcome:
        self._reached.set_result(None)
        return await self._called

    async def _within(self, wrapped: Wrapped, layers: Sequence[Middleware]) -> Outcome | None:
        enter(self.run.context)
        try:
            return await wrapped.within(layers)
        except asyncio.CancelledError as error:
            return None if self._interrupted else self._decide(error)
        finally:
            if self.run.context.claimed is not None:
                self.run.context.claimed.trace_id = self.run.context.trace_id
            # Its frames hold the context.
            self.run.context.error = None

    @staticmethod
    async def left(around: Collection[JobLayers]) -> bool:
        """Until all have ended, and their runs have the outcomes of that. Returns whether it was interrupted."""
        interrupted = False
        while running := [one._task for one in around if not one._task.done()]:
            try:
                await asyncio.wait(running)
            except asyncio.CancelledError:
                interrupted = True
                for one in around:
                    one.interrupt()
        for one in around:
            outcome = one._task.result()
            # What the task marked a job with is final, also where only its layers were interrupted.
            if outcome is not None or (interrupted and one.run.mark is None):
                one.run.outcome = outcome
        return interrupted
