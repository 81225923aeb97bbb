"""What pages read together, and for how long."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from typing import Any

import pytest

from pgqueue import PgQueue
from pgqueue.database import afetch
from pgqueue.queries.statement import Statement
from pgqueue.web.reading import CONNECTIONS, MOST_SHARED, SHARED_SECONDS, Reader
from tests.web.conftest import Browser

LIVE = {"HX-Request": "true"}


class Clock:
    """Time that passes when the test says so, in seconds."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Found:
    """What is read."""


class Looks:
    """Counts how often it looked."""

    def __init__(self) -> None:
        self.count = 0
        self.opened = asyncio.Event()
        self.opened.set()

    async def __call__(self) -> int:
        self.count += 1
        seen = self.count
        await self.opened.wait()
        return seen


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def reader(app: PgQueue, clock: Clock) -> AsyncIterator[Reader]:
    made = Reader(app.database, app.schema, clock)
    yield made
    await made.close()


async def test_who_asks_together_shares_what_is_read(reader: Reader, clock: Clock) -> None:
    look = Looks()
    assert await asyncio.gather(*(reader.shared("a", look) for _ in range(5))) == [1] * 5
    assert await reader.shared("b", look) == 2
    clock.now = SHARED_SECONDS - 0.1
    assert await reader.shared("a", look) == 1
    clock.now = SHARED_SECONDS
    assert await reader.shared("a", look) == 3
    assert await reader.shared("c", look, 10) == 4
    clock.now = SHARED_SECONDS + 9
    assert await reader.shared("c", look, 10) == 4
    clock.now = SHARED_SECONDS + 10
    assert await reader.shared("c", look, 10) == 5


async def test_what_nobody_shares_any_more_is_not_held(reader: Reader, clock: Clock) -> None:
    async def look() -> Found:
        return Found()

    known = weakref.ref(await reader.shared("a", look))
    await reader.shared("b", look)
    assert known() is not None
    clock.now = SHARED_SECONDS
    await reader.shared("c", look)
    gc.collect()
    assert known() is None


async def test_who_acts_waits_for_no_one_who_looks(reader: Reader) -> None:
    sleep: Statement[Any] = Statement("select pg_sleep(1)")
    slow = [asyncio.create_task(reader.fetch(sleep)) for _ in range(3 * CONNECTIONS)]
    async with reader.acting() as conn:
        assert await afetch(conn, Statement("select 1")) == [(1,)]
    assert not any(one.done() for one in slow)
    for one in slow:
        one.cancel()
    await asyncio.gather(*slow, return_exceptions=True)


async def test_what_takes_long_is_not_asked_for_twice(reader: Reader, clock: Clock) -> None:
    look = Looks()
    look.opened.clear()
    first = asyncio.ensure_future(reader.shared("a", look))
    await asyncio.sleep(0)
    clock.now = 60
    second = asyncio.ensure_future(reader.shared("a", look))
    await asyncio.sleep(0)
    look.opened.set()
    assert [await first, await second] == [1, 1]


async def test_whose_tab_closes_does_not_take_it_from_the_others(reader: Reader) -> None:
    look = Looks()
    look.opened.clear()
    closed = asyncio.ensure_future(reader.shared("a", look))
    open_ = asyncio.ensure_future(reader.shared("a", look))
    await asyncio.sleep(0)
    closed.cancel()
    await asyncio.sleep(0)
    look.opened.set()
    assert await open_ == 1


async def test_whatever_is_asked_for_no_more_than_so_much_is_held(reader: Reader) -> None:
    look = Looks()
    for n in range(MOST_SHARED + 1):
        await reader.shared(n, look)
    assert await reader.shared(MOST_SHARED, look) == MOST_SHARED + 1
    assert await reader.shared(0, look) == MOST_SHARED + 2


async def test_what_could_not_be_read_is_tried_again(reader: Reader) -> None:
    answers = iter([ConnectionError("gone"), None])

    async def look() -> str:
        if (error := next(answers)) is not None:
            raise error
        return "there"

    with pytest.raises(ConnectionError):
        await reader.shared("a", look)
    assert await reader.shared("a", look) == "there"


async def test_an_open_page_is_never_shown_what_was_before_an_action(app: PgQueue, operator: Browser) -> None:
    app.enqueue("count", queue="email")
    assert "It is paused" not in (await operator.get("/queues/email", headers=LIVE)).text
    await operator.act("/queues/email/pause")
    assert "It is paused" in (await operator.get("/queues/email", headers=LIVE)).text


async def test_an_open_page_says_that_what_it_showed_is_gone(app: PgQueue, admin: Browser) -> None:
    app.enqueue("count", queue="email")
    await admin.act("/queues/email/obliterate", on="/queues/email/obliterate")
    answer = await admin.get("/queues/email", headers=LIVE)
    assert (answer.status_code, "There is no queue email" in answer.text) == (200, True)
    assert (await admin.get("/queues/email")).status_code == 404
