"""The dashboard, asked over HTTP as a browser does, on the test database.

- `app`: a PgQueue on the shared, empty database; closed at the end
- `dashboard`: its dashboard, with a user for each role: ann (admin), otto (operator), vera (viewer)
- `admin`, `operator`, `viewer`: browsers of those who have logged in
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from html import unescape
from typing import Any

import httpx
import pytest

from pgqueue import PgQueue
from pgqueue.web import Dashboard, User, access
from pgqueue.web.access import hashed

ORIGIN = "http://localhost"
PASSWORD = "correct horse"
TOKEN = re.compile(r'name="token" value="([0-9a-f]+)"')
MESSAGE = re.compile(r'<p class="message (\w+)" role="\w+">(.*?)</p>', re.S)


class Browser:
    """Follows links, sends forms with their token, and remembers cookies."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client

    async def get(self, path: str, **options: Any) -> httpx.Response:
        return await self.client.get(path, **options)

    async def token(self, path: str) -> str:
        """The token of the forms on a page, or on the login page."""
        for page in (path, "/login"):
            if found := TOKEN.search((await self.get(page)).text):
                return found[1]
        raise AssertionError(f"{path} has no form")

    async def post(
        self, path: str, fields: Mapping[str, Any] | None = None, *, on: str = "/queues", **headers: str
    ) -> httpx.Response:
        """Send a form of the page `on`, as a browser does."""
        data = {"token": await self.token(on), **(fields or {})}
        sent = {"Origin": ORIGIN, "Sec-Fetch-Site": "same-origin", "Referer": ORIGIN + on, **headers}
        return await self.client.post(path, data=data, headers=sent)

    async def act(self, path: str, fields: Mapping[str, Any] | None = None, *, on: str = "/queues") -> str:
        """Send a form, and read the message of the page that follows."""
        answer = await self.post(path, fields, on=on)
        assert answer.status_code == 303, (answer.status_code, answer.text[-500:])
        page = await self.get(answer.headers["location"])
        found = MESSAGE.search(page.text)
        assert found is not None, page.text
        return unescape(found[2])


@asynccontextmanager
async def browser(dashboard: Dashboard, **options: Any) -> AsyncIterator[Browser]:
    transport = httpx.ASGITransport(dashboard, **options)
    async with httpx.AsyncClient(transport=transport, base_url=ORIGIN) as client:
        yield Browser(client)


@pytest.fixture
async def app(dsn: str) -> AsyncIterator[PgQueue]:
    made = PgQueue(dsn)
    yield made
    await made.aclose()


@pytest.fixture(scope="session")
def password() -> str:
    """Made once, and cheap to check."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(access, "COST", 2)
        return hashed(PASSWORD)


@pytest.fixture
async def dashboard(app: PgQueue, password: str) -> AsyncIterator[Dashboard]:
    users = [User("ann", "admin", password), User("otto", "operator", password), User("vera", "viewer", password)]
    made = Dashboard(app, users=users)
    yield made
    await made.aclose()


async def log_in(browser: Browser, name: str) -> httpx.Response:
    return await browser.post("/login", {"name": name, "password": PASSWORD}, on="/login")


@pytest.fixture
async def admin(dashboard: Dashboard) -> AsyncIterator[Browser]:
    async with browser(dashboard) as one:
        await log_in(one, "ann")
        yield one


@pytest.fixture
async def operator(dashboard: Dashboard) -> AsyncIterator[Browser]:
    async with browser(dashboard) as one:
        await log_in(one, "otto")
        yield one


@pytest.fixture
async def viewer(dashboard: Dashboard) -> AsyncIterator[Browser]:
    async with browser(dashboard) as one:
        await log_in(one, "vera")
        yield one
