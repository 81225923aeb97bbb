"""Wrong passwords slow down those that follow, and lock nobody out."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest
from starlette.requests import HTTPConnection

from pgqueue import PgQueue
from pgqueue.web import Dashboard, User, guesses
from pgqueue.web.access import hashed, networks
from pgqueue.web.guesses import (
    FORGIVEN,
    FREE,
    LONGEST,
    MOST,
    WAITING,
    WAITING_IN_ALL,
    Guesses,
    Key,
    TooMany,
    forwarded,
    keys_of,
)
from pgqueue.web.serving import Behind
from pgqueue.web.session import KNOWN
from tests.web.conftest import ORIGIN, PASSWORD, browser, log_in

ANN, NEAR, FAR = Key("name", "ann"), Key("address", "192.0.2.1"), Key("address", "203.0.113.7")


class Time:
    """A clock that goes on by what is slept."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept = list[float]()

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def counted(time: Time) -> Guesses:
    return Guesses(time.clock, time.sleep)


async def test_after_some_wrong_ones_each_waits_twice_as_long_up_to_a_bound(time: Time, counted: Guesses) -> None:
    for _ in range(12):
        assert await counted.wait((ANN, NEAR)) == (ANN, NEAR)
    assert time.slept == [1, 2, 4, 8, LONGEST, LONGEST, LONGEST]


async def test_they_are_forgotten_one_by_one(time: Time, counted: Guesses) -> None:
    for _ in range(20):
        await counted.wait((ANN,))
    time.now += 3 * FORGIVEN
    time.slept.clear()
    await counted.wait((ANN,))
    assert time.slept == [4]
    time.now += MOST * FORGIVEN
    for _ in range(5):
        await counted.wait((ANN,))
    assert time.slept == [4]


async def test_they_are_counted_by_name_from_anywhere_and_by_address_for_any_name(time: Time, counted: Guesses) -> None:
    for n in range(5):
        await counted.wait(
            (
                ANN,
                Key("address", f"198.51.100.{n}"),
            )
        )
        await counted.wait(
            (
                Key("name", str(n)),
                NEAR,
            )
        )
    assert time.slept == []
    await counted.wait(
        (
            ANN,
            FAR,
        )
    )
    await counted.wait(
        (
            Key("name", "otto"),
            NEAR,
        )
    )
    assert len(time.slept) == 2
    await counted.wait(
        (
            Key("name", "vera"),
            FAR,
        )
    )
    assert len(time.slept) == 2


async def test_who_knows_a_password_does_not_wipe_out_what_was_guessed_before(time: Time, counted: Guesses) -> None:
    for _ in range(5):
        counted.right(await counted.wait((Key("name", "eve"), NEAR)))
        await counted.wait(
            (
                ANN,
                NEAR,
            )
        )
    assert time.slept == []
    await counted.wait((ANN, FAR))
    await counted.wait((Key("name", "otto"), NEAR))
    assert time.slept == [1, 1]


async def test_a_name_and_an_address_that_have_entered_together_are_counted_by_themselves(
    time: Time, counted: Guesses
) -> None:
    counted.right(await counted.wait((ANN, NEAR)))
    for _ in range(9):
        await counted.wait((ANN, FAR))
        await counted.wait((Key("name", "otto"), NEAR))
    time.slept.clear()
    for _ in range(6):
        assert await counted.wait((ANN, NEAR)) == (Key("pair", "ann 192.0.2.1"),)
    assert time.slept == [1]


class Held:
    """Guesses that wait until they are let go on."""

    def __init__(self) -> None:
        self.going_on = asyncio.Event()
        self.slept = list[float]()
        self.guesses = Guesses(lambda: 0.0, self.sleep)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await self.going_on.wait()

    async def at_once(self, keys: Iterable[tuple[Key, ...]]) -> list[bool]:
        """Which of those that come at once are let wait; then all go on."""
        tasks = [asyncio.ensure_future(self.guesses.wait(one)) for one in keys]
        for _ in range(3):
            await asyncio.sleep(0)
        self.going_on.set()
        came_to = await asyncio.gather(*tasks, return_exceptions=True)
        self.going_on.clear()
        return [not isinstance(one, TooMany) for one in came_to]


async def test_those_that_come_at_once_slow_each_other_down() -> None:
    held = Held()
    assert await held.at_once([(ANN, Key("address", str(n))) for n in range(9)]) == [True] * 9
    assert held.slept == [1, 2, 4, 8]


