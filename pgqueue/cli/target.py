"""Which app and which database a command works on."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pgqueue.errors import ConfigurationError, ConnectionFailed, SchemaOutOfDate

if TYPE_CHECKING:
    from pgqueue.app import PgQueue

CONNECT_TIMEOUT = 5


@dataclass(slots=True)
class Target:
    """What the options before and after the command said."""

    dsn: str | None = None
    schema: str | None = None
    app: str | None = None
    as_json: bool = False
    # The user's app, once it is loaded, and what it was named by.
    loaded: PgQueue | None = None
    spec: str | None = None

    def load_app(self, spec: str | None = None) -> PgQueue:
        """The user's app, with its tasks. Raises ConfigurationError when there is none or it is ambiguous."""
        from pgqueue.cli.loading import load

        self._export()
        self.spec = spec or self._app_setting()
        self.loaded = self._pointed(load(self.spec))
        return self.loaded

    def database_app(self) -> PgQueue:
        """An app to reach the tables with, without the user's code where a DSN is set. Connects once, as a check.

        In this order: `--dsn`, `--app`, PGQUEUE_DSN or a file, the app that is set, DATABASE_URL or PG*, an app that is
        found.
        """
        app = self.unconnected_app()
        check(app)
        return app

    def unconnected_app(self) -> PgQueue:
        """As `database_app`, not connected."""
        from pgqueue.cli.loading import NoApp

        try:
            return self._without_code() or self.load_app()
        except NoApp as error:
            if self._app_setting() is not None:
                raise hinted(error) from error
            raise hinted(
                ConfigurationError(
                    'no database is set: give --dsn, or set PGQUEUE_DSN (for example "postgresql://user@localhost/shop");'
                    f" nor is there an app that has one: {error}"
                )
            ) from error

    def advice(self) -> str:
        """Which database has no tables of this version, and how to migrate that one."""
        from pgqueue import config

        app = self.loaded or self._without_code()
        if app is None:
            return ""
        place = config.masked(app.database.dsn)
        return f"\nThe database is {place}: `{self.migration(app)}` makes its tables and upgrades them."

    def migration(self, app: PgQueue) -> str:
        """The command that brings the tables of `app` up to date."""
        from pgqueue.cli.loading import spec_of

        command = "pgqueue migrate"
        if self.dsn is not None:
            command += " --dsn …"
        elif self.loaded is not None:
            command += f" -a {self.spec or spec_of(self.loaded)}"
        if app.schema != "pgqueue" and (self.loaded is None or self.schema is not None):
            command += f" --schema {app.schema}"
        return command

    def has_app(self) -> bool:
        """Whether an app is named, or there are modules to find one in."""
        from pathlib import Path

        from pgqueue.cli.loading import candidates

        return self._app_setting() is not None or any(candidates(Path.cwd()))

    def optional_app(self) -> PgQueue | None:
        """The user's app, named or found as `load_app` does; None where there is none.

        Raises ConfigurationError when it is ambiguous, or its import fails.
        """
        from pgqueue.cli.loading import NoApp

        try:
            return self.load_app()
        except NoApp:
            if self._app_setting() is not None:
                raise
            return None

    def database_schema(self) -> str:
        """The schema of the tables where no app says otherwise."""
        from pgqueue import config
        from pgqueue.names import schema_name

        return schema_name(config.find("schema", self.schema).value or "pgqueue")

    def asks_app(self) -> bool:
        """Whether the app says which database it is, and not a setting."""
        from pgqueue import config

        found = config.find("dsn", self.dsn)
        general = found.source in ("DATABASE_URL", "PG* variables")
        return self.dsn is None and bool(self.app or found.value is None or (general and self._app_setting()))

    def schema_of_tables(self) -> str:
        """The schema as it is set; else that of the app that is named, if one is: a DSN alone does not say it."""
        from pgqueue import config

        if config.find("schema", self.schema).value is None and (app := self.named_app()) is not None:
            return app.schema
        return self.database_schema()

    def named_app(self) -> PgQueue | None:
        """The app that an option, PGQUEUE_APP or a file names, as its code has it; of one that cannot be had a note."""
        from pgqueue.cli.loading import load
        from pgqueue.cli.output import note

        spec = self._app_setting()
        if spec is None:
            return None
        self._export()
        try:
            return load(spec)
        except ConfigurationError as error:
            first = str(error).partition("\n")[0].removesuffix(":")
            note(f"App {spec} cannot be asked for its schema ({first}): --schema or PGQUEUE_SCHEMA says it too.")
            return None

    def _without_code(self) -> PgQueue | None:
        from pgqueue import config
        from pgqueue.app import PgQueue

        if self.asks_app():
            return None
        return PgQueue(config.find("dsn", self.dsn).value, schema=self.schema_of_tables())

    def _app_setting(self) -> str | None:
        from pgqueue import config

        value = config.find("app", self.app).value
        return None if value is None else str(value)

    def _export(self) -> None:
        """So that the app, and the processes that run its tasks, see what was given as options."""
        for name, value in (("PGQUEUE_DSN", self.dsn), ("PGQUEUE_SCHEMA", self.schema), ("PGQUEUE_APP", self.app)):
            if value is not None:
                os.environ[name] = value

    def _pointed(self, app: PgQueue) -> PgQueue:
        if self.dsn is not None:
            app.database.point_at(self.dsn)
        if self.schema is not None and app.schema != self.schema:
            raise ConfigurationError(
                f"--schema {self.schema} differs from {app.schema!r}, which the app sets itself: leave one of them out"
            )
        return app


def hinted(error: ConfigurationError) -> ConfigurationError:
    """With the way to the database of `pgqueue dev`, if that runs here and no other is set."""
    from pgqueue import config
    from pgqueue.cli.dev import running_here

    hint = running_here() if config.find("dsn").value is None else None
    return ConfigurationError(f"{error}\n{hint}") if hint else error


def check(app: PgQueue) -> str:
    """Connect once and look at the revision; the server's version. Raises ConnectionFailed, SchemaOutOfDate."""
    import psycopg

    from pgqueue import config
    from pgqueue.database import fetch
    from pgqueue.queries import inspecting
    from pgqueue.revision import check_revision

    try:
        dsn = app.database.dsn
    except config.NoDatabase as error:
        raise hinted(error) from error
    timeout = min(CONNECT_TIMEOUT, int(os.environ.get("PGCONNECT_TIMEOUT") or CONNECT_TIMEOUT))
    try:
        connection = psycopg.connect(dsn, connect_timeout=timeout, autocommit=True)
    except psycopg.Error as error:
        raise ConnectionFailed(f"cannot connect to {config.masked(dsn)}: {str(error).strip()}") from error
    with connection:
        try:
            found = fetch(connection, inspecting.revision(app.schema))
        except SchemaOutOfDate:
            found = []
        check_revision(found, app.schema)
        return str(connection.info.parameter_status("server_version"))
