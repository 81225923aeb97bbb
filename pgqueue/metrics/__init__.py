"""Prometheus metrics: of a process that enqueues or runs jobs, and of what the database says.

It needs prometheus-client: `pip install 'pgqueue[metrics]'`.
"""

from importlib.util import find_spec

if find_spec("prometheus_client") is None:
    raise ImportError(
        "pgqueue.metrics needs prometheus-client: install pgqueue with the extra `metrics`, "
        "as in pip install '.[metrics]'"
    )

from pgqueue.metrics.database import DatabaseMetrics
from pgqueue.metrics.exposing import Exposition, exposition
from pgqueue.metrics.metrics import Metrics

__all__ = ["DatabaseMetrics", "Exposition", "Metrics", "exposition"]
