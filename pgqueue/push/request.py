"""What is sent: a request whose parts have been checked, at its enqueue and again at each run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from pgqueue import arguments
from pgqueue.errors import ArgumentError
from pgqueue.push.addresses import Allowed, literal
from pgqueue.version import VERSION

METHODS = ("POST", "PUT", "PATCH", "DELETE", "GET", "HEAD", "OPTIONS")
WITHOUT_BODY = ("GET", "HEAD")
URL_LIMIT = 8_000
HEADERS_LIMIT = 16_384
# Those that this side or the connection decides on.
RESERVED = {
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
}
SIGNED = "webhook-"
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?|")
_HOST = re.compile(r"(?:[a-z0-9_-]{1,63}\.)*[a-z0-9_-]{1,63}")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


@dataclass(frozen=True, slots=True)
class Rules:
    """Where requests may go."""

    allow_http: bool = False
    allowed: Allowed = field(default_factory=Allowed)


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `content` is None where the method has no body; header names are in lower case."""

    method: str
    url: httpx.URL
    headers: Mapping[str, str]
    content: bytes | None

    @property
    def host(self) -> str:
        return host_of(self.url)

    @property
    def where(self) -> str:
        """For messages: without the query, which may hold what is secret."""
        path = self.url.raw_path.partition(b"?")[0].decode()
        return shown(f"{self.method} {self.url.scheme}://{self.host}{path}")


def checked(
    rules: Rules, url: str, body: str | bytes | None, method: str, headers: Mapping[str, str] | None
) -> Request:
    """Raises ArgumentError, which says what cannot be sent and why."""
    target = checked_url(rules, url)
    if method not in METHODS:
        raise ArgumentError(f"method={method!r} is not one of {', '.join(METHODS)}")
    if body is not None and method in WITHOUT_BODY:
        raise ArgumentError(f"a {method} request has no body: use POST, or leave the body out")
    given = {"user-agent": f"pgqueue/{VERSION}", **checked_headers(headers or {})}
    if body is not None:
        given.setdefault("content-type", "application/json" if isinstance(body, str) else "application/octet-stream")
    content = body.encode() if isinstance(body, str) else body
    return Request(method, target, given, None if method in WITHOUT_BODY else content or b"")


def checked_url(rules: Rules, text: str) -> httpx.URL:
    """A URL that may be called, with the host as in DNS and no fragment. Raises ArgumentError."""
    what = f"url={shown(repr(text))}"
    given: object = text
    if not isinstance(given, str) or len(text) > URL_LIMIT:
        raise ArgumentError(f"{what} must be a text of at most {URL_LIMIT} characters")
    try:
        url = httpx.URL(text).copy_with(fragment=None)
    except (httpx.InvalidURL, ValueError) as error:
        raise ArgumentError(f"{what} is no URL: {error}") from None
    if url.scheme not in ("https", "http"):
        raise ArgumentError(f"{what}: give an absolute URL that begins with https://")
    if url.scheme == "http" and not rules.allow_http:
        raise ArgumentError(f"{what} is not encrypted: use https, or allow it with Push(…, allow_http=True)")
    if url.userinfo:
        # Not shown: there may be a password in it.
        raise ArgumentError("the URL has a user name in it: send credentials in a header, such as Authorization")
    if url.port is not None and not 1 <= url.port <= 65_535:
        raise ArgumentError(f"{what}: port {url.port} is not between 1 and 65535")
    _check_host(rules, url.raw_host.decode(), what)
    return url


def _check_host(rules: Rules, host: str, what: str) -> None:
    address = literal(host)
    if address is not None:
        if not rules.allowed.permits(address):
            raise ArgumentError(refused(host))
    elif host.endswith("."):
        raise ArgumentError(f"{what}: write the host without the dot at its end")
    elif len(host) > 253 or not _HOST.fullmatch(host):
        raise ArgumentError(f"{what}: {shown(repr(host))} is no host name")
    elif _NUMBER.fullmatch(host.rpartition(".")[2]):
        # Systems read such as 127.1 and 0x7f000001 as addresses.
        raise ArgumentError(f"{what}: {host!r} is neither a host name nor an address: write four numbers with dots")


def refused(host: str, address: object = None) -> str:
    leads = f"{host} leads to {address}, which is" if address is not None else f"{host} is"
    return (
        f"{leads} no public address: nothing is sent there. "
        "Allow it with Push(…, allow_private=['10.1.0.0/16']), or allow_private=True for all"
    )


def host_of(url: httpx.URL) -> str:
    """As in the header Host: with the port where it is not the scheme's own."""
    return url.netloc.decode()


def checked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """With their names in lower case. Raises ArgumentError, which shows no value."""
    given: object = headers
    if not isinstance(given, Mapping):
        raise ArgumentError(f"headers must be a mapping of names to texts, not {type(given).__name__}")
    found: dict[str, str] = {}
    items: Iterable[tuple[object, object]] = headers.items()
    for name, value in items:
        if not isinstance(name, str) or not _TOKEN.fullmatch(name):
            raise ArgumentError(f"{shown(repr(name))} is no name of a header")
        lower = name.lower()
        if lower in RESERVED or lower.startswith(SIGNED):
            raise ArgumentError(f"the header {name} is set by the delivery itself: leave it out")
        if lower in found:
            raise ArgumentError(f"the header {name} is given twice: join its values with commas")
        if not isinstance(value, str) or not _VALUE.fullmatch(value):
            raise ArgumentError(
                f"the value of the header {name} cannot be sent: give a text of printable ASCII characters, without "
                "line breaks, and without spaces at its ends; encode others, with urllib.parse.quote for example"
            )
        found[lower] = value
    if sum(len(name) + len(value) for name, value in found.items()) > HEADERS_LIMIT:
        raise ArgumentError(f"the headers are longer than {HEADERS_LIMIT} characters: put that into the body")
    return found


def written(body: Any, headers: Mapping[str, str]) -> str | bytes | None:
    """A body as it is stored and sent: bytes and text as they are, all else as JSON. Raises ArgumentError."""
    if body is None:
        return None
    if isinstance(body, str | bytes | bytearray | memoryview):
        if "content-type" not in headers:
            raise ArgumentError(
                f"the body is {type(body).__name__}, and nothing says of what kind: "
                "add headers={'Content-Type': 'application/json'}, or whatever it is"
            )
        return body if isinstance(body, str) else bytes(body)
    return arguments.dumps(body, what="the body of the request", limit=arguments.ARGUMENTS_LIMIT)


def shown(text: str, limit: int = 200) -> str:
    return text if len(text) <= limit else f"{text[:limit]}…"
