"""Brings the tables of one schema to a revision, or says where they stand. Alembic does the work."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, text
from sqlalchemy.pool import NullPool

from pgqueue.config import sqlalchemy_url
from pgqueue.errors import ConfigurationError, ConnectionFailed
from pgqueue.names import schema_name

LOCK_TIMEOUT = "5s"


@dataclass(frozen=True, slots=True)
class Status:
    """Where a schema stands: its revision (None: no tables), the newest that this pgqueue has, what lies between."""

    current: str | None
    newest: str
    pending: tuple[str, ...]


def upgrade(dsn: str, *, schema: str = "pgqueue", to: str = "head") -> Status:
    """Upgrade the tables to revision `to`, making the schema if it is missing. Safe to run from several places at once.

    Raises ConnectionFailed, and ConfigurationError for a bad schema name, an unknown revision, or a pooler's DSN.

        upgrade("postgresql:///shop")
    """
    _run(dsn, schema, lambda config: command.upgrade(config, to), create=True)
    return status(dsn, schema=schema)


def downgrade(dsn: str, *, schema: str = "pgqueue", to: str) -> Status:
    """Downgrade the tables to revision `to`; `base` drops them, and every job with them."""
    _run(dsn, schema, lambda config: command.downgrade(config, to), create=False)
    return status(dsn, schema=schema)


def status(dsn: str, *, schema: str = "pgqueue") -> Status:
    """The revision that the tables are at, and those that are missing."""
    config = _config(schema)
    script = ScriptDirectory.from_config(config)
    newest = script.get_current_head() or ""
    with _connect(dsn) as connection:
        found = MigrationContext.configure(
            connection, opts={"version_table": "schema_version", "version_table_schema": schema}
        ).get_current_revision()
    known = {revision.revision for revision in script.walk_revisions()}
    if found is not None and found not in known:
        return Status(found, newest, ())
    pending = [r.revision for r in script.iterate_revisions("head", found or "base") if r.revision != found]
    return Status(found, newest, tuple(reversed(pending)))


def script(*, schema: str = "pgqueue", to: str = "head") -> str:
    """The SQL of an upgrade from nothing to `to`, for those who run DDL by hand."""
    out = io.StringIO()
    command.upgrade(_config(schema, output_buffer=out), to, sql=True)
    return out.getvalue()


def _config(schema: str, **options: Any) -> Config:
    config = Config(**options)
    here = Path(__file__).resolve().parent
    packed = here / "migrations"
    config.set_main_option(
        "script_location", str(packed if packed.is_dir() else here.parent / "migrations").replace("%", "%%")
    )
    config.attributes["schema"] = schema_name(schema)
    return config


def _connect(dsn: str) -> Any:
    from sqlalchemy.exc import OperationalError

    engine = create_engine(sqlalchemy_url(dsn), poolclass=NullPool)
    try:
        return engine.connect()
    except OperationalError as error:
        raise ConnectionFailed(f"cannot connect to PostgreSQL: {str(error.orig).strip()}") from error


def _run(dsn: str, schema: str, act: Any, *, create: bool) -> None:
    from alembic.util import CommandError
    from psycopg.errors import InsufficientPrivilege
    from sqlalchemy.exc import ProgrammingError

    config = _config(schema)
    with _connect(dsn) as connection:
        _refuse_pooler(connection)
        # Held until the connection closes: a second migration waits here, not halfway.
        connection.execute(text("select pg_advisory_lock(hashtext(:name))"), {"name": f"pgqueue migrate {schema}"})
        connection.execute(text(f"set lock_timeout = '{LOCK_TIMEOUT}'"))
        config.attributes["connection"] = connection
        try:
            # Asked first: who may not make schemas is refused `if not exists` too.
            if create and not connection.execute(text("select to_regnamespace(:name)"), {"name": schema}).scalar_one():
                connection.execute(text(f'create schema "{schema}"'))
            connection.commit()
            act(config)
        except CommandError as error:
            raise ConfigurationError(str(error)) from error
        except ProgrammingError as error:
            if not isinstance(error.orig, InsufficientPrivilege):
                raise
            raise ConfigurationError(
                f"PostgreSQL refused the role this ({str(error.orig).splitlines()[0]}): give the DSN of a role "
                f"that owns the schema {schema}, or may make it (`grant create on database … to …`)"
            ) from error
        connection.commit()


def _refuse_pooler(connection: Any) -> None:
    """A lock that is held on a session would stay on whichever server connection the pooler took for it."""
    told = connection.connection.driver_connection.info.backend_pid
    if told != connection.execute(text("select pg_backend_pid()")).scalar_one():
        raise ConfigurationError(
            "migrations need a session of their own, and this DSN leads to a pooler such as PgBouncer: "
            "give the DSN of PostgreSQL itself"
        )
