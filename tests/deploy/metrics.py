"""The names of the metrics that pgqueue exports."""

from __future__ import annotations

import re
from pathlib import Path

CODE = Path(__file__).parents[2] / "pgqueue/metrics"
# What is to be exported; as soon as the code declares metrics, its names count instead.
PLANNED = """
    pgqueue_jobs_enqueued_total pgqueue_jobs_processed_total pgqueue_job_duration_seconds pgqueue_job_wait_seconds
    pgqueue_job_total_seconds pgqueue_job_errors_total pgqueue_jobs_in_flight pgqueue_claim_duration_seconds
    pgqueue_rescued_total pgqueue_worker_slots pgqueue_build_info
    pgqueue_queue_depth pgqueue_queue_oldest_seconds pgqueue_queue_paused pgqueue_workers pgqueue_failed_jobs
    pgqueue_schedule_last_run_timestamp_seconds pgqueue_xmin_age_seconds pgqueue_dead_tuples pgqueue_up
"""
DECLARED = re.compile(r'(\w+)MetricFamily\(\s*"(pgqueue_\w+)"')
SUFFIXES = {"Counter": "_total", "Info": "_info"}


def exported() -> set[str]:
    """Names as Prometheus has them; a histogram's without _bucket, _sum and _count."""
    text = "\n".join(file.read_text(encoding="utf-8") for file in CODE.glob("**/*.py"))
    declared = {name + SUFFIXES.get(kind, "") for kind, name in DECLARED.findall(text)}
    return declared or set(PLANNED.split())


def used(expression: str) -> set[str]:
    """Names of exported metrics in a PromQL expression; recorded ones, which have colons, are left out."""
    words = re.findall(r"[a-zA-Z_:][\w:]*", re.sub(r'"[^"]*"', "", expression))
    return {re.sub(r"_(bucket|sum|count)$", "", word) for word in words if word.startswith("pgqueue_")}


def recorded(expression: str) -> set[str]:
    """Names of recorded metrics in a PromQL expression."""
    return set(re.findall(r"[a-z]+:pgqueue_\w+:\w+", expression))
