"""Between workers and PostgreSQL: passes everything on, and hangs up where a test wants an answer to be lost."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from pathlib import Path
from types import TracebackType

from psycopg.conninfo import conninfo_to_dict, make_conninfo

SOCKET = ".s.PGSQL.5432"


class Proxy:
    """A Unix socket in `folder` in front of the server of `dsn`.

    A message from the server that contains `answer`, and whatever answers a message to the server that contains
    `request`, never arrives: both sides are hung up, `times` times.

        with Proxy(dsn, folder, answer=b"lost", times=2) as proxy:
            connect(proxy.dsn)
    """

    def __init__(
        self, dsn: str, folder: Path, *, answer: bytes | None = None, request: bytes | None = None, times: int
    ) -> None:
        given = conninfo_to_dict(dsn)
        self._server = str(Path(str(given["host"]), f".s.PGSQL.{given.get('port') or 5432}"))
        self.dsn = make_conninfo(dsn, host=str(folder), port=5432)
        self._answer = answer
        self._request = request
        self.left = times
        self._lock = threading.Lock()
        self._ended = False
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / SOCKET))
        self._listener.listen()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def __enter__(self) -> Proxy:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(5)

    def _accept(self) -> None:
        while not self._ended:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=[client], daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as server, contextlib.suppress(OSError):
            server.connect(self._server)
            doomed = False
            while not self._ended:
                for ready in select.select([client, server], [], [], 0.2)[0]:
                    data = ready.recv(1 << 20)
                    if not data or (ready is server and (doomed or self._loses(data, self._answer))):
                        return
                    if ready is client and self._loses(data, self._request):
                        doomed = True
                    (server if ready is client else client).sendall(data)

    def _loses(self, data: bytes, marker: bytes | None) -> bool:
        with self._lock:
            if marker is None or marker not in data or not self.left:
                return False
            self.left -= 1
            return True
