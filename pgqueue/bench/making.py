"""A schema of the benchmark's own: made for one run, and dropped however that ends."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import errors as pg_errors
from psycopg import sql

from pgqueue import migrate
from pgqueue.bench.place import Place
from pgqueue.errors import ConfigurationError, ConnectionFailed, PgQueueError
from pgqueue.names import schema_name

logger = logging.getLogger("pgqueue.bench")

MADE_HERE = "Made by pgqueue bench, which drops it."
# What a killed process was doing may hold a lock for a moment.
PATIENCE = "30s"


@contextmanager
def own_schema(place: Place) -> Iterator[None]:
    """Make the schema with all tables, and drop it at the end. What an earlier run had to leave behind is dropped too.

    Raises ConfigurationError when the schema exists and is not the benchmark's, or another benchmark is using it;
    PgQueueError when the role may not make it.
    """
    schema_name(place.schema)
    with place.connect() as conn:
        _take(conn, place)
        try:
            _make(conn, place)
            # Not by `upgrade`, which needs a session of its own: poolers have none.
            conn.execute(migrate.script(schema=place.schema).encode())
            yield
        finally:
            _drop(place)


def _take(conn: psycopg.Connection[Any], place: Place) -> None:
    found = conn.execute(
        "select obj_description(oid, 'pg_namespace') from pg_namespace where nspname = %s", [place.schema]
    ).fetchone()
    if found is not None and found[0] != MADE_HERE:
        raise ConfigurationError(
            f"schema {place.schema!r} exists and was not made by `pgqueue bench`, which would drop it: "
            "choose another name with --schema"
        )
    # A pooler would leave the lock behind on a connection that others use.
    if not place.pooler:
        lock = conn.execute("select pg_try_advisory_lock(hashtext(%s))", [f"pgqueue bench {place.schema}"]).fetchone()
        if lock != (True,):
            raise ConfigurationError(
                f"another `pgqueue bench` is using schema {place.schema!r}: "
                "wait until it has ended, or choose another name with --schema"
            )


def _make(conn: psycopg.Connection[Any], place: Place) -> None:
    name = sql.Identifier(place.schema)
    with conn.transaction():
        try:
            # There is one only where a run was killed.
            conn.execute(sql.SQL("drop schema if exists {} cascade").format(name))
            conn.execute(sql.SQL("create schema {}").format(name))
        except pg_errors.InsufficientPrivilege as error:
            raise PgQueueError(
                f"this role may not make a schema ({str(error).splitlines()[0]}): connect with one that may, "
                "or `grant create on database … to …`"
            ) from error
        conn.execute(sql.SQL("comment on schema {} is {}").format(name, sql.Literal(MADE_HERE)))


def _drop(place: Place) -> None:
    """On a new connection: the other may be why it ends."""
    try:
        with place.connect() as conn, conn.transaction():
            conn.execute("select set_config('lock_timeout', %(t)s, true)", {"t": PATIENCE})
            conn.execute(sql.SQL("drop schema if exists {} cascade").format(sql.Identifier(place.schema)))
    except (psycopg.Error, ConnectionFailed) as error:
        logger.error(
            "schema %s is left behind (%s): the next `pgqueue bench` drops it, or you do",
            place.schema,
            (str(error).strip() or type(error).__name__).splitlines()[0],
        )
