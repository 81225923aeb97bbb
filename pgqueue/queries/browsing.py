"""Jobs as a page lists them: newest first, and of each table no further than a bounded look back.

History has indexes by id and, for retention, by queue and time. A filter on anything else reads rows in the order of
their ids: so many, and the next page goes on from there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from heapq import merge
from itertools import islice
from typing import Any, NamedTuple

from pgqueue.job import JobState
from pgqueue.queries import overview
from pgqueue.queries.inspecting import JobFilter
from pgqueue.queries.reading import Reader, moment
from pgqueue.queries.statement import Operation, Statement, inline

LOOK_BACK = 100_000
COUNTED = 10_001
# Longer arguments are shown on the page of the job.
SHOWN_BYTES = 2_000
LIVE: tuple[JobState, ...] = ("scheduled", "available", "running", "blocked")
TABLES: dict[str, tuple[JobState, ...]] = {
    "jobs": LIVE,
    "completed_jobs": ("completed", "cancelled"),
    "failed_jobs": ("failed",),
}
_OWN = {
    "jobs": "state, null::timestamptz, null::timestamptz, p.percent",
    "completed_jobs": "state, started_at, finished_at, null::float8",
    "failed_jobs": "'failed', started_at, failed_at, null::float8",
}


@dataclass(frozen=True, slots=True)
class ListedJob:
    """A row of a list. `args` is None where they are too long for one; `percent` where its task tells no progress."""

    id: int
    queue: str
    task: str
    args: Any
    priority: int
    attempt: int
    max_attempts: int
    run_at: datetime
    created_at: datetime
    key: str | None
    state: JobState
    started_at: datetime | None
    ended_at: datetime | None
    percent: float | None


@dataclass(frozen=True, slots=True)
class JobPage:
    """Jobs, newest first. `older` is the id before which the next page begins; None at the end.

    `looked_back`: a filter ended the look back before the page was full: there may be more among older jobs.
    """

    jobs: tuple[ListedJob, ...]
    older: int | None
    looked_back: bool


class Count(NamedTuple):
    """So many jobs; where it is a `bound`, there may be more."""

    jobs: int
    bound: bool


def browse(schema: str, which: JobFilter, limit: int) -> Operation[JobPage]:
    """A page of the jobs that match."""
    parts: list[list[ListedJob]] = []
    floors = []
    for table in _tables(which):
        floor = None
        if _is_narrow(which, table) and which.state != "running":
            [floor] = (yield _floor(schema, table, which.before)) or [None]
        rows: list[ListedJob] = yield _rows(schema, table, which, floor, limit + 1)
        parts.append(rows)
        if floor is not None and len(rows) <= limit:
            floors.append(floor)
    # Below the highest floor another table may still have what comes first there.
    lowest = max(floors, default=None)
    found = list(islice(_newest(parts, lowest), limit + 1))
    if len(found) > limit:
        return JobPage(tuple(found[:limit]), found[limit - 1].id, False)
    return JobPage(tuple(found), lowest, lowest is not None)


def states(schema: str, which: JobFilter) -> Operation[dict[str, Count]]:
    """How many live and failed jobs match, by state. History is not counted, and rows are to a bound only."""
    if which.task is None and which.key is None and which.tag is None and which.ids is None:
        queues = yield from overview.queues(schema, which.queue)
        return {
            state: Count(sum(getattr(one, state) for one in queues), any(state in one.capped for one in queues))
            for state in (*LIVE, "failed")
        }
    found: dict[str, Count] = {}
    for table in ("jobs", "failed_jobs"):
        floor = None
        if which.ids is None and (which.key is None or table == "failed_jobs"):
            [floor] = (yield _floor(schema, table, None)) or [None]
        where, params = _where(which, table)
        state = "state" if table == "jobs" else "'failed'"
        rows = yield Statement(
            inline(
                f"select {state}, count(*) from {{schema}}.{table} j where {where} "
                "and (%(floor)s::bigint is null or j.id >= %(floor)s) group by 1",
                schema,
            ),
            {**params, "floor": floor},
        )
        of = LIVE if table == "jobs" else ("failed",)
        found |= {state: Count(dict(rows).get(state, 0), floor is not None) for state in of}
    return found


def count(schema: str, which: JobFilter, limit: int = COUNTED) -> Operation[int]:
    """How many live or failed jobs match, counted to `limit`."""
    total = 0
    for table in _tables(which):
        [number] = yield _count(schema, table, which, which.state, limit)
        total += number
    return min(total, limit)


def next_ids(schema: str, which: JobFilter, after: int, limit: int) -> Statement[int]:
    """Ids of live jobs that match, above `after`, oldest first: what a bulk verb takes next."""
    where, params = _where(which, "jobs")
    return Statement(
        inline(
            f"select id from {{schema}}.jobs j where id > %(after)s and {where} order by id limit %(limit)s", schema
        ),
        {**params, "after": after, "limit": limit},
        lambda row: row[0],
    )


def _tables(which: JobFilter) -> list[str]:
    return [table for table, has in TABLES.items() if which.state is None or which.state in has]


def _is_narrow(which: JobFilter, table: str) -> bool:
    """Whether rows are read that are not shown."""
    asked = (which.queue, which.task, which.key, which.tag)
    return which.ids is None and (
        any(one is not None for one in asked) or (table != "failed_jobs" and which.state is not None)
    )


def _where(which: JobFilter, table: str) -> tuple[str, dict[str, Any]]:
    tests = {
        "queue": "queue = %(queue)s",
        "task": "task = any (%(task)s)",
        "key": "unique_key = %(key)s",
        "tag": "tags @> array[%(tag)s]",
        "ids": "j.id = any (%(ids)s::bigint[])",
        "before": "j.id < %(before)s",
    }
    if table != "failed_jobs":
        tests["state"] = "state = %(state)s"
    if which.state == "running":
        # Found by the claims: the oldest jobs run, far behind those that wait.
        tests["state"] += " and j.id = any (array(select unnest(job_ids) from {schema}.claims))"
    params = {name: getattr(which, name) for name in tests if getattr(which, name) is not None}
    if isinstance(which.task, str):
        params["task"] = [which.task]
    if which.ids is not None:
        params["ids"] = list(which.ids)
    return " and ".join(["true", *(tests[name] for name in params)]), params


def _rows(schema: str, table: str, which: JobFilter, floor: int | None, limit: int) -> Statement[ListedJob]:
    where, params = _where(which, table)
    progress = "left join {schema}.job_progress p on p.job_id = j.id" if table == "jobs" else ""
    return Statement(
        inline(
            "select j.id, queue, task, case when pg_column_size(args) <= %(bytes)s then args::text end, priority, attempt, "
            f"max_attempts, {moment('run_at')}, created_at, unique_key, {_OWN[table]} from {{schema}}.{table} j {progress} "
            f"where {where} and (%(floor)s::bigint is null or j.id >= %(floor)s) order by j.id desc limit %(limit)s",
            schema,
        ),
        {**params, "bytes": SHOWN_BYTES, "floor": floor, "limit": limit},
        _listed,
    )


def _floor(schema: str, table: str, before: int | None) -> Statement[int]:
    """The id at which the look back ends; no row where that is further than there are jobs."""
    return Statement(
        inline(
            f"select id from {{schema}}.{table} where %(before)s::bigint is null or id < %(before)s "
            "order by id desc offset %(skipped)s limit 1",
            schema,
        ),
        {"before": before, "skipped": LOOK_BACK - 1},
        lambda row: row[0],
    )


def _count(schema: str, table: str, which: JobFilter, state: str | None, limit: int = COUNTED) -> Statement[int]:
    where, params = _where(which, table)
    if state is not None and table != "failed_jobs":
        where, params = f"{where} and state = %(counted)s", {**params, "counted": state}
    return Statement(
        inline(f"select count(*) from (select from {{schema}}.{table} j where {where} limit %(limit)s) c", schema),
        {**params, "limit": limit},
        lambda row: row[0],
    )


def _newest(parts: Iterable[list[ListedJob]], lowest: int | None) -> Iterable[ListedJob]:
    return (job for job in merge(*parts, key=lambda job: -job.id) if lowest is None or job.id >= lowest)


def _listed(row: tuple[Any, ...]) -> ListedJob:
    id_, queue, task, args, *rest = row
    read = Reader()
    given = None if args is None else read.object("args", args)
    return ListedJob(id_, queue, task, None if read.unreadable else given, *rest)
