"""What is known of tasks, queues and schedules."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import BIGINT, BOOLEAN, DOUBLE_PRECISION, INTEGER, INTERVAL, JSONB, SMALLINT, TEXT

from pgqueue.tables.columns import NOW, TIME, VACUUM_OFTEN, column, nullable


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
        nullable("serial_key", TEXT, "Template of its serial key."),
        nullable(
            "on_conflict",
            TEXT,
            "What an enqueue does while a job holds its unique key: skip (null), replace, reschedule, "
            "keep_last_if_running or error.",
        ),
        nullable(
            "keep_key",
            INTERVAL,
            "How long its unique key stays used after an enqueue, also when the job has ended before; null: until it "
            "has ended.",
        ),
        nullable(
            "on_failed",
            TEXT,
            "Task that is enqueued with each of its jobs that goes to failed_jobs; null for the queue's, empty for "
            "none.",
        ),
        nullable(
            "keep_completed",
            INTERVAL,
            "How long its completed and cancelled jobs are kept; null for the queue's, 0 for not at all.",
        ),
        nullable("keep_completed_count", INTEGER, "How many of them are kept in each queue, the newest."),
        nullable("keep_failed", INTERVAL, "How long its failed jobs are kept; null for the queue's."),
        nullable("keep_failed_count", INTEGER, "How many of them are kept in each queue, the newest."),
        nullable(
            "app_defaults",
            JSONB,
            "What its app says for all of its tasks, where neither the task nor the queue does: on_failed; timeout, "
            "keep_completed and keep_failed in seconds, keep_completed_count and keep_failed_count.",
        ),
        nullable("alias_of", TEXT, "The task whose former name this is; null for the name of a task."),
        column(
            "halt_on_failed",
            BOOLEAN,
            "Whether a job of it that goes to failed_jobs keeps its serial key, so that nothing of the key runs.",
            "false",
        ),
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
            "How long completed and cancelled jobs of the queue are kept, of tasks that do not say themselves; null "
            "for the app's, 0 for not at all.",
        ),
        nullable(
            "keep_completed_count",
            INTEGER,
            "How many ended jobs of the queue are kept, the newest, of tasks that do not say themselves.",
        ),
        nullable(
            "keep_failed",
            INTERVAL,
            "How long failed jobs of the queue are kept, of tasks that do not say themselves; null for the app's, "
            "which is until they are purged.",
        ),
        nullable("keep_failed_count", INTEGER, "How many of them are kept, the newest."),
        nullable(
            "ageing",
            INTERVAL,
            "For each such time that an available job has waited, its priority is one sooner; null: it stays.",
        ),
        nullable(
            "ageing_floor",
            SMALLINT,
            "No priority ages beyond this one; null: beyond the soonest at which jobs of the queue wait or run.",
        ),
        nullable(
            "on_failed",
            TEXT,
            "Task that is enqueued with each job of the queue that goes to failed_jobs, where the job's task names "
            "none; null for the app's, empty for none.",
        ),
        column("updated_at", TIME, "Last change of the settings.", NOW),
        sa.PrimaryKeyConstraint("name", name="queues_pkey"),
        sa.CheckConstraint("max_attempts >= 1", name="queues_max_attempts_check"),
        sa.CheckConstraint("ageing >= interval '1 second'", name="queues_ageing_check"),
        sa.CheckConstraint("keep_completed_count >= 1 and keep_failed_count >= 1", name="queues_keep_check"),
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
        nullable(
            "job_options",
            JSONB,
            "What else its jobs have, as the code says: priority, max_attempts, key, tags, headers …; null for the "
            "task's.",
        ),
        column("enabled", BOOLEAN, "False: paused, removed from the code, or bad (see error).", "true"),
        column(
            "source",
            TEXT,
            "code: declared by an app and reconciled at the scheduler's start; removed: it was; live: added while "
            "everything runs.",
            "'code'",
        ),
        column(
            "catch_up",
            TEXT,
            "What becomes of times that were missed: skip, latest (the newest is fired), all.",
            "'latest'",
        ),
        nullable("grace", INTERVAL, "No time is fired later than this; null: under skip a minute, else however late."),
        column(
            "overlap",
            TEXT,
            "When the job of the time before has not ended: allow, skip, queue_one, cancel_running.",
            "'allow'",
        ),
        nullable("jitter", INTERVAL, "Each job runs up to so much later than its nominal time."),
        nullable("start_at", TIME, "No nominal time before this one is fired."),
        nullable("end_at", TIME, "No nominal time after this one is fired."),
        nullable("max_runs", INTEGER, "How many nominal times are fired in all; null for no bound."),
        column("runs", INTEGER, "How many nominal times have been fired.", "0"),
        nullable(
            "next_run_at",
            TIME,
            "Next nominal time; infinity when there is none, null until a scheduler has worked it out.",
        ),
        nullable("last_run_at", TIME, "Last nominal time that was fired, or left out for an overlap."),
        nullable("last_job_id", BIGINT, "Job of the last nominal time that was fired."),
        nullable("error", TEXT, "Why the scheduler disabled it."),
        column("updated_at", TIME, "Last change of the definition.", NOW),
        sa.PrimaryKeyConstraint("name", name="schedules_pkey"),
        sa.CheckConstraint("(cron is null) <> (every is null)", name="schedules_rule_check"),
        sa.CheckConstraint("catch_up in ('skip', 'latest', 'all')", name="schedules_catch_up_check"),
        sa.CheckConstraint(
            "overlap in ('allow', 'skip', 'queue_one', 'cancel_running')", name="schedules_overlap_check"
        ),
        sa.CheckConstraint("max_runs >= 1", name="schedules_max_runs_check"),
        sa.CheckConstraint("jsonb_typeof(args) = 'object'", name="schedules_args_check"),
        sa.CheckConstraint("jsonb_typeof(job_options) = 'object'", name="schedules_job_options_check"),
        sa.Index("schedules_due", "next_run_at", postgresql_where=sa.text("enabled")),
        comment="Repeatable jobs: the scheduler enqueues one job per nominal time.",
    )


def limits(metadata: sa.MetaData) -> sa.Table:
    return sa.Table(
        "limits",
        metadata,
        nullable("rate", DOUBLE_PRECISION, "Jobs that may begin in a second; null for no limit."),
        nullable("concurrency", INTEGER, "Jobs that may run at once, on all workers together; null for no limit."),
        column("burst", INTEGER, "How many may begin together after a pause.", "1"),
        column("paused", BOOLEAN, "Nothing of it begins while true.", "false"),
        column(
            "fair", BOOLEAN, "Values of the key that have jobs waiting share the slots of the queue evenly.", "false"
        ),
        column("updated_at", TIME, "Last change.", NOW),
        column("scope", TEXT, "queue or task."),
        column("name", TEXT, "Of the queue or task."),
        column(
            "key",
            TEXT,
            "A template of arguments, as {customer_id}: each value has a limit of its own. Empty: one limit for all; "
            "breaker: a circuit breaker that is not closed.",
            "''",
        ),
        nullable(
            "declared",
            TEXT,
            "What the code said last: as long as it says the same, changes made here stay. Null for a limit of which "
            "no code knows.",
        ),
        sa.PrimaryKeyConstraint("scope", "name", "key", name="limits_pkey"),
        sa.CheckConstraint("scope in ('queue', 'task')", name="limits_scope_check"),
        sa.CheckConstraint("rate >= 1 / 31622400.0 and rate <= 1000000", name="limits_rate_check"),
        sa.CheckConstraint("concurrency >= 1", name="limits_concurrency_check"),
        sa.CheckConstraint("burst >= 1", name="limits_burst_check"),
        sa.CheckConstraint("not fair or (scope = 'queue' and key <> '')", name="limits_fair_check"),
        comment="How many jobs of a queue or task may run at once, and how often they may begin. "
        "Changes hold from the next claim on.",
    )


def gates(metadata: sa.MetaData) -> sa.Table:
    return sa.Table(
        "gates",
        metadata,
        nullable("next_at", TIME, "When the next job would begin if all came evenly."),
        nullable("closed_until", TIME, "Nothing begins before; infinity: paused."),
        column("taken", INTEGER, "Places taken by jobs that run or have been let go.", "0"),
        column("waiting", INTEGER, "Jobs parked.", "0"),
        column("loose", INTEGER, "Jobs that have been let go and not been claimed since.", "0"),
        column("name", TEXT, "scope, name, key and value."),
        column("scope", TEXT, "queue, task, or serial."),
        column("of", TEXT, "Name of the queue or task."),
        column("key", TEXT, "The template of the limit, as in limits.", "''"),
        sa.PrimaryKeyConstraint("name", name="gates_pkey"),
        sa.Index("gates_waiting", "name", postgresql_where=sa.text("waiting > 0")),
        sa.Index("gates_crowded", "of", "key", postgresql_where=sa.text("waiting > 0")),
        comment="What each limit has let through: a row for each limit, key and serial key that a job has met.",
        postgresql_with={"fillfactor": 50, **VACUUM_OFTEN},
    )


def freed_places(metadata: sa.MetaData) -> sa.Table:
    return sa.Table(
        "freed_places",
        metadata,
        sa.Column("id", BIGINT, sa.Identity(), comment="Of the row."),
        column("places", INTEGER, "How many; 0 where the gate had let the job go and counts no places.", "1"),
        column("loose", BOOLEAN, "Whether the gate had let the job go, and it had not been claimed."),
        column("gate", TEXT, "Where it had its place."),
        sa.PrimaryKeyConstraint("id", name="freed_places_pkey"),
        sa.Index("freed_places_gate", "gate"),
        comment="Places that jobs have given back: whoever next holds the gate takes them. So an outcome waits for no "
        "gate.",
        postgresql_with=VACUUM_OFTEN,
    )
