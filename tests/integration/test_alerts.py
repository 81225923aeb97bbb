"""Alerts end to end: declared in code, looked at by workers and schedulers, said in the log and by tasks."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner, Result

from pgqueue import Alert, ConfigurationError, PgQueue, Task
from pgqueue.cli import pgqueue as root
from pgqueue.services.alerter import INTERVAL, Alerter
from pgqueue.services.scheduler import run_scheduler
from pgqueue.testing import adrain, aenqueued
from tests.integration.waiting import DEADLINE, until

DEEP = Alert.depth(2, queue="mail")


@pytest.fixture
async def other(dsn: str) -> AsyncIterator[PgQueue]:
    """A second process's app, as far as the database can tell."""
    made = PgQueue(dsn)
    yield made
    await made.aclose()


def paging(app: PgQueue) -> tuple[Task[..., Any], list[dict[str, Any]]]:
    """A task that is paged, and what it was told."""
    told: list[dict[str, Any]] = []

    @app.task(name="page", queue="ops")
    async def page(alert: str, status: str, since: datetime, value: float, runbook: str | None, **rest: Any) -> None:
        told.append({"alert": alert, "status": status, "since": since, "value": value, "runbook": runbook, **rest})

    return page, told


async def look(app: PgQueue) -> float:
    return await Alerter.of(app, interval=0.0).run_once()


async def test_a_worker_tells_the_task_and_the_log(app: PgQueue, caplog: pytest.LogCaptureFixture) -> None:
    page, told = paging(app)
    app.alert("deep", DEEP, severity="critical", runbook="https://wiki/deep", to=page)
    await app.aenqueue_many([app.new_job("send", queue="mail") for _ in range(3)])
    caplog.set_level(logging.INFO, "pgqueue.alerts")
    async with app.worker({"ops": 1}):
        await until(lambda: asyncio.sleep(0, bool(told)))
    [call] = told
    assert isinstance(call.pop("since"), datetime)
    assert call == {
        "alert": "deep",
        "status": "firing",
        "value": 3.0,
        "runbook": "https://wiki/deep",
        "severity": "critical",
        "message": "jobs of queue mail that could run: more than 2",
    }
    [said] = [record for record in caplog.records if record.name == "pgqueue.alerts"]
    assert (said.levelname, said.getMessage()) == (
        "CRITICAL",
        "alert deep is firing: jobs of queue mail that could run: more than 2 (runbook: https://wiki/deep)",
    )


async def test_of_several_workers_one_tells(dsn: str, app: PgQueue, other: PgQueue) -> None:
    apps = [app, other]
    calls = []
    for one in apps:
        page, told = paging(one)
        calls.append(told)
        one.alert("deep", DEEP, to=page)
    await app.aenqueue_many([app.new_job("send", queue="mail") for _ in range(3)])
    async with app.worker({"ops": 1}), other.worker({"ops": 1}):
        await until(lambda: asyncio.sleep(0, any(calls)))
        await asyncio.gather(*(Alerter.of(one, interval=0.0).run_once() for one in apps * 5))
        await until(lambda: _no_jobs_of(app, "page"))
    assert sum(map(len, calls)) == 1


async def _no_jobs_of(app: PgQueue, task: str) -> bool:
    return not [job for job in await aenqueued(app) if job.task == task and job.state != "completed"]


async def test_it_is_said_when_it_is_over(app: PgQueue, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pgqueue.alerts")
    app.alert("deep", DEEP)
    app.alert("fine", Alert.oldest(3600, queue="mail"))
    jobs = await app.aenqueue_many([app.new_job("send", queue="mail") for _ in range(3)])
    await look(app)
    await look(app)
    await app.jobs.acancel([job.id for job in jobs])
    await look(app)
    await look(app)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "alert deep is firing: jobs of queue mail that could run: more than 2"),
        ("INFO", "alert deep is resolved: jobs of queue mail that could run: 0"),
    ]


async def test_failed_jobs_are_alerted_of_until_they_are_redriven(app: PgQueue) -> None:
    @app.task(name="charge", queue="money", max_attempts=1)
    def charge() -> None:
        raise KeyError("k")

    app.alert("cards", Alert.failures(1, within=timedelta(hours=1), task="charge"))
    await app.aenqueue_many([charge.job() for _ in range(2)])
    await adrain(app)
    await look(app)
    assert [(alert.name, alert.state) for alert in app.alerts.list()] == [("cards", "firing")]
    app.failed.redrive(task="charge")
    await look(app)
    assert [(alert.name, alert.state) for alert in app.alerts.list()] == [("cards", "ok")]


