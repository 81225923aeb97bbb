"""Bare loops: what PostgreSQL and psycopg allow, without pgqueue, on one connection.

Each does the same work on the same tables as what is held against it. The connections are the caller's, in autocommit
as those of `Place.connect`; `schema` has pgqueue's tables. Times are nanoseconds of the monotonic clock, which all
processes of a machine share.
"""

from __future__ import annotations

import json
import secrets
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any
from uuid import uuid4

import psycopg
from psycopg import sql

from pgqueue.app import MAX_ATTEMPTS
from pgqueue.database import fetch, run
from pgqueue.errors import PgQueueError
from pgqueue.job import ClaimedJob
from pgqueue.outcome import Completed
from pgqueue.queries import claiming, fleet
from pgqueue.queries.finishing import Finished, finish
from pgqueue.version import VERSION

TASK = "noop"
QUEUE = "default"
BATCH = 500
ROWS = 1_000
DROP_BATCH = 20
"""Claims' rows that go together, as those of a worker do."""
PATIENCE = 10.0
"""Seconds without a job after which a loop that waits for more gives up."""
PAUSE = 0.001

INSERT = """
insert into {schema}.jobs (queue, task, args, state, priority, position, run_at, max_attempts)
values (%s, %s, %s::jsonb, 'available', 0, nextval({positions}), clock_timestamp(), %s)
"""
COPY = "copy {schema}.jobs (state, queue, task, position, args) from stdin (format binary)"


def timed(
    call: Callable[[int], object], numbers: Iterable[int], pause: Callable[[], float] | None = None
) -> tuple[list[int], list[int]]:
    """Call it with each number, after a pause of so many seconds: the times before and after each call."""
    before, after = [], []
    for number in numbers:
        if pause is not None:
            time.sleep(pause())
        before.append(time.monotonic_ns())
        call(number)
        after.append(time.monotonic_ns())
    return before, after


def inserting(conn: psycopg.Connection[Any], schema: str) -> Callable[[int], object]:
    """What INSERTs the row of one job and COMMITs: in autocommit one round trip, else as many as psycopg takes."""
    positions = sql.Literal(sql.Identifier(schema, "jobs_position").as_string())
    statement = sql.SQL(INSERT).format(schema=sql.Identifier(schema), positions=positions).as_string()
    cursor = conn.cursor()

    def insert(number: int) -> None:
        cursor.execute(statement, (QUEUE, TASK, json.dumps({"number": number}), MAX_ATTEMPTS))
        if not conn.autocommit:
            conn.commit()

    return insert


def notifying(conn: psycopg.Connection[Any], channel: str) -> Callable[[int], object]:
    """What sends a number in a NOTIFY and COMMITs."""
    cursor = conn.cursor()
    return lambda number: cursor.execute("select pg_notify(%s, %s)", (channel, str(number)))


async def listen(conn: psycopg.AsyncConnection[Any], channel: str) -> None:
    """LISTEN, for `hear`."""
    await conn.execute(sql.SQL("listen {}").format(sql.Identifier(channel)))


async def hear(conn: psycopg.AsyncConnection[Any], on_number: Callable[[int], object]) -> None:
    """Call it with each number that `notifying` sent, until it returns true or nothing came for PATIENCE."""
    async for notification in conn.notifies(timeout=PATIENCE):
        if on_number(int(notification.payload)):
            return


def rows(numbers: Sequence[int]) -> Iterator[bytes]:
    """What `copy` sends for one job of each number: a thousand rows at a time, in the format of COPY's binary files."""
    texts = b"".join(struct.pack(">i", len(text)) + text for text in (b"available", QUEUE.encode(), TASK.encode()))
    begin = struct.pack(">h", 5) + texts
    yield b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
    for first in range(0, len(numbers), ROWS):
        block = []
        for number in numbers[first : first + ROWS]:
            # JSON is preceded by the version of its format.
            args = b"\1" + json.dumps({"number": number}).encode()
            block.append(begin + struct.pack(">iqi", 8, number + 1, len(args)) + args)
        yield b"".join(block)
    yield struct.pack(">h", -1)


def copy(conn: psycopg.Connection[Any], schema: str, blocks: Iterable[bytes]) -> None:
    """COPY the rows of many jobs."""
    statement = sql.SQL(COPY).format(schema=sql.Identifier(schema))
    with conn.cursor().copy(statement) as out:
        for block in blocks:
            out.write(block)


class ClaimLoop:
    """The worker's claim and finish statements on one connection, without tasks.

    It registers when it is made, so that only `run` is to be timed.

        loop = ClaimLoop(conn, "pgqueue_bench")
        ids = loop.run(kept=True)
    """

    def __init__(self, conn: psycopg.Connection[Any], schema: str, *, task: str = TASK, queue: str = QUEUE) -> None:
        self._conn = conn
        self._schema = schema
        self._task = task
        self._queue = queue
        self._worker = uuid4()
        self._mark = 0
        self._written: list[int] = []
        fetch(
            conn,
            fleet.register_worker(
                schema,
                worker=self._worker,
                name="bare loop",
                host="",
                pid=0,
                version=VERSION,
                queues={queue: BATCH},
                tasks=[task],
                lease=3600.0,
            ),
        )

    def run(self, *, kept: bool, until: int | None = None) -> list[int]:
        """Claim and finish until nothing is available; returns an id for each time that a job was finished.

        With `until`, go on until there were so many, also while nothing is available, but then for PATIENCE at most.
        `kept` says whether the history is. Raises PgQueueError when somebody else works on the jobs.
        """
        ids: list[int] = []
        found_at = time.monotonic()
        while until is None or len(ids) < until:
            if jobs := self.claim(BATCH):
                self.finish(jobs, kept=kept)
                ids += [job.id for job in jobs]
                found_at = time.monotonic()
                if len(self._written) >= DROP_BATCH:
                    self._drop()
            elif until is None or time.monotonic() - found_at > PATIENCE:
                break
            else:
                # A transaction may have taken its position before the mark moved past, and committed after.
                self._mark = 0
                time.sleep(PAUSE)
        self._drop()
        return ids

    def claim(self, count: int) -> Sequence[ClaimedJob]:
        """The next jobs, `count` at most."""
        claim = claiming.claim(
            self._schema,
            queue=self._queue,
            priority=0,
            mark=self._mark,
            known=self._mark,
            tasks=[self._task],
            count=count,
            slots=count,
            fence=secrets.randbits(63),
            worker=self._worker,
            lifo=False,
        )
        jobs = run(self._conn, claim).jobs
        if jobs:
            self._mark = jobs[-1].position
        return jobs

    def finish(self, jobs: Sequence[ClaimedJob], *, kept: bool) -> None:
        """Write that what one claim took is completed. Raises PgQueueError as `run` does."""
        outcomes = [Finished(job.id, job.fence, job.task, Completed(), 0.0, kept) for job in jobs]
        if stale := run(self._conn, finish(self._schema, self._worker, outcomes)).stale:
            raise PgQueueError(
                f"{stale} of {len(jobs)} outcomes of the bare loop were refused: "
                f"does something else work on schema {self._schema}?"
            )
        self._written.append(jobs[0].fence)

    def _drop(self) -> None:
        """The rows of the claims whose jobs have ended."""
        if self._written:
            fetch(self._conn, claiming.drop_claims(self._schema, self._written))
            self._written = []
