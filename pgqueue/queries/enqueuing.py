"""The one place that knows how to insert a job: one or many by `unnest`, thousands by COPY."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

from pgqueue import arguments
from pgqueue.errors import PgQueueError
from pgqueue.job import Job, JobOperations, NewJob
from pgqueue.queries.statement import Copy, Operation, Statement, inline, text

CHUNK = 1_000
COPY_FROM = 2_000
STATEMENT = 50_000
ROUNDS = 100

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


def enqueue(
    schema: str,
    jobs: Sequence[NewJob],
    fallback_attempts: int,
    operations: JobOperations | None = None,
    declared: Declared | None = None,
) -> Operation[list[Job]]:
    """Insert `jobs`; where a live job holds a key, that job is returned in place of the new one, `created` False."""
    made: list[Job | None] = [None] * len(jobs)
    pending = list(range(len(jobs)))
    for _ in range(ROUNDS):
        held: dict[int, tuple[str, str | None]] = {}
        # Keys, given or filled in by the server, are locked in one order by all, which only one statement can do.
        size = len(pending) if any(jobs[i].key is not None for i in pending) else STATEMENT
        for start in range(0, len(pending), size):
            places = pending[start : start + size]
            rows = yield insert(schema, [jobs[i] for i in places], fallback_attempts, declared)
            for i, row in zip(places, rows, strict=True):
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


def insert(
    schema: str, jobs: Sequence[NewJob], fallback_attempts: int, declared: Declared | None = None
) -> Statement[Enqueued]:
    params: dict[str, Any] = {
        "queues": [job.queue for job in jobs],
        "tasks": [job.task for job in jobs],
        "args": [job.args for job in jobs],
        "priorities": [job.priority for job in jobs],
        "run_ats": [job.run_at for job in jobs],
        "delays": [job.delay for job in jobs],
        "max_attempts": [job.max_attempts for job in jobs],
        "keys": [job.key for job in jobs],
        "options": [job.options for job in jobs],
        "headers": [job.headers for job in jobs],
        "tags": [job.tags for job in jobs],
        "fallback_attempts": fallback_attempts,
        "channel": schema,
        **_declared(declared),
    }
    return Statement(text("enqueue", schema), params, lambda row: Enqueued(*row[:9]))


def _declared(declared: Declared | None) -> dict[str, Any]:
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
            "select id, queue, task, args::text, state, priority, attempt, max_attempts, run_at, created_at, unique_key "
            "from {schema}.jobs where unique_key = any (%(keys)s)",
            schema,
        ),
        {"keys": keys},
        _holder,
    )


def _holder(row: tuple[Any, ...]) -> Job:
    id_, queue, task, args, state, priority, attempt, max_attempts, run_at, created_at, key = row
    return Job(
        id_,
        queue,
        task,
        arguments.loads(args),
        state,
        priority,
        attempt,
        max_attempts,
        run_at,
        created_at,
        key,
        created=False,
    )


def can_copy(jobs: Sequence[NewJob]) -> bool:
    """COPY knows no conflicts, and does not look up the queue of a task that another process registered."""
    return len(jobs) >= COPY_FROM and all(job.key is None and job.queue is not None for job in jobs)


def copy(
    schema: str,
    jobs: Sequence[NewJob],
    fallback_attempts: int,
    operations: JobOperations | None = None,
    declared: Declared | None = None,
) -> Operation[list[Job]]:
    """Insert `jobs` by COPY, ids and positions taken ahead, in one transaction that the caller holds.

    Where a task has unique keys that this process does not know of, they are inserted as by `enqueue`.
    """
    rows = yield _defaults(schema, {(job.task, str(job.queue)) for job in jobs}, declared)
    if any(template is not None for *_, template in rows):
        return (yield from enqueue(schema, jobs, fallback_attempts, operations, declared))
    defaults = {(task, queue): (priority, attempts) for task, queue, priority, attempts, _ in rows}
    [(now, ids, positions)] = yield _allocate(schema, len(jobs))
    resolved = [_resolved(job, defaults[job.task, str(job.queue)], fallback_attempts, now) for job in jobs]
    yield Copy(
        inline(
            "copy {schema}.jobs (id, position, run_at, created_at, max_attempts, priority, state, queue, task, args, options, headers, tags) "
            "from stdin",
            schema,
        ),
        _lines(resolved, ids, positions, now),
    )
    yield _wake(schema, resolved, positions, now)
    return [
        _job(
            job,
            Enqueued(
                id_,
                True,
                str(job.queue),
                job.priority or 0,
                job.max_attempts or 1,
                job.run_at or now,
                now,
                (job.run_at or now) <= now,
                None,
            ),
            operations,
        )
        for job, id_ in zip(resolved, ids, strict=True)
    ]


def _allocate(schema: str, count: int) -> Statement[Any]:
    # pg_current_xact_id() first: the transaction must have its id before it takes positions.
    return Statement(
        inline(
            "with entered as materialized (select pg_current_xact_id()) "
            "select clock_timestamp(), array_agg(nextval(pg_get_serial_sequence('{schema}.jobs', 'id'))), "
            "array_agg(nextval('{schema}.jobs_position')) from entered, generate_series(1, %(count)s)",
            schema,
        ),
        {"count": count},
    )


def _defaults(schema: str, lanes: set[tuple[str, str]], declared: Declared | None) -> Statement[Any]:
    """(task, queue, priority, attempts, template of the unique key) of each pair, as the insert would choose."""
    return Statement(
        inline(
            "select g.task, g.queue, coalesce(t.priority, q.priority, d.priority), "
            "coalesce(t.max_attempts, q.max_attempts, d.max_attempts), t.unique_key "
            "from unnest(%(tasks)s::text[], %(queues)s::text[]) g (task, queue) "
            "left join {schema}.tasks t on t.name = g.task left join {schema}.queues q on q.name = g.queue "
            "left join unnest(%(declared)s::text[], %(declared_priorities)s::int[], %(declared_attempts)s::int[]) "
            "as d (name, priority, max_attempts) on d.name = g.queue",
            schema,
        ),
        {"tasks": [task for task, _ in lanes], "queues": [queue for _, queue in lanes], **_declared(declared)},
    )


def _resolved(job: NewJob, defaults: tuple[Any, ...], fallback_attempts: int, now: datetime) -> NewJob:
    priority, attempts = defaults
    run_at = job.run_at or (now if job.delay is None else _later(now, job.delay))
    return replace(
        job,
        run_at=run_at,
        delay=None,
        priority=job.priority if job.priority is not None else priority or 0,
        max_attempts=job.max_attempts or attempts or fallback_attempts,
    )


def _later(now: datetime, delay: float) -> datetime:
    return datetime.fromtimestamp(now.timestamp() + delay, UTC)


def _lines(jobs: Sequence[NewJob], ids: Sequence[int], positions: Sequence[int], now: datetime) -> Iterator[str]:
    lines: list[str] = []
    for job, id_, position in zip(jobs, ids, positions, strict=True):
        due = job.run_at is None or job.run_at <= now
        tags = "\\N" if job.tags is None else _escaped(_array(arguments.loads(job.tags)))
        lines.append(
            f"{id_}\t{position if due else chr(92) + 'N'}\t{job.run_at}\t{now}\t{job.max_attempts}\t{job.priority}\t"
            f"{'available' if due else 'scheduled'}\t{job.queue}\t{job.task}\t{_escaped(job.args)}\t{_escaped(job.options)}\t"
            f"{_escaped(job.headers)}\t{tags}\n"
        )
        if len(lines) == CHUNK:
            yield "".join(lines)
            lines.clear()
    if lines:
        yield "".join(lines)


def _escaped(json: str | None) -> str:
    return (
        "\\N"
        if json is None
        else json.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")
    )


def _array(tags: list[str]) -> str:
    quoted = ('"' + tag.replace("\\", "\\\\").replace('"', '\\"') + '"' for tag in tags)
    return "{" + ",".join(quoted) + "}"


def _wake(schema: str, jobs: Sequence[NewJob], positions: Sequence[int], now: datetime) -> Statement[Any]:
    first: dict[tuple[str, int | None], int | None] = {}
    for job, position in zip(jobs, positions, strict=True):
        if job.run_at is None or job.run_at <= now:
            first.setdefault((str(job.queue), job.priority or 0), position)
        else:
            first.setdefault((str(job.queue), None), None)
    return Statement(
        inline(
            "select pg_notify(%(channel)s, case when position is null then format('scheduled %%s', queue) "
            "else format('available %%s %%s %%s', queue, priority, position) end) "
            "from unnest(%(queues)s::text[], %(priorities)s::int[], %(positions)s::bigint[]) l (queue, priority, position) "
            "where exists (select from {schema}.workers w where w.idle_queues @> array[l.queue] and w.expires_at > clock_timestamp())",
            schema,
        ),
        {
            "channel": schema,
            "queues": [queue for queue, _ in first],
            "priorities": [priority for _, priority in first],
            "positions": list(first.values()),
        },
    )


def _job(job: NewJob, row: Enqueued, operations: JobOperations | None) -> Job:
    return Job(
        id=row.id,
        queue=row.queue,
        task=job.task,
        args=arguments.loads(job.args),
        state="available" if row.available else "scheduled",
        priority=row.priority,
        attempt=0,
        max_attempts=row.max_attempts,
        run_at=row.run_at,
        created_at=row.created_at,
        key=row.key or job.key,
        tags=tuple(arguments.loads(job.tags)) if job.tags else (),
        headers=arguments.loads(job.headers) if job.headers else {},
        operations=operations,
    )
