"""`pgqueue top`, driven by keys as in a terminal."""

from __future__ import annotations

import asyncio
import os
import pty
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from textual.pilot import Pilot
from textual.widgets import Input, Static

from pgqueue import PgQueue
from pgqueue.cli.screen.screen import Question, Table, Top
from pgqueue.testing import adrain
from tests.integration.waiting import DEADLINE, Gate

WIDE, NARROW = (140, 40), (80, 24)


@pytest.fixture
async def app(dsn: str) -> AsyncIterator[PgQueue]:
    made = PgQueue(dsn)
    yield made
    await made.aclose()
    made.close()


class Screen:
    """The screen, and what is read from it."""

    def __init__(self, top: Top, pilot: Pilot[None]) -> None:
        self.top = top
        self.pilot = pilot

    def table(self, pane: str) -> Table:
        # Of the screen below a question too.
        return self.top.screen_stack[0].query_one(f"#table-{pane}", Table)

    def rows(self, pane: str) -> list[list[str]]:
        table = self.table(pane)
        return [[str(cell).strip() for cell in table.get_row_at(n)] for n in range(table.row_count)]

    def titles(self, pane: str) -> list[str]:
        return [str(column.label) for column in self.table(pane).ordered_columns]

    def says(self, id_: str) -> str:
        return str(self.top.screen_stack[0].query_one(f"#{id_}", Static).render())

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)

    async def until(self, holds: Callable[[], Any]) -> None:
        async with asyncio.timeout(DEADLINE):
            while not holds():
                await self.pilot.pause(0.05)


@asynccontextmanager
async def screen(app: PgQueue, size: tuple[int, int] = WIDE, *, words: str = "") -> AsyncIterator[Screen]:
    top = Top(app, place="shop", every=0.5, words=words)
    async with top.run_test(size=size) as pilot:
        shown = Screen(top, pilot)
        await shown.until(lambda: "looking" not in shown.says("totals"))
        yield shown


async def test_each_pane_shows_what_there_is(app: PgQueue) -> None:
    gate = Gate(app, "wait", queue="slow")

    @app.task(name="shop.tasks.fails", queue="mail", max_attempts=1)
    async def fails(n: int) -> None:
        raise ValueError(f"no such mailbox [red]{n}[/red]")

    app.enqueue_many([fails.job(n) for n in range(3)])
    app.enqueue_many([app.new_job("other", queue="idle") for _ in range(7)])
    await adrain(app, queues=["mail"])
    job = gate.task.enqueue()
    async with app.worker(queues={"slow": 4}, name="host:1"):
        await gate.enters()
        async with screen(app) as shown:
            await shown.until(lambda: shown.rows("running"))
            queues = {row[0].split()[0]: row for row in shown.rows("queues")}
            assert queues["idle"][0] == "idle no worker"
            assert (queues["idle"][1], queues["mail"][5], queues["slow"][2]) == ("7", "3", "1")
            assert shown.rows("running")[0][:3] == [str(job.id), "wait", "slow"]
            assert shown.rows("workers")[0][:4] == ["host:1", "running", "1", "4"]
            [failure] = shown.rows("failures")
            assert (failure[0], failure[2], failure[3][:32]) == (
                "3",
                "shop.tasks.fails",
                "ValueError no such mailbox [red]",
            )
            totals = shown.says("totals")
            assert "available 7" in totals
            assert "running 1" in totals
            assert "failed 3" in totals
            assert "workers 1 (4 slots)" in totals
            gate.opened.set()
            await shown.until(lambda: not shown.rows("running"))
            assert shown.says("empty-running") == "Nothing runs."


async def test_a_queue_is_paused_and_goes_on(app: PgQueue) -> None:
    app.enqueue("count", queue="email")
    async with screen(app) as shown:
        await shown.press("p")
        await shown.until(lambda: shown.rows("queues")[0][0] == "email paused")
        assert [row.paused for row in app.queues.stats()] == [True]
        await shown.press("p")
        await shown.until(lambda: shown.rows("queues")[0][0] == "email no worker")
        assert [row.paused for row in app.queues.stats()] == [False]


async def test_a_running_job_is_cancelled_after_a_question(app: PgQueue) -> None:
    gate = Gate(app, "wait")
    job = gate.task.enqueue()
    async with app.worker():
        await gate.enters()
        async with screen(app) as shown:
            await shown.press("2")
            await shown.until(lambda: shown.rows("running"))
            await shown.press("c")
            await shown.until(lambda: isinstance(shown.top.screen, Question))
            await shown.press("n")
            await shown.until(lambda: not isinstance(shown.top.screen, Question))
            assert (await app.jobs.aget(job.id)).state == "running"
            await shown.press("c")
            await shown.until(lambda: isinstance(shown.top.screen, Question))
            await shown.press("y")
            await shown.until(lambda: not shown.rows("running"))
    assert (await app.jobs.aget(job.id)).state == "cancelled"


