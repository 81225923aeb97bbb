"""One drain, printed as jobs a second: `python -m benchmarks.drain limit|worker DSN JOBS history|no_history`."""

from __future__ import annotations

import asyncio
import secrets
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from uuid import uuid4

import psycopg

from pgqueue import PgQueue, migrate
from pgqueue.database import Database, fetch, run
from pgqueue.outcome import Completed
from pgqueue.queries import claiming, fleet
from pgqueue.queries.finishing import Finished, finish

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


def limit(app: PgQueue, dsn: str, mode: str) -> int:
    """Claim and finish on one connection until nothing is left; returns how many jobs that was."""
    options = Database(dsn).session_options("benchmark")
    done = mark = 0
    worker = uuid4()
    registration = fleet.register_worker(
        SCHEMA, worker=worker, name="limit", host="", pid=0, version="", queues={}, tasks=[], lease=3600.0
    )
    with psycopg.Connection.connect(dsn, autocommit=True, **options) as conn:
        fetch(conn, registration)
        while True:
            fence = secrets.randbits(63)
            scan = run(
                conn,
                claiming.claim(
                    SCHEMA,
                    queue="default",
                    priority=0,
                    mark=mark,
                    known=mark,
                    tasks=["noop"],
                    count=BATCH,
                    slots=BATCH,
                    fence=fence,
                    worker=worker,
                    lifo=False,
                ),
            )
            if not scan.jobs:
                return done
            mark = scan.jobs[-1].position
            batch = [Finished(job.id, fence, job.task, Completed(), 0.0, mode == "history") for job in scan.jobs]
            if run(conn, finish(SCHEMA, worker, batch)):
                raise SystemExit("an outcome was refused")
            fetch(conn, claiming.drop_claims(SCHEMA, [fence]))
            done += len(scan.jobs)


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
        ran.extend(range(limit(app, dsn, mode)))
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