@pytest.mark.parametrize("kind", WAITING)
async def test_few_of_one_kind_wait_at_once_and_their_places_are_free_again(kind: str) -> None:
    held, key = Held(), (Key(kind, "ann"),)
    places = WAITING[kind]
    for _ in range(2):
        await held.at_once([key] * (FREE + places + 2))
        assert await held.at_once([key] * (places + 2)) == [True] * places + [False] * 2


async def test_few_wait_in_all() -> None:
    held = Held()
    keys = [(Key("name", str(n)),) for n in range(WAITING_IN_ALL + 3)]
    for _ in range(FREE):
        await held.at_once(keys)
    assert await held.at_once(keys) == [True] * WAITING_IN_ALL + [False] * 3


async def test_one_address_does_not_take_all_places_of_a_name() -> None:
    held = Held()
    guessing = [(ANN, NEAR)] * 50
    await held.at_once(guessing)
    assert (await held.at_once([*guessing, (ANN, FAR)]))[-1]


async def test_what_is_remembered_is_bounded(counted: Guesses, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guesses, "REMEMBERED", 10)
    for n in range(30):
        await counted.wait(
            (
                Key("name", str(n)),
                NEAR,
            )
        )
        counted.right((ANN, Key("address", str(n))))
    assert len(counted._wrong) == len(counted._right) == 10


@pytest.fixture
def slow(dashboard: Dashboard, time: Time) -> Dashboard:
    """A dashboard at whose user ann somebody guesses without end, from anywhere."""
    dashboard.guesses = Guesses(time.clock, time.sleep)
    return dashboard


async def guess(dashboard: Dashboard, times: int, client: Any = ("203.0.113.7", 1)) -> list[int]:
    async with browser(dashboard, client=client) as eve:
        fields = {"name": "ann", "password": "wrong horse"}
        return [(await eve.post("/login", fields, on="/login")).status_code for _ in range(times)]


async def test_who_has_the_right_password_gets_in_while_somebody_guesses_at_it(slow: Dashboard, time: Time) -> None:
    assert await guess(slow, 30) == [403] * 30
    time.slept.clear()
    async with browser(slow) as ann:
        assert (await log_in(ann, "ann")).status_code == 303
    assert time.slept == [LONGEST]


async def test_a_browser_in_which_somebody_has_entered_is_not_slowed_down_by_others(
    slow: Dashboard, time: Time
) -> None:
    async with browser(slow, client=("192.0.2.1", 1)) as at_work:
        await log_in(at_work, "ann")
        await at_work.post("/logout")
        cookies = at_work.client.cookies
    await guess(slow, 12)
    time.slept.clear()
    async with browser(slow, client=("203.0.113.7", 2)) as beside_eve:
        beside_eve.client.cookies.update(cookies)
        assert (await log_in(beside_eve, "ann")).status_code == 303
        assert time.slept == []
        await beside_eve.post("/logout")
        # It bounds her own guesses too, and is for nobody else's name.
        for _ in range(7):
            await beside_eve.post("/login", {"name": "ann", "password": "wrong"}, on="/login")
        assert time.slept == [1, 2]
        await log_in(beside_eve, "otto")
        assert time.slept == [1, 2, LONGEST]


async def test_a_browser_is_known_no_longer_than_its_password(app: PgQueue, password: str, time: Time) -> None:
    secret = "of both processes, long enough"
    async with browser(Dashboard(app, users=[User("ann", "admin", password)], secret=secret)) as ann:
        await log_in(ann, "ann")
        known = ann.client.cookies[KNOWN]
    for users in ([User("ann", "admin", hashed("another"))], [User("otto", "admin", password)]):
        dashboard = Dashboard(app, users=users, secret=secret)
        connection = HTTPConnection({"type": "http", "headers": [(b"cookie", f"{KNOWN}={known}".encode())]})
        assert dashboard.sessions.known(connection, "ann") is None
    for cookie in ("", "x", known[:-1], ann.client.cookies["pgqueue_session"]):
        connection = HTTPConnection({"type": "http", "headers": [(b"cookie", f"{KNOWN}={cookie}".encode())]})
        assert (
            Dashboard(app, users=[User("ann", "admin", password)], secret=secret).sessions.known(connection, "ann")
            is None
        )


