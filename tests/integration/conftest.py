"""Apps on the test database, and every kind of connection that an enqueue can join.

- `app`: a PgQueue on the shared, empty database; closed at the end
- `data`: a folder for a cluster of a PostgreSQL of one's own
- `joined`: opens a connection of one of the sync kinds in a transaction
- `ajoined`: the same for the async kinds
"""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.pool import NullPool

from pgqueue import PgQueue
from pgqueue.config import sqlalchemy_url
from pgqueue.embedded.binaries import Account, temporary_folder

Joined = Callable[[], AbstractContextManager[Any]]
AJoined = Callable[[], AbstractAsyncContextManager[Any]]


@pytest.fixture
async def app(dsn: str) -> AsyncIterator[PgQueue]:
    made = PgQueue(dsn)
    yield made
    await made.aclose()


@pytest.fixture
def data() -> Iterator[Path]:
    """A folder for a cluster, not yet made, where PostgreSQL's user may go; pytest's own folders are closed to it."""
    folder = temporary_folder(Account(os.geteuid(), os.getegid()))
    folder.chmod(0o755)
    yield folder / "data"
    shutil.rmtree(folder)


@contextmanager
def _psycopg(dsn: str) -> Iterator[Any]:
    with psycopg.connect(dsn) as connection:
        yield connection


@contextmanager
def _connection(dsn: str) -> Iterator[Any]:
    with create_engine(sqlalchemy_url(dsn), poolclass=NullPool).begin() as connection:
        yield connection


@contextmanager
def _session(dsn: str) -> Iterator[Any]:
    with Session(create_engine(sqlalchemy_url(dsn), poolclass=NullPool)) as session, session.begin():
        yield session


@contextmanager
def _scoped_session(dsn: str) -> Iterator[Any]:
    registry = scoped_session(sessionmaker(create_engine(sqlalchemy_url(dsn), poolclass=NullPool)))
    try:
        with registry.begin():
            yield registry
    finally:
        registry.remove()


@asynccontextmanager
async def _async_psycopg(dsn: str) -> AsyncIterator[Any]:
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        yield connection


@asynccontextmanager
async def _async_connection(dsn: str) -> AsyncIterator[Any]:
    async with create_async_engine(sqlalchemy_url(dsn), poolclass=NullPool).begin() as connection:
        yield connection


@asynccontextmanager
async def _async_session(dsn: str) -> AsyncIterator[Any]:
    async with AsyncSession(create_async_engine(sqlalchemy_url(dsn), poolclass=NullPool)) as session, session.begin():
        yield session


@asynccontextmanager
async def _async_scoped_session(dsn: str) -> AsyncIterator[Any]:
    made = async_sessionmaker(create_async_engine(sqlalchemy_url(dsn), poolclass=NullPool))
    registry = async_scoped_session(made, scopefunc=lambda: None)
    try:
        async with registry.begin():
            yield registry
    finally:
        await registry.remove()


SYNC = {
    "psycopg Connection": _psycopg,
    "SQLAlchemy Connection": _connection,
    "Session": _session,
    "scoped_session": _scoped_session,
}
ASYNC = {
    "psycopg AsyncConnection": _async_psycopg,
    "SQLAlchemy AsyncConnection": _async_connection,
    "AsyncSession": _async_session,
    "async_scoped_session": _async_scoped_session,
}


@pytest.fixture(params=list(SYNC.values()), ids=list(SYNC))
def joined(request: pytest.FixtureRequest, dsn: str) -> Joined:
    return lambda: request.param(dsn)


@pytest.fixture(params=list(ASYNC.values()), ids=list(ASYNC))
def ajoined(request: pytest.FixtureRequest, dsn: str) -> AJoined:
    return lambda: request.param(dsn)
