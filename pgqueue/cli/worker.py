"""`pgqueue worker`: runs jobs until it is told to stop."""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import TYPE_CHECKING, Any

import click

from pgqueue.cli import banner
from pgqueue.cli.errors import DONE, FAILED
from pgqueue.cli.logs import Format, logging_options
from pgqueue.cli.options import app_option, database_options
from pgqueue.cli.output import duration, note
from pgqueue.cli.ports import Ports, port_options
from pgqueue.cli.target import Target
from pgqueue.cli.values import DURATION, SIZE
from pgqueue.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable

    from pgqueue.app import PgQueue
    from pgqueue.worker import Worker

logger = logging.getLogger("pgqueue.worker")


def number(*names: str, default: int | None = None, most: int | None = None, help: str) -> Callable[[Any], Any]:
    kind = click.IntRange(min=1, max=most)
    return click.option(*names, type=kind, metavar="N", default=default, show_default=default is not None, help=help)


def span(name: str, *, default: str | None = None, help: str) -> Callable[[Any], Any]:
    return click.option(
        name, type=DURATION, metavar="TIME", default=default, show_default=default is not None, help=help
    )


@click.command("worker")
@click.argument("spec", required=False, metavar="[MODULE[:APP]]")
@click.option(
    "-q",
    "--queue",
    multiple=True,
    metavar="NAME[:SLOTS]",
    help="Serve it: email:10,thumb*,-slow. Repeatable. [all of the app]",
)
@number("-c", "--concurrency", default=10, most=10_000, help="Slots of a queue without a number.")
@number("-p", "--processes", default=1, help="Worker processes; each has the slots.")
@click.option("--drain", is_flag=True, help="End when nothing is left to do, retries included; paused queues are left.")
@span("--idle-timeout", help="End after so long without a job.")
@number("--max-jobs", help="End after so many jobs; -p starts a new process.")
@click.option("--max-memory", type=SIZE, metavar="SIZE", help="End above it, such as 512M; -p starts a new process.")
@span("--shutdown-timeout", default="30s", help="Time for running jobs after a signal.")
@span("--lease", default="30s", help="After so much silence others take its jobs.")
@click.option("--with-scheduler", is_flag=True, help="Run the scheduler too.")
@click.option("--name", metavar="NAME", help="Name in `pgqueue workers list`. [HOST:PID]")
@click.option("--publish-events", is_flag=True, help="Tell app.watch() elsewhere what happens here.")
@click.option("--no-listen", is_flag=True, help="Poll only: for poolers that lose LISTEN.")
@span("--poll-interval", default="1s", help="Look for jobs at least this often.")
@port_options
@logging_options
@database_options
@app_option
@click.pass_obj
def command(target: Target, /, spec: str | None, **given: Any) -> None:
    """Run the jobs of an app's queues.

    The app is found by itself where the working directory has only one:

    \b
      pgqueue worker shop.tasks:app -q email:20 -q thumbs:4 -p 2
    """
    from pgqueue.cli import logs, signals

    loaded = target.load_app(spec)
    log_format, processes = given.pop("log_format"), given.pop("processes")
    level, verbose = given.pop("log_level"), given.pop("verbose")
    logs.set_up(log_format, level, verbose=verbose)
    logs.set_up_processes(log_format, level, verbose=verbose)
    if any(not part.strip() for text in given["queue"] for part in text.split(",")):
        raise click.UsageError("-q has an empty name: give a queue, such as -q email or -q email:10")
    queues, slots, listen = list(given.pop("queue")) or None, given.pop("concurrency"), not given.pop("no_listen")
    ports = Ports.taken(given)
    options = {**given, "queues": queues, "slots": slots, "listen": listen}
    if processes > 1:
        sys.exit(work_together(loaded, options, log_format, ports, processes))
    sys.exit(signals.run(work(loaded, options, log_format, ports)))


