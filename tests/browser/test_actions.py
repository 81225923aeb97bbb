"""Every action of the dashboard, by clicking what people click."""

from __future__ import annotations

import asyncio
import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta

import playwright.sync_api as playwright

from pgqueue import PgQueue
from pgqueue.flow import chain
from pgqueue.testing import drain
from pgqueue.web.pages import ENDPOINTS
from tests.browser.conftest import Look, Site, settled
from tests.integration.commands import until

ACTIONS = {endpoint.name: endpoint.path for endpoint in ENDPOINTS if endpoint.is_action}


@dataclass
class Hand:
    """Goes to a page of the dashboard and clicks there; remembers what was sent."""

    page: playwright.Page
    address: str
    sent: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("request", lambda one: self.sent.append(one.url) if one.method == "POST" else None)

    def go(self, path: str) -> None:
        self.page.goto(self.address + path)
        settled(self.page)
        # What is folded away.
        self.page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")

    def click(self, button: str, nth: int = 0) -> str:
        """The message of the page that follows."""
        self.page.locator("main").get_by_role("button", name=button, exact=True).nth(nth).click()
        return self.done()

    def done(self) -> str:
        self.page.wait_for_selector(".message")
        message = self.page.locator(".message")
        assert "done" in (message.get_attribute("class") or ""), message.inner_text()
        return message.inner_text()

    def on(self, path: str, button: str, nth: int = 0) -> str:
        self.go(path)
        return self.click(button, nth)

    def agrees(self, path: str, question: str) -> str:
        """Follows the link to a question, and says yes."""
        self.go(path)
        self.page.locator("main").get_by_role("link", name=question, exact=True).first.click()
        self.page.locator("form.confirm button").click()
        return self.done()

    def fill(self, **fields: str) -> None:
        for name, value in fields.items():
            self.page.locator(f"main [name={name}]").first.fill(value)

    def actions(self) -> set[str]:
        """Those that were sent."""
        paths = [url.removeprefix(self.address) for url in self.sent]
        patterns = {name: re.compile(re.sub(r"\{\w+\}", "[^/]+", path)) for name, path in ACTIONS.items()}
        # What has a name of its own is no parameter of another's path.
        return {
            min((name for name, one in patterns.items() if one.fullmatch(path)), key=lambda name: "{" in ACTIONS[name])
            for path in paths
        }


def queues(site: Site, hand: Hand) -> None:
    site.app.enqueue_many([site.app.new_job("click", queue="clicks") for _ in range(3)])
    assert hand.on("/queues/clicks", "Pause") == "Queue clicks is paused: running jobs go on."
    assert hand.on("/queues/clicks", "Resume") == "Queue clicks goes on."
    hand.go("/queues/clicks")
    hand.fill(concurrency="3")
    hand.click("Set the limit")
    assert [limit.concurrency for limit in site.app.limits.list() if limit.name == "clicks"] == [3]
    hand.go("/queues/clicks")
    hand.fill(serial_key="order:7")
    hand.page.locator("#set-limit").get_by_role("button", name="Pause", exact=True).click()
    assert "order:7" in hand.done()
    hand.go("/queues/clicks")
    hand.fill(serial_key="order:7")
    hand.page.locator("#set-limit").get_by_role("button", name="Resume", exact=True).click()
    hand.done()
    hand.on("/queues/clicks", "Lift")
    assert [limit for limit in site.app.limits.list() if limit.name == "clicks"] == []
    hand.on("/queues/email", "Open")
    hand.on("/queues/email", "Close")
    hand.on("/queues/email", "Reset")
    hand.agrees("/queues/clicks", "Obliterate")
    assert "clicks" not in [row.queue for row in site.app.queues.stats()]


def jobs(site: Site, hand: Hand) -> None:
    app = site.app
    kept = [app.enqueue("click", queue="ticks", delay=timedelta(hours=1)) for _ in range(6)]
    hand.go("/jobs?queue=ticks")
    hand.page.check(f"#job-{kept[0].id} input")
    hand.click("Cancel")
    assert app.jobs.get(kept[0].id).state == "cancelled"
    hand.on(f"/jobs/{kept[1].id}", "Run now")
    assert app.jobs.get(kept[1].id).state == "available"
    hand.on(f"/jobs/{kept[1].id}", "Run a copy")
    hand.on(f"/jobs/{kept[1].id}", "Cancel")
    assert app.jobs.get(kept[1].id).state == "cancelled"
    hand.agrees("/jobs?queue=ticks&state=scheduled", "Run all that match now")
    assert {app.jobs.get(one.id).state for one in kept[2:]} == {"available"}
    hand.agrees("/jobs?queue=ticks&state=available", "Cancel all that match")
    assert {app.jobs.get(one.id).state for one in kept[2:]} == {"cancelled"}
    app.enqueue("click", queue="ticks")
    hand.agrees("/jobs?queue=ticks&state=available", "Purge all that match")
    assert app.jobs.count(queue="ticks", state="available") == 0


