"""Workers, and what they registered."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from pgqueue.breaker import Breaker
from pgqueue.errors import ArgumentError, WorkerNotFound
from pgqueue.limit import Limit
from pgqueue.queries.statement import Operation, Statement, inline, text
from pgqueue.retention import Retention

ANY = Retention()
NAMED = 10
Leaving = Literal["draining", "stopping"]
KEPT = ("keep_completed", "keep_failed")
KEEPS = (
    "%(completed_ages)s::interval[], %(completed_counts)s::int[], %(failed_ages)s::interval[], %(failed_counts)s::int[]"
)


@dataclass(frozen=True, slots=True)
class TaskRow:
    """A task as the table `tasks` knows it."""

    name: str
    queue: str
    priority: int | None
    max_attempts: int | None
    timeout: float | None
    unique_key: str | None
    serial_key: str | None = None
    on_conflict: str | None = None
    keep_key: timedelta | None = None
    on_failed: str | None = None
    keep_completed: Retention | None = None
    keep_failed: Retention | None = None
    alias_of: str | None = None
    halt_on_failed: bool = False


@dataclass(frozen=True, slots=True)
class QueueRow:
    """A queue's defaults as the code declares them; None leaves what the table has."""

    name: str
    priority: int | None = None
    max_attempts: int | None = None
    timeout: float | None = None
    lifo: bool | None = None
    keep_completed: Retention | None = None
    limits: tuple[Limit, ...] = ()
    breaker: Breaker | None = None
    ageing: timedelta | None = None
    ageing_floor: int | None = None
    on_failed: str | None = None
    keep_failed: Retention | None = None


@dataclass(frozen=True, slots=True)
class AppDefaults:
    """What an app says for all of its tasks, where neither they nor their queues do."""

    on_failed: str | None = None
    keep_completed: Retention | None = None
    keep_failed: Retention | None = None
    timeout: float | None = None

    def dump(self) -> str | None:
        """As `tasks.app_defaults` keeps it: ages in seconds."""
        said: dict[str, Any] = {"on_failed": self.on_failed, "timeout": self.timeout}
        for name, keep in (("keep_completed", self.keep_completed), ("keep_failed", self.keep_failed)):
            if keep is not None:
                said[name] = None if keep.age is None else keep.age.total_seconds()
                said[f"{name}_count"] = keep.count
        known = {name: value for name, value in said.items() if value is not None}
        return json.dumps(known) if known else None


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """A row of `workers`."""

    id: UUID
    name: str
    host: str
    pid: int
    state: str
    version: str
    queues: Mapping[str, int]
    tasks: tuple[str, ...]
    started_at: datetime
    heartbeat_at: datetime
    expires_at: datetime
    alive: bool
    running: int


def register_worker(
    schema: str,
    *,
    worker: UUID,
    name: str,
    host: str,
    pid: int,
    version: str,
    queues: Mapping[str, int],
    tasks: list[str],
    lease: float,
) -> Statement[Any]:
    """Also again, when nobody can tell whether the first time was heard."""
    return Statement(
        inline(
            "insert into {schema}.workers as w (id, name, host, pid, version, queues, tasks, expires_at) values (%(worker)s, %(name)s, "
            "%(host)s, %(pid)s, %(version)s, %(queues)s::jsonb, %(tasks)s, clock_timestamp() + make_interval(secs => %(lease)s)) "
            "on conflict (id) do update set heartbeat_at = clock_timestamp(), expires_at = excluded.expires_at returning id",
            schema,
        ),
        {
            "worker": worker,
            "name": name,
            "host": host,
            "pid": pid,
            "version": version,
            "queues": json.dumps(dict(queues)),
            "tasks": tasks,
            "lease": lease,
        },
    )


