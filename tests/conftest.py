"""A real PostgreSQL for the tests: one embedded server each xdist worker, or the one that PGQUEUE_TEST_DSN names.

- `dsn`: migrated and empty; the tests of a process share it, one after another
- `fresh_dsn`: migrated and empty, of this test alone
- `empty_dsn`: without pgqueue's tables, of this test alone
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from pgqueue.dev import EmbeddedServer, create_database, drop_database

TABLES = """
    select format('%I.%I', schemas.nspname, tables.relname)
    from pg_class tables
    join pg_namespace schemas on schemas.oid = tables.relnamespace
    where schemas.nspname = 'pgqueue' and tables.relkind in ('r', 'p') and not tables.relispartition
      and not exists (select from pg_attribute where attrelid = tables.oid and attname = 'version_num')
"""
LOCK_TIMEOUT = "10s"


@dataclass(frozen=True)
class Server:
    """A PostgreSQL server that may make databases; their names are this process's own."""

    dsn: str

    def dsn_for(self, database: str) -> str:
        return make_conninfo(self.dsn, dbname=database)

    def create(self, template: str | None = None) -> str:
        name = f"pgqueue_test_{os.getpid()}_{uuid.uuid4().hex[:8]}"
        create_database(self.dsn, name, template)
        return name

    def drop(self, database: str) -> None:
        drop_database(self.dsn, database)


@pytest.fixture(autouse=True)
def own_settings() -> Iterator[None]:
    """A command tells its children by variables what it was told: no other test is to hear it."""
    before = {name: value for name, value in os.environ.items() if name.startswith("PGQUEUE_")}
    yield
    for name in [name for name in os.environ if name.startswith("PGQUEUE_") and name not in before]:
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    if dsn := os.environ.get("PGQUEUE_TEST_DSN"):
        yield Server(dsn)
        return
    with EmbeddedServer(durable=False) as embedded:
        yield Server(embedded.dsn)


@pytest.fixture(scope="session")
def template(server: Server) -> Iterator[str]:
    """The name of a migrated database to copy; nobody stays connected to it."""
    from pgqueue import migrate

    name = server.create()
    migrate.upgrade(server.dsn_for(name))
    yield name
    server.drop(name)


@pytest.fixture(scope="session")
def shared_database(server: Server, template: str) -> Iterator[str]:
    name = server.create(template)
    yield name
    server.drop(name)


@pytest.fixture
def dsn(server: Server, shared_database: str) -> str:
    found = server.dsn_for(shared_database)
    truncate(found)
    return found


@pytest.fixture
def fresh_dsn(server: Server, template: str) -> Iterator[str]:
    name = server.create(template)
    yield server.dsn_for(name)
    server.drop(name)


@pytest.fixture
def empty_dsn(server: Server) -> Iterator[str]:
    name = server.create()
    yield server.dsn_for(name)
    server.drop(name)


def truncate(dsn: str) -> None:
    """Empty all of pgqueue's tables; fails if an earlier test left a transaction open on one."""
    with psycopg.connect(dsn) as connection:
        connection.execute("select set_config('lock_timeout', %s, true)", [LOCK_TIMEOUT])
        tables = [sql.SQL(table) for (table,) in connection.execute(TABLES)]
        connection.execute(sql.SQL("truncate {} restart identity").format(sql.SQL(", ").join(tables)))
