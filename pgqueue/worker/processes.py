"""Tasks in processes of their own: one that segfaults, calls `os._exit` or runs out of memory loses only itself.

A process (see `pgqueue.worker.child`) runs one call at a time and is used again for the next. It is a session of its
own, so a Ctrl-C in the worker's terminal does not reach it. A timeout or a cancellation kills it at once, by SIGKILL,
together with the programs that its task started: the task gets no chance to clean up.

Processes die with their worker. On Linux they also die with the *thread* that runs the event loop, since the kernel
ties them to the thread that started them. POSIX only.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import asdict
from typing import Any, Self

from pgqueue.errors import ConfigurationError, PgQueueError, ProcessCrashed
from pgqueue.journal import LogLine, Progress
from pgqueue.outcome import Outcome
from pgqueue.worker.call import LENGTH, ON_THE_WAY, Call, ChunkMessage, pack, read_outcome, read_told
from pgqueue.worker.timeouts import timed_out

Tell = Callable[[Progress | None, list[LogLine]], None]
Hear = Callable[[dict[str, Any]], None]
Send = Callable[[bytes], None]
Answer = Callable[[str, dict[str, Any]], Awaitable[Any]]
START_LIMIT = 60.0
GRACE = 1.0


def ignore(*_: Any) -> None:
    """Where nobody wants to know."""


async def refuse(verb: str, params: dict[str, Any]) -> Any:
    """Where nobody answers."""
    raise PgQueueError("once() and step() are for jobs of a worker")


class ProcessSlots:
    """At most `size` calls at once, each in a process of its own; further calls wait, first come, first served.

    Processes start when they are first needed and are kept; each ends after `max_calls` calls where that is given.

        slots = ProcessSlots(4)
        outcome = await slots.run(Call("shop.tasks", "thumbnail", context, '{"image_id": 3}'), timeout=30)
        await slots.close()
    """

    def __init__(self, size: int, *, max_calls: int | None = None) -> None:
        if size < 1:
            raise ConfigurationError(f"tasks in processes need at least one slot, not {size}")
        if max_calls is not None and max_calls < 1:
            raise ConfigurationError(f"a process must run at least one call, not max_calls={max_calls}")
        self._size = size
        self._max_calls = max_calls
        self._slots = asyncio.Semaphore(size)
        self._closing = asyncio.Lock()
        self._closed = False
        self._idle: list[Child] = []
        self._children: set[Child] = set()

    async def run(
        self, call: Call, timeout: float | None = None, on_told: Tell = ignore, on_asked: Answer = refuse
    ) -> Outcome:
        """Run the call and return its outcome. `timeout` is in seconds, from when a process has the call.

        `on_told` is called with the progress and log lines that the task tells, `on_asked` with what it asks.

        Raises ProcessCrashed when the process died, TaskTimeout when it was killed for the timeout, ConfigurationError
        when it cannot import the task or cannot start. When this is cancelled, or the slots are closed, the process
        is dead before CancelledError is raised.
        """

        def hear(answer: dict[str, Any]) -> None:
            on_told(*read_told(answer))

        return read_outcome(await self._ask(call, timeout, hear, on_asked=on_asked))

    async def run_chunk(
        self,
        call: ChunkMessage,
        timeout: float | None,
        hear: Hear,
        reachable: Callable[[Send], None],
    ) -> None:
        """As `run`, for many jobs: `hear` is called with all that the process says of each, also its outcome.

        `reachable` is called with what sends the process a message while it runs the call.
        """
        answer = await self._ask(call, timeout, hear, reachable)
        for ended in answer["ended"]:
            hear(ended)

    async def _ask(
        self,
        call: Call | ChunkMessage,
        timeout: float | None,
        hear: Hear,
        reachable: Callable[[Send], None] | None = None,
        on_asked: Answer = refuse,
    ) -> dict[str, Any]:
        message = pack(asdict(call))
        async with self._child() as child:
            child.calls += 1
            if reachable is not None:
                reachable(child.send)
            try:
                answer = await child.ask(message, timeout, hear, on_asked)
            except TimeoutError:
                raise timed_out(call.task, timeout) from None
            except ProcessCrashed as crash:
                raise ProcessCrashed(f"the process that ran {call.task} {crash}") from None
            if "import_error" in answer:
                raise ConfigurationError(
                    f"{call.task} cannot be imported in a process of its own; it must be a task at the top level of "
                    f"a module that can be imported without side effects:\n{answer['import_error']}"
                )
            return answer

    async def warm(self) -> None:
        """Have a process ready, so that the next call does not wait for one to start."""
        async with self._child():
            pass

    async def close(self) -> None:
        """Kill every process and wait for its end. Calls that run or wait end as if they were cancelled."""
        self._closed = True
        for child in list(self._children):
            child.kill()
        async with self._closing, AsyncExitStack() as every_slot:
            for _ in range(self._size):
                await every_slot.enter_async_context(self._slots)
        await asyncio.gather(*(child.end() for child in list(self._children)))

    @asynccontextmanager
    async def _child(self) -> AsyncIterator[Child]:
        async with self._slots:
            self._cancel_if_closed()
            child = await self._take()
            try:
                yield child
            except BaseException:
                await child.end()
                self._cancel_if_closed()
                raise
            if child.calls == self._max_calls or self._closed:
                child.kill()
            else:
                self._idle.append(child)

    async def _take(self) -> Child:
        while self._idle:
            child = self._idle.pop()
            if child.waits():
                return child
            child.kill()
        return await self._start()

    async def _start(self) -> Child:
        child = await Child.spawn()
        self._children.add(child)
        child.exit.add_done_callback(lambda _: self._forget(child))
        try:
            self._cancel_if_closed()
            await child.ask(pack(this_worker()), START_LIMIT)
        except BaseException as error:
            await child.end()
            self._cancel_if_closed()
            if isinstance(error, TimeoutError):
                raise ConfigurationError(f"a process for tasks was not ready within {START_LIMIT:g} s") from None
            if isinstance(error, ProcessCrashed):
                raise ConfigurationError(f"a process for tasks {error} while it started; see its stderr") from None
            raise
        return child

    def _forget(self, child: Child) -> None:
        self._children.discard(child)
        if child in self._idle:
            self._idle.remove(child)
            child.kill()

    def _cancel_if_closed(self) -> None:
        if self._closed:
            raise asyncio.CancelledError("the process slots are closed")


class Child:
    """One task process, seen from the worker."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        kept: ExitStack,
    ) -> None:
        self.calls = 0
        self.exit = asyncio.create_task(process.wait())
        self._process = process
        self._reader = reader
        self._writer = writer
        self._kept = kept

    @classmethod
    async def spawn(cls) -> Self:
        with ExitStack() as passed, ExitStack() as kept:
            ours, theirs = socket.socketpair()
            passed.callback(theirs.close)
            lifeline, held = os.pipe()
            passed.callback(os.close, lifeline)
            kept.callback(os.close, held)
            try:
                reader, writer = await asyncio.open_unix_connection(sock=ours)
            except BaseException:
                ours.close()
                raise
            kept.callback(writer.transport.abort)
            fds = (theirs.fileno(), lifeline)
            # -P keeps the working directory out of sys.path, unless the worker has it there.
            options = ("-P", *["-O"] * sys.flags.optimize)
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, *options, "-m", "pgqueue.worker.child", *map(str, fds)),
                stdin=asyncio.subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, import_path()))},
                pass_fds=fds,
                start_new_session=True,
            )
            return cls(process, reader, writer, kept.pop_all())

    async def ask(
        self, message: bytes, timeout: float | None, hear: Hear = ignore, on_asked: Answer = refuse
    ) -> dict[str, Any]:
        """The answer to a message. Raises TimeoutError, and ProcessCrashed that says how the process ended."""
        exchange = asyncio.create_task(self._exchange(message, hear, on_asked))
        try:
            await asyncio.wait({exchange, self.exit}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if not exchange.done() and not self.exit.done():
                raise TimeoutError
            # Its end may be noticed before the answer that it sent. No end of file follows where a program that
            # the task started has inherited the socket.
            await asyncio.wait({exchange}, timeout=GRACE)
            if exchange.done() and exchange.exception() is None:
                return exchange.result()
            await asyncio.wait({self.exit}, timeout=GRACE)
            raise ProcessCrashed(fate(self._process.returncode))
        finally:
            exchange.cancel()

    def send(self, message: bytes) -> None:
        """Tell it something while it runs a call."""
        if not self._writer.is_closing():
            self._writer.write(message)

    async def _exchange(self, message: bytes, hear: Hear, on_asked: Answer) -> dict[str, Any]:
        self._writer.write(message)
        await self._writer.drain()
        while True:
            (size,) = LENGTH.unpack(await self._reader.readexactly(LENGTH.size))
            answer: dict[str, Any] = json.loads(await self._reader.readexactly(size))
            if ON_THE_WAY.isdisjoint(answer):
                return answer
            if "ask" in answer:
                self.send(await _reply(on_asked, answer))
            else:
                hear(answer)

    def waits(self) -> bool:
        """Whether it lives and has nothing to say: asks the kernel, since a busy loop has not heard of its end yet."""
        if self.exit.done() or self._reader.at_eof():
            return False
        poll = select.poll()
        poll.register(self._writer.get_extra_info("socket"), select.POLLIN)
        return not poll.poll(0)

    def kill(self) -> None:
        """Kill it, with the programs that its task started, and let go of it. Does nothing the second time."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._kept.close()

    async def end(self) -> None:
        """Kill it and wait until it is gone."""
        self.kill()
        await asyncio.wait({self.exit})


async def _reply(on_asked: Answer, question: dict[str, Any]) -> bytes:
    try:
        return pack({"answer": await on_asked(question["ask"], question["params"])})
    except Exception as error:
        return pack({"refused": f"{type(error).__name__}: {error}"})


def this_worker() -> dict[str, Any]:
    """What a child needs to import what this process can import."""
    main = sys.modules["__main__"]
    name = getattr(getattr(main, "__spec__", None), "name", None)
    return {
        "path": import_path(),
        "pythonpath": os.environ.get("PYTHONPATH"),
        "main_module": None if name == "__main__" else name,
        "main_file": getattr(main, "__file__", None),
    }


def import_path() -> list[str]:
    # A Path that someone appended is no str: imports ignore it, JSON would refuse it.
    entries: list[object] = list(sys.path)
    return [entry for entry in entries if isinstance(entry, str)]


def fate(returncode: int | None) -> str:
    if returncode is None:
        return "closed its connection to the worker"
    if returncode >= 0:
        return f"ended with exit code {returncode} before the task did"
    number = -returncode
    name = signal.Signals(number).name if number in set(signal.Signals) else str(number)
    return f"died with signal {name}" + (" (possibly out of memory)" if number == signal.SIGKILL else "")
