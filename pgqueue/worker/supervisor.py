"""Keeps several worker processes alive: starts them, passes signals on, replaces those that die."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from asyncio.subprocess import Process
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from pgqueue.worker.crew import Crew

logger = logging.getLogger("pgqueue.supervisor")

LIFELINE = "PGQUEUE_LIFELINE"
# EX_TEMPFAIL: a worker that ended to be replaced by a fresh one. No other exit code of pgqueue.
RECYCLED = 75
# Usage and schema: a new process would meet the same.
HOPELESS = (2, 5)
LIVED_WELL = 60.0


def supervise(
    command: Sequence[str], processes: int, *, name: str | None = None, notice: str = "", crew: Crew | None = None
) -> int:
    """Run `command` in so many processes until all have ended; the worst of their exit codes.

    Each gets a name of its own where `name` is given. SIGINT and SIGTERM go to all of them; `notice` is logged at the
    first. They hold a pipe: when this process is gone, even by SIGKILL, they see it close, and stop gracefully. Through
    `crew` they can be asked.

        supervise([sys.executable, "-m", "pgqueue", "worker", "shop.tasks:app"], 4)
    """
    return asyncio.run(Supervisor(command, processes, name, notice, crew).run())


def is_supervised() -> bool:
    """Whether a supervisor started this process; until it has taken up the lifeline."""
    return LIFELINE in os.environ


class Supervisor:
    """The processes of one command."""

    def __init__(
        self,
        command: Sequence[str],
        processes: int,
        name: str | None = None,
        notice: str = "",
        crew: Crew | None = None,
    ) -> None:
        self._command = list(command)
        self._processes = processes
        self._name = name
        self._notice = notice
        self._crew = crew
        self._children: set[Process] = set()
        self._stopping: asyncio.Event = asyncio.Event()
        self._sent: set[int] = set()
        self._lifeline = -1

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._receive, number)
        self._lifeline, held = os.pipe()
        try:
            codes = await asyncio.gather(*(self._keep(n) for n in range(1, self._processes + 1)))
        finally:
            os.close(held)
            os.close(self._lifeline)
        return max(codes)

    async def _keep(self, number: int) -> int:
        """One process after the other, until one ends for good; its exit code."""
        try:
            return await self._kept(number)
        finally:
            if self._crew is not None:
                self._crew.left(number, for_good=True)

    async def _kept(self, number: int) -> int:
        pauses = backoff()
        while not self._stopping.is_set():
            started = time.monotonic()
            child = await self._start(number)
            code = await child.wait()
            self._children.discard(child)
            if self._crew is not None:
                self._crew.left(number)
            if self._stopping.is_set():
                return 0 if -code in self._sent else shell_code(code)
            if code == 0:
                return 0
            if code in HOPELESS:
                self._pass_on(signal.SIGTERM)
                return code
            if code == RECYCLED:
                logger.info("worker process %d is replaced by a fresh one", child.pid)
                continue
            if time.monotonic() - started >= LIVED_WELL:
                pauses = backoff()
            pause = next(pauses)
            logger.error("worker process %d %s: another starts in %g s", child.pid, how(code), pause)
            await self._wait(pause)
        return 0

    async def _start(self, number: int) -> Process:
        name = [] if self._name is None else ["--name", f"{self._name}-{number}"]
        with ExitStack() as passed:
            link, variables = (None, {}) if self._crew is None else passed.enter_context(self._crew.starting(number))
            child = await asyncio.create_subprocess_exec(
                *self._command,
                *name,
                pass_fds=[self._lifeline] if link is None else [self._lifeline, link],
                env={**os.environ, LIFELINE: str(self._lifeline), **variables},
                # Of its own: a Ctrl-C in the terminal reaches this process, which passes it on once.
                start_new_session=True,
            )
        self._children.add(child)
        if self._stopping.is_set():
            child.send_signal(signal.SIGTERM)
        return child

    def _receive(self, number: int) -> None:
        if not self._stopping.is_set() and self._notice:
            logger.info(self._notice)
        self._pass_on(number)

    def _pass_on(self, number: int) -> None:
        self._stopping.set()
        self._sent |= {number, signal.SIGTERM}
        for child in self._children:
            if child.returncode is None:
                child.send_signal(number)

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return


def backoff(first: float = 0.5, longest: float = 30.0) -> Iterator[float]:
    pause = first
    while True:
        yield pause
        pause = min(pause * 2, longest)


def shell_code(code: int) -> int:
    """An exit code as a shell shows it: 128 and the number of the signal."""
    return 128 - code if code < 0 else code


def how(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


__all__ = ["LIFELINE", "RECYCLED", "Supervisor", "is_supervised", "supervise"]
