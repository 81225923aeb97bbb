"""Circuit breakers, and what they have counted."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import BIGINT, DOUBLE_PRECISION, INTEGER, TEXT

from pgqueue.tables.columns import NOW, TEXTS, TIME, VACUUM_OFTEN, column, nullable


def breakers(metadata: sa.MetaData) -> sa.Table:
    return sa.Table(
        "breakers",
        metadata,
        column("within", DOUBLE_PRECISION, "Seconds back from now in which attempts are counted."),
        column("open_for", DOUBLE_PRECISION, "Seconds for which it opens first."),
        column("cap", DOUBLE_PRECISION, "Seconds for which it opens at most: each trial that fails doubles them."),
        nullable(
            "ratio", DOUBLE_PRECISION, "Share of the attempts that must have failed; null: only their number counts."
        ),
        nullable(
            "open_until",
            TIME,
            "Null: closed. Until then it is open, and nothing of it begins; from then on half-open: one job is tried. "
            "infinity: until somebody closes it.",
        ),
        nullable("opened_at", TIME, "When it last opened."),
        column("counted_from", TIME, "Attempts that ended before are not counted.", "'-infinity'"),
        column("updated_at", TIME, "Last change of the thresholds.", NOW),
        nullable("failures", INTEGER, "Failed attempts that open it; null: only their share counts."),
        column("minimum", INTEGER, "Attempts from which on the share counts."),
        column("trials", INTEGER, "Trials that have failed one after the other.", "0"),
        column("scope", TEXT, "queue or task."),
        column("name", TEXT, "Of the queue or task."),
        nullable("reason", TEXT, "Why it last opened."),
        nullable(
            "declared",
            TEXT,
            "What the code said last: as long as it says the same, changes made here stay. Null for a breaker of which "
            "no code knows.",
        ),
        nullable("errors", TEXTS, "Classes of the errors that count, module and name; null for all."),
        sa.PrimaryKeyConstraint("scope", "name", name="breakers_pkey"),
        sa.CheckConstraint("scope in ('queue', 'task')", name="breakers_scope_check"),
        sa.CheckConstraint("failures is not null or ratio is not null", name="breakers_threshold_check"),
        sa.CheckConstraint("failures >= 1", name="breakers_failures_check"),
        sa.CheckConstraint("ratio > 0 and ratio <= 1", name="breakers_ratio_check"),
        sa.CheckConstraint("minimum >= 1", name="breakers_minimum_check"),
        sa.CheckConstraint(
            "within > 0 and open_for > 0 and cap >= open_for and greatest(within, cap) <= 3162240000",
            name="breakers_times_check",
        ),
        comment="Circuit breakers: when the failed attempts of a queue or task stop it on all workers, and whether "
        "they have. While one is not closed, limits has a row of its own with the key breaker.",
    )


def breaker_counts(metadata: sa.MetaData) -> sa.Table:
    return sa.Table(
        "breaker_counts",
        metadata,
        sa.Column("id", BIGINT, sa.Identity(), comment="Of the row."),
        column("at", TIME, "When they ended; of rows that were put together, the last.", NOW),
        column("failures", BIGINT, "How many of them failed."),
        column("attempts", BIGINT, "How many; without those that completed where only failures are counted."),
        column("scope", TEXT, "queue or task."),
        column("name", TEXT, "Of the queue or task."),
        sa.PrimaryKeyConstraint("id", name="breaker_counts_pkey"),
        sa.Index("breaker_counts_of", "scope", "name", "at"),
        comment="Attempts that breakers have seen lately: a row for each batch of outcomes with failures. So an "
        "outcome waits for no breaker.",
        postgresql_with=VACUUM_OFTEN,
    )
