"""A small HTTP server in threads: what it serves answers while the event loop of the process stands still."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import urlsplit

from pgqueue.errors import ConfigurationError

logger = logging.getLogger("pgqueue.probes")

# Who sends a request byte by byte, or sixteen at once, keeps others waiting no longer than this.
READ_SECONDS = 5.0
MOST_REQUESTS = 16


class Answer(NamedTuple):
    """To one request."""

    status: int
    content_type: str
    body: bytes


Routes: TypeAlias = Mapping[str, Callable[[], Answer]]


@contextmanager
def served(host: str, port: int, routes: Routes) -> Iterator[str]:
    """Answer GET requests for `routes` there until it is left; yields the URL. Port 0 takes any that is free.

    Raises ConfigurationError for an address that cannot be had.

        with served("127.0.0.1", 9464, {"/healthz": lambda: Answer(200, "text/plain", b"ok")}) as url: ...
    """
    try:
        # As a socket chooses among the addresses of a name.
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        server = _Server(family, address, routes)
    except (OSError, OverflowError) as error:
        raise ConfigurationError(
            f"cannot listen on port {port} of {host}: {getattr(error, 'strerror', None) or error}. "
            "Give another port, or --host with an address of this machine (0.0.0.0 for all)"
        ) from error
    thread = threading.Thread(target=server.serve_forever, name="pgqueue-http", daemon=True)
    thread.start()
    try:
        shown = f"[{host}]" if ":" in host else host
        yield f"http://{shown}:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # A handler may wait for a database; the process does not wait for the handler.
    block_on_close = False

    def __init__(self, family: socket.AddressFamily, address: Any, routes: Routes) -> None:
        self.address_family = family
        self.routes = routes
        self._room = threading.BoundedSemaphore(MOST_REQUESTS)
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # HTTPServer's own asks the name service for the name of the host, which may take long.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        logger.debug("a request was not answered", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = READ_SECONDS
    server_version = "pgqueue"
    sys_version = ""

    def do_GET(self) -> None:
        route = self.server.routes.get(urlsplit(self.path).path)
        if route is None:
            known = ", ".join(self.server.routes)
            answer = Answer(404, "text/plain; charset=utf-8", f"there is {known}\n".encode())
        else:
            try:
                answer = route()
            except Exception:
                logger.exception("%s cannot be answered", self.path)
                answer = Answer(500, "text/plain; charset=utf-8", b"see the log\n")
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody wants a line a probe."""
