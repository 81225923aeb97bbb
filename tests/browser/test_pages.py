"""Every page in chromium: nothing on the console, nothing that hinders people, at home on a phone."""

from __future__ import annotations

import re

import playwright.sync_api as playwright
import pytest
from axe_playwright_python.sync_playwright import Axe

from pgqueue.queries import auditing, figures
from pgqueue.queries.figures import Tally
from tests.browser.conftest import PHONE, SCHEMES, WIDE, Look, Scheme, Site, settled

SERIOUS = ("serious", "critical")


@pytest.mark.parametrize("width", [WIDE, PHONE])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_no_page_has_an_error_on_its_console_or_hinders_anybody(
    site: Site, look: Look, scheme: Scheme, width: int
) -> None:
    checker, found = Axe(), []
    page = look(site.address, scheme, width)
    for path in site.paths:
        if path == "/queues/nowhere":
            continue
        page.goto(site.address + path)
        settled(page)
        for violation in checker.run(page).response["violations"]:
            if violation["impact"] in SERIOUS:
                found.append((path, violation["id"], [node["html"][:160] for node in violation["nodes"]][:3]))
        wider = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        if wider > 0:
            found.append((path, "wider than the window", wider))
    assert found == []


def test_an_open_page_shows_what_is_new_and_keeps_what_somebody_does_there(site: Site, look: Look) -> None:
    page = look(f"{site.address}/jobs?queue=fresh")
    assert "No job matches" in page.inner_text("main")
    ids = [site.app.enqueue("fresh", queue="fresh").id for _ in range(2)]
    page.wait_for_selector(f"#job-{ids[1]}")
    page.check(f"#job-{ids[0]} input")
    assert page.inner_text("[data-ticked]") == "1"
    page.fill("input[name=task]", "half a na")
    later = site.app.enqueue("fresh", queue="fresh").id
    page.wait_for_selector(f"#job-{later}")
    assert page.is_checked(f"#job-{ids[0]} input")
    assert not page.is_checked(f"#job-{later} input")
    assert page.inner_text("[data-ticked]") == "1"
    assert page.input_value("input[name=task]") == "half a na"
    page.click("button[value=cancel]")
    page.wait_for_selector(".message.done")
    assert site.app.jobs.get(ids[0]).state == "cancelled"
    assert site.app.jobs.get(ids[1]).state == "available"


def test_buttons_act_and_what_cannot_be_undone_asks_first(site: Site, look: Look) -> None:
    site.app.enqueue_many([site.app.new_job("old", queue="old") for _ in range(3)])
    page = look(f"{site.address}/queues/old")
    page.click("text=Pause >> nth=0")
    page.wait_for_selector("text=Queue old is paused")
    page.click("text=Obliterate")
    page.wait_for_selector("text=3 live jobs and 0 failed jobs")
    page.click("text=Leave it")
    page.wait_for_selector("h1:has-text('old')")
    page.click("text=Obliterate")
    page.click("button:has-text('Obliterate old')")
    page.wait_for_selector("text=Obliterated old: 3 jobs.")
    noted = [row.action for row in site.app.database.fetch(auditing.entries(site.app.schema, 9, target="old"))]
    assert noted == ["obliterate_queue", "pause_queue"]


def test_charts_are_drawn_are_live_and_take_the_colours_of_the_page(site: Site, look: Look) -> None:
    page = look(f"{site.address}/tasks/shop.tasks.send_email", "light")
    page.wait_for_selector("#plot-throughput canvas")
    assert page.locator(".plot canvas").count() == page.locator(".plot").count() == 3
    labels = page.locator("#plot-throughput .u-label").all_text_contents()
    assert labels == ["At", "completed", "failed", "retried", "cancelled"]

    def pixels() -> str:
        return str(page.evaluate("document.querySelector('#plot-throughput canvas').toDataURL()"))

    def drawn_anew(before: str) -> None:
        page.wait_for_function(
            "before => document.querySelector('#plot-throughput canvas').toDataURL() !== before", arg=before
        )

    light = pixels()
    page.click("[data-theme-switch]")
    drawn_anew(light)
    dark = pixels()
    page.evaluate("document.querySelector('#plot-throughput canvas').dataset.same = 'yes'")
    tally = Tally()
    tally.outcomes["completed"] = 5000
    site.app.database.fetch(figures.add(site.app.schema, {("email", "shop.tasks.send_email"): tally}, 120.0))
    drawn_anew(dark)
    # The data are new, the plot is not: nothing flickers.
    assert page.get_attribute("#plot-throughput canvas", "data-same") == "yes"
    page.click("text=24 h")
    page.wait_for_selector("#plot-throughput canvas")
    assert page.url.endswith("?span=24h")


def test_a_theme_that_was_chosen_stays(site: Site, look: Look) -> None:
    page = look(site.address, "light")
    page.click("[data-theme-switch]")
    assert page.evaluate("getComputedStyle(document.body).colorScheme") == "dark"
    page.goto(f"{site.address}/queues")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_the_keyboard_goes_to_pages_and_to_the_search(site: Site, look: Look) -> None:
    page = look(site.address)
    page.keyboard.press("g")
    page.keyboard.press("j")
    page.wait_for_url(re.compile("/jobs$"))
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.name") == "id"
    page.keyboard.press("Control+A")


def test_it_can_be_used_without_a_script(site: Site, chromium: playwright.Browser) -> None:
    site.app.enqueue("plain", queue="plain")
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{site.address}/queues/plain")
    page.click("text=Pause >> nth=0")
    assert "Queue plain is paused" in page.inner_text("main")
    context.close()
