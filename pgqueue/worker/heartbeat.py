"""The lease of a worker, renewed from a thread with a connection of its own: a blocked event loop is not death."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from uuid import UUID

import psycopg

from pgqueue.database import Database, fetch
from pgqueue.queries import fleet
from pgqueue.queries.statement import Statement
from pgqueue.worker.connection import pauses

logger = logging.getLogger("pgqueue.worker")

BLOCKED_LIMIT = 120.0


class Heartbeat:
    """Registers the worker, then renews its lease every third of it, until it is stopped or the row is gone.

    A loop that has not ticked for `blocked_limit` seconds is taken for hung: the beats end, and its jobs are rescued.
    """

    def __init__(
        self,
        database: Database,
        schema: str,
        worker: UUID,
        lease: float,
        register: Statement[Any],
        *,
        on_registered: Callable[[], None],
        on_lost: Callable[[str], None],
        blocked_limit: float = BLOCKED_LIMIT,
    ) -> None:
        self._database = database
        self._schema = schema
        self._worker = worker
        self._lease = lease
        self._settings = {"statement_timeout": f"{int(lease * 1000)}"}
        self._register = register
        self._on_registered = on_registered
        self._on_lost = on_lost
        self._blocked_limit = blocked_limit
        self._stopping = threading.Event()
        self._connection: psycopg.Connection[Any] | None = None
        self._thread = threading.Thread(target=self._run, name="pgqueue-heartbeat", daemon=True)
        self.ticked_at = time.monotonic()
        self.beat_at = 0.0
        self.unbroken_since: float | None = None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()

    def join(self) -> None:
        self._thread.join(timeout=5)

    def unbroken_for(self) -> float:
        """Seconds of heartbeats without a failure or a stall; a rescuer needs a lease's length of them."""
        now = time.monotonic()
        return 0.0 if self.unbroken_since is None or self._is_late(now) else now - self.unbroken_since

    def is_in_doubt(self) -> bool:
        """Whether the lease may soon have ended without this process hearing of it."""
        return bool(self.beat_at) and time.monotonic() - self.beat_at > self._lease * 0.8

    def _is_late(self, now: float) -> bool:
        return now - self.beat_at > self._lease * 0.6

    def _run(self) -> None:
        try:
            self._live()
        except Exception as error:
            self._on_lost(f"its heartbeat broke: {error}")
        finally:
            self._close()

    def _live(self) -> None:
        if not self._until_done(self._register, "register"):
            return
        if self._stopping.is_set():
            # It was given up meanwhile: nobody lives under this id.
            fetch(
                self._connect(),
                fleet.unregister_worker(self._schema, self._worker),
                self._database.local_settings(**self._settings),
            )
            return
        self._beaten()
        self._on_registered()
        while not self._stopping.wait(self._lease / 3):
            if time.monotonic() - self.ticked_at > self._blocked_limit:
                self._on_lost(f"its event loop has been blocked for more than {self._blocked_limit:.0f} s")
                return
            rows = self._until_done(fleet.heartbeat(self._schema, self._worker, self._lease), "renew its lease")
            if rows is None:
                return
            if not rows:
                self._on_lost("its lease ended and others took its jobs")
                return
            self._beaten()

    def _until_done(self, statement: Statement[Any], what: str) -> list[Any] | None:
        """Its rows, however long PostgreSQL is away; None when stopped."""
        failed = False
        for pause in pauses(0.1, max(0.2, self._lease / 6)):
            if self._stopping.is_set():
                return None
            try:
                rows = fetch(self._connect(), statement, self._database.local_settings(**self._settings))
                if failed:
                    logger.info("the worker can %s again", what)
                return rows
            except psycopg.Error as error:
                if not failed:
                    logger.warning(
                        "the worker cannot %s: %s; trying again", what, str(error).strip() or type(error).__name__
                    )
                failed = True
                self.unbroken_since = None
                self._close()
            self._stopping.wait(pause)
        raise AssertionError("unreachable")

    def _beaten(self) -> None:
        now = time.monotonic()
        # A database that stood still reported no error, and every lease has ended.
        if self.unbroken_since is None or self._is_late(now):
            self.unbroken_since = now
        self.beat_at = now

    def _connect(self) -> psycopg.Connection[Any]:
        if self._connection is None or self._connection.closed:
            options = self._database.session_options("pgqueue heartbeat", **self._settings)
            self._connection = psycopg.Connection.connect(self._database.dsn, autocommit=True, **options)
        return self._connection

    def _close(self) -> None:
        conn, self._connection = self._connection, None
        if conn is not None:
            with suppress(psycopg.Error):
                conn.close()
