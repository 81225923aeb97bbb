"""One function in a process of its own: `python -m pgqueue.bench.part`, started by `Part`.

It reads what to call from its standard input, says when it is ready, starts when it is told to, and answers with what
the function returned, a JSON value. It ends with the process that started it, however that ends.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import asdict
from io import FileIO
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar

from pgqueue.bench.place import Place
from pgqueue.errors import PgQueueError

P = ParamSpec("P")
R = TypeVar("R")
Begin = Callable[[], None]
"""Says that all is ready, and returns when the measurement begins."""

LOG_LINES = 15


class PartFailed(PgQueueError):
    """A process of the benchmark failed; the message ends with its last words."""


class Part(Generic[R]):
    """Calls `function(place, begin, …)` in a new process, which can import it by its name.

    with Part(place, drain, jobs=1000, kept=True) as part:
        part.begin()
        found = part.result()
    """

    def __init__(
        self, place: Place, function: Callable[Concatenate[Place, Begin, P], R], *args: P.args, **given: P.kwargs
    ) -> None:
        assert not args, "what is passed on goes by name"
        self._name = function.__name__
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self._process = subprocess.Popen(
            [sys.executable, "-m", "pgqueue.bench.part"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            # Ctrl-C is for the process that started it, which then ends this one.
            start_new_session=True,
        )
        # Not on the command line, which everybody may read: a DSN may have a password.
        call = {"module": function.__module__, "function": self._name, "place": asdict(place), "given": given}
        self._send(json.dumps(call))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()
        self._log.close()

    def wait_until_ready(self) -> None:
        """Raises PartFailed when it does not come so far."""
        self._receive("ready")

    def start(self) -> None:
        """Let it begin, once it is ready."""
        self._send("begin")

    def begin(self) -> None:
        """Wait until it is ready, and let it begin."""
        self.wait_until_ready()
        self.start()

    def result(self) -> R:
        """What the function returns. Raises PartFailed."""
        found: R = self._receive("result")
        return found

    def _send(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            self._fail()

    def _receive(self, what: str) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._fail()
        return json.loads(line)[what]

    def _fail(self) -> None:
        code = self._process.wait()
        self._log.seek(0)
        lines = self._log.read().decode("utf-8", "replace").splitlines()
        raise PartFailed("\n".join([f"{self._name} ended with exit code {code}:", *lines[-LOG_LINES:]]))


def main() -> None:
    # Without a buffer, whose lock a thread that waits here would hold at the end of the interpreter.
    orders = FileIO(0, closefd=False)
    call = json.loads(orders.readline())
    # With one, whatever PYTHONUNBUFFERED says: without, the rest of what a signal cuts short is lost.
    answers = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - open until the process ends
    told = threading.Event()

    def listen() -> None:
        while orders.readline():
            told.set()
        # Whoever started this is gone.
        os._exit(1)

    def answer(what: str, value: Any) -> None:
        print(json.dumps({what: value}), file=answers, flush=True)

    def begin() -> None:
        answer("ready", None)
        told.wait()

    threading.Thread(target=listen, name="pgqueue-bench-lifeline", daemon=True).start()
    function = getattr(importlib.import_module(call["module"]), call["function"])
    answer("result", function(Place(**call["place"]), begin, **call["given"]))


if __name__ == "__main__":
    main()
