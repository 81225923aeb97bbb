"""The stream of an open page: when it is told to ask for what is new."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from pgqueue.web.live import LATEST, SHARE, SOONEST, TICK, Pulse

OPENED = b"id: open\n\n"


class Time:
    """Passes when the test says so; `naps` are the pauses that were asked for."""

    def __init__(self) -> None:
        self.naps: list[float] = []
        self._sleeps = asyncio.Event()
        self._wakes = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        self._wakes = asyncio.Event()
        self._sleeps.set()
        await self._wakes.wait()

    async def nap(self) -> float:
        """The pause that begins, or has begun."""
        await asyncio.wait_for(self._sleeps.wait(), 5)
        return self.naps[-1]

    def passes(self) -> None:
        self._sleeps.clear()
        self._wakes.set()


async def said(page: AsyncIterator[bytes]) -> bytes:
    return await asyncio.wait_for(anext(page), 5)


async def test_a_page_that_was_just_drawn_is_not_drawn_again() -> None:
    time = Time()
    page = Pulse(lambda: 0.0, time.sleep).ticks(again=False)
    assert await said(page) == OPENED
    next_ = asyncio.ensure_future(anext(page))
    assert await time.nap() == SOONEST
    assert not next_.done()
    time.passes()
    assert await asyncio.wait_for(next_, 5) == TICK
    await page.aclose()  # type: ignore[attr-defined]


async def test_a_page_whose_stream_was_cut_asks_at_once_for_what_it_missed() -> None:
    page = Pulse(lambda: 0.0, Time().sleep).ticks(again=True)
    assert [await said(page), await said(page)] == [OPENED, TICK]
    await page.aclose()  # type: ignore[attr-defined]


async def test_pages_tick_so_rarely_that_they_cost_next_to_nothing_also_after_a_click_on_a_link() -> None:
    time, spent = Time(), 0.0
    pulse = Pulse(lambda: spent, time.sleep)
    page = pulse.ticks(again=False)
    await said(page)
    await time.nap()
    spent += 0.1
    time.passes()
    assert await said(page) == TICK
    assert await time.nap() == 0.1 * SHARE
    await page.aclose()  # type: ignore[attr-defined]
    other = pulse.ticks(again=False)
    await said(other)
    assert await time.nap() == 0.1 * SHARE
    spent += 1000
    time.passes()
    assert await said(other) == TICK
    assert await time.nap() == LATEST
    await other.aclose()  # type: ignore[attr-defined]


async def test_what_costs_less_again_ticks_sooner_step_by_step() -> None:
    time, spent = Time(), 0.0
    page = Pulse(lambda: spent, time.sleep).ticks(again=False)
    await said(page)
    await time.nap()
    spent += 1000
    pauses = []
    for _ in range(7):
        time.passes()
        await said(page)
        pauses.append(await time.nap())
    assert pauses == [LATEST, 15.0, 7.5, 3.75, 1.875, SOONEST, SOONEST]
    await page.aclose()  # type: ignore[attr-defined]
