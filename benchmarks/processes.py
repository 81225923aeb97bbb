"""What the operating system says about processes: CPU, memory, and a port that nobody uses."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import psutil


def cpu_seconds(root: psutil.Process) -> float:
    """CPU seconds of a process and all below it, the ended ones included."""
    return sum(sum(process.cpu_times()[:4]) for process in family(root))


def memory_bytes(root: psutil.Process) -> int:
    """Resident memory of a process and all below it."""
    return sum(process.memory_info().rss for process in family(root))


def family(root: psutil.Process) -> Iterator[psutil.Process]:
    for process in [root, *_children(root)]:
        try:
            with process.oneshot():
                process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        yield process


def _children(root: psutil.Process) -> list[psutil.Process]:
    try:
        return root.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
