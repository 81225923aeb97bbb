"""What keeps open pages up to date: a tick for each of them, as often as what they then cost is next to nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from starlette.responses import Response, StreamingResponse

SOONEST, LATEST = 1.0, 30.0
# Of the time, at most one part in so many is spent on open pages.
SHARE = 150
# A proxy closes what is silent for longer.
KEEPS_ALIVE = 15.0


class Pulse:
    """Ticks while somebody looks. All pages of a process tick together, so that they share what they read."""

    def __init__(self, spent: Callable[[], float]) -> None:
        self._spent = spent
        self._beat = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._open = 0

    async def ticks(self) -> AsyncIterator[bytes]:
        """Server-sent events: `tick` now and at each beat."""
        self._open += 1
        if self._task is None or self._task.done():
            self._beat = asyncio.Event()
            self._task = asyncio.get_running_loop().create_task(self._run())
        try:
            yield b"event: tick\ndata: \n\n"
            while True:
                beat = self._beat
                try:
                    async with asyncio.timeout(KEEPS_ALIVE):
                        await beat.wait()
                except TimeoutError:
                    yield b": still here\n\n"
                else:
                    yield b"event: tick\ndata: \n\n"
        finally:
            self._open -= 1
            if not self._open and self._task is not None:
                # Whoever comes while it ends begins another.
                ends, self._task = self._task, None
                ends.cancel()

    async def _run(self) -> None:
        pause = SOONEST
        while True:
            before = self._spent()
            await asyncio.sleep(pause)
            # Not every tick costs the same: some read what others find.
            pause = min(max((self._spent() - before) * SHARE, pause / 2, SOONEST), LATEST)
            beat, self._beat = self._beat, asyncio.Event()
            beat.set()


def stream(pulse: Pulse) -> Response:
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(pulse.ticks(), media_type="text/event-stream", headers=headers)
