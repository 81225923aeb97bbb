"""How a worker ends: nothing new, what runs may end, the rest is given back, and every outcome is written."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import psycopg

from pgqueue.errors import PgQueueError
from pgqueue.queries import fleet

if TYPE_CHECKING:
    from pgqueue.worker.worker import Worker

logger = logging.getLogger("pgqueue.worker")

INTERRUPT_SECONDS = 5.0
WRITE_SECONDS = 10.0
CANCEL_SECONDS = 1.0
RECONCILE_SECONDS = 2.0
MINUTES_SECONDS = 1.0
UNREGISTER_SECONDS = 2.0


async def stop_gracefully(
    worker: Worker, force: asyncio.Event, background: set[asyncio.Task[Any]], lasting: set[asyncio.Task[Any]]
) -> None:
    """Stop `worker` within its `shutdown_timeout`, or at once when `force` is set."""
    worker.serving.release_all()
    await cancel(set(background))
    # What a claimer took while it was being stopped.
    worker.serving.release_all()
    with suppress(psycopg.Error, PgQueueError, TimeoutError):
        await asyncio.wait_for(worker.services.fetch(fleet.mark_leaving(worker.app.schema, worker.id, "stopping")), 1.0)
        # A claim whose answer was cut off is in the table, and its jobs would wait for those that run here.
        await asyncio.wait_for(worker.duties.reconciler.run_once(), RECONCILE_SECONDS)
    await _let_end(worker, force)
    await worker.quarantine.close()
    try:
        await asyncio.wait_for(worker.finisher.flushed(), WRITE_SECONDS)
        # A claim whose end PostgreSQL had not seen then.
        await asyncio.wait_for(worker.duties.reconciler.run_once(), WRITE_SECONDS)
        with suppress(psycopg.Error, PgQueueError, TimeoutError):
            await asyncio.wait_for(worker.duties.minutes.run_once(), MINUTES_SECONDS)
        await asyncio.wait_for(
            worker.services.fetch(fleet.unregister_worker(worker.app.schema, worker.id)), WRITE_SECONDS
        )
    except (psycopg.Error, PgQueueError, TimeoutError) as error:
        logger.warning(
            "stopped without a word to PostgreSQL (%s): others rescue its jobs when its lease of %g s ends",
            str(error).strip() or "no answer",
            worker.lease,
        )
    await abandon(worker, set(lasting))


async def give_up_start(worker: Worker, parts: set[asyncio.Task[Any]]) -> None:
    """End a worker whose start did not come to its end; what it has registered goes too."""
    heartbeat = worker.life.heartbeat
    try:
        if heartbeat is not None:
            # A row that it writes from now on it takes away itself.
            heartbeat.stop()
            with suppress(psycopg.Error, PgQueueError, TimeoutError):
                await asyncio.wait_for(
                    worker.services.fetch(fleet.unregister_worker(worker.app.schema, worker.id)), UNREGISTER_SECONDS
                )
    finally:
        await abandon(worker, parts)


async def abandon(worker: Worker, parts: set[asyncio.Task[Any]]) -> None:
    """End what still runs of a worker, its heartbeat, and its connections."""
    heartbeat = worker.life.heartbeat
    if heartbeat is not None:
        heartbeat.stop()
    await cancel(parts)
    await asyncio.gather(*(slots.close() for slots in worker.serving.slots.values()), return_exceptions=True)
    for close in worker.app.at_close:
        with suppress(Exception):
            await close()
    for connection in (worker.claiming, worker.finishing, worker.services, worker.listening, worker.pruning):
        with suppress(psycopg.Error):
            await connection.close()
    with suppress(psycopg.Error):
        await worker.effects.close()
    if worker.transactions.database is not worker.app.database:
        await worker.transactions.database.aclose()
    if heartbeat is not None:
        await asyncio.to_thread(heartbeat.join)


async def _let_end(worker: Worker, force: asyncio.Event) -> None:
    forced = asyncio.create_task(force.wait())
    try:
        async with asyncio.timeout(worker.shutdown_timeout):
            while worker.executor.running and not force.is_set():
                changed = asyncio.create_task(worker.executor.changed())
                await asyncio.wait({changed, forced}, return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
    except TimeoutError:
        logger.warning(
            "%d jobs still run after %g s: they are given back", worker.executor.running, worker.shutdown_timeout
        )
    finally:
        forced.cancel()
    if worker.executor.running:
        worker.executor.interrupt("released")
        with suppress(TimeoutError):
            async with asyncio.timeout(INTERRUPT_SECONDS):
                while worker.executor.running:
                    await worker.executor.changed()


async def cancel(tasks: set[asyncio.Task[Any]]) -> None:
    """End tasks, and wait until they have."""
    pending = set(tasks)
    while pending:
        # Again and again: a library may swallow a cancellation, and the worker must end all the same.
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=CANCEL_SECONDS)
    await asyncio.gather(*tasks, return_exceptions=True)
