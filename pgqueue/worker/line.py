"""The line between a task process and its worker, as the process uses it."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from pgqueue.errors import PgQueueError
from pgqueue.journal import Journal
from pgqueue.worker.call import LENGTH, pack, told_fields

TELL_SECONDS = 0.1
READ = 256 * 1024


class Line:
    """Messages from and to the worker; several threads may send."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._receiving = threading.Lock()
        self._received = bytearray()
        self._heard: deque[dict[str, Any]] = deque()
        # Jobs of the chunk that runs, or is to run next, whose cancel was asked for.
        self.stopped: set[int] = set()

    def send(self, message: bytes) -> None:
        with self._sending:
            self._connection.sendall(message)

    def receive(self) -> dict[str, Any] | None:
        """The next call, or the answer to a question; None when the worker has hung up."""
        with self._receiving:
            while not self._heard:
                read = self._connection.recv(READ)
                if not read:
                    return None
                self._take(read)
            return self._heard.popleft()

    def is_stopped(self, job_id: int) -> bool:
        """Whether the worker has said so by now."""
        # Who waits for a message takes in all that comes.
        if self._receiving.acquire(blocking=False):
            try:
                with contextlib.suppress(BlockingIOError):
                    while read := self._connection.recv(READ, socket.MSG_DONTWAIT):
                        self._take(read)
            finally:
                self._receiving.release()
        return job_id in self.stopped

    def _take(self, read: bytes) -> None:
        self._received += read
        while (message := self._next()) is not None:
            if "stop" in message:
                self.stopped.add(message["stop"])
            else:
                self._heard.append(message)

    def _next(self) -> dict[str, Any] | None:
        if len(self._received) < LENGTH.size:
            return None
        (size,) = LENGTH.unpack_from(self._received)
        end = LENGTH.size + size
        if len(self._received) < end:
            return None
        message: dict[str, Any] = json.loads(self._received[LENGTH.size : end])
        del self._received[:end]
        return message


class Questions:
    """What one run asks its worker, one question at a time."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._turn = threading.Lock()
        self._closed = False

    def ask(self, verb: str, params: dict[str, Any]) -> Any:
        """What the worker answers. Raises PgQueueError where it refuses, or the run is over."""
        with self._turn:
            if self._closed:
                raise PgQueueError("the run is over: its worker has its outcome")
            self._line.send(pack({"ask": verb, "params": params}))
            reply = self._line.receive() or {"refused": "the worker has hung up"}
        if "refused" in reply:
            raise PgQueueError(reply["refused"])
        return reply["answer"]

    def close(self) -> None:
        """What comes later is of a thread that the task has left behind. One that is being answered is waited for."""
        with self._turn:
            self._closed = True


class Teller:
    """Sends what a task tells, ten times a second at most, and the rest before the outcome.

    `job` is the id of the one that it tells of, where the call has several.
    """

    def __init__(self, send: Callable[[bytes], None], attempt: int, job: int | None = None) -> None:
        self._pass_on = send
        self._about = {} if job is None else {"job": job}
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
                self._pass_on(pack({**self._about, **told_fields(progress, lines)}))

    def close(self) -> None:
        """What comes later is of a thread that the task has left behind."""
        self._send(last=True)
