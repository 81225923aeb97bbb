"""What matters of the server, of the way to it, and of this side."""

from __future__ import annotations

import os
import platform
import statistics
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import psycopg

from pgqueue.bench.place import Place

SETTINGS = ("fsync", "synchronous_commit", "shared_buffers", "max_wal_size")
TRIPS = 100


@dataclass(frozen=True, slots=True)
class Facts:
    """`round_trip` is in seconds, the median of a hundred; `uvloop` is None where it is not installed."""

    postgresql: str
    settings: dict[str, str]
    pooler: bool
    round_trip: float
    python: str
    uvloop: str | None
    cpus: int | None


def look(place: Place) -> Facts:
    """Connect and ask. Raises ConnectionFailed."""
    with place.connect() as conn:
        settings = {name: str(_one(conn, f"select current_setting('{name}')")) for name in SETTINGS}
        return Facts(
            postgresql=str(_one(conn, "select current_setting('server_version')")).split()[0],
            settings=settings,
            pooler=place.pooler,
            round_trip=_round_trip(conn),
            python=platform.python_version(),
            uvloop=_version("uvloop"),
            cpus=os.cpu_count(),
        )


def has_pooler(dsn: str) -> bool:
    """Whether something stands between that hands out servers: it has told another process id than the server's."""
    with Place(dsn, pooler=True).connect() as conn:
        return bool(_one(conn, "select pg_backend_pid()") != conn.info.backend_pid)


def _round_trip(conn: psycopg.Connection[Any]) -> float:
    seconds = []
    for _ in range(TRIPS):
        began = time.perf_counter()
        conn.execute("select 1")
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def _one(conn: psycopg.Connection[Any], query: str) -> Any:
    row = conn.execute(query.encode()).fetchone()
    return None if row is None else row[0]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
