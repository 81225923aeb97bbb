"""What people did in the dashboard."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import BIGINT, JSONB, TEXT

from pgqueue.tables.columns import NOW, TIME, column


def audit_log(metadata: sa.MetaData) -> sa.Table:
    return sa.Table(
        "audit_log",
        metadata,
        sa.Column("id", BIGINT, sa.Identity(), comment="In the order in which they were noted."),
        column("at", TIME, "When.", NOW),
        column("actor", TEXT, "Who: the name with which somebody entered the dashboard."),
        column("role", TEXT, "The role that they had: viewer, operator or admin."),
        column("action", TEXT, "What was done, such as pause_queue."),
        column("target", TEXT, "To what: a name, an id, or how many."),
        column("detail", JSONB, "What else was said, such as a filter."),
        column(
            "outcome",
            TEXT,
            "done; nothing, where there was none to do it to; of several transactions begun, and then done or failed.",
        ),
        sa.PrimaryKeyConstraint("id", name="audit_log_pkey"),
        comment="Who did what in the dashboard, in the transaction of what was done. Nothing deletes from it.",
    )
