"""The names of the metrics that pgqueue exports."""

from __future__ import annotations

import re

from prometheus_client import CollectorRegistry

from pgqueue import PgQueue
from pgqueue.metrics import DatabaseMetrics, Metrics

SUFFIXES = {"counter": "_total", "info": "_info"}


def exported() -> set[str]:
    """Names as Prometheus has them; a histogram's without _bucket, _sum and _count."""
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
