"""Working while somebody holds old snapshots: PostgreSQL then keeps every dead row and index entry of the queue."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import psycopg
from psycopg import sql

from benchmarks.scenarios.pickups import pickup
from benchmarks.scenarios.working import LIMIT, work_off
from benchmarks.trial import Trial

REPORT_ROWS = 200_000
COUNTED = ("rate", "capped", "lost", "doubled", "server_us", "worker_us")


def pinned(trial: Trial, jobs: int, churn: int, limit: float, pickups: int = 0) -> dict[str, Any]:
    """One REPEATABLE READ transaction, held while `churn` jobs come and go: see `_degraded`."""
    return _degraded(trial, jobs, churn, limit, pickups, one_snapshot)


def readers(trial: Trial, jobs: int, churn: int, limit: float, count: int, seconds: float) -> dict[str, Any]:
    """`count` analysts, each with one report of `seconds` after the other, begun at different times."""

    def analysts(dsn: str) -> AbstractContextManager[None]:
        return _analysts(dsn, count, seconds)

    return _degraded(trial, jobs, churn, limit, 0, analysts)


def _degraded(
    trial: Trial,
    jobs: int,
    churn: int,
    limit: float,
    pickups: int,
    hold: Callable[[str], AbstractContextManager[None]],
) -> dict[str, Any]:
    """A clean drain; then, under the snapshots, `churn` jobs in at most `limit` seconds, and a drain by a fresh worker.

    With `pickups`, the pickup of so many single jobs before and after.
    """
    figures: dict[str, Any] = {"jobs": jobs}
    if pickups:
        figures["clean_pickup"] = pickup(trial, pickups, 0.05)
    trial.bulk(jobs)
    trial.settle()
    clean = work_off(trial, jobs)
    with hold(trial.dsn):
        churned, chunks = churn_jobs(trial, jobs, churn, limit)
        if chunks and chunks[-1]["capped"]:
            last = chunks[-1]
        else:
            trial.bulk(jobs, start=jobs + churned)
            trial.analyze()
            last = work_off(trial, jobs, jobs + churned)
            if pickups:
                figures["pinned_pickup"] = pickup(trial, pickups, 0.05)
    every = [clean, *chunks, last]
    return {
        **figures,
        "clean": {name: clean[name] for name in COUNTED},
        "pinned": {name: last[name] for name in COUNTED},
        "ratio": last["rate"] / clean["rate"],
        "churned": churned,
        "churn_asked": churn,
        "churn_rates": [round(chunk["rate"]) for chunk in chunks],
        "lost": sum(part["lost"] for part in every),
        "doubled": sum(part["doubled"] for part in every),
    }


def churn_jobs(trial: Trial, first: int, churn: int, limit: float) -> tuple[int, list[dict[str, Any]]]:
    """How many jobs came and went in the time given, and the figures of each chunk of them."""
    chunk = min(churn, max(500, trial.contender.jobs // 2))
    churned = 0
    chunks: list[dict[str, Any]] = []
    deadline = time.monotonic() + limit
    while churned < churn and time.monotonic() < deadline:
        size = min(chunk, churn - churned)
        trial.bulk(size, start=first + churned)
        chunks.append(work_off(trial, size, first + churned, limit=LIMIT))
        churned += chunks[-1]["ran"]
        if chunks[-1]["capped"]:
            break
    return churned, chunks


@contextmanager
def one_snapshot(dsn: str) -> Iterator[None]:
    """A REPEATABLE READ transaction that stays open."""
    with psycopg.connect(dsn) as holder:
        holder.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        holder.execute("select count(*) from pg_class")
        yield
        # Raises if the server ended the transaction in the meantime: the run would not be what it claims to be.
        holder.execute("select 1")


@contextmanager
def _analysts(dsn: str, count: int, seconds: float) -> Iterator[None]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("create table report (number bigint)")
        connection.execute(
            sql.SQL("insert into report select * from generate_series(1, {})").format(sql.Literal(REPORT_ROWS))
        )
    connections = [psycopg.connect(dsn) for _ in range(count)]
    over = threading.Event()

    def read(connection: psycopg.Connection, first: float) -> None:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        length = first
        while not over.is_set():
            with connection.transaction():
                connection.execute("select sum(number) from report")
                over.wait(length)
                connection.execute("select sum(number) from report")
            length = seconds

    threads = [
        threading.Thread(target=read, args=(connection, seconds * (n + 1) / count))
        for n, connection in enumerate(connections)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()
        for connection in connections:
            connection.close()
