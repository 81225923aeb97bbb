"""Listening on a connection of one's own, for clients; a worker has its listener."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import psycopg
from psycopg import sql

from pgqueue.database.database import Database
from pgqueue.errors import ConfigurationError, ConnectionFailed

LISTEN = sql.SQL("listen {}")


@contextmanager
def listening(database: Database, channel: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection that listens on `channel`. Raises ConnectionFailed, also where it breaks later."""
    _check(database)
    with _failing(), psycopg.connect(database.dsn, autocommit=True, **_options(database)) as conn:
        conn.execute(LISTEN.format(sql.Identifier(channel)))
        yield conn


@asynccontextmanager
async def alistening(database: Database, channel: str) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
    """As `listening`, async."""
    _check(database)
    with _failing():
        async with await psycopg.AsyncConnection.connect(database.dsn, autocommit=True, **_options(database)) as conn:
            await conn.execute(LISTEN.format(sql.Identifier(channel)))
            yield conn


def _options(database: Database) -> dict[str, Any]:
    return database.session_options("pgqueue watch")


def _check(database: Database) -> None:
    if database.pooler:
        raise ConfigurationError("behind a pooler there is no LISTEN: watch with an app that connects to PostgreSQL")


@contextmanager
def _failing() -> Iterator[None]:
    try:
        yield
    except psycopg.OperationalError as error:
        raise ConnectionFailed(f"listening to PostgreSQL failed: {str(error).strip()}") from error