async def test_who_is_one_too_many_is_told_to_come_again(slow: Dashboard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(WAITING, "name", 0)
    assert await guess(slow, 7) == [403] * 5 + [429] * 2
    async with browser(slow) as ann:
        answer = await ann.post("/login", {"name": "ann", "password": PASSWORD}, on="/login")
        assert answer.headers["retry-after"] == "10"
        assert "Too many wrong passwords: try again in a few seconds." in answer.text


async def test_names_that_there_are_and_names_that_there_are_not_wait_alike(slow: Dashboard, time: Time) -> None:
    waits = []
    for n, name in enumerate(("ann", "nobody", "ж" * 500)):
        async with browser(slow, client=(f"192.0.2.{n}", 1)) as eve:
            for _ in range(8):
                await eve.post("/login", {"name": name, "password": "x"}, on="/login")
        waits.append(time.slept.copy())
        time.slept.clear()
    assert waits == [[1, 2, 4]] * 3


def asked_from(client: Any, **scope: Any) -> str:
    connection = HTTPConnection({"type": "http", "headers": [], "client": client, **scope})
    return keys_of(connection, "ann", None)[1].value


def test_an_address_of_version_6_is_counted_with_its_neighbours() -> None:
    assert asked_from(("192.0.2.1", 1)) == "192.0.2.1"
    assert asked_from(("2001:db8::1", 1)) == asked_from(("2001:db8::ffff:2", 1)) == "2001:db8::/64"
    assert asked_from(("2001:db8:0:1::1", 1)) != asked_from(("2001:db8::1", 1))
    assert asked_from(("::ffff:192.0.2.1", 1)) == "192.0.2.1"
    assert asked_from(None) == asked_from(("", 0)) == ""


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ([], None),
        (["203.0.113.7"], "203.0.113.7"),
        (["1.1.1.1, 203.0.113.7"], "203.0.113.7"),
        (["203.0.113.7, 10.0.0.2, 10.0.0.1"], "203.0.113.7"),
        (["1.1.1.1", "203.0.113.7"], "203.0.113.7"),
        (["203.0.113.7, x"], None),
        (["10.0.0.2"], None),
        ([""], None),
    ],
)
def test_proxies_are_believed_whom_they_pass_on_and_nobody_else(said: list[str], found: str | None) -> None:
    headers = [(b"x-forwarded-for", one.encode()) for one in said]
    assert forwarded(HTTPConnection({"type": "http", "headers": headers}), networks(["10.0.0.0/8"], "x")) == found


async def test_behind_a_proxy_guesses_are_counted_by_who_is_behind_it(slow: Dashboard, time: Time) -> None:
    proxied = Behind(slow, networks(["10.0.0.0/8"], "x"))

    async def waited(client: str, behind: str) -> int:
        time.slept.clear()
        async with browser(proxied, client=(client, 1)) as eve:  # type: ignore[arg-type]
            for n in range(6):
                fields = {"name": f"{behind}{n}", "password": "x"}
                await eve.post("/login", fields, on="/login", **{"X-Forwarded-For": behind})
        return len(time.slept)

    assert await waited("10.0.0.1", "203.0.113.7") == 1
    assert await waited("10.0.0.1", "203.0.113.8") == 1
    assert await waited("10.0.0.1", "203.0.113.8") == 6
    # Who is no proxy says what it likes, and is counted by its own address.
    assert await waited("192.0.2.9", "203.0.113.9") == 1
    assert await waited("192.0.2.9", "203.0.113.10") == 6


async def test_passwords_of_a_scrape_wait_alike(slow: Dashboard, time: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    async with browser(slow, client=("192.0.2.1", 1)) as prometheus:
        assert (await prometheus.get("/metrics", auth=("ann", PASSWORD))).status_code == 200
        async with browser(slow) as eve:
            for _ in range(7):
                assert (await eve.get("/metrics", auth=("ann", "x"))).status_code == 401
            assert time.slept == [1, 2]
            monkeypatch.setitem(WAITING, "name", 0)
            refused = await eve.get("/metrics", auth=("ann", PASSWORD))
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "10")
        assert (await prometheus.get("/metrics", auth=("ann", PASSWORD))).status_code == 200
        assert time.slept == [1, 2]


async def test_what_is_no_form_of_ours_counts_for_nothing(slow: Dashboard, time: Time) -> None:
    async with browser(slow) as eve:
        for _ in range(9):
            await eve.post("/login", {"name": "ann", "password": "x", "token": "0"}, on="/login")
            await eve.client.post("/login", data={"name": "ann", "password": "x"}, headers={"Origin": ORIGIN})
    await guess(slow, 5)
    assert time.slept == []
