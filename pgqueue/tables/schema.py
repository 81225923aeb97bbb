"""All tables and views of one schema."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import BIGINT, BOOLEAN, INTERVAL, TEXT

from pgqueue.names import schema_name
from pgqueue.tables import alerts, audit, breakers, doing, ended, figures, flows, live, settings
from pgqueue.tables.columns import TIME

_ALL_JOBS = """
    id state queue task args priority attempt max_attempts unique_key serial_key tags headers errors result reason
    created_at run_at started_at ended_at worker_id
"""
_RUNNING_JOBS = """
    id queue task args attempt max_attempts claimed_at held_for cancel_requested worker_id worker host pid lease_until
"""
_QUEUE_STATS = """
    queue paused available running scheduled due retrying blocked failed completed_last_hour
    oldest_waiting workers slots
"""
_ALL_FLOWS = "id name created_at state jobs live completed failed cancelled skipped ended_at"


@dataclass(frozen=True, slots=True)
class Tables:
    """The tables and views of one schema."""

    jobs: sa.Table
    used_keys: sa.Table
    waiters: sa.Table
    claims: sa.Table
    lanes: sa.Table
    workers: sa.Table
    idle_workers: sa.Table
    tasks: sa.Table
    queues: sa.Table
    schedules: sa.Table
    limits: sa.Table
    gates: sa.Table
    freed_places: sa.Table
    breakers: sa.Table
    breaker_counts: sa.Table
    completed_jobs: sa.Table
    failed_jobs: sa.Table
    job_progress: sa.Table
    job_logs: sa.Table
    alerts: sa.Table
    rescues: sa.Table
    audit_log: sa.Table
    task_minutes: sa.Table
    job_steps: sa.Table
    effects: sa.Table
    flows: sa.Table
    flow_jobs: sa.Table
    flow_edges: sa.Table
    flow_waits: sa.Table
    flow_news: sa.Table
    flow_turns: sa.Table
    all_jobs: sa.Table
    running_jobs: sa.Table
    queue_stats: sa.Table
    all_flows: sa.Table


def metadata(schema: str = "pgqueue") -> sa.MetaData:
    """The tables and sequences of `schema`; `create_all` makes those of the migrations, without views and functions.

    Partitions of completed_jobs are made by the SQL function make_partitions. Raises ConfigurationError for a bad name.

        metadata("shop_jobs").create_all(engine)
    """
    return tables(schema).jobs.metadata


def tables(schema: str = "pgqueue") -> Tables:
    """The tables and views of `schema`, to select from.

    Raises ConfigurationError for a bad name.

        select(tables().jobs.c.id).where(tables().jobs.c.queue == "email")
    """
    return _of(schema)


@cache
def _of(schema: str) -> Tables:
    made = sa.MetaData(schema=schema_name(schema))
    live.positions(made)
    live.waited_until(made)
    live.scheduler_seen(made)
    jobs, claims, workers, completed, members = (
        live.jobs(made),
        live.claims(made),
        live.workers(made),
        ended.completed_jobs(made),
        flows.flow_jobs(made),
    )
    # Views are in a MetaData of their own, or create_all would make tables of them.
    views = sa.MetaData(schema=schema)
    return Tables(
        jobs=jobs,
        used_keys=live.used_keys(made),
        waiters=live.waiters(made),
        claims=claims,
        lanes=live.lanes(made),
        workers=workers,
        idle_workers=live.idle_workers(made),
        tasks=settings.tasks(made),
        queues=settings.queues(made),
        schedules=settings.schedules(made),
        limits=settings.limits(made),
        gates=settings.gates(made),
        freed_places=settings.freed_places(made),
        breakers=breakers.breakers(made),
        breaker_counts=breakers.breaker_counts(made),
        completed_jobs=completed,
        failed_jobs=ended.failed_jobs(made),
        job_progress=ended.job_progress(made),
        job_logs=ended.job_logs(made),
        alerts=alerts.alerts(made),
        rescues=alerts.rescues(made),
        audit_log=audit.audit_log(made),
        task_minutes=figures.task_minutes(made),
        job_steps=doing.job_steps(made),
        effects=doing.effects(made),
        flows=flows.flows(made),
        flow_jobs=members,
        flow_edges=flows.flow_edges(made),
        flow_waits=flows.flow_waits(made),
        flow_news=flows.flow_news(made),
        flow_turns=flows.flow_turns(made),
        all_jobs=_view(views, "all_jobs", _ALL_JOBS, jobs, completed, ended_at=TIME),
        running_jobs=_view(
            views,
            "running_jobs",
            _RUNNING_JOBS,
            jobs,
            claims,
            workers,
            held_for=INTERVAL,
            worker=TEXT,
            lease_until=TIME,
        ),
        queue_stats=_view(views, "queue_stats", _QUEUE_STATS, jobs, paused=BOOLEAN, oldest_waiting=INTERVAL),
        all_flows=_view(views, "all_flows", _ALL_FLOWS, members, name=TEXT, created_at=TIME, completed=BIGINT),
    )


def _view(metadata: sa.MetaData, view: str, columns: str, *sources: sa.Table, **own: Any) -> sa.Table:
    """A view's columns have the types that the tables below it give them; its own others are counts unless said."""
    known = {column.name: column.type for source in reversed(sources) for column in source.columns} | own
    return sa.Table(view, metadata, *(sa.Column(column, known.get(column, BIGINT)) for column in columns.split()))