def register_tasks(schema: str, tasks: Iterable[TaskRow], defaults: AppDefaults | None = None) -> Statement[Any]:
    """What the code declares takes the place of what was there."""
    rows = sorted(tasks, key=lambda task: task.name)
    return Statement(
        inline(
            "insert into {schema}.tasks (name, queue, priority, max_attempts, timeout, unique_key, serial_key, on_conflict, keep_key, on_failed, "
            "keep_completed, keep_completed_count, keep_failed, keep_failed_count, alias_of, halt_on_failed, app_defaults) "
            "select g.*, %(defaults)s::jsonb from unnest(%(names)s::text[], %(queues)s::text[], %(priorities)s::smallint[], %(attempts)s::int[], "
            "%(timeouts)s::float8[], %(keys)s::text[], %(serial_keys)s::text[], "
            "%(conflicts)s::text[], %(keeps)s::interval[], %(hooks)s::text[], "
            f"{KEEPS}, %(aliases)s::text[], %(halts)s::bool[]) g "
            "on conflict (name) do update set queue = excluded.queue, priority = excluded.priority, "
            "max_attempts = excluded.max_attempts, timeout = excluded.timeout, unique_key = excluded.unique_key, "
            "serial_key = excluded.serial_key, on_conflict = excluded.on_conflict, keep_key = excluded.keep_key, "
            "on_failed = excluded.on_failed, keep_completed = excluded.keep_completed, keep_completed_count = excluded.keep_completed_count, "
            "keep_failed = excluded.keep_failed, keep_failed_count = excluded.keep_failed_count, app_defaults = excluded.app_defaults, "
            "alias_of = excluded.alias_of, halt_on_failed = excluded.halt_on_failed, last_seen_at = clock_timestamp() returning name",
            schema,
        ),
        {
            "names": [task.name for task in rows],
            "queues": [task.queue for task in rows],
            "priorities": [task.priority for task in rows],
            "attempts": [task.max_attempts for task in rows],
            "timeouts": [task.timeout for task in rows],
            "keys": [task.unique_key for task in rows],
            "serial_keys": [task.serial_key for task in rows],
            "conflicts": [task.on_conflict for task in rows],
            "keeps": [task.keep_key for task in rows],
            "hooks": [task.on_failed for task in rows],
            "aliases": [task.alias_of for task in rows],
            "halts": [task.halt_on_failed for task in rows],
            **_keeps(rows),
            "defaults": None if defaults is None else defaults.dump(),
        },
    )


def register_queues(schema: str, queues: Iterable[QueueRow]) -> Statement[Any]:
    """What the code declares replaces what was there; what it leaves open, and `paused`, stay."""
    rows = sorted(queues, key=lambda queue: queue.name)
    return Statement(
        inline(
            "insert into {schema}.queues as q (name, priority, max_attempts, timeout, lifo, ageing, ageing_floor, on_failed, "
            "keep_completed, keep_completed_count, keep_failed, keep_failed_count) "
            "select n, p, a, t, coalesce(l, false), e, f, h, kc, kcc, kf, kfc from unnest(%(names)s::text[], %(priorities)s::smallint[], "
            "%(attempts)s::int[], %(timeouts)s::float8[], %(lifos)s::bool[], %(ageing)s::interval[], %(floors)s::smallint[], "
            f"%(hooks)s::text[], {KEEPS}) g (n, p, a, t, l, e, f, h, kc, kcc, kf, kfc) "
            "on conflict (name) do update set priority = coalesce(excluded.priority, q.priority), "
            "max_attempts = coalesce(excluded.max_attempts, q.max_attempts), timeout = coalesce(excluded.timeout, q.timeout), "
            "lifo = case when excluded.name = any (%(declared)s) then excluded.lifo else q.lifo end, "
            f"{', '.join(_kept(option) for option in KEPT)}, ageing = coalesce(excluded.ageing, q.ageing), "
            "ageing_floor = case when excluded.ageing is null then q.ageing_floor else excluded.ageing_floor end, "
            "on_failed = coalesce(excluded.on_failed, q.on_failed), updated_at = clock_timestamp() returning name",
            schema,
        ),
        {
            "names": [queue.name for queue in rows],
            "priorities": [queue.priority for queue in rows],
            "attempts": [queue.max_attempts for queue in rows],
            "timeouts": [queue.timeout for queue in rows],
            "lifos": [queue.lifo for queue in rows],
            "ageing": [queue.ageing for queue in rows],
            "floors": [queue.ageing_floor for queue in rows],
            "hooks": [queue.on_failed for queue in rows],
            **_keeps(rows),
            "declared": [queue.name for queue in rows if queue.lifo is not None],
        },
    )


