"""The world outside the shop: an SMTP server and the printer's HTTP server. Both record what reached them.

They take a moment to answer, as real ones do: work that was done but not yet acknowledged when a worker dies is what
at-least-once is about.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import threading
import time
from collections import Counter, defaultdict
from contextlib import ExitStack, suppress
from email import message_from_bytes
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import Any, Self

from aiosmtpd.smtp import SMTP, Envelope

REFUSED_CUSTOMER = "mallory@example.com"
UNAVAILABLE = 0.25
SMTP_SECONDS = 0.08
HTTP_SECONDS = 0.04
LOOPBACK = "127.0.0.1"


class Outside:
    """Both servers, on ports of 127.0.0.1 that the system chooses, and their records.

    `mails` counts messages by order, `post` keeps the orders of each receiver as they came. `answers` counts requests
    by order and status, `requests` keeps the times of each customer's, in seconds.

        with Outside(seed=1) as outside:
            outside.smtp, outside.http    # '127.0.0.1:40123', 'http://127.0.0.1:40124'
    """

    def __init__(self, seed: int) -> None:
        self.mails: Counter[int] = Counter()
        self.post: defaultdict[str, list[int]] = defaultdict(list)
        self.requests: defaultdict[str, list[float]] = defaultdict(list)
        self.answers: Counter[tuple[int, HTTPStatus]] = Counter()
        self.smtp = self.http = ""
        self._seed = seed
        self._lock = threading.Lock()
        self._undo = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            self.smtp = f"{LOOPBACK}:{undo.enter_context(_SmtpServer(self)).port}"
            printer = undo.enter_context(_Printer((LOOPBACK, 0), _PrinterHandler))
            printer.outside = self
            threading.Thread(target=printer.serve_forever, args=[0.05], daemon=True).start()
            undo.callback(printer.shutdown)
            self.http = f"http://{LOOPBACK}:{printer.server_address[1]}"
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def receive_mail(self, content: bytes) -> None:
        message = message_from_bytes(content)
        if found := re.fullmatch(r"<order-(\d+)@.+>", message["Message-ID"] or ""):
            self.mails[int(found[1])] += 1
            self.post[message["To"]].append(int(found[1]))

    def answer(self, order: int, customer: str) -> HTTPStatus:
        with self._lock:
            self.requests[customer].append(time.monotonic())
            if customer == REFUSED_CUSTOMER:
                status = HTTPStatus.BAD_REQUEST
            else:
                before = sum(count for (other, _), count in self.answers.items() if other == order)
                chance = random.Random(f"{self._seed} {order} {before}").random()
                status = HTTPStatus.SERVICE_UNAVAILABLE if chance < UNAVAILABLE else HTTPStatus.OK
            self.answers[order, status] += 1
        return status


class _SmtpServer:
    """aiosmtpd in a thread. Its own Controller cannot let the system choose the port."""

    def __init__(self, outside: Outside) -> None:
        self._outside = outside
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.port = 0

    async def handle_DATA(self, _server: SMTP, _session: object, envelope: Envelope) -> str:
        content = envelope.content or b""
        self._outside.receive_mail(content.encode() if isinstance(content, str) else content)
        await asyncio.sleep(SMTP_SECONDS)
        return "250 OK"

    def __enter__(self) -> Self:
        self._thread.start()
        self.port = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        return self

    async def _listen(self) -> int:
        server = await self._loop.create_server(
            lambda: SMTP(self, hostname="mail.example.com", loop=self._loop), LOOPBACK, 0
        )
        port: int = server.sockets[0].getsockname()[1]
        return port

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


class _Printer(ThreadingTCPServer):
    """Not HTTPServer: that asks the name service for its own name."""

    daemon_threads = True
    request_queue_size = 128
    outside: Outside

    def handle_error(self, *_: Any) -> None:
        """A worker that was killed leaves connections behind."""


class _PrinterHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Printer

    def do_POST(self) -> None:
        order = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status = self.server.outside.answer(order["order"], order["customer"])
        time.sleep(HTTP_SECONDS)
        body = status.phrase.encode()
        with suppress(ConnectionError):
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """The records are in Outside."""
