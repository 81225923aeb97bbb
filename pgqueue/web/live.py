"""What keeps open pages up to date: a tick for each of them, as often as what they then cost is next to nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

SOONEST, LATEST = 1.0, 30.0
# Of the time, at most one part in so many is spent on open pages.
SHARE = 150
# A proxy closes what is silent for longer.
KEEPS_ALIVE = 15.0
TICK = b"event: tick\ndata: \n\n"


class Pulse:
    """Ticks while somebody looks. All pages of a process tick together, so that they share what they read."""

    def __init__(self, spent: Callable[[], float], sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._spent = spent
        self._sleep = sleep
        self._beat = asyncio.Event()
        self._pause = SOONEST
        self._task: asyncio.Task[None] | None = None
        self._open = 0

    async def ticks(self, *, again: bool) -> AsyncIterator[bytes]:
        """Server-sent events: `tick` at each beat, and at once for a page that was here before and is open `again`."""
        self._open += 1
        if self._task is None or self._task.done():
            self._beat = asyncio.Event()
            self._task = asyncio.get_running_loop().create_task(self._run())
        # Taken before anything is sent: what beats while a page reads slowly is not missed.
        beat = self._beat
        try:
            yield b"id: open\n\n"
            if again:
                yield TICK
            while True:
                try:
                    async with asyncio.timeout(KEEPS_ALIVE):
                        await beat.wait()
                except TimeoutError:
                    yield b": still here\n\n"
                else:
                    beat = self._beat
                    yield TICK
        finally:
            self._open -= 1
            if not self._open and self._task is not None:
                # Whoever comes while it ends begins another.
                ends, self._task = self._task, None
                ends.cancel()

    async def _run(self) -> None:
        while True:
            before = self._spent()
            await self._sleep(self._pause)
            # Not every tick costs the same: some read what others find.
            self._pause = min(max((self._spent() - before) * SHARE, self._pause / 2, SOONEST), LATEST)
            beat, self._beat = self._beat, asyncio.Event()
            beat.set()


def stream(pulse: Pulse, request: Request) -> Response:
    # What a page has that is not new here: the browser sends the last id that it was given.
    again = "last-event-id" in request.headers
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(pulse.ticks(again=again), media_type="text/event-stream", headers=headers)
