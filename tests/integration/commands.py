"""`pgqueue …` as real processes, in a folder and with an environment of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
TIMEOUT = 30.0


class Command:
    """A running `pgqueue …`, whose stderr is a file."""

    def __init__(self, args: tuple[str, ...], folder: Path, env: dict[str, str], log: Path) -> None:
        self.log = log
        with log.open("w") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pgqueue", *args], cwd=folder, env=env, stdout=out, stderr=out
            )

    def said(self) -> str:
        return self.log.read_text()

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        try:
            return self.process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running; it said:\n{self.said()}") from None


Start = Callable[..., Command]


@contextmanager
def commands(dsn: str, folder: Path) -> Iterator[Start]:
    """What starts `pgqueue …` in `folder`, with no setting but the DSN; at the end all are killed."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PGQUEUE_")}
    env |= {"PGQUEUE_DSN": dsn, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    started: list[Command] = []

    def run(*args: str) -> Command:
        started.append(Command(args, folder, env, folder / f"log{len(started)}"))
        return started[-1]

    try:
        yield run
    finally:
        for command in started:
            command.process.kill()
            command.process.wait()


def until(condition: Callable[[], Any], what: str | Callable[[], str] = "") -> Any:
    """What `condition` returns once it holds. Fails when it does not within TIMEOUT, and says `what`."""
    deadline = time.monotonic() + TIMEOUT
    while not (found := condition()):
        if time.monotonic() >= deadline:
            pytest.fail(f"it did not happen within {TIMEOUT} s: {what if isinstance(what, str) else what()}")
        time.sleep(0.02)
    return found