def _keeps(rows: Iterable[TaskRow | QueueRow]) -> dict[str, Any]:
    """What KEEPS takes."""
    completed, failed = zip(*[(row.keep_completed or ANY, row.keep_failed or ANY) for row in rows], strict=True)
    return {
        "completed_ages": [keep.age for keep in completed],
        "completed_counts": [keep.count for keep in completed],
        "failed_ages": [keep.age for keep in failed],
        "failed_counts": [keep.count for keep in failed],
    }


def _kept(option: str) -> str:
    said = f"num_nonnulls(excluded.{option}, excluded.{option}_count) > 0"
    return ", ".join(
        f"{column} = case when {said} then excluded.{column} else q.{column} end"
        for column in (option, f"{option}_count")
    )


def queue_settings(schema: str) -> Statement[Any]:
    """(name, paused, lifo, timeout, whether history is kept or None where it does not say, ageing, ageing_floor).

    Of every queue that has a row.
    """
    return Statement(
        inline(
            "select name, paused, lifo, timeout, case when num_nonnulls(keep_completed, keep_completed_count) > 0 "
            "then coalesce(keep_completed > interval '0', true) end, ageing, ageing_floor from {schema}.queues",
            schema,
        )
    )


def queue_names(schema: str) -> Statement[str]:
    """Every queue that has settings, a task, or a live job: what a glob is matched against."""
    return Statement(
        inline(
            # From name to name, those with a kept mark included: the first row of such a queue may lie behind many dead ones.
            "with recursive found (queue) as (select '' union all select case when next.queue is null "
            "then (select j.queue from {schema}.jobs j where j.position is not null and j.queue > found.queue order by j.queue limit 1) "
            "else coalesce((select j.queue from {schema}.jobs j where j.position is not null and j.queue > found.queue "
            "and j.queue < next.queue order by j.queue limit 1), next.queue) end "
            "from found left join lateral (select k.queue from {schema}.lanes k where k.queue > found.queue "
            "order by k.queue limit 1) next on true where found.queue is not null) "
            "select name from {schema}.queues union select queue from {schema}.tasks union select f.queue from found f "
            # A limit keeps the planner from joining whole indexes.
            "where f.queue <> '' and exists (select from {schema}.lanes_of(f.queue) l cross join lateral ("
            "select from {schema}.jobs j where j.queue = f.queue and j.priority = l.priority and j.position > l.mark "
            "and j.position is not null limit 1) w) "
            # What limits block, and what they have let go.
            "union select of from {schema}.gates where scope in ('queue', 'serial') and waiting > 0 "
            "union select queue from {schema}.jobs where ready is not null order by 1",
            schema,
        ),
        {},
        lambda row: row[0],
    )


def unknown_tasks(schema: str, queue: str, sample: int = 1000) -> Statement[str]:
    """Tasks of the jobs next in line in a queue, and next due, that no running worker has. Looks at `sample` of each."""
    return Statement(
        inline(
            "select distinct task from ("
            "(select j.task from {schema}.lanes_of(%(queue)s) l cross join lateral ("
            "select task from {schema}.jobs j where j.queue = %(queue)s and j.priority = l.priority and j.position > l.mark "
            "and j.position is not null order by j.position limit %(sample)s) j limit %(sample)s) "
            "union all "
            "(select task from {schema}.jobs where queue = %(queue)s and position is null and ready is null and waits_for is null order by run_at limit %(sample)s)) waiting "
            "where not exists (select from {schema}.workers w where task = any (w.tasks) and w.expires_at > clock_timestamp()) "
            "order by task",
            schema,
        ),
        {"queue": queue, "sample": sample},
        lambda row: row[0],
    )


def heartbeat(schema: str, worker: UUID, lease: float) -> Statement[Any]:
    return Statement(text("heartbeat", schema), {"worker": worker, "lease": lease})


def mark_idle(schema: str, worker: UUID, queue: str) -> Statement[Any]:
    """Record that the worker waits for jobs of `queue`; not for a worker that has no row any more."""
    return Statement(text("mark_idle", schema), {"worker": worker, "queue": queue})


def mark_busy(schema: str, worker: UUID, queue: str) -> Statement[Any]:
    return Statement(text("mark_busy", schema), {"worker": worker, "queue": queue})


