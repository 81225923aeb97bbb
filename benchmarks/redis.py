"""A Redis of the benchmark's own, where a redis-server is installed."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import ExitStack
from typing import Self

import psutil

from benchmarks.processes import cpu_seconds, free_port

START_LIMIT = 20.0
SETTINGS = {"appendonly": "yes", "appendfsync": "everysec", "save": "", "maxmemory-policy": "noeviction"}


class Redis:
    """A server on a loopback port, with an append-only file that is synced every second.

    with Redis() as redis:
        redis.command("LLEN", "celery")
    """

    def __init__(self) -> None:
        self.port = free_port()
        self._undo = ExitStack()

    @staticmethod
    def installed() -> bool:
        return shutil.which("redis-server") is not None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        folder = self._undo.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        given = {"port": str(self.port), "bind": "127.0.0.1", "dir": folder, **SETTINGS}
        command = ["redis-server", *(part for name, value in given.items() for part in (f"--{name}", value))]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        self._undo.callback(process.wait, 20)
        self._undo.callback(process.terminate)
        self.process = psutil.Process(process.pid)
        deadline = time.monotonic() + START_LIMIT
        while True:
            try:
                self._socket = socket.create_connection(("127.0.0.1", self.port), timeout=60)
                break
            except ConnectionRefusedError:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise
                time.sleep(0.02)
        self._undo.callback(self._socket.close)
        self._answers = self._undo.enter_context(self._socket.makefile("rb"))
        self.version = str(self._info("redis_version"))
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def command(self, *words: str) -> int | str:
        """Run a command that answers with a number, a line or a string."""
        encoded = [word.encode() for word in words]
        self._socket.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(e), e) for e in encoded))
        kind, rest = (line := self._answers.readline().rstrip())[:1], line[1:]
        if kind == b"-":
            raise RuntimeError(f"redis: {rest.decode()}")
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return self._answers.read(int(rest) + 2)[:-2].decode()
        return rest.decode()

    def empty(self) -> None:
        self.command("FLUSHALL")

    def cpu(self) -> float:
        """CPU seconds since its start."""
        return cpu_seconds(self.process)

    def _info(self, name: str) -> str | None:
        lines = str(self.command("INFO", "server")).splitlines()
        return next((line.partition(":")[2] for line in lines if line.startswith(f"{name}:")), None)
