"""The worker processes of one contender in one run."""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, Self

import psutil

from benchmarks.environments import variables
from benchmarks.ledgers import Ledgers
from benchmarks.peers.setting import VARIABLE, Setting
from benchmarks.processes import cpu_seconds, memory_bytes

STOP_LIMIT = 15.0
BOOT_LIMIT = 60.0
POLL = 0.005


class ContenderFailed(Exception):
    """A process of a contender ended in an error; the message has the end of what it said."""


def error_of(what: str, said: IO[str]) -> ContenderFailed:
    said.seek(0)
    return ContenderFailed(f"{what} failed: {said.read()[-1500:].strip() or 'it said nothing'}")


class Workers:
    """Started and connected on entering, at work after `go()`, stopped on leaving.

    `boots`: the contender's own program cannot be held back; `go()` then waits for its first job.
    """

    def __init__(self, command: list[str], setting: Setting, *, processes: int = 1, boots: bool = False) -> None:
        self._command = [*command, "work"]
        self._setting = setting
        self._count = processes
        self._boots = boots
        self._running: list[subprocess.Popen[str]] = []
        self.ledgers = Ledgers(Path(setting.ledger))

    def __enter__(self) -> Self:
        self._said = tempfile.TemporaryFile("w+")
        environment = {**variables(), VARIABLE: json.dumps(asdict(self._setting))}
        for _ in range(self._count):
            self._running.append(
                subprocess.Popen(
                    self._command,
                    env=environment,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self._said,
                    text=True,
                    start_new_session=True,
                )
            )
        self._roots = [psutil.Process(process.pid) for process in self._running]
        if not self._boots:
            for process in self._running:
                self._wait_ready(process)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._running:
            assert process.stdin is not None
            process.stdin.close()
            if self._boots:
                process.terminate()
        deadline = time.monotonic() + STOP_LIMIT
        for process, root in zip(self._running, self._roots, strict=True):
            below = [] if process.poll() is not None else root.children(recursive=True)
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for child in below:
                if child.is_running():
                    child.kill()
            assert process.stdout is not None
            process.stdout.close()
        self._said.close()

    def go(self) -> None:
        for process in self._running:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        if self._boots:
            self.until(lambda: self.ledgers.ran(0, self._setting.size) > 0, BOOT_LIMIT)

    def until(self, reached: Callable[[], bool], limit: float, rest: float = 20) -> bool:
        """Wait until `reached()`; False when `limit` seconds passed. Raises ContenderFailed when a process ended.

        Between two questions it rests `rest` times as long as the question took: asking must not take the processor
        that the contender needs.
        """
        deadline = time.monotonic() + limit
        while True:
            asked = time.perf_counter()
            if reached():
                return True
            if any(process.poll() is not None for process in self._running):
                raise error_of("a worker", self._said)
            if time.monotonic() > deadline:
                return False
            time.sleep(max(POLL, rest * (time.perf_counter() - asked)))

    def cpu(self) -> float:
        return sum(map(cpu_seconds, self._roots))

    def memory(self) -> int:
        return sum(map(memory_bytes, self._roots))

    def _wait_ready(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line or not _ready(line):
            process.wait(STOP_LIMIT)
            raise error_of("a worker", self._said)


def _ready(line: str) -> Any:
    try:
        return json.loads(line).get("ready")
    except ValueError:
        return False