async def test_a_scheduler_says_that_no_worker_runs(app: PgQueue, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "pgqueue.alerts")
    app.alert("nobody", Alert.no_worker(lasting=0))
    await app.aenqueue("send", queue="mail")
    stop = asyncio.Event()
    running = asyncio.create_task(run_scheduler(app, stop))
    await until(lambda: asyncio.sleep(0, bool(caplog.records)))
    stop.set()
    async with asyncio.timeout(DEADLINE):
        await running
    assert caplog.records[0].getMessage() == "alert nobody is firing: jobs wait, and no worker serves mail"


async def test_an_alert_that_cannot_be_told_is_said_once_and_the_others_go_on(
    app: PgQueue, dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    app.alert("broken", DEEP)
    app.alert("deep", DEEP)
    await app.aenqueue_many([app.new_job("send", queue="mail") for _ in range(3)])
    alerter = Alerter.of(app, interval=0.0)
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        await alerter.run_once()
        await conn.execute("update pgqueue.alerts set firing_since = null, holds_since = null")
        await conn.execute(
            """update pgqueue.alerts set rule = '{"kind": "weather", "above": 1}' where name = 'broken'"""
        )
        caplog.clear()
        for _ in range(3):
            await alerter.run_once()
    assert [record.getMessage().split(":")[0] for record in caplog.records] == [
        "alert broken could not be evaluated, or nobody told",
        "alert deep is firing",
    ]


async def test_one_that_was_forgotten_while_its_process_slept_comes_back(app: PgQueue, dsn: str) -> None:
    app.alert("deep", DEEP)
    alerter = Alerter.of(app, interval=0.0)
    await alerter.run_once()
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
        await conn.execute("delete from pgqueue.alerts")
    await alerter.run_once()
    assert [(alert.name, alert.state) for alert in app.alerts.list()] == [("deep", "ok")]


async def test_it_looks_every_quarter_of_a_minute(app: PgQueue) -> None:
    app.alert("deep", DEEP)
    assert await Alerter.of(app).run_once() == pytest.approx(INTERVAL, rel=0.11)


async def test_a_task_by_name_that_cannot_be_told_is_refused_when_a_worker_starts(app: PgQueue) -> None:
    @app.task(name="page")
    def page(alert: str) -> None: ...

    app.alert("deep", DEEP, to="page")
    with pytest.raises(ConfigurationError, match="to of alert deep: task page: there is no argument 'status'"):
        await adrain(app)


@pytest.fixture
def invoke(dsn: str) -> Callable[..., Result]:
    return lambda *arguments: CliRunner().invoke(root, ["--dsn", dsn, *arguments], catch_exceptions=False)


async def test_the_command_line_lists_them(app: PgQueue, invoke: Callable[..., Result]) -> None:
    empty = await asyncio.to_thread(invoke, "alerts", "list")
    assert "No alerts: declare them with app.alert" in empty.output
    app.alert("deep", DEEP, severity="critical", runbook="https://wiki/deep", to="page", repeat=None)
    await app.aenqueue_many([app.new_job("send", queue="mail") for _ in range(3)])
    await look(app)
    shown = (await asyncio.to_thread(invoke, "alerts", "list")).stdout
    assert "firing" in shown
    assert "more than 2" in shown
    [record] = map(json.loads, (await asyncio.to_thread(invoke, "alerts", "list", "--json")).stdout.splitlines())
    assert record["name"] == "deep"
    assert (record["state"], record["severity"], record["to"], record["runbook"], record["value"]) == (
        *("firing", "critical", ["page"], "https://wiki/deep", 3.0),
    )
    assert record["since"] == record["delivered_at"]


async def test_a_drain_runs_what_waits_and_looks_at_no_alert(app: PgQueue) -> None:
    page, told = paging(app)
    app.alert("deep", DEEP, to=page)
    await app.aenqueue_many([app.new_job("send", queue="mail") for _ in range(3)])
    assert (await adrain(app, ["ops"])).attempts == 0
    assert (told, await asyncio.to_thread(app.alerts.list)) == ([], [])
