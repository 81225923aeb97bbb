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
        nullable("result", JSONB, "What its task returned."),
        nullable("error", JSONB, "Why it did not complete, or has no result to give: type and message."),
        column(
            "adopted",
            BOOLEAN,
            "Whether it was there before its flow, which came to wait for it: it is not cancelled with it.",
            "false",
        ),
        sa.PrimaryKeyConstraint("job_id", name="flow_jobs_pkey"),
        sa.CheckConstraint(
            "state in ('completed', 'cancelled', 'skipped', 'failed', 'gone')", name="flow_jobs_state_check"
        ),
        sa.Index("flow_jobs_flow", "flow_id", "job_id"),
        comment="One row a job of a flow, live or ended: how it ended, for those that wait for it, whether history is "
        "kept or not.",
        postgresql_with={"fillfactor": 50, **VACUUM_OFTEN},
    )


def flow_edges(metadata: sa.MetaData) -> sa.Table:
    return sa.Table(
        "flow_edges",
        metadata,
        column("parent_id", BIGINT, "The job that waits."),
        column("child_id", BIGINT, "The job that runs first."),
        column("round", INTEGER, "In which round of its waiting the parent counts the child.", "0"),
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
        sa.Index("flow_edges_child", "child_id", "parent_id"),
        comment="The parent waits for the child.",
    )


def flow_waits(metadata: sa.MetaData) -> sa.Table:
    return sa.Table(
        "flow_waits",
        metadata,
        column("job_id", BIGINT, "The parent."),
        column(
            "round",
            INTEGER,
            "How often it has gone back to wait for others: what it waited for before is counted no more.",
            "0",
        ),
        column("pending", INTEGER, "How many children it still waits for."),
        column("failing", INTEGER, "How many have not completed, for which it fails.", "0"),
        column("urgent", INTEGER, "How many have not completed, for which it begins at once.", "0"),
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
        comment="One row a job that waits, or has waited, for others: how many of them.",
        postgresql_with={"fillfactor": 50, **VACUUM_OFTEN},
    )


def flow_news(metadata: sa.MetaData) -> sa.Table:
    return sa.Table(
        "flow_news",
        metadata,
        column("job_id", BIGINT, "The member."),
        nullable("was", TEXT, "Its state before, as in flow_jobs."),
        nullable("state", TEXT, "Its state since then."),
        column("told", BIGINT, "Parents up to this id have counted it.", "0"),
        comment="Members of flows that have ended, or live again, until those that wait for them have counted it. "
        "Written with the end itself; read whole, so it has no index.",
        postgresql_with=VACUUM_OFTEN,
    )


def flow_turns(metadata: sa.MetaData) -> sa.Table:
    return sa.Table(
        "flow_turns",
        metadata,
        column("job_id", BIGINT, "The job."),
        column(
            "turn",
            TEXT,
            "release, fail, cancel (another child of its parent did not complete), drop (a callback that is not to "
            "run) or revive (it failed for a child that lives again).",
        ),
        sa.CheckConstraint("turn in ('release', 'fail', 'cancel', 'drop', 'revive')", name="flow_turns_turn_check"),
        comment="Jobs whose counts say that something is to become of them. It is looked at again when that is done, "
        "so that more rows than one do no harm.",
        postgresql_with=VACUUM_OFTEN,
    )
