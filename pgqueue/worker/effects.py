"""Remembers what running tasks do once, and the steps of their jobs, on a connection of its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import psycopg
from psycopg import errors as pg_errors

from pgqueue.context import Context
from pgqueue.database import arun as arun_on
from pgqueue.database import is_async
from pgqueue.database import run as run_on
from pgqueue.errors import ConfigurationError, PgQueueError
from pgqueue.outcome import Cancelled, Completed, Outcome
from pgqueue.queries import steps
from pgqueue.queries.effects import Begun, Holder
from pgqueue.queries.statement import Operation
from pgqueue.worker.connection import TRANSIENT, WorkerConnection, pauses
from pgqueue.worker.dialogue import Ask, Asker, Calls, Dialogue, Invoke, arun, run

logger = logging.getLogger("pgqueue.worker")

FORGET_SECONDS = 1.0
FORGET_TRIES = 30
LAST_SECONDS = 1.0


class EffectsOfRun:
    """`once` and `step` of one run. What it asks goes to `asker`, or to the transaction that the task gives."""

    def __init__(self, context: Context, schema: str, me: Holder, asker: Asker) -> None:
        self._context = context
        self._schema = schema
        self._me = me
        self._asker = asker
        self._calls = Calls(context)

    def once(self, connection: Any, key: str, function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        return run(self._once(key, function, args, kwargs), self._on(connection))

    async def aonce(
        self, connection: Any, key: str, function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        return await arun(self._once(key, function, args, kwargs), self._on(connection))

    def step(self, connection: Any, name: str, function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        return run(self._step(name, function, args, kwargs), self._on(connection))

    async def astep(
        self, connection: Any, name: str, function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        return await arun(self._step(name, function, args, kwargs), self._on(connection))

    def _once(self, key: str, *call: Any) -> Dialogue:
        self._context.check_cancelled()
        return self._calls.once(key, Invoke(*call))

    def _step(self, name: str, *call: Any) -> Dialogue:
        self._context.check_cancelled()
        return self._calls.step(name, Invoke(*call))

    def _on(self, connection: Any) -> Asker:
        own = self._context.connection
        given = own if connection is None else connection
        return self._asker if given is None else AskTransaction(given, self._schema, self._me, completing=given is own)


class AskTransaction:
    """Asks in a transaction that the task has: what is stored commits with it."""

    def __init__(self, connection: Any, schema: str, me: Holder, *, completing: bool) -> None:
        self._connection = connection
        self._schema = schema
        self._me = me
        self._completing = completing

    def check(self, *, coroutine: bool) -> None:
        if is_async(self._connection) is not coroutine:
            kind, form = ("sync", "once and step") if coroutine else ("async", "await aonce and astep")
            raise ConfigurationError(f"{type(self._connection).__name__} is {kind}: use {form} with it")

    def ask(self, question: Ask) -> Any:
        return run_on(self._connection, self._operation(question))

    async def aask(self, question: Ask) -> Any:
        return await arun_on(self._connection, self._operation(question))

    def _operation(self, question: Ask) -> Operation[Any]:
        return question.operation(self._schema, self._me, completing=self._completing)


class AskWorker:
    """Asks on the worker's connection, from its event loop or from any thread."""

    def __init__(self, effects: WorkerEffects, me: Holder) -> None:
        self._effects = effects
        self._me = me

    def check(self, *, coroutine: bool) -> None:
        if not coroutine and self._effects.is_here():
            raise ConfigurationError(
                "once() or step() was called inside the event loop, which it would block: "
                "use `await ctx.aonce(…)` or `await ctx.astep(…)` there"
            )

    def ask(self, question: Ask) -> Any:
        return asyncio.run_coroutine_threadsafe(self._answer(question), self._effects.loop).result()

    async def aask(self, question: Ask) -> Any:
        if self._effects.is_here():
            return await self._answer(question)
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._answer(question), self._effects.loop))

    async def _answer(self, question: Ask) -> Any:
        return await self._effects.answer(question, self._me)


