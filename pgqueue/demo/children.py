"""The demo's processes: each ends with the demo, however that ends, also by `kill -9`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Literal, Self

STOP_TIMEOUT = 10.0
LOG_LINES = 15

# The pipe on stdin closes when the demo is gone; then the shell kills the process that it started. Its pid comes first.
SUPERVISE = """
output=$1; shift
exec 3<&0 </dev/null
"$@" 3<&- >&"$output" &
child=$!
echo "$child"
exec >&-
(read -r _ <&3; kill -KILL "$child") 2>/dev/null &
watcher=$!
wait "$child"; status=$?
kill "$watcher" 2>/dev/null
exit "$status"
"""


class Child:
    """A Python module that runs in a process of its own, out of reach of the terminal's Ctrl-C.

    What it writes goes to `folder/NAME.log`; with `read_output` its stdout is in `output` instead.

        with Child("worker 1", ["pgqueue", "worker", "shop:app"], environ, folder) as worker:
            os.kill(worker.pid, signal.SIGKILL)
    """

    def __init__(
        self, name: str, command: list[str], environ: Mapping[str, str], folder: Path, *, read_output: bool = False
    ) -> None:
        self.name = name
        self.killed = False
        self._stopped = False
        self._read_output = read_output
        self._log = folder / f"{name.replace(' ', '-')}.log"
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", SUPERVISE, name, "1" if read_output else "2", sys.executable, "-m", *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environ,
                cwd=folder,
                start_new_session=True,
            )
        assert self._process.stdout is not None
        self.output: IO[bytes] = self._process.stdout
        self.pid = int(self.output.readline())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def state(self) -> Literal["running", "stopped", "killed"]:
        if self.alive:
            return "running"
        return "killed" if self.killed else "stopped"

    @property
    def exit_code(self) -> int | None:
        return self._process.poll()

    @property
    def broken(self) -> bool:
        """Whether it ended though nobody asked it to; with exit code 0 only what is read to its end may."""
        if self.alive or self.killed or self._stopped:
            return False
        return not self._read_output or self.exit_code != 0

    def kill(self) -> None:
        """`kill -9`: it gets no chance to clean up."""
        self.killed = True
        os.kill(self.pid, signal.SIGKILL)

    def stop(self, timeout: float = STOP_TIMEOUT) -> None:
        """Ask it to stop, and kill it after `timeout` seconds."""
        self._stopped = True
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout)
        self.close()

    def close(self) -> None:
        """Kill it, if it lives."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self.output.close()

    def last_words(self) -> str:
        """The end of its log."""
        lines = self._log.read_text("utf-8", "replace").splitlines()
        return "\n".join(lines[-LOG_LINES:])
