"""`pgqueue scheduler`: enqueues the jobs of schedules."""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import TYPE_CHECKING, Any

import click

from pgqueue.cli import banner
from pgqueue.cli.logs import Format, logging_options
from pgqueue.cli.options import app_option, database_options
from pgqueue.cli.ports import Ports, port_options
from pgqueue.cli.target import Target

if TYPE_CHECKING:
    from pgqueue.app import PgQueue
    from pgqueue.schedules import Schedule

logger = logging.getLogger("pgqueue.scheduler")
TRY_AGAIN_SECONDS = 2.0


@click.command("scheduler")
@click.argument("spec", required=False, metavar="[MODULE[:APP]]")
@port_options
@logging_options
@database_options
@app_option
@click.pass_obj
def command(
    target: Target, /, spec: str | None, log_format: Format, log_level: str, verbose: bool, **given: Any
) -> None:
    """Enqueue the jobs of an app's schedules at their times.

    Run as many as you like: each time is enqueued once.
    """
    from pgqueue.cli import logs, signals

    loaded = target.load_app(spec)
    logs.set_up(log_format, log_level, verbose=verbose)
    rules = [f"{name} ({rule_text(loaded.declared_schedules[name])})" for name in sorted(loaded.declared_schedules)]
    banner.show(
        loaded,
        "scheduler",
        [("schedules", f"{len(rules)}: {', '.join(rules)}" if rules else "0 in the code")],
        log_format,
    )
    sys.exit(signals.run(fire(loaded, Ports.taken(given))))


def rule_text(schedule: Schedule) -> str:
    from datetime import UTC, datetime

    from pgqueue.cli.listings import rule

    return rule(schedule.row(datetime.now(UTC)))


async def fire(app: PgQueue, ports: Ports) -> int:
    """Run the scheduler until a signal; the exit code."""
    from pgqueue.cli.signals import Signals
    from pgqueue.services.scheduler import LONGEST, Scheduler, run_scheduler
    from pgqueue.services.vitals import health_of

    stop = asyncio.Event()
    received = Signals(stop.set, lambda: None)
    received.listen()
    scheduler = Scheduler.of(app)
    with ports.of_process(app, lambda: health_of(scheduler, LONGEST), database=True):
        await reachable(app, stop)
        if not stop.is_set():
            logger.info("the scheduler runs")
            await run_scheduler(app, stop, scheduler)
    logger.info("the scheduler stopped")
    return received.exit_code


async def reachable(app: PgQueue, stop: asyncio.Event) -> None:
    """Wait for PostgreSQL. Raises SchemaOutOfDate."""
    from pgqueue.cli.target import check
    from pgqueue.errors import ConnectionFailed

    said = False
    while not stop.is_set():
        try:
            await asyncio.to_thread(check, app)
        except ConnectionFailed as error:
            if not said:
                logger.warning("%s; trying again until it answers", error)
            said = True
            try:
                await asyncio.wait_for(stop.wait(), TRY_AGAIN_SECONDS)
            except TimeoutError:
                continue
        else:
            return
