"""Reading flows: how they stand, their jobs, who waits for whom, and what children came to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from pgqueue.flow import Child
from pgqueue.queries.statement import Operation, Statement, array, inline


@dataclass(frozen=True, slots=True)
class FlowRow:
    """A flow as the view `all_flows` shows it. `state` is running, completed, failed or cancelled.

    `skipped` are callbacks of a batch that were not to run.
    """

    id: int
    name: str | None
    created_at: datetime
    state: str
    jobs: int
    live: int
    completed: int
    failed: int
    cancelled: int
    skipped: int
    ended_at: datetime | None


@dataclass(frozen=True, slots=True)
class FlowJob:
    """A job of a flow. `children`: ids of those that it waits for, of any flow; `state` as in `Job`, or gone or skipped.

    `callback`, of one of a batch: success, complete or failure.
    """

    job_id: int
    task: str
    queue: str
    name: str | None
    state: str
    children: tuple[int, ...]
    error: str | None
    attempt: int | None
    percent: float | None
    callback: str | None = None


def children(schema: str, ids: Sequence[int]) -> Operation[dict[int, tuple[Child, ...]]]:
    """What those came to that jobs have waited for, in the order of their ids, by job. Many may have waited for one."""
    edges: list[tuple[int, int]] = yield Statement(
        inline(
            "select parent_id, child_id from {schema}.flow_edges where parent_id = any (%(ids)s::bigint[]) order by 1, 2",
            schema,
        ),
        {"ids": array(ids)},
        lambda row: (row[0], row[1]),
    )
    members: list[Child] = yield Statement(
        inline(
            "select job_id, task, name, state, result::text, error from {schema}.flow_jobs "
            "where job_id = any (%(ids)s::bigint[])",
            schema,
        ),
        {"ids": array(sorted({child for _, child in edges}))},
        lambda row: Child(*row),
    )
    known = {child.job_id: child for child in members}
    return {
        parent: tuple(known[child] for _, child in group if child in known)
        for parent, group in groupby(edges, itemgetter(0))
    }


def list_flows(schema: str, limit: int, name: str | None = None, before: int | None = None) -> Statement[FlowRow]:
    """Newest first."""
    return Statement(
        inline(
            "select id, name, created_at, state, jobs, live, completed, failed, cancelled, skipped, ended_at from {schema}.all_flows "
            "where (%(name)s::text is null or name = %(name)s) and (%(before)s::bigint is null or id < %(before)s) "
            "order by id desc limit %(limit)s",
            schema,
        ),
        {"limit": limit, "name": name, "before": before},
        lambda row: FlowRow(*row),
    )


def flow_row(schema: str, flow: int) -> Statement[FlowRow]:
    return Statement(
        inline(
            "select id, name, created_at, state, jobs, live, completed, failed, cancelled, skipped, ended_at from {schema}.all_flows where id = %(id)s",
            schema,
        ),
        {"id": flow},
        lambda row: FlowRow(*row),
    )


def flow_of_job(schema: str, job_id: int) -> Statement[FlowRow]:
    return Statement(
        inline(
            "select id, name, created_at, state, jobs, live, completed, failed, cancelled, skipped, ended_at from {schema}.all_flows "
            "where id = (select flow_id from {schema}.flow_jobs where job_id = %(job_id)s)",
            schema,
        ),
        {"job_id": job_id},
        lambda row: FlowRow(*row),
    )


def jobs_of(schema: str, flow: int, limit: int) -> Statement[FlowJob]:
    """The jobs of a flow in the order of their ids, at most `limit`."""
    return _members(schema, "select * from {schema}.flow_jobs where flow_id = %(id)s", flow, limit)


class FlowEdge(NamedTuple):
    """A parent waits for a child. `callback` is of a parent that is one of a batch: success, complete or failure."""

    parent: int
    child: int
    on_failure: str
    callback: str | None


def edges_of(schema: str, flow: int, limit: int) -> Statement[FlowEdge]:
    """What the first `limit` jobs of a flow wait for, or have waited for."""
    return Statement(
        inline(
            "select e.parent_id, e.child_id, e.on_failure, w.callback from "
            "(select job_id from {schema}.flow_jobs where flow_id = %(id)s order by job_id limit %(limit)s) n "
            "join {schema}.flow_edges e on e.parent_id = n.job_id left join {schema}.flow_waits w on w.job_id = e.parent_id "
            "order by e.parent_id, e.child_id",
            schema,
        ),
        {"id": flow, "limit": limit},
        FlowEdge._make,
    )


def waited_for(schema: str, job_id: int, limit: int) -> Statement[FlowJob]:
    """Those that a job waits for now, or has waited for last, in the order of their ids, at most `limit`."""
    return _members(
        schema,
        "select n.* from {schema}.flow_jobs n where job_id = any (array(select e.child_id from {schema}.flow_edges e "
        "join {schema}.flow_waits w on w.job_id = e.parent_id and w.round = e.round where e.parent_id = %(id)s))",
        job_id,
        limit,
    )


def waiting_for(schema: str, job_id: int, limit: int) -> Statement[FlowJob]:
    """Those that wait for a job, or have waited for it, in the order of their ids, at most `limit`."""
    return _members(
        schema,
        "select n.* from {schema}.flow_jobs n where job_id = any (array(select e.parent_id from {schema}.flow_edges e "
        "where e.child_id = %(id)s order by e.parent_id limit %(limit)s))",
        job_id,
        limit,
    )


def _members(schema: str, which: str, id_: int, limit: int) -> Statement[FlowJob]:
    return Statement(
        inline(
            "select n.job_id, n.task, n.queue, n.name, coalesce(n.state, j.state, 'gone'), "
            "array(select e.child_id from {schema}.flow_edges e where e.parent_id = n.job_id order by e.child_id), "
            f"n.error ->> 'message', j.attempt, p.percent, w.callback from ({which} order by job_id limit %(limit)s) n "
            "left join {schema}.flow_waits w on w.job_id = n.job_id left join {schema}.jobs j on j.id = n.job_id left join {schema}.job_progress p on p.job_id = n.job_id order by n.job_id",
            schema,
        ),
        {"id": id_, "limit": limit},
        lambda row: FlowJob(row[0], row[1], row[2], row[3], row[4], tuple(row[5]), *row[6:]),
    )


def live_ids(schema: str, flow: int) -> Statement[int]:
    return Statement(
        inline(
            "select job_id from {schema}.flow_jobs where flow_id = %(id)s and state is null and not adopted order by job_id",
            schema,
        ),
        {"id": flow},
        lambda row: row[0],
    )


def failed_ids(schema: str, flow: int) -> Statement[int]:
    """Those that failed themselves, or for one that cannot come back: what failed for these comes back with them."""
    return Statement(
        inline(
            "select n.job_id from {schema}.flow_jobs n join {schema}.failed_jobs f on f.id = n.job_id "
            "where n.flow_id = %(id)s and n.state = 'failed' "
            "and (f.reason <> 'child_failed' or not {schema}.comes_with_a_child(f.id, null)) order by n.job_id",
            schema,
        ),
        {"id": flow},
        lambda row: row[0],
    )