def single_jobs(site: Site, hand: Hand) -> None:
    app = site.app
    one, two, three = [app.enqueue("click", queue="edits", delay=timedelta(hours=1)) for _ in range(3)]
    hand.go(f"/jobs/{one.id}/edit")
    hand.fill(arguments='{"to": "new@b.c"}', priority="-3")
    hand.click("Save")
    assert (app.jobs.get(one.id).args, app.jobs.get(one.id).priority) == ({"to": "new@b.c"}, -3)
    hand.agrees(f"/jobs/{one.id}", "Delete")
    hand.go("/jobs?queue=edits")
    hand.page.check(f"#job-{two.id} input")
    hand.page.locator("main").get_by_role("button", name="Delete", exact=True).click()
    hand.page.locator("form.confirm button").click()
    hand.done()
    assert [job.id for job in app.jobs.list(queue="edits")] == [three.id]
    hand.go("/jobs?queue=edits")
    with hand.page.expect_download() as written:
        hand.page.locator("main").get_by_role("button", name="Export", exact=True).click()
    lines = written.value.path().read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == [three.id]


def run_failing(app: PgQueue) -> None:
    # Playwright's own event loop runs in this thread.
    with ThreadPoolExecutor(1) as beside:
        beside.submit(drain, app, ["fails"]).result()


def failures(site: Site, hand: Hand) -> None:
    app = site.app

    @app.task(name="click.fails", queue="fails", max_attempts=1)
    def fails(n: int) -> None:
        raise RuntimeError("for clicks")

    app.enqueue_many([fails.job(n) for n in range(3)])
    flow = app.flows.enqueue(chain(fails.job(9), fails.job(10), name="clicked"))
    run_failing(app)
    [group] = app.failed.groups(task="click.fails")[:1]
    failed = app.failed.list(task="click.fails")[0]
    hand.on(f"/jobs/{failed.id}", "Redrive")
    assert app.jobs.get(failed.id).state in ("available", "blocked")
    hand.agrees(f"/failed/{group.fingerprint}", "Redrive all")
    run_failing(app)
    hand.on(f"/flows/{flow.id}", "Retry failed jobs")
    hand.agrees(f"/flows/{flow.id}", "Cancel")
    assert app.flows.get(flow.id).live == 0
    hand.agrees(f"/failed/{group.fingerprint}", "Purge all")
    assert app.failed.list(task="click.fails") == []


def schedules(site: Site, hand: Hand) -> None:
    hand.go("/schedule-form")
    hand.fill(name="clicked", task="shop.tasks.send_email", every="15m", arguments='{"to": "a@b.c"}')
    hand.click("Save")
    hand.on("/schedules/clicked", "Run now")
    hand.on("/schedules/clicked", "Pause")
    assert not site.app.schedules.get("clicked").enabled
    hand.on("/schedules/clicked", "Resume")
    assert site.app.schedules.get("clicked").enabled
    hand.agrees("/schedules/clicked", "Remove")
    assert "clicked" not in [row.name for row in site.app.schedules.list()]


def tasks(site: Site, hand: Hand) -> None:
    hand.go("/tasks/shop.tasks.send_email")
    hand.fill(arguments='{"to": "click@b.c"}', delay="1h")
    assert "is enqueued" in hand.click("Enqueue")


def run_worker(dsn: str, name: str) -> None:
    """A worker, until it is asked to end."""
    app = PgQueue(dsn)
    app.task(name="click.works")(lambda: None)

    async def run() -> None:
        await app.worker(["clicked"], name=name).run()
        await app.aclose()

    asyncio.run(run())


def workers(site: Site, hand: Hand) -> None:
    with ThreadPoolExecutor(1) as beside:
        for verb in ("Drain", "Stop"):
            ended = beside.submit(run_worker, site.app.database.dsn, verb)
            until(lambda: site.app.workers.list())
            [worker] = site.app.workers.list()
            hand.agrees(f"/workers/{worker.id}", verb)
            # It was asked to end, and does.
            ended.result(30)


def health(site: Site, hand: Hand) -> None:
    hand.on("/health", "Make missing partitions")


def test_every_action_is_clicked_and_does_what_it_says(site: Site, look: Look) -> None:
    hand = Hand(look(site.address), site.address)
    for part in (queues, jobs, single_jobs, failures, schedules, tasks, workers, health):
        part(site, hand)
    assert sorted(set(ACTIONS) - hand.actions()) == []
