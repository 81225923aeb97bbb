"""A task process: `python -m pgqueue.worker.child SOCKET LIFELINE`, started by `pgqueue.worker.processes`.

It takes one call at a time from the socket, runs the task in its main thread and answers with the outcome. The worker
alone decides when it ends, with SIGKILL: SIGINT and SIGTERM do nothing here, since service managers send them to every
process of a service while the worker still lets its jobs finish. Exit handlers (`atexit`) do not run.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import importlib
import importlib.util
import io
import json
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from pgqueue.worker.call import pack, pack_outcome
from pgqueue.worker.line import Line, Questions, Teller

if TYPE_CHECKING:
    from pgqueue.context import Context
    from pgqueue.effects import RunEffects

MAIN = "__pgqueue_main__"
# What sets up logging here as in the worker: a JSON array of a module, its function, and what that is called with.
SET_UP = "PGQUEUE_TASK_LOGGING"
PR_SET_PDEATHSIG = 1


def main(connection_fd: int, lifeline: int) -> None:
    die_with_the_worker(lifeline)
    for number in (signal.SIGINT, signal.SIGTERM):
        # A handler that does nothing, not SIG_IGN: programs that a task starts would inherit that.
        signal.signal(number, lambda *_: None)
    show_crashes_and_prints()
    connection = socket.socket(fileno=connection_fd)
    connection.set_inheritable(False)
    line = Line(connection)
    if worker := line.receive():
        look_like(worker)
        line.send(pack({}))
        while call := line.receive():
            if "jobs" in call:
                line.send(answer_chunk(call, worker, line))
                continue
            teller, questions = Teller(line.send, call["context"].get("attempt", 1)), Questions(line)
            reply = answer(call, worker, teller, questions)
            questions.close()
            teller.close()
            line.send(reply)


def die_with_the_worker(lifeline: int) -> None:
    """End this process when the worker's ends, however that ends.

    On Linux the kernel does it, even in the middle of a C call that holds the GIL. Elsewhere, and where a task took
    that back, a thread sees the pipe close whose other end only the worker holds; it needs the GIL for that.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    os.set_inheritable(lifeline, False)

    def watch() -> None:
        os.read(lifeline, 1)
        os._exit(1)

    threading.Thread(target=watch, name="pgqueue-lifeline", daemon=True).start()


def show_crashes_and_prints() -> None:
    if sys.stderr is not None:
        faulthandler.enable()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # What a task printed before it was killed would stay in the buffer.
        sys.stdout.reconfigure(line_buffering=True)


def look_like(worker: dict[str, Any]) -> None:
    """Import from where the worker imports; give programs that a task starts the worker's own PYTHONPATH."""
    sys.path[:] = worker["path"]
    if worker["pythonpath"] is None:
        os.environ.pop("PYTHONPATH", None)
    else:
        os.environ["PYTHONPATH"] = worker["pythonpath"]


def answer_chunk(call: dict[str, Any], worker: dict[str, Any], line: Line) -> bytes:
    try:
        task = find(call["module"], call["qualname"], worker)
        log_like_the_worker()
    except BaseException:
        return pack({"import_error": traceback.format_exc()})
    # Only now: a process whose tasks take no chunks needs none of it.
    from pgqueue.worker.chunkchild import run

    return concluded(lambda: run(task, call["jobs"], line))


def answer(call: dict[str, Any], worker: dict[str, Any], teller: Teller, questions: Questions) -> bytes:
    try:
        run = find(call["module"], call["qualname"], worker).run_in_child
        log_like_the_worker()
    except BaseException:
        return pack({"import_error": traceback.format_exc()})
    effects = partial(effects_of, call, questions)
    return concluded(lambda: pack_outcome(run(call["context"], call["args"], teller.journal, effects)))


def log_like_the_worker() -> None:
    """Once, when the task's module has been imported: logging that it sets up goes before, there as here."""
    if (given := os.environ.pop(SET_UP, None)) is not None:
        module, function, *options = json.loads(given)
        getattr(importlib.import_module(module), function)(*options)


def concluded(run: Callable[[], bytes]) -> bytes:
    """What it returns, once all that the task has printed is out."""
    try:
        reply = run()
    except BaseException:
        # An orderly exit would wait for the task's threads, and the worker for this process.
        traceback.print_exc()
        os._exit(1)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):
            stream.flush()
    return reply


def effects_of(call: dict[str, Any], questions: Questions, context: Context) -> RunEffects:
    """What `once` and `step` of this run need, when it first asks: few do, and this is a lot to import."""
    from pgqueue.queries.effects import Holder
    from pgqueue.worker.effects import AskParent, EffectsOfRun

    me = Holder(context.job_id, call["fence"])
    return EffectsOfRun(context, call["schema"], me, AskParent(questions.ask))


def find(module: str, qualname: str, worker: dict[str, Any]) -> Any:
    found: Any = main_module(worker) if module == "__main__" else importlib.import_module(module)
    for name in qualname.split("."):
        found = getattr(found, name)
    return found


def main_module(worker: dict[str, Any]) -> Any:
    """The worker's `__main__` under another name, so that its `if __name__ == "__main__"` does not run here."""
    if worker["main_module"] is not None:
        return importlib.import_module(worker["main_module"])
    if MAIN in sys.modules:
        return sys.modules[MAIN]
    if worker["main_file"] is None:
        raise ImportError("the task is defined in __main__, which is no file here: move it to a module")
    spec = importlib.util.spec_from_file_location(MAIN, worker["main_file"])
    if spec is None or spec.loader is None:
        raise ImportError(f"{worker['main_file']} cannot be imported: give it a name that ends in .py")
    module = sys.modules[MAIN] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[MAIN]
        raise
    return module


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