class AskParent:
    """Asks the worker, from a process of its own: the worker knows the claim, and has the connection."""

    def __init__(self, send: Callable[[str, dict[str, Any]], Any]) -> None:
        self._send = send

    def check(self, *, coroutine: bool) -> None:
        """Both forms can be."""

    def ask(self, question: Ask) -> Any:
        return self._send(*question)

    async def aask(self, question: Ask) -> Any:
        return await asyncio.to_thread(self._send, *question)


class WorkerEffects:
    """Answers what runs ask, and forgets the steps of jobs that have ended."""

    def __init__(self, connection: WorkerConnection, schema: str) -> None:
        self.connection = connection
        self.loop = asyncio.get_running_loop()
        self.schema = schema
        self._ended: dict[int, int] = {}
        self._arrived = asyncio.Event()
        self._answers: set[asyncio.Task[Any]] = set()
        self._closed = False

    def is_here(self) -> bool:
        """Whether this is the worker's event loop."""
        try:
            return asyncio.get_running_loop() is self.loop
        except RuntimeError:
            return False

    def open(self, context: Context) -> EffectsOfRun:
        """Of a run, when it first asks."""
        me = holder(context)
        return EffectsOfRun(context, self.schema, me, AskWorker(self, me))

    async def asked(self, context: Context, verb: str, params: dict[str, Any]) -> Any:
        """Answer what a run in a process of its own asks."""
        if context.effects is None:
            context.effects = self.open(context)
        return await self.answer(Ask(verb, params), holder(context))

    async def answer(self, question: Ask, me: Holder) -> Any:
        """Goes on when who asks is cancelled: what has been done is to be remembered."""
        answer = self.loop.create_task(self._answer(question, me))
        self._answers.add(answer)
        answer.add_done_callback(self._answered)
        return await asyncio.shield(answer)

    def _answered(self, answer: asyncio.Task[Any]) -> None:
        self._answers.discard(answer)
        if not answer.cancelled():
            # Nobody may be there to take it.
            answer.exception()

    async def _answer(self, question: Ask, me: Holder) -> Any:
        """Waits for PostgreSQL as long as it takes."""
        for pause in pauses():
            if self._closed:
                raise PgQueueError("the worker has stopped, and given the job back: nothing more of this run is stored")
            try:
                return await self.connection.run(question.operation(self.schema, me))
            except pg_errors.LockNotAvailable:
                if question.verb == "begin":
                    return Begun("held")
            except TRANSIENT as error:
                logger.info("what a task has done waits for PostgreSQL: %s", str(error).strip() or type(error).__name__)
            await asyncio.sleep(pause)
        raise AssertionError("unreachable")

    def ended(self, job_id: int, outcome: Outcome | None) -> None:
        """A run that has asked came to this: its steps go when the job is over, and did not fail."""
        if isinstance(outcome, Completed | Cancelled):
            self._ended[job_id] = FORGET_TRIES
            self._arrived.set()

    async def close(self) -> None:
        """Nothing is answered any more, to threads that go on."""
        self._closed = True
        if self._answers:
            await asyncio.wait(self._answers, timeout=LAST_SECONDS)
        for answer in self._answers:
            answer.cancel()
        if self._ended:
            with suppress(TimeoutError):
                async with asyncio.timeout(LAST_SECONDS):
                    await self._forget()
        await self.connection.close()

    async def run(self) -> None:
        """Forget for ever. What is left where a worker dies, the pruner finds."""
        while True:
            await self._arrived.wait()
            await asyncio.sleep(FORGET_SECONDS)
            await self._forget()

    async def _forget(self) -> None:
        ended, self._ended = self._ended, {}
        self._arrived.clear()
        try:
            live = await self.connection.fetch(steps.forget_of(self.schema, ended))
        except (psycopg.Error, PgQueueError) as error:
            logger.info("steps of ended jobs stay: %s", str(error).strip() or type(error).__name__)
            live = list(ended)
        for job_id in live:
            # Its outcome has not been written yet, or was refused.
            if ended[job_id] > 1:
                self._ended.setdefault(job_id, ended[job_id] - 1)
                self._arrived.set()


def holder(context: Context) -> Holder:
    """Who asks. A run in a worker always has its claim."""
    assert context.claimed is not None
    return Holder(context.claimed.id, context.claimed.fence)
