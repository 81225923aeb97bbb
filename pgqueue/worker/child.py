"""A task process: `python -m pgqueue.worker.child SOCKET LIFELINE`, started by `pgqueue.worker.processes`.

It takes one call at a time from the socket, runs the task in its main thread and answers with the outcome. The worker
alone decides when it ends, with SIGKILL: SIGINT and SIGTERM do nothing here, since service managers send them to every
process of a service while the worker still lets its jobs finish. Exit handlers (`atexit`) do not run.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import importlib
import importlib.util
import io
import json
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any, BinaryIO

from pgqueue.journal import Journal
from pgqueue.outcome import Outcome
from pgqueue.worker.call import LENGTH, pack, pack_outcome, pack_told

MAIN = "__pgqueue_main__"
PR_SET_PDEATHSIG = 1
TELL_SECONDS = 0.1


def main(connection_fd: int, lifeline: int) -> None:
    die_with_the_worker(lifeline)
    for number in (signal.SIGINT, signal.SIGTERM):
        # A handler that does nothing, not SIG_IGN: programs that a task starts would inherit that.
        signal.signal(number, lambda *_: None)
    show_crashes_and_prints()
    connection = socket.socket(fileno=connection_fd)
    connection.set_inheritable(False)
    calls = connection.makefile("rb")
    if worker := receive(calls):
        look_like(worker)
        connection.sendall(pack({}))
        while call := receive(calls):
            teller = Teller(connection, call["context"].get("attempt", 1))
            reply = answer(call, worker, teller)
            teller.close()
            connection.sendall(reply)


def die_with_the_worker(lifeline: int) -> None:
    """End this process when the worker's ends, however that ends.

    On Linux the kernel does it, even in the middle of a C call that holds the GIL. Elsewhere, and where a task took
    that back, a thread sees the pipe close whose other end only the worker holds; it needs the GIL for that.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    os.set_inheritable(lifeline, False)

    def watch() -> None:
        os.read(lifeline, 1)
        os._exit(1)

    threading.Thread(target=watch, name="pgqueue-lifeline", daemon=True).start()


def show_crashes_and_prints() -> None:
    if sys.stderr is not None:
        faulthandler.enable()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # What a task printed before it was killed would stay in the buffer.
        sys.stdout.reconfigure(line_buffering=True)


def receive(calls: BinaryIO) -> dict[str, Any] | None:
    """The next message, None when the worker has hung up."""
    header = calls.read(LENGTH.size)
    if len(header) < LENGTH.size:
        return None
    (size,) = LENGTH.unpack(header)
    body = calls.read(size)
    return json.loads(body) if len(body) == size else None


def look_like(worker: dict[str, Any]) -> None:
    """Import from where the worker imports; give programs that a task starts the worker's own PYTHONPATH."""
    sys.path[:] = worker["path"]
    if worker["pythonpath"] is None:
        os.environ.pop("PYTHONPATH", None)
    else:
        os.environ["PYTHONPATH"] = worker["pythonpath"]


class Teller:
    """Sends what a task tells, ten times a second at most, and the rest before the outcome."""

    def __init__(self, connection: socket.socket, attempt: int) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._closed = False
        self.journal = Journal(attempt, self._wake)

    def _wake(self, _: Journal) -> None:
        timer = threading.Timer(TELL_SECONDS, self._send)
        timer.daemon = True
        timer.start()

    def _send(self, *, last: bool = False) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = last
            progress, lines = self.journal.take(last=last)
            if progress or lines:
                self._connection.sendall(pack_told(progress, lines))

    def close(self) -> None:
        """What comes later is of a thread that the task has left behind."""
        self._send(last=True)


def answer(call: dict[str, Any], worker: dict[str, Any], teller: Teller) -> bytes:
    try:
        run = find(call["module"], call["qualname"], worker)
    except BaseException:
        return pack({"import_error": traceback.format_exc()})
    try:
        reply = pack_outcome(run(call["context"], call["args"], teller.journal))
    except BaseException:
        # An orderly exit would wait for the task's threads, and the worker for this process.
        traceback.print_exc()
        os._exit(1)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):
            stream.flush()
    return reply


def find(module: str, qualname: str, worker: dict[str, Any]) -> Callable[[dict[str, Any], str, Journal], Outcome]:
    found: Any = main_module(worker) if module == "__main__" else importlib.import_module(module)
    for name in qualname.split("."):
        found = getattr(found, name)
    run: Callable[[dict[str, Any], str, Journal], Outcome] = found.run_in_child
    return run


def main_module(worker: dict[str, Any]) -> Any:
    """The worker's `__main__` under another name, so that its `if __name__ == "__main__"` does not run here."""
    if worker["main_module"] is not None:
        return importlib.import_module(worker["main_module"])
    if MAIN in sys.modules:
        return sys.modules[MAIN]
    if worker["main_file"] is None:
        raise ImportError("the task is defined in __main__, which is no file here: move it to a module")
    spec = importlib.util.spec_from_file_location(MAIN, worker["main_file"])
    if spec is None or spec.loader is None:
        raise ImportError(f"{worker['main_file']} cannot be imported: give it a name that ends in .py")
    module = sys.modules[MAIN] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[MAIN]
        raise
    return module


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
