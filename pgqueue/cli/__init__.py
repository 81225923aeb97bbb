"""The command line. Each command is a module of its own, imported when it runs."""

from __future__ import annotations

from typing import Any

import click

from pgqueue import __version__
from pgqueue.cli.lazy import Entry, RootGroup
from pgqueue.cli.options import target_options

COMMANDS = [
    Entry("worker", "Run jobs.", "Run"),
    Entry("scheduler", "Enqueue the jobs of schedules.", "Run"),
    Entry("enqueue", "Enqueue one job.", "Run"),
    Entry("jobs", "List, show, cancel and promote jobs.", "Operate"),
    Entry("failed", "List, redrive and purge failed jobs.", "Operate"),
    Entry("queues", "List, pause and resume queues.", "Operate"),
    Entry("limits", "List, set, remove, pause and resume limits.", "Operate"),
    Entry("breakers", "List, set, open, close and reset circuit breakers.", "Operate"),
    Entry("flows", "List, show, cancel and retry flows.", "Operate"),
    Entry("schedules", "List, run, pause and remove schedules.", "Operate"),
    Entry("migrate", "Create or upgrade the tables.", "Operate"),
    Entry("why", "Say why a job is not running, and what to do.", "Look"),
    Entry("doctor", "Check the server, the tables and the fleet.", "Look"),
    Entry("alerts", "List alerts and their state.", "Look"),
    Entry("top", "Watch queues, jobs, workers and failures, live.", "Look"),
    Entry("tail", "Show what workers do, as it happens.", "Look"),
    Entry("workers", "List the worker processes.", "Look"),
    Entry("tasks", "List the tasks that workers have registered.", "Look"),
    Entry("ping", "Check the connection and the tables, for health checks.", "Look"),
    Entry("config", "Show each setting and where it comes from.", "Look"),
    Entry("bench", "Measure pgqueue on your server.", "Look"),
    Entry("version", "Show the versions in use.", "Look"),
    Entry("web", "Serve the dashboard.", "Look"),
    Entry("dev", "PostgreSQL, tables, worker and scheduler in one.", "Develop"),
    Entry("run", "Run a task here and now, without a queue.", "Develop"),
    Entry("demo", "Run a small shop on an own PostgreSQL.", "Develop"),
]


@click.command(
    "pgqueue",
    cls=RootGroup,
    entries=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "PGQUEUE"},
    epilog=(
        "Every option has a variable: PGQUEUE_WORKER_CONCURRENCY is `worker --concurrency`. "
        "Exit codes: 0 done, 1 an operation failed, 2 usage, 3 not found, 4 cannot connect, "
        "5 schema out of date, 6 unhealthy."
    ),
)
@target_options
@click.version_option(__version__, message="%(prog)s %(version)s")
def pgqueue() -> None:
    """Background jobs in PostgreSQL."""


def main(args: list[str] | None = None) -> Any:
    """Run the command line; exits the process."""
    return pgqueue(args, prog_name="pgqueue")


__all__ = ["main", "pgqueue"]
