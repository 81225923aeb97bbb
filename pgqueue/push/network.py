"""Connections that go to the very address that was checked, whatever a name leads to a moment later."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from ipaddress import ip_address
from typing import TypeAlias

import httpcore

from pgqueue.errors import FailJob
from pgqueue.push.addresses import Allowed
from pgqueue.push.request import refused

Resolve: TypeAlias = Callable[[str, int], Awaitable[Sequence[str]]]


async def system_addresses(host: str, port: int) -> Sequence[str]:
    """What the system's resolver says, in its order."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(place[0]) for *_, place in found))


class CheckedNetwork(httpcore.AsyncNetworkBackend):
    """What httpcore opens connections with. Resolves a host once, checks every address, and connects to one of them.

    TLS names the host all the same: it is started by httpcore, which knows only that. Raises FailJob for a host with
    an address that is not allowed.
    """

    def __init__(self, allowed: Allowed, resolve: Resolve = system_addresses) -> None:
        self._allowed = allowed
        self._resolve = resolve
        self._backend = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        clock = asyncio.get_running_loop().time
        until = None if timeout is None else clock() + timeout
        addresses = await self._checked(host, port, until)
        failure: Exception | None = None
        for number, address in enumerate(addresses):
            # Each has its share of the time: one that does not answer must not use up that of the next.
            share = None if until is None else max(0.0, until - clock()) / (len(addresses) - number)
            try:
                return await self._backend.connect_tcp(address, port, share, local_address, socket_options)
            except httpcore.ConnectTimeout:
                failure = httpcore.ConnectTimeout(f"{address} did not take a connection in time")
            except httpcore.ConnectError as error:
                failure = httpcore.ConnectError(f"{address}: {error}")
        raise failure or httpcore.ConnectError(f"{host} has no address")

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        raise FailJob("requests go over TCP only")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def _checked(self, host: str, port: int, until: float | None) -> Sequence[str]:
        try:
            async with asyncio.timeout_at(until):
                addresses = await self._resolve(host, port)
        except TimeoutError:
            raise httpcore.ConnectTimeout(f"the address of {host} was not found in time") from None
        except (OSError, UnicodeError) as error:
            raise httpcore.ConnectError(f"the address of {host} was not found: {error}") from None
        for address in addresses:
            if not self._allowed.permits(ip_address(address)):
                raise FailJob(refused(host, None if address == host else address))
        return addresses
