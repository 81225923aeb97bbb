"""Wrong passwords slow down those that follow, of one user name and from one address: nobody is locked out.

A guess counts as wrong from when it comes until it has proved right, so that those that come at once slow each other
down. All of it is in this process, and bounded.
"""

from __future__ import annotations

import ipaddress
import time
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import anyio
from starlette.requests import HTTPConnection

from pgqueue.web.access import Network

# People mistype: so many of late wait for nothing. Each more waits twice as long as the one before, up to LONGEST.
FREE = 5
# Seconds.
LONGEST = 10.0
FORGIVEN = 60.0
"""In so many seconds one wrong password is forgotten."""
MOST = 10
# At once, by kind and in all; who is beyond is refused, and may come again. A name has more places than an address.
WAITING = {"name": 25, "address": 5, "pair": 5, "browser": 5}
WAITING_IN_ALL = 100
AGAIN = {"Retry-After": f"{LONGEST:.0f}"}
REMEMBERED = 10_000
NAME_LENGTH = 100
# Who has one address of IPv6 has so many bits of them.
SITE = 64
ADDRESS = "pgqueue.address"


class TooMany(Exception):
    """As many as may wait for their turn do already: this guess was not looked at."""


class Key(NamedTuple):
    """Whose wrong passwords are counted together: `kind` is name, address, pair (of the two) or browser."""

    kind: str
    value: str


class Wrong(NamedTuple):
    """How many were wrong of late, at a time of the clock."""

    number: float
    at: float


class Guesses:
    """How long each guess waits for those before it. `clock` and `sleep` are in seconds."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], Awaitable[None]] = anyio.sleep
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._wrong: OrderedDict[Key, Wrong] = OrderedDict()
        self._right: OrderedDict[tuple[Key, ...], None] = OrderedDict()
        self._waiting: Counter[Key] = Counter()
        self._waiting_in_all = 0

    async def wait(self, keys: tuple[Key, ...]) -> tuple[Key, ...]:
        """Wait for the wrong ones of late; what this guess is counted by now. Raises TooMany.

        Where the name has entered from the address before, the two are counted by themselves, so that a program without
        cookies is not slowed down by what others guess.
        """
        if keys in self._right:
            keys = (Key("pair", " ".join(key.value for key in keys)),)
        seconds = max(self._delay(key) for key in keys)
        if seconds and self._is_crowded(keys):
            raise TooMany
        self._add(keys, 1)
        if seconds:
            await self._pause(keys, seconds)
        return keys

    def right(self, keys: tuple[Key, ...]) -> None:
        """One that has waited was right: what others got wrong stays."""
        self._add(keys, -1)
        if len(keys) > 1:
            self._right[keys] = None
            self._right.move_to_end(keys)
            while len(self._right) > REMEMBERED:
                self._right.popitem(last=False)

    def _is_crowded(self, keys: tuple[Key, ...]) -> bool:
        return self._waiting_in_all >= WAITING_IN_ALL or any(self._waiting[key] >= WAITING[key.kind] for key in keys)

    async def _pause(self, keys: tuple[Key, ...], seconds: float) -> None:
        self._waiting.update(keys)
        self._waiting_in_all += 1
        try:
            await self._sleep(seconds)
        finally:
            self._waiting -= Counter(keys)
            self._waiting_in_all -= 1

    def _delay(self, key: Key) -> float:
        beyond = round(self._number(key)) - FREE
        return min(2.0**beyond, LONGEST) if beyond >= 0 else 0.0

    def _number(self, key: Key) -> float:
        wrong = self._wrong.get(key)
        return max(wrong.number - (self._clock() - wrong.at) / FORGIVEN, 0.0) if wrong else 0.0

    def _add(self, keys: tuple[Key, ...], more: int) -> None:
        for key in keys:
            number = max(self._number(key) + more, 0.0)
            self._wrong[key] = Wrong(min(number, MOST), self._clock())
            self._wrong.move_to_end(key)
        while len(self._wrong) > REMEMBERED:
            self._wrong.popitem(last=False)


def keys_of(connection: HTTPConnection, name: str, known: str | None) -> tuple[Key, ...]:
    """Of a guess at a user name. `known` is a browser in which that user has entered before.

    It is counted by itself: what others guess cannot slow it down.
    """
    if known is not None:
        return (Key("browser", known),)
    given = connection.scope.get(ADDRESS) or (connection.client.host if connection.client else "")
    return Key("name", name[:NAME_LENGTH]), Key("address", _site(given))


def forwarded(connection: HTTPConnection, proxies: Sequence[Network]) -> str | None:
    """Whom proxies pass on: the last address of X-Forwarded-For that is not one of them; None where it says none."""
    for given in reversed(",".join(connection.headers.getlist("x-forwarded-for")).split(",")):
        try:
            address = ipaddress.ip_address(given.strip())
        except ValueError:
            return None
        if not any(address in network for network in proxies):
            return str(address)
    return None


def _site(given: str) -> str:
    try:
        address = ipaddress.ip_address(given)
    except ValueError:
        return given[:NAME_LENGTH]
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address.packed, SITE), strict=False))
    return str(address)
