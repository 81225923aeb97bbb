"""pgqueue's own statements without its worker: the limits that its worker is held against."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from typing import Self
from uuid import uuid4

import psycopg

from pgqueue.database import Database, fetch, run
from pgqueue.job import ClaimedJob
from pgqueue.outcome import Completed
from pgqueue.queries import claiming, fleet
from pgqueue.queries.finishing import Finished, finish


class BareLoop:
    """Claims and finishes on one connection, one after the other, with the marks that a worker keeps.

    with BareLoop(dsn, "pgqueue") as loop:
        while jobs := loop.claim(500):
            loop.finish(jobs, history=True)
    """

    def __init__(self, dsn: str, schema: str) -> None:
        self._schema = schema
        self._worker = uuid4()
        self._mark = self._fence = 0
        options = Database(dsn).session_options("benchmark")
        self._connection = psycopg.Connection.connect(dsn, autocommit=True, **options)
        fetch(
            self._connection,
            fleet.register_worker(
                schema, worker=self._worker, name="limit", host="", pid=0, version="", queues={}, tasks=[], lease=3600.0
            ),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def claim(self, count: int) -> Sequence[ClaimedJob]:
        """The next jobs of the task `noop`, under a fence of their own."""
        self._fence = secrets.randbits(63)
        scan = run(
            self._connection,
            claiming.claim(
                self._schema,
                queue="default",
                priority=0,
                mark=self._mark,
                known=self._mark,
                tasks=["noop"],
                count=count,
                slots=count,
                fence=self._fence,
                worker=self._worker,
                lifo=False,
            ),
        )
        if scan.jobs:
            self._mark = scan.jobs[-1].position
        return scan.jobs

    def finish(self, jobs: Sequence[ClaimedJob], *, history: bool) -> None:
        """What the last claim took, as completed."""
        batch = [Finished(job.id, self._fence, job.task, Completed(), 0.0, history) for job in jobs]
        if run(self._connection, finish(self._schema, self._worker, batch)):
            raise SystemExit("an outcome was refused")
        fetch(self._connection, claiming.drop_claims(self._schema, [self._fence]))


def claim_seconds(dsn: str, count: int, batch: int, schema: str = "pgqueue") -> Iterator[float]:
    """How long each of `count` claims of `batch` jobs took, from the front of the queue."""
    with BareLoop(dsn, schema) as loop:
        for _ in range(count):
            began = time.perf_counter()
            jobs = loop.claim(batch)
            yield time.perf_counter() - began
            if len(jobs) < batch:
                raise SystemExit(f"a claim of {batch} jobs found {len(jobs)}")
