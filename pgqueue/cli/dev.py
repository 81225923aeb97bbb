"""`pgqueue dev`: all that development needs, in one command."""

from __future__ import annotations

import asyncio
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pgqueue.cli.logs import Format, logging_options
from pgqueue.cli.options import app_option
from pgqueue.cli.output import note
from pgqueue.cli.target import Target

if TYPE_CHECKING:
    from pgqueue.dev import EmbeddedServer

FOLDER = Path(".pgqueue")
# Jobs of a worker that was killed come back soon: nobody waits half a minute for that while developing.
LEASE = 5.0


@click.command("dev")
@click.argument("spec", required=False, metavar="[MODULE[:APP]]")
@click.option("-c", "--concurrency", type=click.IntRange(min=1), default=10, show_default=True, help="Slots a queue.")
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    default=FOLDER,
    show_default=True,
    help="Folder of the database.",
)
@logging_options
@app_option
@click.pass_obj
def command(
    target: Target, spec: str | None, concurrency: int, data: Path, log_format: Format, log_level: str, verbose: bool
) -> None:
    """Start a PostgreSQL of your own, make the tables, and run worker and scheduler.

    What it stores stays in .pgqueue between runs. Where no app is given or found, only PostgreSQL runs.
    """
    from pgqueue import migrate
    from pgqueue.cli import logs, signals
    from pgqueue.dev import EmbeddedServer

    with EmbeddedServer(data) as server:
        migrate.upgrade(server.dsn, schema=target.database_schema())
        explain(server, data)
        target.dsn = server.dsn
        logs.set_up(log_format, log_level, verbose=verbose)
        if spec is None and not target.has_app():
            note("No app was found: name yours (`pgqueue dev shop.tasks:app`) and a worker runs too. Ctrl-C ends.")
            code = signals.run(wait())
        else:
            logging = ["--log-format", log_format, "--log-level", log_level, *["--verbose"] * verbose]
            code = work(target, spec, concurrency, log_format, logging)
    sys.exit(code)


def work(target: Target, spec: str | None, concurrency: int, log_format: Format, logging: list[str]) -> int:
    """Run worker and scheduler in a process that is replaced when a task crashes it; the exit code."""
    from pgqueue.cli.worker import greet, stopping_note
    from pgqueue.worker.supervisor import supervise

    options = {"queues": None, "slots": concurrency, "lease": LEASE, "with_scheduler": True}
    greet(target.load_app(spec), options, log_format)
    given = {"--dsn": target.dsn, "--schema": target.schema, "--app": target.app}
    places = [part for name, value in given.items() if value is not None for part in (name, value)]
    times = ["--lease", f"{LEASE}s", "--shutdown-timeout", f"{LEASE}s"]
    command = [sys.executable, "-m", "pgqueue", "worker", *([spec] if spec else []), "-c", str(concurrency), "-p", "1"]
    return supervise([*command, "--with-scheduler", *times, *places, *logging], 1, notice=stopping_note(LEASE))


def explain(server: EmbeddedServer, data: Path) -> None:
    state = "was running already" if server.reused else "runs"
    note(f"PostgreSQL {state} in {data}. For your app and other terminals:")
    note(f"  export PGQUEUE_DSN={shlex.quote(server.dsn)}")
    note(f"  psql {shlex.quote(server.dsn)}")


def running_here() -> str | None:
    """How to reach the PostgreSQL of a `pgqueue dev` that runs in the working directory; None if there is none."""
    from urllib.parse import quote

    from pgqueue.embedded.postmaster import Postmaster

    try:
        server = Postmaster.read(FOLDER / "cluster")
        if server is None or not server.ready or not (server.sockets / ".s.PGSQL.5432").is_socket():
            return None
    except (OSError, ValueError):
        return None
    dsn = f"postgresql://postgres@/postgres?host={quote(str(server.sockets))}&port=5432"
    return f"`pgqueue dev` runs here; to use its database: export PGQUEUE_DSN={shlex.quote(dsn)}"


async def wait() -> int:
    """Until a signal."""
    from pgqueue.cli.signals import Signals

    stop = asyncio.Event()
    Signals(stop.set, lambda: None).listen()
    await stop.wait()
    return 0
