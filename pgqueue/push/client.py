"""Sends requests: connections that are kept and shared, every time and size bounded, redirects only where asked for."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from types import TracebackType
from typing import cast

import httpcore
import httpx

from pgqueue.errors import ArgumentError, DeliveryFailed, FailJob
from pgqueue.push.answer import Answer
from pgqueue.push.breaker import HostBreaker
from pgqueue.push.network import CheckedNetwork
from pgqueue.push.request import SIGNED, Request, Rules, checked_url

READ_LIMIT = 65_536
KEPT_IDLE, IDLE_SECONDS = 100, 5.0
# A redirect with another one would turn a POST into a GET, which delivers nothing.
KEEPS_METHOD = (307, 308)
REDIRECTS = (301, 302, 303, *KEEPS_METHOD)
# To another host go only these, and the signature.
HARMLESS = ("accept", "content-type", "user-agent")
BROKEN = (
    OSError,
    httpcore.TimeoutException,
    httpcore.NetworkError,
    httpcore.ProtocolError,
)


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds: for a whole delivery, for a connection, and for each silence of the other side."""

    total: float
    connect: float
    read: float


class Client:
    """The connections of one event loop, and what is known of the hosts there. Each user enters it; `retire` closes it
    when the last one has left."""

    def __init__(
        self,
        network: CheckedNetwork,
        tls: ssl.SSLContext,
        rules: Rules,
        times: Times,
        redirects: int,
        breaker: HostBreaker,
    ) -> None:
        self.breaker = breaker
        self._rules = rules
        self._times = times
        self._redirects = redirects
        self._users = 0
        self._retired = False
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=tls,
            # The slots of the queue and the limits bound it.
            max_connections=None,
            max_keepalive_connections=KEPT_IDLE,
            keepalive_expiry=IDLE_SECONDS,
            network_backend=network,
        )

    async def __aenter__(self) -> Client:
        self._users += 1
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._users -= 1
        await self._close_if_unused()

    async def retire(self) -> None:
        """Close it now, or when those who use it have left."""
        self._retired = True
        await self._close_if_unused()

    async def _close_if_unused(self) -> None:
        if self._retired and not self._users:
            await self._pool.aclose()

    async def send(self, request: Request) -> Answer:
        """The answer, also one that is no success. Raises DeliveryFailed without one, and FailJob for a redirect or an
        address that may not be followed."""
        deadline = asyncio.get_running_loop().time() + self._times.total
        for _ in range(self._redirects + 1):
            answer = await self._exchange(request, deadline)
            location = answer.header("location")
            keeps = KEEPS_METHOD if request.method not in ("GET", "HEAD") else REDIRECTS
            if not self._redirects or location is None or answer.status not in keeps:
                return answer
            request = self._redirected(request, location)
        raise FailJob(f"more than {self._redirects} redirects, the last one to {request.where}")

    async def _exchange(self, request: Request, deadline: float) -> Answer:
        answer: Answer | None = None
        url = request.url
        target = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        headers = {"host": request.host, **request.headers}
        times = {"connect": self._times.connect, "read": self._times.read, "write": self._times.read}
        try:
            async with (
                asyncio.timeout_at(deadline),
                self._pool.stream(
                    request.method,
                    target,
                    headers=[(name.encode(), value.encode()) for name, value in headers.items()],
                    content=request.content,
                    extensions={"timeout": times},
                ) as response,
                aclosing(cast("AsyncGenerator[bytes]", response.aiter_stream())) as parts,
            ):
                answer = Answer(response.status, response.headers)
                async for part in parts:
                    answer.body += part[: READ_LIMIT - len(answer.body)]
                    if len(answer.body) >= READ_LIMIT:
                        break
        except BROKEN as error:
            # With a status the host has said what it makes of the request, whatever became of the rest.
            if answer is None:
                raise DeliveryFailed(f"{request.where}: {self._why(error)}") from None
        return answer

    def _redirected(self, request: Request, location: str) -> Request:
        try:
            url = checked_url(self._rules, str(request.url.join(location)))
        except (ArgumentError, httpx.InvalidURL, ValueError) as error:
            raise FailJob(f"{request.where} redirects to where nothing is sent: {error}") from None
        if _origin(url) == _origin(request.url):
            return replace(request, url=url)
        kept = {name: value for name, value in request.headers.items() if name in HARMLESS or name.startswith(SIGNED)}
        return replace(request, url=url, headers=kept)

    def _why(self, error: Exception) -> str:
        match error:
            case httpcore.ReadTimeout():
                return f"no answer within {self._times.read:g} s"
            case httpcore.WriteTimeout():
                return f"the request could not be sent within {self._times.read:g} s"
            case httpcore.ConnectTimeout():
                return f"no connection within {self._times.connect:g} s: {str(error) or 'TLS was not agreed on'}"
            case TimeoutError():
                return f"not done within {self._times.total:g} s"
        return str(error) or type(error).__name__


def _origin(url: httpx.URL) -> tuple[bytes, bytes]:
    return url.raw_scheme, url.netloc
