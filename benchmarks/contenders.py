"""Who is measured, each at the settings that its documentation or a sweep found best."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.environments import Environment, Node, Own, Python


@dataclass(frozen=True, slots=True)
class Contender:
    """`jobs` is what it drains in a few seconds on two cores, so that a round of all stays short.

    `hundred` changes its settings to a hundred tasks at once, for tasks that take time.
    `boots`: its own program starts the worker, so that a drain can only be timed from its first job.
    """

    name: str
    title: str
    module: str
    environment: Environment
    jobs: int
    options: Mapping[str, Any] = field(default_factory=dict)
    hundred: Mapping[str, Any] = field(default_factory=dict)
    redis: bool = False
    boots: bool = False


PGQUEUE = {"slots": 100, "chunk": 100_000}
CONTENDERS = (
    Contender("pgqueue", "pgqueue, with history", "pgqueue", Own(), 150_000, {**PGQUEUE, "history": True}),
    Contender("pgqueue_no_history", "pgqueue, no history", "pgqueue", Own(), 150_000, {**PGQUEUE, "history": False}),
    Contender(
        "graphile",
        "Graphile Worker, tuned",
        "graphile",
        Node(),
        100_000,
        {"concurrency": 24, "pool": 25, "localQueue": 500, "refetchDelay": 10, "batchDelay": 0, "chunk": 20_000},
        {"concurrency": 100},
    ),
    Contender(
        "pgboss",
        "pg-boss",
        "pgboss",
        Node(),
        60_000,
        {"batchSize": 500, "localConcurrency": 2, "notify": True, "pool": 10, "chunk": 20_000},
        {"batchSize": 50},
    ),
    Contender(
        "pgqueuer",
        "PgQueuer",
        "pgqueuer",
        Python("pgqueuer"),
        30_000,
        {"batch_size": 250, "pool": 4, "chunk": 20_000, "max_concurrent_tasks": None},
        {"batch_size": 50, "max_concurrent_tasks": 100},
    ),
    Contender(
        "awa",
        "awa",
        "awa",
        Python("awa"),
        15_000,
        {"max_workers": 1000, "pool": 30, "claim_batch_size": 512, "poll_interval_ms": 200, "chunk": 20_000},
        {"max_workers": 100},
    ),
    Contender("chancy", "Chancy", "chancy", Python("chancy"), 6_000, {"concurrency": 100, "pool": 10, "chunk": 1000}),
    Contender(
        "bullmq_pg",
        "BullMQ on PostgreSQL",
        "bullmq",
        Node(),
        4_000,
        {"postgres": True, "concurrency": 100, "pool": 10, "chunk": 1000},
    ),
    Contender(
        "oban",
        "oban-py",
        "oban",
        Python("oban", (3, 12)),
        4_000,
        {"limit": 100, "debounce": 0.005, "pool": 10, "chunk": 1000},
    ),
    Contender(
        "procrastinate",
        "procrastinate",
        "procrastinate",
        Python("procrastinate"),
        2_000,
        {"concurrency": 100, "pool": 20, "delete_jobs": "successful", "chunk": 1000},
    ),
    Contender(
        "bullmq",
        "BullMQ on Redis",
        "bullmq",
        Node(),
        30_000,
        {"concurrency": 100, "pool": 1, "chunk": 1000},
        redis=True,
    ),
    Contender(
        "dramatiq",
        "dramatiq on Redis",
        "dramatiq",
        Python("dramatiq"),
        10_000,
        {"processes": 2, "threads": 8},
        {"threads": 50},
        redis=True,
        boots=True,
    ),
    Contender(
        "bullmq_py",
        "BullMQ for Python on Redis",
        "bullmq",
        Python("bullmq"),
        4_000,
        {"concurrency": 100, "chunk": 1000},
        redis=True,
    ),
    Contender(
        "celery",
        "Celery on Redis",
        "celery",
        Python("celery"),
        3_000,
        {"pool": "prefork", "concurrency": 2, "prefetch": 128},
        {"pool": "threads", "concurrency": 100},
        redis=True,
        boots=True,
    ),
)
BARE = (
    Contender("bare", "bare loop: the same claim and finish, no tasks", "", Own(), 150_000),
    Contender("notify", "bare NOTIFY", "notify", Own(), 0),
)
BY_NAME = {contender.name: contender for contender in (*CONTENDERS, *BARE)}
