"""Jobs that depend on each other."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import BIGINT, BOOLEAN, INTEGER, JSONB, TEXT

from pgqueue.tables.columns import NOW, TIME, VACUUM_OFTEN, column, nullable


def flows(metadata: sa.MetaData) -> sa.Table:
    return sa.Table(
        "flows",
        metadata,
        sa.Column("id", BIGINT, sa.Identity(), comment="Of the flow."),
        column("created_at", TIME, "When its first jobs were enqueued.", NOW),
        nullable("name", TEXT, "What people call it; null: nothing."),
        sa.PrimaryKeyConstraint("id", name="flows_pkey"),
        comment="Jobs that depend on each other, enqueued together or one after the other.",
    )


def flow_jobs(metadata: sa.MetaData) -> sa.Table:
    return sa.Table(
        "flow_jobs",
        metadata,
        column("job_id", BIGINT, "The job."),
        column("flow_id", BIGINT, "Its flow."),
        nullable("ended_at", TIME, "When it ended."),
        column("queue", TEXT, "As in jobs."),
        column("task", TEXT, "As in jobs."),
        nullable("name", TEXT, "What its flow calls it."),
        nullable(
            "state",
            TEXT,
            "completed, cancelled, skipped (a callback that was not to run), failed, or gone (deleted); null while it "
            "is live.",
        ),
        nullable(
            "counted",
            TEXT,
            "The state with which those that wait for it have counted it; another one than state: they are to be told.",
        ),
        nullable("result", JSONB, "What its task returned."),
        nullable("error", JSONB, "Why it did not complete: type and message."),
        sa.PrimaryKeyConstraint("job_id", name="flow_jobs_pkey"),
        sa.CheckConstraint(
            "state in ('completed', 'cancelled', 'skipped', 'failed', 'gone')", name="flow_jobs_state_check"
        ),
        sa.Index("flow_jobs_flow", "flow_id", "job_id"),
        sa.Index("flow_jobs_news", "job_id", postgresql_where=sa.text("state is distinct from counted")),
        comment="One row a job of a flow, live or ended: how it ended, for those that wait for it, whether history is "
        "kept or not.",
        postgresql_with={"fillfactor": 60, **VACUUM_OFTEN},
    )


def flow_edges(metadata: sa.MetaData) -> sa.Table:
    return sa.Table(
        "flow_edges",
        metadata,
        column("parent_id", BIGINT, "The job that waits."),
        column("child_id", BIGINT, "The job that runs first."),
        column(
            "on_failure",
            TEXT,
            "What a child that does not complete does to its parent: fail_parent, ignore, run_parent, cancel_siblings "
            "or wait (until it is redriven).",
            "'fail_parent'",
        ),
        sa.PrimaryKeyConstraint("parent_id", "child_id", name="flow_edges_pkey"),
        sa.CheckConstraint(
            "on_failure in ('fail_parent', 'ignore', 'run_parent', 'cancel_siblings', 'wait')",
            name="flow_edges_on_failure_check",
        ),
        sa.Index("flow_edges_child", "child_id"),
        comment="The parent waits for the child.",
    )


def flow_waits(metadata: sa.MetaData) -> sa.Table:
    return sa.Table(
        "flow_waits",
        metadata,
        column("job_id", BIGINT, "The parent."),
        column("pending", INTEGER, "How many children it still waits for."),
        column("failing", INTEGER, "How many have not completed, for which it fails.", "0"),
        column("urgent", INTEGER, "How many have not completed, for which it begins at once.", "0"),
        column("waiting", BOOLEAN, "Whether its job is blocked for that.", "true"),
        column(
            "doomed",
            BOOLEAN,
            "Whether it failed unrun for a child: it waits again when that child is redriven.",
            "false",
        ),
        nullable(
            "callback",
            TEXT,
            "Of a batch: success, complete or failure, the only case in which it is to run; null for any other job.",
        ),
        sa.PrimaryKeyConstraint("job_id", name="flow_waits_pkey"),
        sa.CheckConstraint("callback in ('success', 'complete', 'failure')", name="flow_waits_callback_check"),
        sa.Index(
            "flow_waits_over",
            "job_id",
            postgresql_where=sa.text("waiting and (pending <= 0 or failing > 0 or urgent > 0)"),
        ),
        sa.Index("flow_waits_doomed", "job_id", postgresql_where=sa.text("doomed and failing = 0")),
        comment="One row a job that waits, or has waited, for others: how many of them.",
        postgresql_with={"fillfactor": 50, **VACUUM_OFTEN},
    )
