"""What the figures were measured on, and with."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from benchmarks.environments import ROOT
from benchmarks.trial import Servers
from pgqueue.version import VERSION

SYNC_SECONDS = 0.5


def describe(servers: Servers) -> dict[str, Any]:
    """Hardware, versions and settings."""
    return {
        "cpu": _cpu_model(),
        "cores": len(psutil.Process().cpu_affinity()) if sys.platform == "linux" else os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "syncs_per_second": round(_syncs_per_second()),
        "python": platform.python_version(),
        "psycopg": version("psycopg"),
        "pgqueue": f"{VERSION} ({_commit()})",
        "postgresql": servers.postgres.settings(),
        "redis": None if servers.redis is None else f"{servers.redis.version}, AOF everysec",
        "command": "python -m benchmarks " + " ".join(sys.argv[1:]),
        "load": load(),
    }


def load() -> list[float]:
    """The load averages of the last 1, 5 and 15 minutes: from them a reader sees whether others worked too."""
    return [round(each, 2) for each in os.getloadavg()]


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _syncs_per_second() -> float:
    """Commits wait for the disk; this says how fast it is."""
    with tempfile.TemporaryFile() as file:
        done, began = 0, time.perf_counter()
        while (seconds := time.perf_counter() - began) < SYNC_SECONDS:
            os.pwrite(file.fileno(), b"x" * 8192, 0)
            os.fsync(file.fileno())
            done += 1
    return done / seconds


def _commit() -> str:
    git = ["git", "-C", str(ROOT)]
    found = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    if found.returncode:
        return "not a checkout"
    changed = subprocess.run([*git, "status", "--porcelain", "pgqueue"], capture_output=True, text=True).stdout
    return found.stdout.strip() + (" with changes" if changed.strip() else "")
