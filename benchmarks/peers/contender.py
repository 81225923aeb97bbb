"""A contender's processes: `python -m benchmarks.peers.NAME set_up|one|bulk|paced|work [JSON]`.

Each prints one line of JSON. `work` prints it when it is connected, starts at the first line on its standard input
and stops when that is closed.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from benchmarks.peers.ledger import Ledger
from benchmarks.peers.setting import Setting

Payload = dict[str, Any]
STOP_LIMIT = 10.0
WARM_UP = 20


class Contender(ABC):
    """What a contender has to say for itself.

    `unfinished` counts jobs that have not ended: SQL, or Redis commands whose integers add up.
    """

    uvloop = True
    unfinished: str | tuple[tuple[str, str], ...]

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.options = setting.options
        self.hit = Ledger(setting).hit

    def run(self, main: Coroutine[Any, Any, None]) -> None:
        """To the end, on the event loop that was as fast or faster for everyone here."""
        if self.uvloop:
            import uvloop

            uvloop.run(main)
        else:
            asyncio.run(main)

    def run_worker(self, main: Coroutine[Any, Any, None]) -> None:
        """As its own worker program would."""
        self.run(main)

    @property
    @abstractmethod
    def version(self) -> str: ...

    @abstractmethod
    async def set_up(self) -> None:
        """Make tables, queues and whatever else must be there first."""

    @abstractmethod
    async def open_producer(self) -> None:
        """Connect, with one connection."""

    @abstractmethod
    async def enqueue(self, payload: Payload) -> None:
        """One job, in a commit of its own."""

    @abstractmethod
    async def enqueue_bulk(self, payloads: Sequence[Payload], due: Sequence[float] | None) -> None:
        """Many jobs; `due` says when each may run, in seconds since 1970."""

    @abstractmethod
    async def open_worker(self) -> None:
        """What is not measured: connect, register the task."""

    @abstractmethod
    async def start_worker(self) -> None:
        """Begin to run jobs, and return."""

    @abstractmethod
    async def stop_worker(self) -> None: ...


class Unsupported(Exception):
    """The contender cannot do what a scenario asks for."""


async def one(contender: Contender, jobs: int, start: int = 0) -> dict[str, Any]:
    await contender.open_producer()
    for _ in range(WARM_UP):
        await contender.enqueue({"id": -1})
    cpu, began = time.process_time(), time.perf_counter()
    for number in range(start, start + jobs):
        await contender.enqueue({"id": number})
    return {"seconds": time.perf_counter() - began, "cpu": time.process_time() - cpu}


async def bulk(
    contender: Contender, jobs: int, start: int = 0, pad: int = 0, due: float | None = None, step: float = 0.0
) -> dict[str, Any]:
    extra = {"pad": "x" * pad} if pad else {}
    payloads = [{"id": number, **extra} for number in range(start, start + jobs)]
    times = None if due is None else [due + step * n for n in range(jobs)]
    await contender.open_producer()
    began = time.perf_counter()
    await contender.enqueue_bulk(payloads, times)
    return {"seconds": time.perf_counter() - began}


async def paced(contender: Contender, jobs: int, interval: float, start: int = 0) -> dict[str, Any]:
    await contender.open_producer()
    for _ in range(WARM_UP):
        await contender.enqueue({"id": -1})
        await asyncio.sleep(interval)
    before, after = [], []
    at = time.monotonic() + interval
    for number in range(start, start + jobs):
        await asyncio.sleep(max(0.0, at - time.monotonic()))
        before.append(time.monotonic_ns())
        await contender.enqueue({"id": number})
        after.append(time.monotonic_ns())
        at += interval
    return {"before": before, "after": after}


async def set_up(contender: Contender) -> dict[str, Any]:
    await contender.set_up()
    return {
        "version": contender.version,
        "runtime": f"Python {sys.version.split()[0]}",
        "unfinished": contender.unfinished,
    }


async def work(contender: Contender) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    await contender.open_worker()
    print(json.dumps({"ready": True}), flush=True)
    await loop.run_in_executor(None, sys.stdin.readline)
    await contender.start_worker()
    await loop.run_in_executor(None, sys.stdin.read)
    await asyncio.wait_for(contender.stop_worker(), STOP_LIMIT)
    return {"stopped": True}


ROLES: dict[str, Callable[..., Any]] = {"set_up": set_up, "one": one, "bulk": bulk, "paced": paced, "work": work}


def tell(answer: dict[str, Any]) -> None:
    # Through a buffer, whatever PYTHONUNBUFFERED says: what a signal cuts short would lose its rest.
    with open(1, "w", encoding="utf-8", closefd=False) as answers:
        print(json.dumps(answer), file=answers)


def main(kind: Callable[[Setting], Contender]) -> None:
    contender = kind(Setting.read())
    role, given = sys.argv[1], json.loads(sys.argv[2]) if len(sys.argv) > 2 else {}

    async def run() -> None:
        tell(await ROLES[role](contender, **given))

    if role == "work":
        contender.run_worker(run())
    else:
        contender.run(run())
    # Threads and pools of a contender that does not end by itself are no concern of the benchmark's.
    sys.stdout.flush()
    os._exit(0)
