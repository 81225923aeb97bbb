"""Inserting jobs: one or many by `unnest`. Thousands go by COPY, in `copying`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

from psycopg.errors import DeadlockDetected

from pgqueue import arguments
from pgqueue.errors import KeyHeld, PgQueueError
from pgqueue.job import AS_REGISTERED, Job, JobOperations, NewJob
from pgqueue.queries.inspecting import by_ids
from pgqueue.queries.reading import Reader, moment
from pgqueue.queries.statement import Operation, Statement, inline, text, texts

ROUNDS = 100
DEADLOCKS = 20

Declared = Mapping[str, tuple[int | None, int | None]]
"""Priority and attempts that the code declares, by queue."""


class Enqueued(NamedTuple):
    id: int
    created: bool
    queue: str
    priority: int
    max_attempts: int
    run_at: datetime
    created_at: datetime | None
    available: bool
    key: str | None
    serial_key: str | None


def enqueue(
    schema: str,
    jobs: Sequence[NewJob],
    fallback_attempts: int,
    operations: JobOperations | None = None,
    declared: Declared | None = None,
) -> Operation[list[Job]]:
    """Insert `jobs`; where a live job holds a key, that job is returned in place of the new one, `created` False.

    Several go in one transaction that the caller holds, and begin anew after a deadlock: all lock keys in one order, but
    whose holder has ended is locked in a later round, when those behind it are locked already. A deadlock that comes
    back has to do with what the caller's transaction holds, and is its to solve. Only the server may know that a task
    has keys.
    """
    if not jobs:
        return []
    rounds = partial(_enqueue, schema, jobs, fallback_attempts, operations, declared)
    if len(jobs) == 1:
        return (yield from rounds())
    yield Statement("savepoint pgqueue_keys")
    for left in reversed(range(DEADLOCKS)):
        try:
            made = yield from rounds()
        except Exception as error:
            again = left > 0 and isinstance(getattr(error, "orig", error), DeadlockDetected)
            if again or isinstance(error, KeyHeld):
                yield Statement("rollback to savepoint pgqueue_keys")
            if not again:
                raise
        else:
            yield Statement("release savepoint pgqueue_keys")
            return made
    raise AssertionError("unreachable")


def _enqueue(
    schema: str,
    jobs: Sequence[NewJob],
    fallback_attempts: int,
    operations: JobOperations | None,
    declared: Declared | None,
) -> Operation[list[Job]]:
    """Those whose key may be held by more than a live job, or is not only skipped, go one by one on the server."""
    asked = [job.on_conflict is not None for job in jobs]
    if not any(asked):
        return (yield from _skipping(schema, jobs, fallback_attempts, operations, declared))
    special = iter(
        (
            yield from _one_by_one(
                schema, [job for job in jobs if job.on_conflict], fallback_attempts, operations, declared
            )
        )
    )
    plain: Iterator[Job] = iter(())
    if not all(asked):
        rest = [job for job in jobs if job.on_conflict is None]
        plain = iter((yield from _skipping(schema, rest, fallback_attempts, operations, declared)))
    return [next(special if one else plain) for one in asked]


def _one_by_one(
    schema: str,
    jobs: Sequence[NewJob],
    fallback_attempts: int,
    operations: JobOperations | None,
    declared: Declared | None,
) -> Operation[list[Job]]:
    params = _columns(jobs, fallback_attempts, declared) | {
        "conflicts": texts(None if job.on_conflict == AS_REGISTERED else job.on_conflict for job in jobs),
        "keeps": [job.keep_key for job in jobs],
    }
    statement: Statement[Any] = Statement(text("enqueue_job", schema), params)
    rows = yield statement
    made = [Enqueued(*row) for _, *row in rows]
    for job, row, (refused, *_) in zip(jobs, made, rows, strict=True):
        if refused:
            raise KeyHeld(
                f"key {row.key!r} is held in queue {row.queue} by job {row.id}: {job.task} was not enqueued. Wait until "
                "that job has ended, cancel it, or choose another on_conflict"
            )
    found: dict[int, Job] = {}
    if ids := [row.id for row in made if not row.created]:
        found = {job.id: job for job in (yield by_ids(schema, ids))}
    return [
        _job(job, row, operations)
        if row.created
        else replace(found.get(row.id) or _forgotten(job, row), created=False, operations=operations)
        for job, row in zip(jobs, made, strict=True)
    ]


def _forgotten(job: NewJob, row: Enqueued) -> Job:
    # Its key is still used, and its history is gone: it has ended.
    return replace(_job(job, row._replace(available=True), None), state="completed")


def _skipping(
    schema: str,
    jobs: Sequence[NewJob],
    fallback_attempts: int,
    operations: JobOperations | None,
    declared: Declared | None,
) -> Operation[list[Job]]:
    made: list[Job | None] = [None] * len(jobs)
    pending = list(range(len(jobs)))
    for _ in range(ROUNDS):
        held: dict[int, tuple[str, str | None]] = {}
        # Keys, given or filled in by the server, are locked in one order by all, which only one statement can do.
        rows = yield _insert(schema, [jobs[i] for i in pending], fallback_attempts, declared)
        first = jobs[pending[0]]
        if not rows and first.key is None:
            # The server knows the key that is held.
            rows = yield insert(schema, [first], fallback_attempts, declared)
        if not rows:
            held[pending[0]] = str(first.queue), first.key
        for i, row in zip(pending, rows, strict=False):
            if row.created:
                made[i] = _job(jobs[i], row, operations)
            else:
                held[i] = (row.queue, row.key)
        if not held:
            return [job for job in made if job is not None]
        # A holder that ended meanwhile is not found: its key is free, so those go round again.
        holders = yield holding(schema, [str(key) for _, key in held.values()])
        found = {(job.queue, job.key): replace(job, operations=operations) for job in holders}
        for i, place in held.items():
            made[i] = found.get(place)
        pending = [i for i in held if made[i] is None]
        if not pending:
            return [job for job in made if job is not None]
    keys = ", ".join(repr(jobs[i].key) for i in pending[:3])
    raise PgQueueError(
        f"{len(pending)} jobs were not enqueued: their keys ({keys}, …) changed hands {ROUNDS} times; try again"
    )


def _insert(
    schema: str, jobs: Sequence[NewJob], fallback_attempts: int, declared: Declared | None
) -> Statement[Enqueued]:
    if len(jobs) == 1 and jobs[0].queue is not None and jobs[0].flow_id is None:
        return insert_one(schema, jobs[0], fallback_attempts, declared)
    return insert(schema, jobs, fallback_attempts, declared)


def insert_one(
    schema: str, job: NewJob, fallback_attempts: int, declared: Declared | None = None
) -> Statement[Enqueued]:
    """One job whose queue is known; no row when its key is held."""
    queue = str(job.queue)
    priority, attempts = (declared or {}).get(queue, (None, None))
    params = job._asdict() | {
        "fallback_priority": priority or 0,
        "fallback_attempts": attempts or fallback_attempts,
        "channel": schema,
    }
    return Statement(text("enqueue_one", schema), params, lambda row: Enqueued(row[0], True, queue, *row[1:8]))


def insert(
    schema: str, jobs: Sequence[NewJob], fallback_attempts: int, declared: Declared | None = None
) -> Statement[Enqueued]:
    """Any number of jobs, keys in one order."""
    params = {**_columns(jobs, fallback_attempts, declared), "channel": schema}
    return Statement(text("enqueue", schema), params, lambda row: Enqueued(*row[:10]))


def _columns(jobs: Sequence[NewJob], fallback_attempts: int, declared: Declared | None) -> dict[str, Any]:
    return {
        "queues": texts(job.queue for job in jobs),
        "tasks": texts(job.task for job in jobs),
        "args": texts(job.args for job in jobs),
        "priorities": [job.priority for job in jobs],
        "run_ats": [job.run_at for job in jobs],
        "delays": [job.delay for job in jobs],
        "max_attempts": [job.max_attempts for job in jobs],
        "keys": texts(job.key for job in jobs),
        "serial_keys": texts(job.serial_key for job in jobs),
        "options": texts(job.options for job in jobs),
        "headers": texts(job.headers for job in jobs),
        "tags": texts(job.tags for job in jobs),
        "flows": [job.flow_id for job in jobs],
        # None, not False: most wait for nobody.
        "waits": [job.waits or None for job in jobs],
        "fallback_attempts": fallback_attempts,
        **declared_rows(declared),
    }


def declared_rows(declared: Declared | None) -> dict[str, Any]:
    rows = declared or {}
    return {
        "declared": list(rows),
        "declared_priorities": [priority for priority, _ in rows.values()],
        "declared_attempts": [attempts for _, attempts in rows.values()],
    }


def holding(schema: str, keys: list[str]) -> Statement[Job]:
    """The live jobs that hold `keys`."""
    return Statement(
        inline(
            f"select id, queue, task, args::text, state, priority, attempt, max_attempts, {moment('run_at')}, created_at, unique_key, "
            "serial_key "
            "from {schema}.jobs where unique_key = any (%(keys)s)",
            schema,
        ),
        {"keys": keys},
        _holder,
    )


def _holder(row: tuple[Any, ...]) -> Job:
    id_, queue, task, args, state, priority, attempt, max_attempts, run_at, created_at, key, serial_key = row
    read = Reader()
    return Job(
        id_,
        queue,
        task,
        read.object("args", args),
        state,
        priority,
        attempt,
        max_attempts,
        run_at,
        created_at,
        key,
        serial_key,
        created=False,
        unreadable=read.unreadable,
    )


def _job(job: NewJob, row: Enqueued, operations: JobOperations | None) -> Job:
    return Job(
        id=row.id,
        queue=row.queue,
        task=job.task,
        args=arguments.loads(job.args),
        state="blocked" if job.waits else "available" if row.available else "scheduled",
        priority=row.priority,
        attempt=0,
        max_attempts=row.max_attempts,
        run_at=row.run_at,
        created_at=row.created_at,
        key=row.key or job.key,
        serial_key=row.serial_key,
        tags=tuple(arguments.loads(job.tags)) if job.tags else (),
        headers=arguments.loads(job.headers) if job.headers else {},
        operations=operations,
    )
