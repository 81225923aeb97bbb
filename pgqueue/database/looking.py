"""Looks at the database that are asked for from outside, by probes and scrapes: rare, bounded, and never in the way."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, Generic, TypeVar

import psycopg

from pgqueue import config
from pgqueue.database.database import Database
from pgqueue.database.running import fetch
from pgqueue.errors import ConnectionFailed
from pgqueue.queries.statement import Operation, Statement

Result = TypeVar("Result")
Row = TypeVar("Row")

CONNECT_SECONDS = 2
STATEMENT_SECONDS = 2


class Session:
    """A connection of its own for one look; each statement has two seconds."""

    def __init__(self, database: Database, connection: psycopg.Connection[Any], settings: dict[str, str]) -> None:
        self._connection = connection
        self._local = database.local_settings(**settings)

    def fetch(self, statement: Statement[Row]) -> list[Row]:
        return fetch(self._connection, statement, self._local)

    def run(self, operation: Operation[Result]) -> Result:
        """As `pgqueue.database.run`, for operations of plain statements."""
        given: Any = None
        while True:
            try:
                statement = operation.send(given)
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]
            assert isinstance(statement, Statement)
            given = self.fetch(statement)


class Look(Generic[Result]):
    """What `look` finds, from a thread of its own: again after `every` seconds, and waited for `within` at most.

    Whoever asks meanwhile gets what was found last. A look that hangs, since the network swallows what is sent, is let
    be: those who ask raise TimeoutError until it has ended.

        Look(app.database, "pgqueue probe", lambda session: session.fetch(statement), every=1.0, within=3.0).result()
    """

    def __init__(
        self,
        database: Database,
        application: str,
        look: Callable[[Session], Result],
        *,
        every: float,
        within: float,
    ) -> None:
        self._database = database
        self._application = application
        self._look = look
        self._every = every
        self._within = within
        self._lock = threading.Lock()
        self._found: Future[Result] | None = None
        self._began_at = 0.0

    def result(self) -> Result:
        """Raises ConnectionFailed, TimeoutError, and what `look` raised."""
        with self._lock:
            now = time.monotonic()
            old = self._found is not None and self._found.done() and now - self._began_at >= self._every
            if self._found is None or old:
                self._found, self._began_at = Future(), now
                thread = threading.Thread(target=self._run, args=[self._found], name=self._application, daemon=True)
                thread.start()
            found = self._found
        try:
            return found.result(max(0.0, self._began_at + self._within - time.monotonic()))
        except TimeoutError:
            if found.done():
                raise
            raise TimeoutError(f"the database has not answered within {self._within:g} s") from None

    def _run(self, found: Future[Result]) -> None:
        try:
            found.set_result(self._looked())
        except BaseException as error:
            found.set_exception(error)

    def _looked(self) -> Result:
        settings = {"statement_timeout": f"{STATEMENT_SECONDS * 1000}"}
        dsn = self._database.dsn
        options = self._database.session_options(self._application, **settings)
        options |= {
            "connect_timeout": CONNECT_SECONDS,
            "tcp_user_timeout": (CONNECT_SECONDS + STATEMENT_SECONDS) * 1000,
        }
        try:
            connection = psycopg.Connection.connect(dsn, autocommit=True, **options)
        except psycopg.Error as error:
            raise ConnectionFailed(f"cannot connect to {config.masked(dsn)}: {str(error).strip()}") from error
        try:
            return self._look(Session(self._database, connection, settings))
        finally:
            with suppress(psycopg.Error):
                connection.close()
