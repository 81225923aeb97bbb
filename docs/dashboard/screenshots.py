"""The pictures of the dashboard in the README and in docs: `make screenshots`, with chromium installed."""

from __future__ import annotations

import asyncio
import math
from contextlib import ExitStack
from pathlib import Path

from playwright.sync_api import sync_playwright

from pgqueue import PgQueue, migrate
from pgqueue.dev import EmbeddedServer
from pgqueue.histogram import bucket
from pgqueue.queries import figures
from pgqueue.queries.figures import Tally
from pgqueue.web import Dashboard
from tests.browser.conftest import CHROMIUM, PHONE, WIDE, Scheme, fill, served, settled

HERE = Path(__file__).parent
HEIGHT = 860


def an_hour(app: PgQueue) -> None:
    """What a shop's workers would have counted in the last hour."""
    for minute in range(60):
        wave = 1 + 0.5 * math.sin(minute / 9)
        for lane, runs, seconds in (
            (("email", "shop.tasks.send_email"), 340, 0.04),
            (("reports", "shop.tasks.render_monthly_statement_of_a_customer"), 25, 1.5),
        ):
            tally = Tally()
            completed = round(runs * wave) + minute * 7 % 11
            failed = round(runs / 12) if lane[0] == "email" and 38 <= minute <= 44 else minute % 3
            tally.outcomes |= {"completed": completed, "failed": failed, "retried": failed + minute % 4}
            for share, times in ((0.6, 1), (0.3, 2), (0.08, 5), (0.02, 12 * wave)):
                count = round(share * (completed + failed))
                tally.runs[bucket(seconds * times)] += count
                tally.waits[bucket(seconds * times * wave * 0.7)] += count
            app.database.fetch(figures.add(app.schema, {lane: tally}, 60.0 * (60 - minute)))


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
        an_hour(app)
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
