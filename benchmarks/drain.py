"""One drain, printed as jobs a second: `python -m benchmarks.drain limit|worker DSN JOBS history|no_history`."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from contextlib import suppress

import psycopg

from benchmarks.bare import BareLoop
from pgqueue import PgQueue, migrate

SCHEMA = "pgqueue_benchmark"
MODES = ("history", "no_history")
SLOTS = 100
BATCH = 500


def prepare(dsn: str, jobs: int, mode: str) -> tuple[PgQueue, list[int]]:
    """An app with a full queue, and the list to which its task adds what it ran."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(f"drop schema if exists {SCHEMA} cascade".encode())
    migrate.upgrade(dsn, schema=SCHEMA)
    app = PgQueue(dsn, schema=SCHEMA)
    ran: list[int] = []

    @app.task(name="noop", keep_completed=mode == "history")
    async def noop(number: int) -> None:
        ran.append(number)

    app.enqueue_many([noop.job(number) for number in range(jobs)])
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(f"vacuum analyze {SCHEMA}.jobs".encode())
        conn.execute("checkpoint")
    return app, ran


def limit(dsn: str, mode: str) -> int:
    """Claim and finish on one connection until nothing is left; returns how many jobs that was."""
    done = 0
    with BareLoop(dsn, SCHEMA) as loop:
        while jobs := loop.claim(BATCH):
            loop.finish(jobs, history=mode == "history")
            done += len(jobs)
    return done


def drain(app: PgQueue) -> None:
    """One worker until nothing is left, on uvloop where it is installed."""
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    with suppress(ImportError):
        from uvloop import new_event_loop

        factory = new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(app.worker(queues={"default": SLOTS}, drain=True).run())


def worker_process(dsn: str) -> None:
    """A worker of the schema until it is terminated."""
    app = PgQueue(dsn, schema=SCHEMA)

    @app.task(name="noop", keep_completed=False)
    async def noop(number: int) -> None: ...

    asyncio.run(app.worker(queues={"default": SLOTS}).run())


def main(what: str, dsn: str, jobs: int, mode: str) -> None:
    app, ran = prepare(dsn, jobs, mode)
    start = time.perf_counter()
    if what == "limit":
        ran.extend(range(limit(dsn, mode)))
    else:
        drain(app)
    seconds = time.perf_counter() - start
    if sorted(ran) != list(range(jobs)):
        raise SystemExit(f"{jobs} jobs were enqueued, {len(ran)} ran, {len(set(ran))} of them different ones")
    print(jobs / seconds)
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(f"drop schema {SCHEMA} cascade".encode())


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
