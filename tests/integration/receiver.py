"""Who receives what is pushed: an HTTP server on loopback that answers as a test says."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType

Say = Callable[[bytes], Awaitable[None]]


@dataclass(frozen=True)
class Received:
    """One request; header names in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    connection: int


Answering = Callable[[Received, Say], Awaitable[None]]


def answer(status: int, body: bytes = b"", **headers: str) -> bytes:
    """An answer whole; `_` in the names of headers is a dash."""
    lines = [f"HTTP/1.1 {status} Said", f"content-length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Receiver:
    """Answers one request after the other with `answers`, the last one again and again; records what came.

    An answer is bytes, or a function that says what it likes, when it likes.
    """

    def __init__(self, *answers: bytes | Answering, tls: ssl.SSLContext | None = None) -> None:
        self.received: list[Received] = []
        self.connections = 0
        self.open = 0
        self._answers = answers or (answer(200),)
        self._tls = tls
        self._handlers: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Receiver:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for handler in self._handlers:
            handler.cancel()
        await asyncio.gather(*self._handlers, return_exceptions=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handler = asyncio.current_task()
        assert handler is not None
        self._handlers.add(handler)
        self.connections += 1
        self.open += 1
        number = self.connections

        async def say(part: bytes) -> None:
            writer.write(part)
            await writer.drain()

        next_begins = b""
        try:
            while (received := await _read(reader, next_begins, number)) is not None:
                self.received.append(received)
                said = self._answers[min(len(self.received), len(self._answers)) - 1]
                answering = asyncio.ensure_future(say(said) if isinstance(said, bytes) else said(received, say))
                hung_up = asyncio.ensure_future(reader.read(1))
                await asyncio.wait({answering, hung_up}, return_when=asyncio.FIRST_COMPLETED)
                # What the other side sends after an answer is its next request.
                next_begins = hung_up.result() if hung_up.done() else b""
                hung_up.cancel()
                answering.cancel()
                await asyncio.wait({answering, hung_up})
                if answering.cancelled() or answering.exception() is not None:
                    return
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self.open -= 1
            self._handlers.discard(handler)
            writer.close()


async def _read(reader: asyncio.StreamReader, begun: bytes, connection: int) -> Received | None:
    try:
        head = begun + await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    method, target, _ = first.split(" ")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Received(method, target, headers, body, connection)
