"""The one description of the schema, for dynamic filters. The migrations make the same; a test compares the two."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import (
    ARRAY,
    BIGINT,
    BOOLEAN,
    DOUBLE_PRECISION,
    INTEGER,
    INTERVAL,
    JSONB,
    SMALLINT,
    TEXT,
    UUID,
)

from pgqueue.names import schema_name

TIME = sa.DateTime(timezone=True)
TEXTS = ARRAY(TEXT)
NOW = "clock_timestamp()"

_VACUUM_OFTEN = {"autovacuum_vacuum_scale_factor": 0.02, "autovacuum_vacuum_cost_delay": 0}

_ALL_JOBS = """
    id state queue task args priority attempt max_attempts unique_key tags headers errors result reason
    created_at run_at started_at ended_at worker_id
"""
_RUNNING_JOBS = """
    id queue task args attempt max_attempts claimed_at held_for cancel_requested worker_id worker host pid lease_until
"""
_QUEUE_STATS = """
    queue paused available running scheduled retrying blocked failed completed_last_hour oldest_waiting workers slots
"""


@dataclass(frozen=True, slots=True)
class Tables:
    """The tables and views of one schema."""

    jobs: sa.Table
    claims: sa.Table
    workers: sa.Table
    tasks: sa.Table
    queues: sa.Table
    schedules: sa.Table
    completed_jobs: sa.Table
    failed_jobs: sa.Table
    all_jobs: sa.Table
    running_jobs: sa.Table
    queue_stats: sa.Table


def metadata(schema: str = "pgqueue") -> sa.MetaData:
    """The tables and the sequence of `schema`; `create_all` makes those of the migrations, without views and functions.

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
    _positions(made)
    jobs, claims, workers, completed = _jobs(made), _claims(made), _workers(made), _completed_jobs(made)
    # Views are in a MetaData of their own, or create_all would make tables of them.
    views = sa.MetaData(schema=schema)
    return Tables(
        jobs=jobs,
        claims=claims,
        workers=workers,
        tasks=_tasks(made),
        queues=_queues(made),
        schedules=_schedules(made),
        completed_jobs=completed,
        failed_jobs=_failed_jobs(made),
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
    )


def _column(name: str, kind: Any, comment: str, default: str | None = None, *, null: bool = False) -> sa.Column[Any]:
    # Without autoincrement=False an integer primary key would become a bigserial.
    return sa.Column(
        name, kind, comment=comment, nullable=null, autoincrement=False, server_default=default and sa.text(default)
    )


def _nullable(name: str, kind: Any, comment: str) -> sa.Column[Any]:
    return _column(name, kind, comment, null=True)


def _view(metadata: sa.MetaData, name: str, columns: str, *sources: sa.Table, **own: Any) -> sa.Table:
    """A view's columns have the types that the tables below it give them; its own others are counts unless said."""
    known = {column.name: column.type for source in reversed(sources) for column in source.columns} | own
    return sa.Table(name, metadata, *(sa.Column(column, known.get(column, BIGINT)) for column in columns.split()))


def _positions(metadata: sa.MetaData) -> None:
    sequence = sa.Sequence("jobs_position", data_type=BIGINT, metadata=metadata)
    comment = sa.DDL(  # type: ignore[no-untyped-call]
        f'comment on sequence "{metadata.schema}".jobs_position is '
        "'Order of availability: a job takes the next position when it becomes available.'"
    )
    sa.event.listen(sequence, "after_create", comment)