async def test_words_filter_names_and_others_text_is_no_markup(app: PgQueue, dsn: str) -> None:
    for queue in ("email", "email-bulk", "images"):
        app.enqueue("count", queue=queue)
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("update pgqueue.jobs set queue = '[/] [bold]x\x1b[31m' where queue = 'images'")
    async with screen(app, words="bulk") as shown:
        assert [row[0] for row in shown.rows("queues")] == ["email-bulk no worker"]
        await shown.press("slash")
        shown.top.query_one("#filter", Input).value = "EMAIL"
        await shown.until(lambda: len(shown.rows("queues")) == 2)
        shown.top.query_one("#filter", Input).value = "nowhere"
        await shown.until(lambda: not shown.rows("queues"))
        assert shown.says("empty-queues") == "Nothing has these words in it."
        await shown.press("escape")
        await shown.until(lambda: len(shown.rows("queues")) == 3)
        assert any(row[0].startswith("[/] [bold]x\N{REPLACEMENT CHARACTER}[31m") for row in shown.rows("queues"))


async def test_rows_are_sorted_by_any_column_and_the_cursor_stays_with_its_row(app: PgQueue) -> None:
    for queue, count in (("a", 2), ("b", 9), ("c", 5)):
        app.enqueue_many([app.new_job("count", queue=queue) for _ in range(count)])
    async with screen(app) as shown:

        def order() -> list[str]:
            return [row[0][0] for row in shown.rows("queues")]

        assert order() == ["b", "c", "a"]
        assert shown.titles("queues")[1] == "Available ▼"
        await shown.press("down")
        await shown.press("r")
        assert order() == ["a", "c", "b"]
        assert shown.table("queues").chosen.counts.queue == "c"
        for _ in range(len(shown.table("queues").pane.columns) - 1):
            await shown.press("s")
        assert (order(), shown.titles("queues")[0]) == (["a", "b", "c"], "Queue ▲")
        app.enqueue("count", queue="aa")
        await shown.until(lambda: len(order()) == 4)
        assert shown.table("queues").chosen.counts.queue == "c"


async def test_a_narrow_screen_keeps_what_matters(app: PgQueue) -> None:
    app.enqueue("count", queue="q" * 100)
    async with screen(app, NARROW) as shown:
        titles = [title.split()[0] for title in shown.titles("queues")]
        assert titles == ["Queue", "Available", "Running", "Blocked", "Failed", "Oldest", "Workers"]
        await shown.pilot.resize_terminal(*WIDE)
        await shown.until(lambda: len(shown.titles("queues")) == 11)


async def test_the_pace_has_bounds(app: PgQueue) -> None:
    async with screen(app) as shown:
        await shown.press(*["plus"] * 5)
        assert "every 0.5 s" in shown.says("totals")
        await shown.press(*["minus"] * 30)
        assert "every 60 s" in shown.says("totals")


async def test_a_database_that_is_gone_is_said_and_what_was_seen_stays(fresh_dsn: str) -> None:
    app = PgQueue(fresh_dsn)
    app.enqueue("count", queue="email")
    name = str(conninfo_to_dict(fresh_dsn)["dbname"])
    allow = sql.SQL("alter database {} with allow_connections {}")
    with psycopg.connect(make_conninfo(fresh_dsn, dbname="postgres"), autocommit=True) as conn:
        async with screen(app) as shown:
            await shown.until(lambda: shown.rows("queues"))
            conn.execute(allow.format(sql.Identifier(name), sql.SQL("false")))
            conn.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", [name])
            await shown.until(lambda: "No answer" in shown.says("trouble"))
            assert shown.rows("queues")[0][0] == "email no worker"
            conn.execute(allow.format(sql.Identifier(name), sql.SQL("true")))
            await shown.until(lambda: not shown.says("trouble"))
    app.close()


def pgqueue(dsn: str, *args: str, **options: Any) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith("PGQUEUE_")} | {"PGQUEUE_DSN": dsn}
    command = [sys.executable, "-m", "pgqueue", "top", *args]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, **options)


def test_without_a_terminal_it_says_what_programs_read(dsn: str) -> None:
    ended = pgqueue(dsn)
    assert ended.returncode == 2
    assert "pgqueue queues list --json" in ended.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="a terminal")
def test_a_pace_that_cannot_be_is_refused(dsn: str) -> None:
    ours, theirs = pty.openpty()
    env = {key: value for key, value in os.environ.items() if not key.startswith("PGQUEUE_")} | {"PGQUEUE_DSN": dsn}
    command = [sys.executable, "-m", "pgqueue", "top", "--every", "1h"]
    ended = subprocess.run(command, env=env, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(ours)
    os.close(theirs)
    assert ended.returncode == 2
    assert "is not between 0.5s and 60s" in ended.stderr
