"""Hosts that do not answer: who fails again and again is left alone for a while, then asked by one request."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from pgqueue.backoff import Backoff

HOSTS_LIMIT = 10_000


@dataclass(slots=True)
class _Failing:
    """A host whose last requests failed: how many, how often it has been closed, and until when it is."""

    failures: int = 0
    closings: int = 0
    closed_until: float = 0.0
    trying: asyncio.Lock = field(default_factory=asyncio.Lock)


class HostBreaker:
    """What one process knows of its hosts. After `limit` failures in a row a host is closed for `pause.delay(n)`, n
    counting the times that it has been; None never closes. Times are seconds of `clock`.

    Keeping the jobs of a closed host back is the business of its limit.
    """

    def __init__(self, limit: int | None, pause: Backoff, clock: Callable[[], float]) -> None:
        self._limit = limit
        self._pause = pause
        self._clock = clock
        self._hosts: dict[str, _Failing] = {}

    def closed_for(self, host: str) -> float:
        """Seconds; 0 for a host that may be asked."""
        known = self._hosts.get(host)
        return max(0.0, known.closed_until - self._clock()) if known else 0.0

    @asynccontextmanager
    async def turn(self, host: str) -> AsyncIterator[None]:
        """For one request. Of a host that was closed, only one is let through until it is known whether it is back."""
        known = self._hosts.get(host)
        if known is None or not known.closings:
            yield
            return
        async with known.trying:
            if self._hosts.get(host) is known:
                yield
                return
        yield

    def failed(self, host: str) -> float:
        """A request came to nothing. Returns for how many seconds its host is closed, 0 if it is not."""
        if self._limit is None:
            return 0.0
        known = self._hosts.get(host)
        if known is None:
            if len(self._hosts) >= HOSTS_LIMIT:
                # The one that has been known for longest.
                del self._hosts[next(iter(self._hosts))]
            known = self._hosts[host] = _Failing()
        known.failures += 1
        # Requests that were under way when it was closed are no news.
        if not self.closed_for(host) and (known.closings or known.failures >= self._limit):
            known.closings += 1
            known.closed_until = self._clock() + self._pause.delay(known.closings)
        return self.closed_for(host)

    def succeeded(self, host: str) -> None:
        """It has answered as a host does that works."""
        self._hosts.pop(host, None)