def _jobs(metadata: sa.MetaData) -> sa.Table:
    return sa.Table(
        "jobs",
        metadata,
        sa.Column(
            "id", BIGINT, sa.Identity(), comment="Identity of the job; kept when it ends and when it is redriven."
        ),
        _nullable(
            "position",
            BIGINT,
            "Place in its lane (queue and priority): taken when the job becomes available, "
            "kept while it runs, null otherwise.",
        ),
        _nullable("claim_id", BIGINT, "The fence: id of the claim that runs the job; null unless running."),
        _column("run_at", TIME, "Not before this time.", NOW),
        _column("created_at", TIME, "When the job was enqueued.", NOW),
        _column("attempt", INTEGER, "Attempts used, the running one included.", "0"),
        _column("max_attempts", INTEGER, "Attempts before the job goes to failed_jobs; counts the first run.", "25"),
        _column("priority", SMALLINT, "Lower runs first; 0 is normal.", "0"),
        _column(
            "crashes",
            SMALLINT,
            "Attempts during which the process died while it ran this job alone; three send it to failed_jobs.",
            "0",
        ),
        _column(
            "suspicions",
            SMALLINT,
            "Worker deaths that this job shared with other jobs; from two on it runs alone.",
            "0",
        ),
        _column(
            "cancel_requested",
            BOOLEAN,
            "True once somebody cancelled the job while it was running: it will not be retried.",
            "false",
        ),
        _column("state", TEXT, "scheduled (later), available, running, or blocked."),
        _column("queue", TEXT, "Name of its queue."),
        _column("task", TEXT, "Name of the registered function."),
        _nullable("unique_key", TEXT, "At most one live job of a queue has this key."),
        _column("args", JSONB, "Arguments by name, a JSON object.", "'{}'"),
        _nullable("options", JSONB, "Overrides of this one job: timeout in seconds."),
        _nullable("headers", JSONB, "Metadata for the run: trace context, schedule, scheduled_for."),
        _nullable(
            "errors",
            JSONB,
            "Error of each attempt that did not complete, oldest first: "
            "attempt, at, type, message, traceback, worker. The last 100.",
        ),
        _nullable("tags", TEXTS, "Labels for people and filters."),
        sa.PrimaryKeyConstraint("id", name="jobs_pkey"),
        sa.CheckConstraint("state in ('scheduled', 'available', 'running', 'blocked')", name="jobs_state_check"),
        sa.CheckConstraint("jsonb_typeof(args) = 'object'", name="jobs_args_check"),
        sa.CheckConstraint("max_attempts >= 1", name="jobs_max_attempts_check"),
        sa.Index("jobs_claim", "queue", "priority", "position", postgresql_where=sa.text("position is not null")),
        sa.Index("jobs_due", "queue", "run_at", postgresql_where=sa.text("position is null")),
        sa.Index(
            "jobs_unique_key", "unique_key", "queue", unique=True, postgresql_where=sa.text("unique_key is not null")
        ),
        comment="Live jobs only: scheduled, available, running or blocked. "
        "Ended jobs are in completed_jobs and failed_jobs.",
        postgresql_with={"fillfactor": 45, **_VACUUM_OFTEN, "autovacuum_analyze_scale_factor": 0.2},
    )


def _claims(metadata: sa.MetaData) -> sa.Table:
    return sa.Table(
        "claims",
        metadata,
        _column("id", BIGINT, "The fence: 63 random bits made by the worker."),
        _column("worker_id", UUID, "The worker that claimed."),
        _column("claimed_at", TIME, "When.", NOW),
        _column("queue", TEXT, "The queue of all its jobs."),
        _column("job_ids", ARRAY(BIGINT), "The jobs it took."),
        sa.PrimaryKeyConstraint("id", name="claims_pkey"),
        sa.Index("claims_worker", "worker_id"),
        comment="One row a claimed batch; gone when every job of it has ended or gone back.",
        postgresql_with=_VACUUM_OFTEN,
    )


