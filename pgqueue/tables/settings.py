"""What is known of tasks, queues and schedules."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import BOOLEAN, DOUBLE_PRECISION, INTEGER, INTERVAL, JSONB, SMALLINT, TEXT

from pgqueue.tables.columns import NOW, TIME, column, nullable


def tasks(metadata: sa.MetaData) -> sa.Table:
    return sa.Table(
        "tasks",
        metadata,
        column("name", TEXT, "Module and function."),
        column("queue", TEXT, "Its queue by default."),
        nullable("priority", SMALLINT, "Its priority by default; null for the queue's."),
        nullable("max_attempts", INTEGER, "Its attempts by default; null for the queue's."),
        nullable("timeout", DOUBLE_PRECISION, "Seconds that a run may take; null for the queue's."),
        nullable("unique_key", TEXT, "Template of its unique key: {name} stands for an argument."),
        column("last_seen_at", TIME, "When a worker last registered it.", NOW),
        sa.PrimaryKeyConstraint("name", name="tasks_pkey"),
        comment="What workers have registered, so that an enqueue from SQL knows a task's defaults.",
    )


def queues(metadata: sa.MetaData) -> sa.Table:
    return sa.Table(
        "queues",
        metadata,
        column("name", TEXT, "Letters, digits and . _ -"),
        column("paused", BOOLEAN, "Nothing is claimed while true.", "false"),
        column("lifo", BOOLEAN, "Newest first within a priority.", "false"),
        nullable("priority", SMALLINT, "Default of its jobs, after job and task."),
        nullable("max_attempts", INTEGER, "Default of its jobs, after job and task."),
        nullable("timeout", DOUBLE_PRECISION, "Default of its jobs in seconds, after job and task."),
        nullable(
            "keep_completed",
            INTERVAL,
            "How long ended jobs of the queue are kept; null for the default, 0 for not at all.",
        ),
        column("updated_at", TIME, "Last change of the settings.", NOW),
        sa.PrimaryKeyConstraint("name", name="queues_pkey"),
        sa.CheckConstraint("max_attempts >= 1", name="queues_max_attempts_check"),
        comment="Settings of queues; a queue needs no row to be used.",
    )


def schedules(metadata: sa.MetaData) -> sa.Table:
    return sa.Table(
        "schedules",
        metadata,
        column("name", TEXT, "Name of the schedule."),
        column("task", TEXT, "Task to enqueue."),
        nullable("queue", TEXT, "Queue of its jobs; null for the task's."),
        nullable("cron", TEXT, "Five fields, or six with seconds last."),
        nullable("every", INTERVAL, "Interval between two nominal times, anchored at 1970-01-01 00:00 UTC."),
        column("tz", TEXT, "Time zone in which the cron expression is read.", "'UTC'"),
        column("args", JSONB, "Arguments of its jobs.", "'{}'"),
        column("enabled", BOOLEAN, "False: paused, removed from the code, or bad (see error).", "true"),
        column("source", TEXT, "code: declared by an app and reconciled at the scheduler's start.", "'code'"),
        column("next_run_at", TIME, "Next nominal time."),
        nullable("last_run_at", TIME, "Last nominal time for which a job was enqueued."),
        nullable("error", TEXT, "Why the scheduler disabled it."),
        column("updated_at", TIME, "Last change of the definition.", NOW),
        sa.PrimaryKeyConstraint("name", name="schedules_pkey"),
        sa.CheckConstraint("(cron is null) <> (every is null)", name="schedules_rule_check"),
        sa.CheckConstraint("jsonb_typeof(args) = 'object'", name="schedules_args_check"),
        sa.Index("schedules_due", "next_run_at", postgresql_where=sa.text("enabled")),
        comment="Repeatable jobs: the scheduler enqueues one job per nominal time.",
    )
