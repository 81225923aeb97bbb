"""The durable PostgreSQL that all contenders share, and what it says about its own work."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Self

import psutil
import psycopg
from psycopg import sql

from benchmarks.processes import cpu_seconds, free_port
from pgqueue.dev import EmbeddedServer, create_database, drop_database

SETTINGS = {"shared_buffers": "2GB", "max_wal_size": "8GB"}
SHOWN = (
    "server_version",
    "shared_buffers",
    "max_wal_size",
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "wal_sync_method",
    "max_connections",
)
# Work on a partition is told under its table's name.
TABLES = """
select coalesce(parent.relname, stat.relname), sum(n_tup_ins), sum(n_tup_upd), sum(n_tup_hot_upd), sum(n_tup_del)
from pg_stat_user_tables stat
left join pg_inherits on inhrelid = relid
left join pg_class parent on parent.oid = inhparent
group by 1
"""


@dataclass(frozen=True, slots=True)
class Counters:
    """What one database has written since its creation, and the server since its start."""

    wal: int
    commits: int
    tables: Mapping[str, tuple[int, int, int, int]]

    def since(self, before: Counters, jobs: int) -> dict[str, Any]:
        """What each job cost: WAL bytes, commits, and by table its inserts, updates, deletes and dead tuples."""
        tables: dict[str, dict[str, float]] = {}
        for name, counts in self.tables.items():
            earlier = before.tables.get(name, (0, 0, 0, 0))
            inserted, updated, hot, deleted = (
                round((now - then) / jobs, 3) for now, then in zip(counts, earlier, strict=True)
            )
            if inserted or updated or deleted:
                tables[name] = {
                    "inserts": inserted,
                    "updates": updated,
                    "hot": hot,
                    "deletes": deleted,
                    "dead": round(updated + deleted, 3),
                }
        return {
            "wal_bytes": round((self.wal - before.wal) / jobs),
            "commits": round((self.commits - before.commits) / jobs, 4),
            "tables": tables,
        }


class Postgres:
    """A server of its own on a loopback port: the drivers of Node do not all know Unix sockets.

    with Postgres() as server:
        dsn = server.create("bench")
    """

    def __init__(self) -> None:
        self.port = free_port()
        self._undo = ExitStack()

    def __enter__(self) -> Self:
        settings = {"listen_addresses": "127.0.0.1", "port": str(self.port), **SETTINGS}
        server = self._undo.enter_context(EmbeddedServer(settings=settings))
        self.process = psutil.Process(server.pid)
        self._connection = self._undo.enter_context(psycopg.connect(self.dsn("postgres"), autocommit=True))
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def dsn(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def create(self, database: str) -> str:
        self.drop(database)
        create_database(self.dsn("postgres"), database)
        return self.dsn(database)

    def drop(self, database: str) -> None:
        drop_database(self.dsn("postgres"), database)

    def settings(self) -> dict[str, str]:
        return {name: self._value(sql.SQL("show {}").format(sql.Identifier(name))) for name in SHOWN}

    def counters(self, connection: psycopg.Connection) -> Counters:
        """Of the connection's database."""
        connection.execute("select pg_stat_clear_snapshot()")
        commits = "select xact_commit from pg_stat_database where datname = current_database()"
        return Counters(
            self.wal(),
            int(connection.execute(commits.encode()).fetchall()[0][0]),
            {
                table: (int(inserted), int(updated), int(hot), int(deleted))
                for table, inserted, updated, hot, deleted in connection.execute(TABLES.encode())
            },
        )

    def wal(self) -> int:
        """Bytes of WAL since the cluster was made."""
        return int(self._value(sql.SQL("select pg_current_wal_insert_lsn() - '0/0'::pg_lsn")))

    def checkpoint(self) -> None:
        self._connection.execute("checkpoint")

    def cpu(self) -> float:
        """CPU seconds since its start, of all its processes."""
        return cpu_seconds(self.process)

    def _value(self, query: sql.Composed | sql.SQL) -> Any:
        return self._connection.execute(query).fetchall()[0][0]
