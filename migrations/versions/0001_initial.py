"""Jobs, claims, workers, tasks, queues, schedules, history, failed jobs; the views and functions for people."""

from __future__ import annotations

from pathlib import Path

from alembic import context, op
from sqlalchemy import text

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

FILES = ("0001_initial.sql", "0001_flows.sql", "0001_views.sql", "0001_functions.sql")
FUNCTIONS = (
    "enqueue",
    "enqueue_job",
    "fill_key",
    "too_deep",
    "take_keys_back",
    "places_kept",
    "places_freed",
    "cancel",
    "is_failure",
    "redrive",
    "purge_failed",
    "enqueue_on_failed",
    "hook_key",
    "pause",
    "resume",
    "gate_name",
    "key_template",
    "add_schedule",
    "clock",
    "set_ageing",
    "set_limit",
    "remove_limit",
    "set_breaker",
    "remove_breaker",
    "open_breaker",
    "close_breaker",
    "reset_breaker",
    "queue_name",
    "make_partitions",
    "lanes_of",
    "edge_state",
    "flow_turn",
    "skip_callbacks",
    "settle_flows",
    "release_waiting",
    "comes_with_a_child",
    "add_counts",
)
VIEWS = ("queue_stats", "running_jobs", "all_jobs", "all_flows")
TABLES = (
    "jobs",
    "claims",
    "lanes",
    "idle_workers",
    "limits",
    "gates",
    "freed_places",
    "breakers",
    "breaker_counts",
    "used_keys",
    "waiters",
    "job_progress",
    "job_logs",
    "job_steps",
    "effects",
    "workers",
    "tasks",
    "queues",
    "schedules",
    "completed_jobs",
    "failed_jobs",
    "alerts",
    "rescues",
    "audit_log",
    "task_minutes",
    "flows",
    "flow_jobs",
    "flow_edges",
    "flow_waits",
    "flow_news",
    "flow_turns",
)
SEQUENCES = ("jobs_position", "waited_until", "scheduler_seen")


def upgrade() -> None:
    schema: str = context.config.attributes["schema"]
    for file in FILES:
        sql = (Path(__file__).parent / file).read_text(encoding="utf-8")
        filled = sql.format(schema=f'"{schema}"', bare_schema=schema, channel=schema)
        op.execute(text(filled.replace(":", "\\:")))


def downgrade() -> None:
    schema: str = context.config.attributes["schema"]
    for kind, names in (("function", FUNCTIONS), ("view", VIEWS), ("table", TABLES)):
        for name in names:
            op.execute(f'drop {kind} "{schema}".{name}')
    for name in SEQUENCES:
        op.execute(f'drop sequence "{schema}".{name}')
