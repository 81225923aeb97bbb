"""Which jobs ran, and when: written by the task itself, known to no queue, read by the benchmark.

Each process writes files of its own in one folder: `PID.runs` has a byte a job, how often it ran; `PID.times` eight
bytes a job, when it last began, in nanoseconds of the monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

import mmap
import os
import threading
import time
from pathlib import Path

from benchmarks.peers.setting import Setting

MOST_RUNS = 255


class TaskFailed(Exception):
    """What a task raises that is meant to fail."""


class Ledger:
    """Opens its files at the first job, so that a worker that forks writes one ledger a child.

    ledger = Ledger(setting)
    if pause := ledger.hit(7):
        await asyncio.sleep(pause)
    """

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._opening = threading.Lock()
        self._runs: mmap.mmap | None = None
        self._times: memoryview | None = None

    def hit(self, number: int) -> float:
        """The first line of the task: count this run. Returns for how long the task is to sleep.

        Raises TaskFailed for a job that is to fail. Negative numbers warm up and do not count.
        """
        now = time.monotonic_ns()
        runs = self._runs
        if runs is None:
            runs = self._open()
        if number < 0:
            return 0.0
        if runs[number] < MOST_RUNS:
            runs[number] += 1
        if self._times is not None:
            self._times[number] = now
        if number * 37 % 100 < self._setting.failing:
            raise TaskFailed(f"job {number} is meant to fail")
        return self._setting.sleep

    def _open(self) -> mmap.mmap:
        # Threads that begin together would each empty the file under the other's map.
        with self._opening:
            if self._runs is None:
                if self._setting.timed:
                    self._times = memoryview(self._map("times", self._setting.size * 8)).cast("q")
                self._runs = self._map("runs", self._setting.size)
        return self._runs

    def _map(self, kind: str, size: int) -> mmap.mmap:
        with Path(self._setting.ledger, f"{os.getpid()}.{kind}").open("w+b") as file:
            file.truncate(size)
            return mmap.mmap(file.fileno(), size)
