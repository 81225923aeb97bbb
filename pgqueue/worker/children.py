"""What the children of jobs came to, read for those jobs that have some, before they run."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable

from pgqueue.flow import Child
from pgqueue.queries import flows
from pgqueue.queries.statement import Statement


class Children:
    """Jobs that begin together are asked for together: a fan-out of thousands is not as many questions."""

    def __init__(
        self, schema: str, fetch: Callable[[Statement[tuple[int, Child]]], Awaitable[list[tuple[int, Child]]]]
    ) -> None:
        self._schema = schema
        self._fetch = fetch
        self._asked: list[tuple[int, asyncio.Future[tuple[Child, ...]]]] = []
        self._reading: asyncio.Task[None] | None = None

    async def of(self, job_id: int) -> tuple[Child, ...]:
        """Those that the job has waited for. Waits for PostgreSQL as long as it takes."""
        answer: asyncio.Future[tuple[Child, ...]] = asyncio.get_running_loop().create_future()
        self._asked.append((job_id, answer))
        if self._reading is None:
            self._reading = asyncio.create_task(self._read())
        return await answer

    async def _read(self) -> None:
        try:
            while self._asked:
                # Whoever asks in the same turn of the loop is in it.
                await asyncio.sleep(0)
                asked, self._asked = self._asked, []
                await self._answer(asked)
        finally:
            self._reading = None

    async def _answer(self, asked: list[tuple[int, asyncio.Future[tuple[Child, ...]]]]) -> None:
        found: defaultdict[int, list[Child]] = defaultdict(list)
        # Who has stopped to wait is answered no more.
        waiting = [(job_id, answer) for job_id, answer in asked if not answer.done()]
        try:
            for parent, child in await self._fetch(flows.children(self._schema, sorted({one for one, _ in waiting}))):
                found[parent].append(child)
        except BaseException as error:
            for _, answer in waiting:
                if not answer.done():
                    answer.set_exception(error)
            raise
        for job_id, answer in waiting:
            if not answer.done():
                answer.set_result(tuple(found[job_id]))
