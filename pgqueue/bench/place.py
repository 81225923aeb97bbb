"""Where it is measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from pgqueue import config
from pgqueue.app import PgQueue
from pgqueue.bench import SCHEMA
from pgqueue.database import Database
from pgqueue.errors import ConnectionFailed

TABLES = "jobs, claims, completed_jobs, failed_jobs, workers, tasks, queues"


@dataclass(frozen=True, slots=True)
class Place:
    """Where it is measured. Behind a `pooler` nothing rides on a session."""

    dsn: str
    schema: str = SCHEMA
    pooler: bool = False

    def app(self) -> PgQueue:
        """A new app without tasks."""
        return PgQueue(self.dsn, schema=self.schema, pooler=self.pooler)

    def connect(self) -> psycopg.Connection[Any]:
        """A connection in autocommit with the settings of a worker's. Raises ConnectionFailed."""
        options = Database(self.dsn, pooler=self.pooler).session_options("pgqueue bench")
        try:
            return psycopg.Connection.connect(self.dsn, autocommit=True, **options)
        except psycopg.OperationalError as error:
            raise ConnectionFailed(f"cannot connect to {config.masked(self.dsn)}: {str(error).strip()}") from error

    def empty(self) -> None:
        """As new: no rows, and files of their own."""
        with self.connect() as conn:
            tables = [sql.Identifier(self.schema, table) for table in TABLES.split(", ")]
            conn.execute(sql.SQL("truncate {} restart identity").format(sql.SQL(", ").join(tables)))

    def settle(self) -> None:
        """Statistics and visibility as they are some time after the rows came."""
        with self.connect() as conn:
            conn.execute(sql.SQL("vacuum analyze {}").format(sql.Identifier(self.schema, "jobs")))

    def count(self, table: str) -> int:
        """Rows of a table."""
        with self.connect() as conn:
            found = conn.execute(sql.SQL("select count(*) from {}").format(sql.Identifier(self.schema, table)))
            [count] = found.fetchone() or [0]
            return int(count)
