"""The dashboard in a real browser: Debian's chromium, or the one that CHROMIUM names.

- `site`: a dashboard with a bit of everything in it, served on loopback for all tests of a process
- `look`: opens a page of it in a light or dark scheme and a width, and fails on any error on its console
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import playwright.sync_api as playwright
import pytest

from pgqueue import Breaker, CancelJob, Context, Limit, PgQueue
from pgqueue.flow import Flow, batch, chord
from pgqueue.services.scheduler import Scheduler
from pgqueue.testing import adrain
from pgqueue.web import Dashboard
from tests.conftest import Server

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
Scheme = Literal["light", "dark"]
SCHEMES: tuple[Scheme, ...] = ("light", "dark")
WIDE, PHONE = 1280, 390


@dataclass(frozen=True)
class Site:
    """A dashboard that is served, and its app."""

    app: PgQueue
    address: str
    paths: tuple[str, ...]


async def fill(app: PgQueue) -> tuple[str, ...]:
    """Something for each page; returns the addresses of all of them."""

    @app.task(name="shop.tasks.send_email", queue="email", max_attempts=1, timeout=30, limit=Limit(rate="100/min"))
    def send_email(to: str, password: str = "") -> str:
        if "@" not in to:
            raise ValueError(f"{to} is no address")
        if to.startswith("no"):
            raise CancelJob("unsubscribed")
        return f"sent to {to}"

    @app.task(name="shop.tasks.render_monthly_statement_of_a_customer", queue="reports", bind=True)
    def render(ctx: Context, month: str) -> None:
        ctx.progress(40, "page 4 of 10")
        ctx.log("rendering")

    app.cron("0 9 * * MON-FRI", tz="Europe/Paris", name="weekday-digest", to="all@shop.example")(send_email)
    app.queue("email", breaker=Breaker(failures=50, within=60))
    app.enqueue_many([send_email.job(f"{n}@shop.example", "hunter22") for n in range(30)])
    app.enqueue_many([send_email.job(f"customer {n}") for n in range(5)])
    send_email.enqueue("no@shop.example")
    render.enqueue("2026-11")
    flow = Flow("order 7")
    first = flow.add(send_email.job("7@shop.example"), name="confirm the order")
    second = flow.add(send_email.job("nowhere"), name="tell the warehouse", after=[first])
    flow.add(render.job("2026-10"), name="archive", after=[first, second], on_failure="run_parent")
    flows = [
        app.flows.enqueue(flow),
        app.flows.enqueue(chord([render.job(str(n)) for n in range(20)], send_email.job("a@b"))),
    ]
    await Scheduler.of(app).run_once()
    await adrain(app)
    app.flows.enqueue(batch([send_email.job("x"), render.job("1")], on_success=send_email.job("y@z"), name="import"))
    waiting = send_email.using(delay=timedelta(hours=1), key="later", tags=["vip"]).enqueue("later@shop.example")
    blocked = send_email.using(after=[waiting]).enqueue("after@shop.example")
    app.queues["reports"].pause()
    [group, *_] = app.failed.groups()
    failed = app.failed.list()[0]
    return (
        "/",
        "/queues",
        "/queues/email",
        "/queues/reports?span=6h",
        "/queues/email/obliterate",
        "/jobs",
        "/jobs?state=completed",
        "/jobs?queue=email&state=scheduled",
        "/jobs/all?verb=cancel&queue=email",
        f"/jobs/{waiting.id}",
        f"/jobs/{blocked.id}",
        f"/jobs/{failed.id}",
        "/failed",
        f"/failed/{group.fingerprint}",
        f"/failed/{group.fingerprint}/redrive",
        "/schedules",
        "/schedules/weekday-digest",
        "/schedules/weekday-digest/remove",
        "/schedule-form",
        "/flows",
        *(f"/flows/{one.id}" for one in flows),
        "/tasks",
        "/tasks/shop.tasks.send_email?span=3d",
        "/workers",
        "/health",
        "/audit",
        "/queues/nowhere",
    )


def served(dashboard: Dashboard, stack: ExitStack) -> str:
    """The address of a dashboard, which a thread serves until the end."""
    import uvicorn

    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(dashboard, log_config=None, timeout_graceful_shutdown=1, lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])), daemon=True)
    thread.start()

    def stop() -> None:
        server.should_exit = True
        thread.join(20)
        listener.close()

    stack.callback(stop)
    return f"http://localhost:{listener.getsockname()[1]}"


@pytest.fixture(scope="session")
def site(server: Server, template: str) -> Iterator[Site]:
    name = server.create(template)
    app = PgQueue(server.dsn_for(name))

    async def prepare() -> tuple[str, ...]:
        paths = await fill(app)
        await app.aclose()
        return paths

    paths = asyncio.run(prepare())
    with ExitStack() as stack:
        stack.callback(server.drop, name)
        stack.callback(app.close)
        yield Site(app, served(Dashboard(app), stack), paths)


# As long as it is there an event loop runs in this thread: no test of another file may come in between.
@pytest.fixture(scope="module")
def chromium() -> Iterator[playwright.Browser]:
    if CHROMIUM is None:
        pytest.skip("no chromium is installed")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def settled(page: playwright.Page) -> None:
    """Wait until an open page is live; a form or a question never is."""
    if page.query_selector("#live"):
        page.wait_for_selector("body[data-live=on]")


Look = Callable[..., "playwright.Page"]


@pytest.fixture
def look(chromium: playwright.Browser) -> Iterator[Look]:
    """Opens a page; what its console says of errors fails the test."""
    said: list[str] = []
    contexts = []

    def open_(address: str, scheme: Scheme = "light", width: int = WIDE) -> playwright.Page:
        context = chromium.new_context(color_scheme=scheme, viewport={"width": width, "height": 900})
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(address)
        settled(page)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert said == []