def work_together(app: PgQueue, options: dict[str, Any], log_format: Format, ports: Ports, processes: int) -> int:
    """Keep so many worker processes; the exit code."""
    from pgqueue.worker.crew import Crew
    from pgqueue.worker.supervisor import supervise

    greet(app, options, log_format, processes)
    command = [sys.executable, "-m", "pgqueue", *sys.argv[1:], "-p", "1"]
    notice = stopping_note(options["shutdown_timeout"])
    if not ports.asked:
        return supervise(command, processes, name=options["name"], notice=notice)
    crew = Crew(processes)
    with ports.of_crew(app, crew, database=options["with_scheduler"]):
        return supervise(command, processes, name=options["name"], notice=notice, crew=crew)


def greet(app: PgQueue, options: dict[str, Any], log_format: Format, processes: int = 1) -> None:
    lines = [
        ("queues", banner.queues(app, options["queues"], options["slots"])),
        ("tasks", banner.tasks(app)),
        ("processes", f"{processes}, lease {duration(options['lease'])}"),
    ]
    if options["with_scheduler"]:
        lines.append(("schedules", str(len(app.declared_schedules))))
    banner.show(app, "worker", lines, log_format)


async def work(app: PgQueue, options: dict[str, Any], log_format: Format, ports: Ports) -> int:
    """Run a worker to its end; the exit code."""
    from pgqueue.worker import Worker
    from pgqueue.worker.supervisor import is_supervised
    from pgqueue.worker.vitals import health_of

    supervised = is_supervised()
    worker = Worker(app, options["queues"], **{name: value for name, value in options.items() if name != "queues"})
    if not supervised:
        greet(app, options, log_format)
    with ports.of_process(app, lambda: health_of(worker), database=options["with_scheduler"]):
        return await run(app, worker, options, log_format, supervised=supervised)


async def run(app: PgQueue, worker: Worker, options: dict[str, Any], log_format: Format, *, supervised: bool) -> int:
    """As `work`, once the worker is made."""
    from pgqueue.cli.joblog import JobLog
    from pgqueue.cli.signals import Signals
    from pgqueue.worker.supervisor import RECYCLED

    joblog = JobLog(log_format)
    joblog.follow(app)
    starting = asyncio.ensure_future(worker.start())

    def stop() -> None:
        if starting.done():
            if not supervised:
                say = logger.info if log_format == "json" else note
                say(stopping_note(worker.shutdown_timeout))
            worker.stop()
        else:
            starting.cancel()

    received = Signals(stop, worker.give_back)
    received.listen()
    try:
        await starting
    except asyncio.CancelledError:
        return received.exit_code
    for name in unknown(worker):
        logger.warning("no task of this app and no table names the queue %s", name)
    served = ", ".join(f"{name} ({slots})" for name, slots in worker.queues.items())
    logger.info("worker %s serves %s", worker.name, served or "nothing yet")
    await worker.wait()
    joblog.sum_up()
    logger.info("worker %s stopped after %s", worker.name, counted(worker.ended, "run"))
    if received.stopped:
        return received.exit_code
    if worker.asked:
        # Its supervisor starts no other: whoever asked wants it gone.
        return DONE
    if supervised and is_worn(worker, options):
        return RECYCLED
    return DONE if ends_by_itself(options) else FAILED


def unknown(worker: Worker) -> list[str]:
    """The queues that it serves and nobody else knew, with what may have been meant: typos, most likely."""
    from pgqueue.cli.errors import did_you_mean

    known = worker.serving.known_at_start
    return [name + did_you_mean(name, known) for name in worker.queues if name not in known]


def is_worn(worker: Worker, options: dict[str, Any]) -> bool:
    """Whether it ended for what a fresh process would cure."""
    from pgqueue.worker.limits import memory_in_use

    most_jobs, most_memory = options["max_jobs"], options["max_memory"]
    return bool((most_jobs and worker.ended >= most_jobs) or (most_memory and memory_in_use() > most_memory))


def ends_by_itself(options: dict[str, Any]) -> bool:
    """Whether it was asked to; else a part of it broke."""
    return any(options[name] for name in ("drain", "idle_timeout", "max_jobs", "max_memory"))


def stopping_note(seconds: float) -> str:
    return f"Stopping: running jobs may end within {duration(seconds)}. A second signal gives them back now."
