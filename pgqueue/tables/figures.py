"""What runs came to, minute by minute."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, BIGINT, DOUBLE_PRECISION, INTEGER, TEXT

from pgqueue.tables.columns import TIME, VACUUM_OFTEN, column

COUNTS = ARRAY(INTEGER)
BUCKETS = (
    "in buckets: the element with subscript n counts those from 2^(n-1) microseconds on and below 2^n, that with "
    "subscript 0 those below one."
)


def task_minutes(metadata: sa.MetaData) -> sa.Table:
    return sa.Table(
        "task_minutes",
        metadata,
        column("minute", TIME, "Its begin, by the database's clock."),
        column("run_seconds", DOUBLE_PRECISION, "Seconds that the runs in `runs` took together."),
        column("wait_seconds", DOUBLE_PRECISION, "Seconds that those in `waits` had waited together."),
        column("completed", BIGINT, "Jobs that completed."),
        column("failed", BIGINT, "Jobs that went to failed_jobs from a run, or with a worker that died of them."),
        column("retried", BIGINT, "Runs after which the job is to run again, an attempt used."),
        column(
            "snoozed", BIGINT, "Runs after which it is to run again, or waits for others, without using an attempt."
        ),
        column("cancelled", BIGINT, "Jobs that were cancelled while a worker held them."),
        column("queue", TEXT, "As in jobs."),
        column("task", TEXT, "As in jobs."),
        column("runs", COUNTS, f"How long runs took, {BUCKETS}"),
        column("waits", COUNTS, f"How long jobs had waited when they ran, from when they could, {BUCKETS}"),
        sa.PrimaryKeyConstraint("minute", "queue", "task", name="task_minutes_pkey"),
        comment="What runs came to in each minute of the last three days, by queue and task. Workers count in memory "
        "and add to it every few seconds: figures, not a ledger. What a worker had not added when it was killed is "
        "lost; what ends without a worker (cancelled while it waits, failed for a child) is not counted.",
        postgresql_with={"fillfactor": 70, **VACUUM_OFTEN},
    )
