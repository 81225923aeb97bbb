"""What every request and every response must keep to, before anybody is asked who they are."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pgqueue.web.access import is_loopback

# Nothing but this server's own files: no inline script or style, no frame, no form to elsewhere.
POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    ]
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
# Arguments have up to 1 MiB, and a form writes some characters as three.
LARGEST = 4 * 2**20
SAFE = ("GET", "HEAD")


class Guard:
    """Refuses other hosts, bodies that are too large and characters that PostgreSQL cannot hold; sets the headers."""

    def __init__(self, app: ASGIApp, hosts: Iterable[str]) -> None:
        self._app = app
        self._hosts = tuple(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        connection = HTTPConnection(scope)
        if (refusal := self._refusal(connection)) is not None:
            await refusal(scope, receive, send_with_headers)
            return
        await self._app(scope, _Body(receive).receive, send_with_headers)

    def _refusal(self, connection: HTTPConnection) -> PlainTextResponse | None:
        host = host_of(connection)
        if host is None or not self._knows(host):
            return PlainTextResponse(
                f"The dashboard does not answer to the host {host or 'of this request'!r}: "
                "name it with --allow-host, or Dashboard(hosts=[…]).\n",
                421,
            )
        if b"%00" in connection.scope.get("query_string", b"") or "\0" in connection.scope["path"]:
            return PlainTextResponse("The address has a NUL character.\n", 400)
        return None

    def _knows(self, host: str) -> bool:
        if is_loopback(host) or "*" in self._hosts or host in self._hosts:
            return True
        return any(known.startswith("*.") and host.endswith(known[1:]) for known in self._hosts)


def host_of(connection: HTTPConnection) -> str | None:
    """The host that a request asks for, without its port; None where it names none, or several."""
    given = connection.headers.getlist("host")
    if len(given) != 1:
        return None
    try:
        return urlsplit(f"//{given[0]}").hostname
    except ValueError:
        return None


def is_same_origin(connection: HTTPConnection) -> bool:
    """Whether a page of this server sent it: browsers say so in Origin or Sec-Fetch-Site, and others are refused."""
    site = connection.headers.get("sec-fetch-site")
    if site is not None and site != "same-origin":
        return False
    origin = connection.headers.get("origin")
    if origin is None:
        return site is not None
    # The scheme is the proxy's where one ends TLS: the host decides.
    return urlsplit(origin).netloc.lower() == connection.headers.get("host", "").lower() != ""


class _Body:
    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._read = 0

    async def receive(self) -> Message:
        message = await self._receive()
        self._read += len(message.get("body", b""))
        if self._read > LARGEST:
            raise HTTPException(413, f"The request has more than {LARGEST:,} bytes.")
        return message