def record_queues(schema: str, worker: UUID, queues: Mapping[str, int]) -> Statement[Any]:
    """What a worker serves, where that has changed since it registered."""
    return Statement(
        inline("update {schema}.workers set queues = %(queues)s::jsonb where id = %(worker)s returning id", schema),
        {"worker": worker, "queues": json.dumps(dict(queues))},
    )


def ask_named(schema: str, worker: str | UUID, state: Leaving) -> Operation[tuple[WorkerInfo, bool]]:
    """Ask the live worker of this name or id; that worker, and False where it does that already, or stops.

    Raises WorkerNotFound, and ArgumentError where several have the name.
    """
    workers: list[WorkerInfo] = yield list_workers(schema)
    alive = [one for one in workers if one.alive]
    found = [one for one in alive if str(worker) in (one.name, str(one.id))]
    if not found:
        names = ", ".join(sorted(one.name for one in alive)[:NAMED]) + (", …" if len(alive) > NAMED else "")
        raise WorkerNotFound(
            f"no live worker has the name or id {worker}: " + (f"there are {names}" if alive else "none is alive")
        )
    if len(found) > 1:
        which = ", ".join(f"{one.id} (process {one.pid} on {one.host})" for one in found[:NAMED])
        raise ArgumentError(f"{len(found)} workers are called {worker}: give the id of one: {which}")
    asked = yield ask(schema, found[0].id, state)
    return found[0], bool(asked)


def ask(schema: str, worker: UUID, state: Leaving) -> Statement[UUID]:
    """Ask a live worker to drain or to stop, and tell it; its id, unless it does that already, or stops."""
    return Statement(
        inline(
            "with asked as (update {schema}.workers set state = %(state)s where id = %(worker)s "
            "and state not in (%(state)s, 'stopping') and expires_at > clock_timestamp() returning id), "
            "told as (select pg_notify(%(channel)s, format('asked %%s', id)) from asked) "
            "select asked.id from asked cross join (select count(*) from told) t",
            schema,
        ),
        {"worker": worker, "state": state, "channel": schema},
        lambda row: row[0],
    )


def asked_of(schema: str, worker: UUID) -> Statement[str]:
    """The state that its row says."""
    return Statement(
        inline("select state from {schema}.workers where id = %(worker)s", schema),
        {"worker": worker},
        lambda row: row[0],
    )


def mark_leaving(schema: str, worker: UUID, state: Leaving) -> Statement[Any]:
    """It claims no more: nobody need tell it of jobs."""
    return Statement(
        inline(
            "with busy as (delete from {schema}.idle_workers where worker_id = %(worker)s) "
            "update {schema}.workers set state = %(state)s where id = %(worker)s and state <> 'stopping' returning id",
            schema,
        ),
        {"worker": worker, "state": state},
    )


def unregister_worker(schema: str, worker: UUID) -> Statement[Any]:
    """The row goes only when no claim is left: else the rescue needs the time of its lease."""
    return Statement(
        inline(
            "with gone as (delete from {schema}.workers where id = %(worker)s "
            "and not exists (select from {schema}.claims where worker_id = %(worker)s) returning id), "
            "idle as (delete from {schema}.idle_workers where worker_id = %(worker)s) "
            "select id from gone",
            schema,
        ),
        {"worker": worker},
    )


def list_workers(schema: str) -> Statement[WorkerInfo]:
    return Statement(
        inline(
            "select w.id, w.name, w.host, w.pid, w.state, w.version, w.queues::text, w.tasks, w.started_at, w.heartbeat_at, "
            "w.expires_at, w.expires_at > clock_timestamp(), (select count(*) from {schema}.claims c cross join lateral "
            "(select from {schema}.jobs where id = any (c.job_ids) and claim_id = c.id offset 0) j where c.worker_id = w.id) "
            "from {schema}.workers w order by w.started_at",
            schema,
        ),
        {},
        _worker,
    )


def _worker(row: tuple[Any, ...]) -> WorkerInfo:
    id_, name, host, pid, state, version, queues, tasks, started_at, heartbeat_at, expires_at, alive, running = row
    return WorkerInfo(
        id_,
        name,
        host,
        pid,
        state,
        version,
        json.loads(queues),
        tuple(tasks),
        started_at,
        heartbeat_at,
        expires_at,
        alive,
        running,
    )
