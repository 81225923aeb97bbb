"""Alerts, and what they are counted from."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import BIGINT, DOUBLE_PRECISION, INTEGER, INTERVAL, JSONB, TEXT, UUID

from pgqueue.tables.columns import NOW, TEXTS, TIME, column, nullable


def alerts(metadata: sa.MetaData) -> sa.Table:
    return sa.Table(
        "alerts",
        metadata,
        column("name", TEXT, "As the code names it."),
        column("rule", JSONB, "What is wrong: kind, above, within and lasting (seconds), queue, task."),
        column("severity", TEXT, "info, warning or critical."),
        nullable("runbook", TEXT, "What to do, or where that is written."),
        column("deliver_to", TEXTS, "Tasks that are enqueued when it begins, goes on or ends; it is always logged."),
        nullable("repeat_after", INTERVAL, "After how long it is said again; null for not at all."),
        nullable("value", DOUBLE_PRECISION, "What was measured last; counts end just above the threshold."),
        nullable("message", TEXT, "What that means."),
        nullable("holds_since", TIME, "Since when it is so; null while it is not."),
        nullable("firing_since", TIME, "Since when it fires: it has been so for long enough."),
        nullable("clear_since", TIME, "Since when it is not so any more, while it still fires."),
        nullable("delivered_at", TIME, "When it was last said that it fires."),
        nullable("evaluated_at", TIME, "When somebody last looked."),
        column("declared_at", TIME, "When a process that declares it last started.", NOW),
        sa.PrimaryKeyConstraint("name", name="alerts_pkey"),
        comment="What apps want to be told of, and how it stands. The row is locked by the one that looks.",
        postgresql_with={"fillfactor": 50},
    )


def rescues(metadata: sa.MetaData) -> sa.Table:
    return sa.Table(
        "rescues",
        metadata,
        sa.Column("id", BIGINT, sa.Identity(), comment="Of the row."),
        column("worker_id", UUID, "The dead worker; all zeros for what an earlier rescue had to leave."),
        column("rescued_at", TIME, "When.", NOW),
        column("jobs", INTEGER, "How many of its jobs in the queue were taken back."),
        column("queue", TEXT, "The queue."),
        sa.PrimaryKeyConstraint("id", name="rescues_pkey"),
        sa.Index("rescues_time", "rescued_at"),
        comment="Jobs that were taken back from dead workers, in the last seven days.",
    )