def _workers(metadata: sa.MetaData) -> sa.Table:
    return sa.Table(
        "workers",
        metadata,
        _column("id", UUID, "Made at each start."),
        _column("started_at", TIME, "When the process registered.", NOW),
        _column("heartbeat_at", TIME, "Last sign of life.", NOW),
        _column("expires_at", TIME, "End of its lease: after this its jobs are rescued."),
        _column("pid", INTEGER, "Process id on its host."),
        _column("name", TEXT, "Name given with --name, else host and pid."),
        _column("host", TEXT, "Host name."),
        _column("version", TEXT, "Version of pgqueue."),
        _column("state", TEXT, "running, or stopping after a signal.", "'running'"),
        _column("queues", JSONB, "Slots by queue."),
        _column("tasks", TEXTS, "Tasks that it can run."),
        _column(
            "idle_queues",
            TEXTS,
            "Queues that it found empty: an enqueue into one of them sends a notification.",
            "'{}'",
        ),
        sa.PrimaryKeyConstraint("id", name="workers_pkey"),
        sa.CheckConstraint("state in ('running', 'stopping')", name="workers_state_check"),
        comment="One row a worker process, from its start to its end.",
        postgresql_with={"fillfactor": 50},
    )


def _tasks(metadata: sa.MetaData) -> sa.Table:
    return sa.Table(
        "tasks",
        metadata,
        _column("name", TEXT, "Module and function."),
        _column("queue", TEXT, "Its queue by default."),
        _nullable("priority", SMALLINT, "Its priority by default; null for the queue's."),
        _nullable("max_attempts", INTEGER, "Its attempts by default; null for the queue's."),
        _nullable("timeout", DOUBLE_PRECISION, "Seconds that a run may take; null for the queue's."),
        _nullable("unique_key", TEXT, "Template of its unique key: {name} stands for an argument."),
        _column("last_seen_at", TIME, "When a worker last registered it.", NOW),
        sa.PrimaryKeyConstraint("name", name="tasks_pkey"),
        comment="What workers have registered, so that an enqueue from SQL knows a task's defaults.",
    )


def _queues(metadata: sa.MetaData) -> sa.Table:
    return sa.Table(
        "queues",
        metadata,
        _column("name", TEXT, "Letters, digits and . _ -"),
        _column("paused", BOOLEAN, "Nothing is claimed while true.", "false"),
        _column("lifo", BOOLEAN, "Newest first within a priority.", "false"),
        _nullable("priority", SMALLINT, "Default of its jobs, after job and task."),
        _nullable("max_attempts", INTEGER, "Default of its jobs, after job and task."),
        _nullable("timeout", DOUBLE_PRECISION, "Default of its jobs in seconds, after job and task."),
        _nullable(
            "keep_completed",
            INTERVAL,
            "How long ended jobs of the queue are kept; null for the default, 0 for not at all.",
        ),
        _column("updated_at", TIME, "Last change of the settings.", NOW),
        sa.PrimaryKeyConstraint("name", name="queues_pkey"),
        sa.CheckConstraint("max_attempts >= 1", name="queues_max_attempts_check"),
        comment="Settings of queues; a queue needs no row to be used.",
    )


def _schedules(metadata: sa.MetaData) -> sa.Table:
    return sa.Table(
        "schedules",
        metadata,
        _column("name", TEXT, "Name of the schedule."),
        _column("task", TEXT, "Task to enqueue."),
        _nullable("queue", TEXT, "Queue of its jobs; null for the task's."),
        _nullable("cron", TEXT, "Five fields, or six with seconds last."),
        _nullable("every", INTERVAL, "Interval between two nominal times, anchored at 1970-01-01 00:00 UTC."),
        _column("tz", TEXT, "Time zone in which the cron expression is read.", "'UTC'"),
        _column("args", JSONB, "Arguments of its jobs.", "'{}'"),
        _column("enabled", BOOLEAN, "False: paused, removed from the code, or bad (see error).", "true"),
        _column("source", TEXT, "code: declared by an app and reconciled at the scheduler's start.", "'code'"),
        _column("next_run_at", TIME, "Next nominal time."),
        _nullable("last_run_at", TIME, "Last nominal time for which a job was enqueued."),
        _nullable("error", TEXT, "Why the scheduler disabled it."),
        _column("updated_at", TIME, "Last change of the definition.", NOW),
        sa.PrimaryKeyConstraint("name", name="schedules_pkey"),
        sa.CheckConstraint("(cron is null) <> (every is null)", name="schedules_rule_check"),
        sa.CheckConstraint("jsonb_typeof(args) = 'object'", name="schedules_args_check"),
        sa.Index("schedules_due", "next_run_at", postgresql_where=sa.text("enabled")),
        comment="Repeatable jobs: the scheduler enqueues one job per nominal time.",
    )


