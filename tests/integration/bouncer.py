"""A PgBouncer that pools transactions in front of the test server: few server connections, shared by all."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgqueue.embedded.binaries import Account, temporary_folder

CONFIG = """
[databases]
* = {server}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 3
max_client_conn = 200
ignore_startup_parameters =
log_connections = 0
log_disconnections = 0
log_stats = 0
"""


def program() -> str | None:
    """Debian keeps it where only root's PATH looks."""
    return shutil.which("pgbouncer", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"]))


@contextmanager
def bouncer(dsn: str) -> Iterator[str]:
    """The DSN through which the database of `dsn` is reached."""
    parts = conninfo_to_dict(dsn)
    server = {name: parts[name] for name in ("host", "port", "user", "password") if parts.get(name) is not None}
    account = Account.for_server(None)
    folder = temporary_folder(account)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = Path(folder, "pgbouncer.ini")
    config.write_text(CONFIG.format(server=make_conninfo("", **server), port=port))
    config.chmod(0o644)
    command = [program() or "pgbouncer", str(config)]
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True, **account.identity)
    try:
        _wait_until_up(process)
        yield make_conninfo("", host="127.0.0.1", port=port, user=parts.get("user"), dbname=parts.get("dbname"))
    finally:
        process.kill()
        process.communicate()
        shutil.rmtree(folder, ignore_errors=True)


def _wait_until_up(process: subprocess.Popen[str]) -> None:
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if "process up" in line:
            return
    raise AssertionError("PgBouncer did not start:\n" + "".join(said))
