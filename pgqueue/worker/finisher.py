"""Writes outcomes in batches, fenced, on a connection of its own; keeps what it could not write until it can."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from uuid import UUID

import psycopg
from psycopg import errors as pg_errors

from pgqueue.database import NoPartition
from pgqueue.errors import PgQueueError, SchemaOutOfDate
from pgqueue.outcome import AttemptError, Completed, Failed, Retry, Snooze, Wait, storable, type_name
from pgqueue.queries import claiming, finishing, pruning
from pgqueue.queries.finishing import Finished
from pgqueue.worker.connection import TRANSIENT, WorkerConnection, pauses

logger = logging.getLogger("pgqueue.worker")

BATCH = 500
GATHER_SECONDS = 0.005
DROP_BATCH = 20
DROP_SECONDS = 0.2
LOCK_TIMEOUT = "200ms"
REFUSED_SECONDS = 30.0
AGAIN = {Retry, Snooze}
CONTENDED = (pg_errors.SerializationFailure, pg_errors.DeadlockDetected)


class Finisher:
    """`add` outcomes; `run` writes them. What arrives while a batch is being written makes the next batch."""

    def __init__(
        self,
        connection: WorkerConnection,
        schema: str,
        worker: Callable[[], UUID],
        on_stale: Callable[[int], None],
        on_later: Callable[[float], None],
        on_freed: Callable[[], None],
        on_flows: Callable[[], None],
        on_written: Callable[[list[Finished]], None],
    ) -> None:
        self._connection = connection
        self._schema = schema
        self._worker = worker
        self._on_stale = on_stale
        self._on_later = on_later
        self._on_freed = on_freed
        self._on_flows = on_flows
        self._on_written = on_written
        self._waiting: list[Finished] = []
        self._locked: list[Finished] = []
        # What could not be written in any form. Its jobs have begun, and are not given back.
        self._refused: list[Finished] = []
        self._wrote_at = -math.inf
        self._arrived = asyncio.Event()
        self._written = asyncio.Event()
        self._writing = False
        self._drained: list[int] = []
        self._drop_now = False
        self._drop_later: asyncio.TimerHandle | None = None
        self._superseded: set[int] = set()
        self._fences: dict[int, int] = {}
        # How many jobs of each claim are to be written; 0: all are, and its row is still to be dropped.
        self.held: dict[int, int] = {}

    def claimed(self, fence: int, ids: list[int]) -> None:
        """A claim of these jobs is held: its row is dropped when all of them have been written.

        What waits of an earlier run of such a job is stale, and is dropped: a statement does not pair ids with fences,
        so beside outcomes of the new claim it would be taken for one of them.
        """
        self.held[fence] = len(ids)
        self._fences.update(dict.fromkeys(ids, fence))
        if self._writing:
            self._superseded.update(ids)
        if self._waiting or self._locked or self._refused:
            held_again = set(ids)
            self._refused = self._without(self._refused, held_again)
            self._waiting = self._without(self._waiting, held_again)
            self._locked = self._without(self._locked, held_again)

    def forget(self) -> None:
        """The worker lost its jobs: what is still told of them is stale."""
        self.held.clear()
        self._fences.clear()

    def add(self, finished: Finished) -> None:
        """Take an outcome; one of a claim that no longer holds the job is refused here already."""
        fence = self._fences.pop(finished.id, None)
        if fence != finished.fence:
            if fence is not None:
                self._fences[finished.id] = fence
            self._on_stale(1)
            return
        if not self._waiting:
            self._arrived.set()
        self._waiting.append(finished)

    def settled(self, job_id: int, fence: int) -> None:
        """The job was written by its own transaction."""
        if self._fences.get(job_id) == fence:
            del self._fences[job_id]
            self._count(fence)

    @property
    def backlog(self) -> int:
        return len(self._waiting) + len(self._locked)

    async def run(self) -> None:
        """Write for ever."""
        retries = pauses()
        while True:
            await self._arrived.wait()
            # Outcomes of the same turn of the event loop belong together; while many come, those of a few milliseconds.
            pause = self._wrote_at + GATHER_SECONDS - time.monotonic()
            await asyncio.sleep(max(0.0, pause) if len(self._waiting) < BATCH else 0)
            self._wrote_at = time.monotonic()
            batch, self._waiting = self._waiting[:BATCH], self._waiting[BATCH:]
            if not self._waiting:
                self._arrived.clear()
            self._superseded.clear()
            self._writing = True
            try:
                if batch:
                    await self._write(batch)
                # What is written is not written again, and not counted again, if the next statement fails.
                batch = []
                if self._drop_now or len(self._drained) >= DROP_BATCH:
                    await self._drop_claims()
                retries = pauses()
            except (*TRANSIENT, SchemaOutOfDate, pg_errors.InsufficientPrivilege) as error:
                logger.warning(
                    "%d outcomes wait for PostgreSQL: %s", len(batch) + len(self._waiting), _first_line(error)
                )
                self._again(batch)
                await asyncio.sleep(next(retries))
            except asyncio.CancelledError:
                self._again(batch)
                raise
            except Exception as error:
                if not batch:
                    raise
                await self._isolate(batch, error)
            finally:
                self._writing = False
                self._written.set()

    async def flushed(self) -> None:
        """Wait until nothing waits to be written."""
        while self._waiting or self._writing or self._locked or self._drained:
            if self._drained:
                self._drop_soon()
            self._written.clear()
            await self._written.wait()

    async def relieved(self, backlog: int) -> None:
        """Wait until no more than so many outcomes wait to be written."""
        while self.backlog > backlog:
            self._written.clear()
            await self._written.wait()

    def _again(self, batch: list[Finished]) -> None:
        self._waiting[:0] = self._without(batch, self._superseded)
        self._arrived.set()

    def _without(self, outcomes: list[Finished], held_again: set[int]) -> list[Finished]:
        stale = [one for one in outcomes if one.id in held_again]
        if not stale:
            return outcomes
        for one in stale:
            self._count(one.fence)
        self._on_stale(len(stale))
        return [one for one in outcomes if one.id not in held_again]

    async def _write(self, batch: list[Finished]) -> None:
        try:
            # Several statements end together: what is left after a lock timeout is then the whole batch.
            groups = finishing.grouped(batch)
            operation = finishing.finish_grouped(self._schema, self._worker(), groups)
            stale, in_flows, left = await self._connection.run(operation, atomic=groups.needs_transaction)
        except NoPartition:
            await self._connection.fetch(pruning.make_partitions(self._schema))
            self._again(batch)
            return
        except CONTENDED:
            self._again(batch)
            return
        except pg_errors.LockNotAvailable:
            await self._write_unlocked(batch)
            return
        if stale:
            self._on_stale(stale)
        if in_flows:
            self._on_flows()
        if left:
            again = {one.id for one in left}
            batch = [one for one in batch if one.id not in again]
            self._again(list(left))
        self._wrote(batch)

    async def _write_unlocked(self, batch: list[Finished]) -> None:
        """Somebody holds a row of the batch: the others end now, that one when it is free."""
        waits = [[one] for one in batch if type(one.outcome) is Wait]
        written: set[int] = set()
        held: list[Finished] = []
        # What a job brings may meet a lock of other rows than its own, or be refused: each of these stands alone.
        for part in ([one for one in batch if type(one.outcome) is not Wait], *waits):
            operation = finishing.finish_unlocked(self._schema, self._worker(), part)
            try:
                free, in_flows = await self._connection.run(operation, atomic=True) if part else (set(), 0)
            except pg_errors.LockNotAvailable:
                held += part
                if part in waits:
                    # Others wait for one such lock and no more of them; next time it is the last.
                    break
                continue
            except PgQueueError as error:
                if part not in waits:
                    raise
                await self._isolate(part, error)
                written |= {one.id for one in part}
                continue
            written |= free
            if in_flows:
                self._on_flows()
            self._wrote([one for one in part if one.id in free])
        left = [one for one in batch if one.id not in written and one not in held]
        if rest := self._without([*left, *held], self._superseded):
            self._locked.extend(rest)
            asyncio.get_running_loop().call_later(0.2, self._retry_locked)

    def _retry_locked(self) -> None:
        self._waiting[:0] = self._locked
        self._locked = []
        self._arrived.set()

    def _retry_refused(self) -> None:
        self._waiting += self._refused
        self._refused = []
        self._arrived.set()

    def _wrote(self, outcomes: list[Finished]) -> None:
        # Lists, which cost half of what generators do: every job comes through here.
        for fence, count in Counter([one.fence for one in outcomes]).items():
            self._count(fence, count)
        if not AGAIN.isdisjoint([type(one.outcome) for one in outcomes]):
            self._on_later(min(one.outcome.delay for one in outcomes if isinstance(one.outcome, Retry | Snooze)))
        if True in [one.limited for one in outcomes]:
            self._on_freed()
        self._on_written(outcomes)

    def _count(self, fence: int, count: int = 1) -> None:
        left = self.held.get(fence, 0) - count
        if left > 0:
            self.held[fence] = left
            return
        # Held until its row is gone: a reconcile must not take it for a claim whose answer was lost.
        self.held[fence] = 0
        self._drained.append(fence)
        if self._drop_later is None:
            self._drop_later = asyncio.get_running_loop().call_later(DROP_SECONDS, self._drop_soon)

    def _drop_soon(self) -> None:
        self._drop_now = True
        self._arrived.set()

    async def _drop_claims(self) -> None:
        drained, self._drained = self._drained, []
        self._drop_now = False
        if self._drop_later is not None:
            self._drop_later.cancel()
            self._drop_later = None
        if drained:
            try:
                await self._connection.fetch(claiming.drop_claims(self._schema, drained))
            except BaseException:
                self._drained[:0] = drained
                self._drop_soon()
                raise
            for fence in drained:
                self.held.pop(fence, None)

    async def _isolate(self, batch: list[Finished], error: Exception) -> None:
        """Something in the batch cannot be written: halve it until that stands alone, and write the job without it."""
        if len(batch) > 1:
            middle = len(batch) // 2
            for half in (batch[:middle], batch[middle:]):
                try:
                    await self._write(half)
                except TRANSIENT:
                    self._again(half)
                except Exception as of_half:
                    await self._isolate(half, of_half)
            return
        [one] = batch
        try:
            await self._write([replace(one, outcome=_storable(one, error))])
            if _is_refused(one, error):
                logger.error("job %d (%s) cannot wait for what it brings: %s", one.id, one.task, error)
            else:
                logger.exception("the outcome of job %d (%s) could not be stored as it was", one.id, one.task)
        except TRANSIENT:
            self._again(batch)
        except Exception:
            logger.exception("the outcome of job %d (%s) could not be stored", one.id, one.task)
            if one.outcome is None:
                # Its attempt had not begun. The claim's row stays while a job carries it, and once its other jobs have
                # ended the next reconcile gives this one back.
                self._count(one.fence)
            elif not self._without(batch, self._superseded):
                return
            else:
                # Given back it would run again, with the attempt that it has used.
                self._refused.append(one)
                asyncio.get_running_loop().call_later(REFUSED_SECONDS, self._retry_refused)


def _is_refused(one: Finished, error: Exception) -> bool:
    return isinstance(one.outcome, Wait) and isinstance(error, PgQueueError)


def _storable(one: Finished, error: Exception) -> Any:
    if isinstance(one.outcome, Completed):
        why = f"PostgreSQL refused the result of task {one.task}: {_first_line(error)}"
        return Completed(unstored=storable(why))
    if _is_refused(one, error):
        return Failed("fail_job", AttemptError(type_name(type(error)), storable(str(error))))
    unknown = AttemptError("pgqueue.errors.PgQueueError", "the outcome could not be stored: see the worker's log")
    return Failed("attempts_used", unknown)


def _first_line(error: psycopg.Error | Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