def _completed_jobs(metadata: sa.MetaData) -> sa.Table:
    return sa.Table(
        "completed_jobs",
        metadata,
        _column("id", BIGINT, "As in jobs."),
        _column("run_at", TIME, "From when on the last attempt could run."),
        _column("created_at", TIME, "When the job was enqueued."),
        _nullable("started_at", TIME, "Start of the last attempt; null when it was cancelled before it ran."),
        _column("finished_at", TIME, "When it ended.", NOW),
        _nullable("worker_id", UUID, "The worker of the last attempt."),
        _column("attempt", INTEGER, "Attempts used."),
        _column("max_attempts", INTEGER, "As in jobs."),
        _column("priority", SMALLINT, "As in jobs."),
        _column("state", TEXT, "completed or cancelled."),
        _column("queue", TEXT, "As in jobs."),
        _column("task", TEXT, "As in jobs."),
        _nullable("unique_key", TEXT, "As in jobs; free for others again."),
        _nullable("reason", TEXT, "Why it was cancelled."),
        _column("args", JSONB, "As in jobs."),
        _nullable("headers", JSONB, "As in jobs."),
        _nullable("errors", JSONB, "Errors of the attempts before."),
        _nullable("result", JSONB, "What the task returned; null when that was None."),
        _nullable("tags", TEXTS, "As in jobs."),
        sa.CheckConstraint("state in ('completed', 'cancelled')", name="completed_jobs_state_check"),
        sa.Index("completed_jobs_id", "id"),
        sa.Index("completed_jobs_queue", "queue", "finished_at"),
        comment="History of jobs that completed or were cancelled; one partition a day (UTC).",
        postgresql_partition_by="RANGE (finished_at)",
    )


def _failed_jobs(metadata: sa.MetaData) -> sa.Table:
    return sa.Table(
        "failed_jobs",
        metadata,
        _column("id", BIGINT, "As in jobs."),
        _column("run_at", TIME, "From when on the last attempt could run."),
        _column("created_at", TIME, "When the job was enqueued."),
        _nullable("started_at", TIME, "Start of the last attempt."),
        _column("failed_at", TIME, "When it was given up.", NOW),
        _nullable("worker_id", UUID, "The worker of the last attempt."),
        _column("attempt", INTEGER, "Attempts used."),
        _column("max_attempts", INTEGER, "As in jobs."),
        _column("priority", SMALLINT, "As in jobs."),
        _column("crashes", SMALLINT, "As in jobs."),
        _column("queue", TEXT, "As in jobs."),
        _column("task", TEXT, "As in jobs."),
        _nullable("unique_key", TEXT, "As in jobs; free for others again."),
        _column("reason", TEXT, "attempts_used, fail_job, crashed, interrupted or bad_arguments."),
        _column("error_type", TEXT, "Class of the last error."),
        _column("error_message", TEXT, "Text of the last error."),
        _column("fingerprint", TEXT, "The same for errors of one task, one type and one place in the code."),
        _column("args", JSONB, "As in jobs."),
        _nullable("options", JSONB, "As in jobs."),
        _nullable("headers", JSONB, "As in jobs."),
        _column("errors", JSONB, "Error of every attempt, as in jobs."),
        _nullable("tags", TEXTS, "As in jobs."),
        sa.PrimaryKeyConstraint("id", name="failed_jobs_pkey"),
        sa.Index("failed_jobs_queue", "queue", "failed_at"),
        comment="The dead letter queue: jobs that cannot succeed, whole, until they are redriven or purged.",
    )
