"""A worker process's line to its supervisor: what that one asks is answered from a thread, whatever the loop does."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from pgqueue.worker.call import LENGTH, pack

logger = logging.getLogger("pgqueue.worker")

LINK = "PGQUEUE_LINK"
Answers = Mapping[str, Callable[[], Any]]


def linked(answers: Answers) -> Link | None:
    """The line that a supervisor has given this process, answered from now on; None where there is none."""
    descriptor = os.environ.pop(LINK, None)
    if descriptor is None:
        return None
    os.set_inheritable(int(descriptor), False)
    return Link(socket.socket(fileno=int(descriptor)), answers)


class Link:
    """Answers `{"n": 1, "ask": "health"}` with `{"n": 1, "answer": …}`, and says `{"last": …}` at its end."""

    def __init__(self, connection: socket.socket, answers: Answers) -> None:
        self._connection = connection
        self._answers = answers
        self._turn = threading.Lock()
        threading.Thread(target=self._run, name="pgqueue-link", daemon=True).start()

    def close(self) -> None:
        """Say what the last answers are, so that nothing counted since the last question is lost."""
        with suppress(OSError):
            self._send({"last": {what: self._answered(what) for what in self._answers}})
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()

    def _run(self) -> None:
        with suppress(OSError):
            for question in messages(self._connection):
                self._send({"n": question["n"], "answer": self._answered(question["ask"])})

    def _answered(self, what: str) -> Any:
        try:
            return self._answers[what]()
        except Exception:
            # A collector of the user's own may raise.
            logger.exception("the supervisor cannot be told of the %s of this process", what)
            return None

    def _send(self, message: dict[str, Any]) -> None:
        with self._turn:
            self._connection.sendall(pack(message))


def messages(connection: socket.socket) -> Iterator[dict[str, Any]]:
    """Those that arrive, until the other side is gone."""
    with connection.makefile("rb") as stream:
        while len(head := stream.read(LENGTH.size)) == LENGTH.size:
            (size,) = LENGTH.unpack(head)
            body = stream.read(size)
            if len(body) < size:
                return
            yield json.loads(body)
