"""What PostgreSQL itself says about a server in a data directory: the file postmaster.pid."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pgqueue.errors import ConnectionFailed

FIELDS = 8


@dataclass(frozen=True, slots=True)
class Postmaster:
    """A server that has run in a data directory, and may still."""

    pid: int
    started: str
    sockets: Path
    ready: bool

    @classmethod
    def read(cls, cluster: Path) -> Self | None:
        """None when no server has, or its file is not yet whole."""
        try:
            lines = [line.strip() for line in (cluster / "postmaster.pid").read_text().splitlines()]
        except FileNotFoundError:
            return None
        if len(lines) < FIELDS:
            return None
        return cls(int(lines[0]), lines[2], Path(lines[4]), lines[7] == "ready")

    @classmethod
    def running_in(cls, cluster: Path, *, timeout: float) -> Self | None:
        """The server of this data directory; waits up to `timeout` seconds for one that is starting or stopping.

        Raises ConnectionFailed when it does neither in time.
        """
        deadline = time.monotonic() + timeout
        while (found := cls.read(cluster)) is not None and _runs(found.pid):
            if not _is_server_of(found.pid, cluster):
                # The number belongs to another process now, as happens when a container starts again. PostgreSQL takes
                # any live process for its own and would not start.
                (cluster / "postmaster.pid").unlink(missing_ok=True)
                return None
            if found.ready:
                return found
            if time.monotonic() > deadline:
                raise ConnectionFailed(
                    f"a PostgreSQL (pid {found.pid}) in {cluster} neither starts nor stops: "
                    f"end it with `kill -QUIT {found.pid}`"
                )
            time.sleep(0.05)
        return None


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _is_server_of(pid: int, cluster: Path) -> bool:
    process = Path("/proc", str(pid))
    if not Path("/proc/self").exists():
        return True
    try:
        return (process / "comm").read_text().strip() == "postgres" and os.readlink(process / "cwd") == str(
            cluster.resolve()
        )
    except FileNotFoundError:
        return False
    except PermissionError:
        # In a container even root may not look into another user's process; its name has to do.
        return True
