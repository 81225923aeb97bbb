"""The names of the metrics that pgqueue exports."""

from __future__ import annotations

import re

# As they are to be, until pgqueue.metrics is there and says so itself.
PLANNED = """
    pgqueue_jobs_enqueued_total pgqueue_jobs_processed_total pgqueue_job_duration_seconds pgqueue_job_wait_seconds
    pgqueue_job_total_seconds pgqueue_job_errors_total pgqueue_jobs_in_flight pgqueue_claim_duration_seconds
    pgqueue_rescued_total pgqueue_worker_slots pgqueue_build_info pgqueue_up
    pgqueue_queue_depth pgqueue_queue_oldest_seconds pgqueue_queue_paused pgqueue_workers pgqueue_failed_jobs
    pgqueue_schedule_last_run_timestamp_seconds pgqueue_xmin_age_seconds pgqueue_dead_tuples
"""
SUFFIXES = {"counter": "_total", "info": "_info"}


def exported() -> set[str]:
    """Names as Prometheus has them; a histogram's without _bucket, _sum and _count."""
    try:
        from prometheus_client.core import CollectorRegistry  # type: ignore[import-not-found, unused-ignore]

        from pgqueue.metrics import DatabaseMetrics, Metrics  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return set(PLANNED.split())
    from pgqueue import PgQueue

    app, registry = PgQueue("postgresql://"), CollectorRegistry()
    Metrics(app, registry)
    families = [*registry.collect(), *DatabaseMetrics(app).describe()]
    return {family.name + SUFFIXES.get(family.type, "") for family in families}


def used(expression: str) -> set[str]:
    """Names of exported metrics in a PromQL expression; recorded ones, which have colons, are left out."""
    words = re.findall(r"[a-zA-Z_:][\w:]*", re.sub(r'"[^"]*"', "", expression))
    return {re.sub(r"_(bucket|sum|count)$", "", word) for word in words if word.startswith("pgqueue_")}


def recorded(expression: str) -> set[str]:
    """Names of recorded metrics in a PromQL expression."""
    return set(re.findall(r"[a-z]+:pgqueue_\w+:\w+", expression))
