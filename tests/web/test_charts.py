"""Charts: what pages draw of the minutes that workers have counted."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from html import unescape
from typing import Any

import psycopg

from pgqueue import PgQueue
from pgqueue.database import fetch
from pgqueue.histogram import bucket
from pgqueue.queries import figures
from pgqueue.queries.figures import Tally, Throughput
from pgqueue.web import charts
from tests.web.conftest import Browser

PLOT = re.compile(r"""<div id="plot-(\w+)" class="plot" data-chart='([^']*)'""")


def ran(
    dsn: str, queue: str, task: str, completed: int, *, failed: int = 0, seconds: float = 0.1, ago: float = 300
) -> None:
    tally = Tally()
    tally.outcomes |= {"completed": completed, "failed": failed}
    tally.runs[bucket(seconds)] = tally.waits[bucket(10 * seconds)] = completed + failed
    with psycopg.connect(dsn, autocommit=True) as conn:
        fetch(conn, figures.add("pgqueue", {(queue, task): tally}, ago))


async def drawn(browser: Browser, path: str) -> dict[str, Any]:
    """By chart, its series by label, without the minutes in which nothing was."""
    page = (await browser.get(path)).text
    found = {name: json.loads(unescape(data)) for name, data in PLOT.findall(page)}
    return {
        name: {one["label"]: [value for value in one["values"] if value] for one in data["series"]}
        for name, data in found.items()
    }


async def test_the_overview_draws_all_and_a_queue_and_a_task_their_own(dsn: str, app: PgQueue, viewer: Browser) -> None:
    app.enqueue("send", queue="email")
    app.enqueue("render", queue="images")
    ran(dsn, "email", "send", 120, failed=6)
    ran(dsn, "images", "render", 30, seconds=2.0)
    overview = await drawn(viewer, "/")
    assert overview["throughput"] == {"completed": [150], "failed": [6], "retried": []}
    assert list(overview) == ["throughput", "waits"]
    email = await drawn(viewer, "/queues/email")
    assert email["throughput"] == {"completed": [120], "failed": [6], "retried": []}
    assert 0.05 < email["runs"]["p95"][0] < 0.2
    assert 0.5 < email["waits"]["p50"][0] < 2
    assert (await drawn(viewer, "/queues/images"))["throughput"]["completed"] == [30]


async def test_a_span_of_the_address_says_how_far_back_and_in_which_steps(dsn: str, viewer: Browser) -> None:
    ran(dsn, "email", "send", 100, ago=600)
    ran(dsn, "email", "send", 5, ago=5 * 3600)
    assert (await drawn(viewer, "/"))["throughput"]["completed"] == [100]
    assert (await drawn(viewer, "/?span=nonsense"))["throughput"]["completed"] == [100]
    # Two minutes a step: what ran in one of them is half of it a minute.
    assert (await drawn(viewer, "/?span=6h"))["throughput"]["completed"] == [2.5, 50]
    page = (await viewer.get("/?span=3d")).text
    assert '<a href="/?span=3d" aria-current="true">3 d</a>' in page


async def test_where_nothing_ran_that_is_said_and_nothing_is_drawn(viewer: Browser) -> None:
    page = (await viewer.get("/?span=24h")).text
    assert "Nothing ran in the last 24 h" in page
    assert not PLOT.findall(page)


async def test_the_lists_of_queues_and_tasks_tell_of_the_last_hour(dsn: str, app: PgQueue, viewer: Browser) -> None:
    app.enqueue("send", queue="email")
    ran(dsn, "email", "send", 75, failed=25, seconds=0.1)
    row = re.search(r'<tr id="queue-email">(.*?)</tr>', (await viewer.get("/queues")).text, re.S)
    assert row is not None
    assert "25.0%" in row[1]


async def test_the_percentiles_beside_a_chart_are_those_of_its_whole_time(
    dsn: str, app: PgQueue, viewer: Browser
) -> None:
    app.enqueue("send", queue="email")
    ran(dsn, "email", "send", 50, ago=600, seconds=100.0)
    ran(dsn, "email", "send", 50, seconds=0.001)
    page = (await viewer.get("/queues/email")).text
    said = re.search(r'Ran <span class="quiet">≈ p50 ([^,]+), p95 ([^,]+), p99 ([^<]+)</span>', page)
    assert said is not None
    assert said[1].endswith(" ms")
    assert "min" in said[2] or said[2].endswith(" s")


def test_a_step_that_goes_on_counts_as_far_as_it_has_gone() -> None:
    def last(after: float) -> float | None:
        point = Throughput(datetime(2026, 11, 23, tzinfo=UTC), 60, after, 30, 0, 0, 0, 0)
        found: float | None
        [found] = charts.throughput([point]).data["series"][0]["values"]
        return found

    assert (last(30), last(60)) == (60, 30)
    # A second of sixty would say that sixty times as much runs.
    assert last(1) is None


async def test_what_is_too_much_to_read_is_said_and_not_asked_for_again_at_once(dsn: str, viewer: Browser) -> None:
    ran(dsn, "email", "send", 1)
    with psycopg.connect(dsn) as locks:
        locks.execute("lock table pgqueue.task_minutes")
        assert "There is too much to read" in (await viewer.get("/?span=3d")).text
    assert "There is too much to read" in (await viewer.get("/?span=3d")).text
    assert "A minute" in (await viewer.get("/?span=24h")).text
