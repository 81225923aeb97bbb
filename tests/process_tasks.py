"""Tasks for test_processes.py, imported by real task processes: the least that one of them runs."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from pgqueue.outcome import AttemptError, Cancelled, Completed, Failed, Outcome, Retry, Snooze

OUTCOMES: dict[str, Outcome] = {
    "completed": Completed('{"n": 1}'),
    "nothing": Completed(),
    "retry": Retry(1.5, AttemptError("KeyError", "'x\udc80 é'", "Traceback …"), crashed=True),
    "snooze": Snooze(60.0),
    "cancelled": Cancelled("not needed"),
    "failed": Failed("fail_job", AttemptError("shop.CardDeclined", "no funds")),
}
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class SampleTask:
    function: Callable[..., Any]

    def run_in_child(self, context: dict[str, Any], args: str, journal: Any, open_effects: Any) -> Outcome:
        value = self.function(context, **json.loads(args))
        return value if isinstance(value, Outcome) else Completed(json.dumps(value))


def task(function: Callable[..., Any]) -> SampleTask:
    return SampleTask(function)


@task
def give(context: dict[str, Any], outcome: str) -> Outcome:
    return OUTCOMES[outcome]


@task
def echo(context: dict[str, Any], value: Any) -> dict[str, Any]:
    return {"context": context, "value": value}


@task
def describe(context: dict[str, Any]) -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "cwd": os.getcwd(),
        "path": sys.path,
        "pythonpath": os.environ.get("PYTHONPATH"),
        "stdin": sys.stdin.read(),
        "fds": len(os.listdir("/proc/self/fd")),
    }


@task
def leave(context: dict[str, Any], code: int) -> NoReturn:
    os._exit(code)


@task
def exit_with_a_thread_left(context: dict[str, Any]) -> NoReturn:
    threading.Thread(target=threading.Event().wait).start()
    sys.exit(0)


@task
def segfault(context: dict[str, Any]) -> None:
    ctypes.string_at(0)


@task
def signal_itself(context: dict[str, Any], number: int) -> str:
    os.kill(os.getpid(), number)
    return "still here"


@task
def wait_for(context: dict[str, Any], started: str, go: str) -> str:
    """Says that it runs, then blocks until the test writes to `go`."""
    Path(started).write_text(str(os.getpid()))
    with open(go) as pipe:
        return pipe.readline()


@task
def spin(context: dict[str, Any], started: str) -> NoReturn:
    """Busy in Python, and out of the kernel's reach: only the lifeline is left."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, 0, 0, 0, 0)
    Path(started).write_text(str(os.getpid()))
    while True:
        pass


@task
def hold_the_gil(context: dict[str, Any], started: str) -> None:
    """Inside a C call that never gives the GIL back."""
    Path(started).write_text(str(os.getpid()))
    ctypes.PyDLL(None).pause()


@task
def run_a_program(context: dict[str, Any], started: str) -> None:
    program = subprocess.Popen(["sleep", "3600"])
    Path(started).write_text(str(program.pid))
    program.wait()


@task
def die_with_an_heir(context: dict[str, Any], started: str) -> NoReturn:
    """Its fork inherits the socket, so that the worker sees no end of file."""
    if os.fork() == 0:
        Path(started).write_text(str(os.getpid()))
        signal.pause()
    os._exit(5)


@task
def hang_up(context: dict[str, Any]) -> None:
    os.closerange(3, 1024)
    signal.pause()


not_a_task = object()
