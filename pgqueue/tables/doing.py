"""What running tasks have done: steps of their jobs, and effects under keys of their own."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import BIGINT, INTEGER, JSONB, TEXT

from pgqueue.tables.columns import NOW, TIME, VACUUM_OFTEN, column, nullable


def effects(metadata: sa.MetaData) -> sa.Table:
    return sa.Table(
        "effects",
        metadata,
        column("job_id", BIGINT, "The job that called."),
        column(
            "fence",
            BIGINT,
            "The claim under which it ran: while the job carries it, and the call is not done, nobody else calls.",
        ),
        column("begun_at", TIME, "When the call began.", NOW),
        nullable("done_at", TIME, "When it had returned; null before."),
        column("key", TEXT, "What is done once."),
        column("request", TEXT, "Hash of the arguments: another call under the key must have the same."),
        nullable("result", JSONB, "What was returned; null when that was None."),
        nullable("problem", TEXT, "Why the result could not be stored."),
        sa.PrimaryKeyConstraint("key", name="effects_pkey"),
        sa.Index("effects_begun", "begun_at"),
        comment="What tasks have done once: a call under the same key returns the stored result.",
        # Each row is written twice.
        postgresql_with={"fillfactor": 80, **VACUUM_OFTEN},
    )


def job_steps(metadata: sa.MetaData) -> sa.Table:
    return sa.Table(
        "job_steps",
        metadata,
        column("job_id", BIGINT, "The job."),
        column("done_at", TIME, "When it committed.", NOW),
        column("attempt", INTEGER, "In which attempt."),
        column("name", TEXT, "Name of the step."),
        nullable("result", JSONB, "What it returned; null when that was None."),
        sa.PrimaryKeyConstraint("job_id", "name", name="job_steps_pkey"),
        comment="Steps of jobs that have committed: a later attempt skips them.",
        postgresql_with=VACUUM_OFTEN,
    )
