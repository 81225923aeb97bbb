"""pgqueue's own statements without its worker: the limits that its worker is held against."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from uuid import uuid4

import psycopg

from pgqueue.database import Database, fetch, run
from pgqueue.queries import claiming, fleet


def claim_seconds(dsn: str, count: int, batch: int, schema: str = "pgqueue") -> Iterator[float]:
    """How long each of `count` claims of `batch` jobs took, on one connection, from the front of the queue."""
    mark, worker = 0, uuid4()
    registration = fleet.register_worker(
        schema, worker=worker, name="limit", host="", pid=0, version="", queues={}, tasks=[], lease=3600.0
    )
    with psycopg.Connection.connect(dsn, autocommit=True, **Database(dsn).session_options("benchmark")) as connection:
        fetch(connection, registration)
        for _ in range(count):
            statement = claiming.claim(
                schema,
                queue="default",
                priority=0,
                mark=mark,
                tasks=["noop"],
                count=batch,
                slots=batch,
                fence=secrets.randbits(63),
                worker=worker,
                lifo=False,
            )
            began = time.perf_counter()
            scan = run(connection, statement)
            yield time.perf_counter() - began
            if len(scan.jobs) < batch:
                raise SystemExit(f"a claim of {batch} jobs found {len(scan.jobs)}")
            mark = scan.jobs[-1].position
