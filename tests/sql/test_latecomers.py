"""Transactions that had written to `jobs` when a worker went idle: it looks when one of them has ended."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import pytest

from pgqueue.database import fetch
from pgqueue.queries import claiming
from pgqueue.worker.latecomers import FIRST, UNTIL_WOKEN, Latecomers
from tests.sql.rows import SCHEMA, Connection, enqueue, open_transaction, runner_on


@asynccontextmanager
async def watching(dsn: str) -> AsyncIterator[tuple[Latecomers, list[str]]]:
    """The service, and a list that grows by one each time it looks for jobs."""
    looks: list[str] = []
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        yield Latecomers(runner_on(conn), SCHEMA, lambda: looks.append("look")), looks


def under_way(conn: Connection) -> list[str]:
    return fetch(conn, claiming.writers_of_jobs(SCHEMA))


async def test_it_sleeps_while_nothing_is_under_way(db: Connection, dsn: str) -> None:
    async with watching(dsn) as (latecomers, looks):
        latecomers.expect(under_way(db))
        assert await latecomers.run_once() == UNTIL_WOKEN
        assert looks == []


async def test_it_asks_again_soon_until_each_has_ended(db: Connection, dsn: str) -> None:
    async with watching(dsn) as (latecomers, looks):
        with open_transaction(dsn) as first, open_transaction(dsn) as second:
            enqueue(first)
            latecomers.expect(under_way(db))
            enqueue(second)
            latecomers.expect(under_way(db))
            assert await latecomers.run_once() < 2 * FIRST
            assert looks == []
            first.commit()
            assert await latecomers.run_once() < 2 * FIRST
            assert looks == ["look"]
            second.rollback()
            assert await latecomers.run_once() == UNTIL_WOKEN
            assert looks == ["look", "look"]


async def test_what_has_ended_before_another_queue_goes_idle_is_looked_for(db: Connection, dsn: str) -> None:
    async with watching(dsn) as (latecomers, looks):
        with open_transaction(dsn) as early:
            enqueue(early)
            latecomers.expect(under_way(db))
            early.commit()
        latecomers.expect(under_way(db))
        assert await latecomers.run_once() == UNTIL_WOKEN
        assert looks == ["look"]


async def test_after_a_failover_to_a_server_that_is_behind_it_looks_once_and_forgets(dsn: str) -> None:
    async with watching(dsn) as (latecomers, looks):
        latecomers.expect([str(2**40 + 3)])
        with pytest.raises(psycopg.Error, match="in the future"):
            await latecomers.run_once()
        assert looks == ["look"]
        assert await latecomers.run_once() == UNTIL_WOKEN
