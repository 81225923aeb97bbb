"""The pictures of the dashboard in the README and in docs: `make screenshots`, with chromium installed."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from pathlib import Path

from playwright.sync_api import sync_playwright

from pgqueue import PgQueue, migrate
from pgqueue.dev import EmbeddedServer
from pgqueue.web import Dashboard
from tests.browser.conftest import CHROMIUM, PHONE, WIDE, Scheme, fill, served, settled

HERE = Path(__file__).parent
HEIGHT = 860


def main() -> None:
    with EmbeddedServer(durable=False) as server, ExitStack() as stack:
        migrate.upgrade(server.dsn)
        app = PgQueue(server.dsn)
        stack.callback(app.close)

        async def prepare() -> tuple[str, ...]:
            found = await fill(app)
            await app.aclose()
            return found

        paths = asyncio.run(prepare())
        address = served(Dashboard(app), stack)
        failed = next(
            path for path in paths if path.startswith("/jobs/") and path.endswith(str(app.failed.list()[0].id))
        )
        flow = next(path for path in paths if path.startswith("/flows/"))
        shots: list[tuple[str, str, Scheme, int]] = [
            ("overview", "/", "light", WIDE),
            ("overview-dark", "/", "dark", WIDE),
            ("jobs", "/jobs", "light", WIDE),
            ("job", failed, "light", WIDE),
            ("flow", flow, "dark", WIDE),
            ("queue", "/queues/email", "dark", WIDE),
            ("phone", "/queues", "light", PHONE),
        ]
        with sync_playwright() as started:
            browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            for name, path, scheme, width in shots:
                page = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": HEIGHT})
                page.goto(address + path)
                settled(page)
                page.screenshot(path=HERE / f"{name}.png")
                page.close()
            browser.close()


if __name__ == "__main__":
    main()
