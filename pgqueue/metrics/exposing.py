"""What a scrape is answered with."""

from __future__ import annotations

from typing import NamedTuple

from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector


class Exposition(NamedTuple):
    """The answer to a scrape, and its Content-Type."""

    body: bytes
    content_type: str


def exposition(*collectors: Collector) -> Exposition:
    """What registries and collectors hold now, in Prometheus' text format.

    body, content_type = exposition(REGISTRY, DatabaseMetrics(app))
    """
    return Exposition(b"".join(map(generate_latest, collectors)), CONTENT_TYPE_PLAIN_0_0_4)
