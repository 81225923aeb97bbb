"""Thousands of jobs by COPY, their ids and positions taken ahead.

In the binary format: what a job shares with others is packed once, and PostgreSQL parses neither times nor numbers.
Layout: "Binary Format" of COPY in PostgreSQL's manual; `send` functions of the types for the fields.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Any, overload

from pgqueue import arguments
from pgqueue.job import Job, JobOperations, NewJob
from pgqueue.queries.enqueuing import Declared, declared_rows, enqueue
from pgqueue.queries.statement import Copy, Operation, Statement, inline

COPY_FROM = 2_000
BLOCK = 500
BEGIN = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
END = struct.pack(">h", -1)
NULL = struct.pack(">i", -1)
EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
TEXT_OID = 25
JSONB_VERSION = 1
# Thirteen fields: the id and the position, eight bytes each, the length of the arguments and the version of jsonb.
_pack_due = struct.Struct(">hiqiqib").pack
_pack_later = struct.Struct(">hiqiib").pack
_ALL_BUT_ARGUMENTS = attrgetter(*(name for name in NewJob._fields if name not in ("args", "key", "serial_key")))


def can_copy(jobs: Sequence[NewJob]) -> bool:
    """COPY knows no conflicts, and does not look up the queue of a task that another process registered."""
    return len(jobs) >= COPY_FROM and all(
        job.key is None and job.serial_key is None and job.queue is not None and job.flow_id is None for job in jobs
    )


def copy(
    schema: str,
    jobs: Sequence[NewJob],
    fallback_attempts: int,
    operations: JobOperations | None = None,
    declared: Declared | None = None,
) -> Operation[Sequence[Job]]:
    """Insert `jobs` by COPY, ids and positions taken ahead, in one transaction that the caller holds.

    Where a task has keys that this process does not know of, they are inserted as by `enqueue`.
    """
    kinds: dict[Any, Form] = {}
    forms: list[Form] = []
    for place, job in enumerate(jobs):
        kind = _ALL_BUT_ARGUMENTS(job)
        form = kinds.get(kind)
        if form is None:
            form = kinds[kind] = Form(job, place)
        forms.append(form)
    lanes = {(form.job.task, str(form.job.queue)) for form in kinds.values()}
    rows = yield _defaults(schema, lanes, declared)
    if any(keyed for *_, keyed in rows):
        return (yield from enqueue(schema, jobs, fallback_attempts, operations, declared))
    [(now, ids, positions)] = yield _allocate(schema, len(jobs))
    defaults = {
        (task, queue): (priority or 0, attempts or fallback_attempts) for task, queue, priority, attempts, _ in rows
    }
    for form in kinds.values():
        form.resolve(*defaults[form.job.task, str(form.job.queue)], now)
    yield Copy(
        inline(
            "copy {schema}.jobs (id, position, args, run_at, created_at, max_attempts, priority, state, queue, task, options, headers, tags) "
            "from stdin (format binary)",
            schema,
        ),
        _blocks(jobs, forms, ids, positions),
    )
    yield _wake(schema, kinds.values(), positions)
    return Copied(jobs, forms, ids, operations)


class Form:
    """What many jobs of a bulk have in common: all but their arguments. `first` is the place of the first of them."""

    __slots__ = ("attempts", "due", "first", "headers", "job", "now", "priority", "rest", "run_at", "tags")

    def __init__(self, job: NewJob, first: int) -> None:
        self.job = job
        self.first = first
        self.tags: tuple[str, ...] = tuple(arguments.loads(job.tags)) if job.tags else ()

    def resolve(self, priority: int, attempts: int, now: datetime) -> None:
        """Decide what the jobs leave open, and the rest of their rows."""
        job = self.job
        self.now = now
        self.run_at = job.run_at or (now if job.delay is None else _later(now, job.delay))
        self.due = self.run_at <= now
        self.priority = priority if job.priority is None else job.priority
        self.attempts = job.max_attempts or attempts
        state = "available" if self.due else "scheduled"
        times = struct.pack(">iqiq", 8, _microseconds(self.run_at), 8, _microseconds(now))
        numbers = struct.pack(">iiih", 4, self.attempts, 2, self.priority)
        texts = b"".join(_sized(text.encode()) for text in (state, str(job.queue), job.task))
        self.rest = times + numbers + texts + _jsonb(job.options) + _jsonb(job.headers) + _array(self.tags)


class Copied(Sequence[Job]):
    """The jobs of a bulk, in order; each is made when it is looked at, since few of thousands are."""

    def __init__(
        self, jobs: Sequence[NewJob], forms: Sequence[Form], ids: Sequence[int], operations: JobOperations | None
    ) -> None:
        self._jobs = jobs
        self._forms = forms
        self._ids = ids
        self._operations = operations

    def __len__(self) -> int:
        return len(self._ids)

    def counts(self) -> Counter[tuple[str, str]]:
        """How many there are of each queue and task."""
        found: Counter[tuple[str, str]] = Counter()
        for form, count in Counter(self._forms).items():
            found[str(form.job.queue), form.job.task] += count
        return found

    @overload
    def __getitem__(self, place: int) -> Job: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[Job]: ...
    def __getitem__(self, place: int | slice) -> Job | Sequence[Job]:
        if isinstance(place, slice):
            return Copied(self._jobs[place], self._forms[place], self._ids[place], self._operations)
        job, form = self._jobs[place], self._forms[place]
        return Job(
            id=self._ids[place],
            queue=str(job.queue),
            task=job.task,
            args=arguments.loads(job.args),
            state="available" if form.due else "scheduled",
            priority=form.priority,
            attempt=0,
            max_attempts=form.attempts,
            run_at=form.run_at,
            created_at=form.now,
            tags=form.tags,
            headers=arguments.loads(job.headers) if job.headers else {},
            operations=self._operations,
        )

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, Sequence) else NotImplemented

    def __repr__(self) -> str:
        return f"<{len(self)} jobs>"


def _allocate(schema: str, count: int) -> Statement[Any]:
    # pg_current_xact_id() first: the transaction must have its id before it takes positions.
    return Statement(
        inline(
            "with entered as materialized (select pg_current_xact_id()) "
            "select clock_timestamp(), array_agg(nextval('{schema}.jobs_id_seq')), array_agg(nextval('{schema}.jobs_position')) "
            "from entered, generate_series(1, %(count)s)",
            schema,
        ),
        {"count": count},
    )


def _defaults(schema: str, lanes: set[tuple[str, str]], declared: Declared | None) -> Statement[Any]:
    """(task, queue, priority, attempts, whether its jobs have keys) of each pair, as the insert would choose."""
    return Statement(
        inline(
            "select g.task, g.queue, coalesce(t.priority, q.priority, d.priority), "
            "coalesce(t.max_attempts, q.max_attempts, d.max_attempts), num_nonnulls(t.unique_key, t.serial_key) > 0 "
            "from unnest(%(tasks)s::text[], %(queues)s::text[]) g (task, queue) "
            "left join {schema}.tasks t on t.name = g.task left join {schema}.queues q on q.name = g.queue "
            "left join unnest(%(declared)s::text[], %(declared_priorities)s::int[], %(declared_attempts)s::int[]) "
            "as d (name, priority, max_attempts) on d.name = g.queue",
            schema,
        ),
        {"tasks": [task for task, _ in lanes], "queues": [queue for _, queue in lanes], **declared_rows(declared)},
    )


def _later(now: datetime, delay: float) -> datetime:
    return datetime.fromtimestamp(now.timestamp() + delay, UTC)


def _blocks(
    jobs: Sequence[NewJob], forms: Sequence[Form], ids: Sequence[int], positions: Sequence[int]
) -> Iterator[bytes]:
    yield BEGIN
    for start in range(0, len(jobs), BLOCK):
        part = slice(start, start + BLOCK)
        texts = [job.args.encode() for job in jobs[part]]
        rows = zip(ids[part], positions[part], texts, forms[part], strict=True)
        yield b"".join(
            [
                (
                    _pack_due(13, 8, id_, 8, position, len(args) + 1, JSONB_VERSION)
                    if form.due
                    else _pack_later(13, 8, id_, -1, len(args) + 1, JSONB_VERSION)
                )
                + args
                + form.rest
                for id_, position, args, form in rows
            ]
        )
    yield END


def _microseconds(at: datetime) -> int:
    return (at - EPOCH) // timedelta(microseconds=1)


def _sized(data: bytes) -> bytes:
    return struct.pack(">i", len(data)) + data


def _jsonb(text: str | None) -> bytes:
    return NULL if text is None else _sized(bytes([JSONB_VERSION]) + text.encode())


def _array(tags: Sequence[str]) -> bytes:
    if not tags:
        return NULL
    one_dimension_from_one = struct.pack(">iiiii", 1, 0, TEXT_OID, len(tags), 1)
    return _sized(one_dimension_from_one + b"".join(_sized(tag.encode()) for tag in tags))


def _wake(schema: str, forms: Iterable[Form], positions: Sequence[int]) -> Statement[Any]:
    first: dict[tuple[str, int | None], int | None] = {}
    for form in forms:
        lane = str(form.job.queue), form.priority if form.due else None
        first.setdefault(lane, positions[form.first] if form.due else None)
    return Statement(
        inline(
            "select pg_notify(%(channel)s, case when position is null then format('scheduled %%s', queue) "
            "else format('available %%s %%s %%s', queue, priority, position) end) "
            "from unnest(%(queues)s::text[], %(priorities)s::int[], %(positions)s::bigint[]) l (queue, priority, position) "
            "where exists (select from {schema}.idle_workers w where w.queue = l.queue)",
            schema,
        ),
        {
            "channel": schema,
            "queues": [queue for queue, _ in first],
            "priorities": [priority for _, priority in first],
            "positions": list(first.values()),
        },
    )
