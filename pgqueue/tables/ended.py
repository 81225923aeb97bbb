"""Jobs that have ended, history and the dead letter queue; and what jobs have told while they ran."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import BIGINT, BOOLEAN, DOUBLE_PRECISION, INTEGER, JSONB, SMALLINT, TEXT, UUID

from pgqueue.tables.columns import NOW, TEXTS, TIME, VACUUM_OFTEN, column, nullable


def completed_jobs(metadata: sa.MetaData) -> sa.Table:
    return sa.Table(
        "completed_jobs",
        metadata,
        column("id", BIGINT, "As in jobs."),
        column("run_at", TIME, "From when on the last attempt could run."),
        column("created_at", TIME, "When the job was enqueued."),
        nullable("started_at", TIME, "Start of the last attempt; null when it was cancelled before it ran."),
        column("finished_at", TIME, "When it ended.", NOW),
        nullable("worker_id", UUID, "The worker of the last attempt."),
        column("attempt", INTEGER, "Attempts used."),
        column("max_attempts", INTEGER, "As in jobs."),
        column("priority", SMALLINT, "As in jobs."),
        column("state", TEXT, "completed or cancelled."),
        column("queue", TEXT, "As in jobs."),
        column("task", TEXT, "As in jobs."),
        nullable("unique_key", TEXT, "As in jobs; free for others again."),
        nullable("serial_key", TEXT, "As in jobs."),
        nullable(
            "reason", TEXT, "Why it was cancelled; or, completed, why what its task returned could not be stored."
        ),
        column("args", JSONB, "As in jobs."),
        nullable("headers", JSONB, "As in jobs."),
        nullable("errors", JSONB, "Errors of the attempts before."),
        nullable("result", JSONB, "What the task returned; null when that was None, or could not be stored."),
        nullable("tags", TEXTS, "As in jobs."),
        nullable("own_retention", BOOLEAN, "True where the task says how long its jobs are kept; else null."),
        sa.CheckConstraint("state in ('completed', 'cancelled')", name="completed_jobs_state_check"),
        sa.Index("completed_jobs_id", "id"),
        sa.Index("completed_jobs_queue", "queue", "finished_at", postgresql_where=sa.text("own_retention is null")),
        sa.Index("completed_jobs_task", "queue", "task", "finished_at", postgresql_where=sa.text("own_retention")),
        comment="History of jobs that completed or were cancelled; one partition a day (UTC).",
        postgresql_partition_by="RANGE (finished_at)",
    )


def failed_jobs(metadata: sa.MetaData) -> sa.Table:
    return sa.Table(
        "failed_jobs",
        metadata,
        column("id", BIGINT, "As in jobs."),
        nullable("flow_id", BIGINT, "As in jobs."),
        column("run_at", TIME, "From when on the last attempt could run."),
        column("created_at", TIME, "When the job was enqueued."),
        nullable("started_at", TIME, "Start of the last attempt."),
        column("failed_at", TIME, "When it was given up.", NOW),
        nullable("worker_id", UUID, "The worker of the last attempt."),
        column("attempt", INTEGER, "Attempts used."),
        column("max_attempts", INTEGER, "As in jobs."),
        column("priority", SMALLINT, "As in jobs."),
        column("crashes", SMALLINT, "As in jobs."),
        column("queue", TEXT, "As in jobs."),
        column("task", TEXT, "As in jobs."),
        nullable("unique_key", TEXT, "As in jobs; free for others again."),
        nullable("serial_key", TEXT, "As in jobs."),
        column(
            "reason", TEXT, "attempts_used, fail_job, gave_up, crashed, interrupted, bad_arguments or child_failed."
        ),
        column("error_type", TEXT, "Class of the last error."),
        column("error_message", TEXT, "Text of the last error."),
        column("fingerprint", TEXT, "The same for errors of one task, one type and one place in the code."),
        column("args", JSONB, "As in jobs."),
        nullable("options", JSONB, "As in jobs."),
        nullable("headers", JSONB, "As in jobs."),
        column("errors", JSONB, "Error of every attempt, as in jobs."),
        nullable("tags", TEXTS, "As in jobs."),
        nullable("places", TEXTS, "The gate of its serial key, where it halts the key; null: the next goes on."),
        sa.PrimaryKeyConstraint("id", name="failed_jobs_pkey"),
        sa.Index("failed_jobs_task", "queue", "task", "failed_at"),
        sa.Index("failed_jobs_places", "id", postgresql_where=sa.text("places is not null")),
        comment="The dead letter queue: jobs that cannot succeed, whole, until they are redriven or purged.",
    )


def job_progress(metadata: sa.MetaData) -> sa.Table:
    return sa.Table(
        "job_progress",
        metadata,
        column("job_id", BIGINT, "The job."),
        column("percent", DOUBLE_PRECISION, "From 0 to 100."),
        column("updated_at", TIME, "When it was written.", NOW),
        nullable("message", TEXT, "What the task says about it."),
        sa.PrimaryKeyConstraint("job_id", name="job_progress_pkey"),
        comment="How far jobs are that tell it: the last that each has told.",
        postgresql_with={"fillfactor": 50, **VACUUM_OFTEN},
    )


def job_logs(metadata: sa.MetaData) -> sa.Table:
    return sa.Table(
        "job_logs",
        metadata,
        sa.Column("id", BIGINT, sa.Identity(), comment="In the order in which they were written."),
        column("job_id", BIGINT, "The job."),
        column("logged_at", TIME, "When, by the clock of the worker."),
        column("attempt", INTEGER, "In which attempt."),
        column("level", TEXT, "debug, info, warning or error."),
        column("message", TEXT, "The line."),
        sa.PrimaryKeyConstraint("id", name="job_logs_pkey"),
        sa.Index("job_logs_job", "job_id", "id"),
        sa.Index("job_logs_time", "logged_at"),
        comment="Lines that tasks have logged: up to 500 a run.",
    )
