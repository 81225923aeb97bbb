"""Reading jobs of every state, and operating on them by id or key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, get_args

from psycopg import sql

from pgqueue.errors import ArgumentError, JobNotFound
from pgqueue.job import Job, JobState, checked_id, checked_ids
from pgqueue.queries.reading import Reader, moment
from pgqueue.queries.statement import Operation, Statement, array, inline, text

STATES = get_args(JobState)
WAITING = ("available", "scheduled", "blocked")
COLUMNS = (
    f"id, queue, task, args::text, state, priority, attempt, max_attempts, {moment('run_at')}, created_at, unique_key, serial_key, tags, "
    "headers::text, errors::text, result::text, reason, started_at, ended_at"
)


@dataclass(frozen=True, slots=True)
class JobFilter:
    """Which jobs: every given condition must hold. `before` is an id: pages go down from the newest.

    Raises ArgumentError for a state that there is not, and for what is no id.
    """

    queue: str | None = None
    task: str | Sequence[str] | None = None
    state: str | None = None
    key: str | None = None
    tag: str | None = None
    ids: tuple[int, ...] | None = None
    before: int | None = None

    def __post_init__(self) -> None:
        if self.state is not None and self.state not in STATES:
            raise ArgumentError(f"there is no state {self.state!r}: use one of {', '.join(STATES)}")
        if self.before is not None:
            checked_id(self.before)
        if self.ids is not None:
            checked_ids(self.ids)

    def conditions(self) -> tuple[sql.Composable, dict[str, Any]]:
        tests = {
            "queue": "queue = %(queue)s",
            "task": "task = %(task)s" if self.task is None or isinstance(self.task, str) else "task = any (%(task)s)",
            "state": "state = %(state)s",
            "key": "unique_key = %(key)s",
            "tag": "tags @> array[%(tag)s]",
            "ids": "id = any (%(ids)s)",
            "before": "id < %(before)s",
        }
        params: dict[str, Any] = {name: getattr(self, name) for name in tests if getattr(self, name) is not None}
        if self.ids is not None:
            params["ids"] = list(self.ids)
        return sql.SQL(" and ").join([sql.SQL("true"), *(sql.SQL(tests[name]) for name in params)]), params


@dataclass(frozen=True, slots=True)
class QueueStats:
    """A row of the view `queue_stats`. `due` jobs are scheduled, and their time has come: no worker was there yet."""

    queue: str
    paused: bool
    available: int
    running: int
    scheduled: int
    due: int
    retrying: int
    blocked: int
    failed: int
    completed_last_hour: int
    oldest_waiting: timedelta | None
    workers: int
    slots: int


def job(schema: str, job_id: int) -> Statement[Job]:
    return Statement(
        inline(f"select {COLUMNS} from {{schema}}.all_jobs where id = %(id)s", schema), {"id": job_id}, as_job
    )


def by_ids(schema: str, ids: Sequence[int]) -> Statement[Job]:
    """Those that there are, live or ended."""
    return Statement(
        inline(f"select {COLUMNS} from {{schema}}.all_jobs where id = any (%(ids)s::bigint[])", schema),
        {"ids": array(ids)},
        as_job,
    )


def live_by_key(schema: str, key: str, queue: str | None) -> Statement[Job]:
    """The live job that holds `key`: in every queue when `queue` is None."""
    return Statement(
        inline(
            f"select {COLUMNS} from {{schema}}.all_jobs where state in ('scheduled', 'available', 'running', 'blocked') "
            "and unique_key = %(key)s and (%(queue)s::text is null or queue = %(queue)s) order by id",
            schema,
        ),
        {"key": key, "queue": queue},
        as_job,
    )


def list_jobs(schema: str, which: JobFilter, limit: int) -> Statement[Job]:
    """Newest first."""
    where, params = which.conditions()
    query = sql.SQL("select {columns} from {table} where {where} order by id desc limit %(limit)s").format(
        columns=sql.SQL(COLUMNS), table=sql.Identifier(schema, "all_jobs"), where=where
    )
    return Statement(query.as_string(), {**params, "limit": limit}, as_job)


def count_jobs(schema: str, which: JobFilter) -> Statement[Any]:
    where, params = which.conditions()
    query = sql.SQL("select count(*) from {table} where {where}").format(
        table=sql.Identifier(schema, "all_jobs"), where=where
    )
    return Statement(query.as_string(), params)


def ids_of(schema: str, which: JobFilter, limit: int) -> Statement[int]:
    """Ids, oldest first: what a bulk verb works through."""
    where, params = which.conditions()
    query = sql.SQL("select id from {table} where {where} order by id limit %(limit)s").format(
        table=sql.Identifier(schema, "all_jobs"), where=where
    )
    return Statement(query.as_string(), {**params, "limit": limit}, lambda row: row[0])


def cancel(schema: str, ids: Sequence[int], why: str) -> Statement[Any]:
    """(id, state it was in) of the jobs that were live."""
    return Statement(
        inline("select * from {schema}.cancel(%(ids)s::bigint[], %(why)s)", schema), {"ids": list(ids), "why": why}
    )


def cancel_key(schema: str, key: str, queue: str | None, why: str) -> Operation[list[tuple[int, str]]]:
    jobs: list[Job] = yield live_by_key(schema, key, queue)
    if not jobs:
        return []
    cancelled: list[tuple[int, str]] = yield cancel(schema, [one.id for one in jobs], why)
    return cancelled


def reschedule(schema: str, ids: Sequence[int], run_at: datetime | str | None, delay: float) -> Statement[Any]:
    """Move waiting jobs to another time; running ones are left alone. Rows: the ids that moved.

    A text is a time as PostgreSQL writes it, which may be one that Python does not know.
    """
    return _rescheduled(schema, ids, WAITING, run_at, delay)


def promote(schema: str, ids: Sequence[int]) -> Statement[Any]:
    """Let scheduled jobs run now; for others the time is not what they wait for. Rows: the ids that were scheduled."""
    return _rescheduled(schema, ids, ("scheduled",), None, 0.0)


def _rescheduled(
    schema: str, ids: Sequence[int], states: Sequence[str], run_at: datetime | str | None, delay: float
) -> Statement[Any]:
    params = {"ids": array(ids), "states": list(states), "run_at": run_at, "delay": delay, "channel": schema}
    return Statement(text("reschedule", schema), params)


def queue_stats(schema: str) -> Statement[QueueStats]:
    return Statement(
        inline(
            "select queue, paused, available, running, scheduled, due, retrying, blocked, failed, completed_last_hour, "
            "oldest_waiting, workers, slots from {schema}.queue_stats",
            schema,
        ),
        {},
        lambda row: QueueStats(*row),
    )


def list_tasks(schema: str) -> Statement[Any]:
    """(name, queue, priority, max_attempts, timeout, last_seen_at, live jobs, alias of) of tasks; queue None: never registered."""
    return Statement(
        inline(
            "with waiting as (select task, count(*) as jobs from {schema}.jobs group by task) "
            "select coalesce(t.name, w.task), t.queue, t.priority, t.max_attempts, t.timeout, "
            "greatest(t.last_seen_at, (select max(heartbeat_at) from {schema}.workers o where t.name = any (o.tasks) "
            "and o.expires_at > clock_timestamp())), coalesce(w.jobs, 0), t.alias_of "
            "from {schema}.tasks t full join waiting w on w.task = t.name order by 1",
            schema,
        )
    )


def ended_tasks(schema: str, name: str) -> Statement[str]:
    """Tasks of ended jobs that have this name, or end with it after a dot."""
    which = "where task = %(name)s or right(task, length(%(name)s) + 1) = '.' || %(name)s"
    return Statement(
        inline(
            f"select task from {{schema}}.failed_jobs {which} union select task from {{schema}}.completed_jobs {which}",
            schema,
        ),
        {"name": name},
        lambda row: row[0],
    )


def own_name(schema: str, task: str) -> Statement[str]:
    """The name of the task that has this name or alias; the same where nobody has registered it."""
    return Statement(
        inline(
            "select coalesce((select alias_of from {schema}.tasks where name = %(task)s), %(task)s)",
            schema,
        ),
        {"task": task},
        lambda row: row[0],
    )


def revision(schema: str) -> Statement[str]:
    return Statement(inline("select version_num from {schema}.schema_version", schema), {}, lambda row: row[0])


def found(rows: list[Job], what: str) -> Job:
    if not rows:
        raise JobNotFound(
            f"no job {what}: it never was, its transaction has not committed yet, or its history has been pruned"
        )
    return rows[0]


def as_job(row: tuple[Any, ...]) -> Job:
    """A row as a job. What cannot be read of it is empty, and said in `unreadable`."""
    (
        id_,
        queue,
        task,
        args,
        state,
        priority,
        attempt,
        max_attempts,
        run_at,
        created_at,
        key,
        serial_key,
        tags,
        headers,
        errors,
        value,
        reason,
        *times,
    ) = row
    read = Reader()
    return Job(
        id=id_,
        queue=queue,
        task=task,
        args=read.object("args", args),
        state=state,
        priority=priority,
        attempt=attempt,
        max_attempts=max_attempts,
        run_at=run_at,
        created_at=created_at,
        key=key,
        serial_key=serial_key,
        tags=tuple(tags or ()),
        headers=read.object("headers", headers),
        errors=read.objects("errors", errors),
        value=read.value("result", value),
        reason=reason,
        started_at=times[0],
        ended_at=times[1],
        # Last of those that read: arguments are evaluated in their order.
        unreadable=read.unreadable,
    )
