"""Tasks in processes of their own: real processes, nothing waits for a clock."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import json
import os
import select
import signal
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from pgqueue.errors import ConfigurationError, ProcessCrashed, TaskTimeout
from pgqueue.outcome import Completed, Outcome
from pgqueue.worker.call import Call
from pgqueue.worker.processes import ProcessSlots
from tests import process_tasks

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
LONG = 3600.0


def on_each_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Any:
    """Run a test on asyncio's own loop and on uvloop: they start and reap processes in different ways."""
    signature = inspect.signature(test)

    def run(loop_factory: Callable[[], asyncio.AbstractEventLoop], **fixtures: Any) -> None:
        async def in_time() -> None:
            async with asyncio.timeout(60):
                await test(**fixtures)

        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(in_time())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    added = inspect.Parameter("loop_factory", inspect.Parameter.KEYWORD_ONLY)
    run.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*signature.parameters.values(), added], return_annotation=None
    )
    return pytest.mark.parametrize(
        "loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
    )(run)


def call(task: str, context: dict[str, Any] | None = None, **args: Any) -> Call:
    return Call(process_tasks.__name__, task, context or {}, json.dumps(args))


def result(outcome: Outcome) -> Any:
    assert isinstance(outcome, Completed)
    assert outcome.result is not None
    return json.loads(outcome.result)


@contextlib.asynccontextmanager
async def slots(size: int = 1, **options: Any) -> AsyncIterator[ProcessSlots]:
    slots = ProcessSlots(size, **options)
    try:
        yield slots
    finally:
        await slots.close()


@pytest.fixture
def started(tmp_path: Path) -> Path:
    return fifo(tmp_path / "started")


def fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


async def pid_from(started: Path) -> int:
    """What the task wrote there. In the loop: a thread that reads cannot be cancelled when the task never starts."""
    pipe, written = os.open(started, os.O_RDONLY | os.O_NONBLOCK), asyncio.Event()
    asyncio.get_running_loop().add_reader(pipe, written.set)
    try:
        await written.wait()
        return int(os.read(pipe, 100))
    finally:
        asyncio.get_running_loop().remove_reader(pipe)
        os.close(pipe)


def exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@contextlib.contextmanager
def watched(pid: int) -> Iterator[int]:
    fd = os.pidfd_open(pid)
    try:
        yield fd
    finally:
        os.close(fd)


def ends(pidfd: int) -> bool:
    return bool(select.select([pidfd], [], [], 20)[0])


def open_fds() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


@on_each_loop
async def test_every_kind_of_outcome_comes_back_as_it_was() -> None:
    async with slots() as processes:
        for name, outcome in process_tasks.OUTCOMES.items():
            assert await processes.run(call("give", outcome=name)) == outcome


@on_each_loop
async def test_context_and_arguments_arrive_also_when_they_are_large() -> None:
    context = {"job_id": 2**53 + 1, "headers": {"é": None}}
    value = "é\x00" * 2**19
    async with slots() as processes:
        assert result(await processes.run(call("echo", context, value=value))) == {"context": context, "value": value}


@on_each_loop
async def test_a_process_imports_from_where_the_worker_does_and_hides_how(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "late"), tmp_path])
    (tmp_path / "json.py").write_text("raise AssertionError('the working directory is not on the path')")
    async with slots() as processes:
        seen = result(await processes.run(call("describe")))
    assert seen["path"] == sys.path[:-1]
    assert (seen["cwd"], seen["pythonpath"], seen["stdin"]) == (str(tmp_path), "/somewhere", "")


@on_each_loop
async def test_a_process_is_used_again_and_again() -> None:
    async with slots(2) as processes:
        seen = [result(await processes.run(call("describe"))) for _ in range(3)]
    assert len({each["pid"] for each in seen}) == 1
    assert len({each["fds"] for each in seen}) == 1


@on_each_loop
async def test_a_process_is_replaced_after_its_last_call() -> None:
    async with slots(max_calls=2) as processes:
        pids = [result(await processes.run(call("describe")))["pid"] for _ in range(5)]
    assert pids[0] == pids[1] != pids[2] == pids[3] != pids[4]


@on_each_loop
async def test_no_more_calls_run_at_once_than_there_are_slots(tmp_path: Path) -> None:
    async with slots(2) as processes:
        pids = [
            result(each)["pid"] for each in await asyncio.gather(*(processes.run(call("describe")) for _ in range(8)))
        ]
    assert len(set(pids)) <= 2


@on_each_loop
async def test_warm_has_a_process_ready() -> None:
    async with slots(max_calls=1) as processes:
        await processes.warm()
        (ready,) = processes._children
        await processes.warm()
        assert result(await processes.run(call("describe")))["pid"] == ready._process.pid


@pytest.mark.parametrize(
    ("crash", "fate"),
    [
        (call("leave", code=3), "ended with exit code 3"),
        (call("leave", code=0), "ended with exit code 0"),
        (call("exit_with_a_thread_left"), "ended with exit code 1"),
        (call("segfault"), "died with signal SIGSEGV"),
        (call("signal_itself", number=int(signal.SIGKILL)), r"died with signal SIGKILL \(possibly out of memory\)"),
        (call("signal_itself", number=40), "died with signal 40"),
        (call("hang_up"), "closed its connection to the worker"),
    ],
    ids=["os._exit(3)", "os._exit(0)", "sys.exit", "SIGSEGV", "SIGKILL", "real-time signal", "closed fds"],
)
@on_each_loop
async def test_a_process_that_dies_is_reported_with_how_it_died(crash: Call, fate: str) -> None:
    async with slots() as processes:
        with pytest.raises(ProcessCrashed, match=f"process_tasks.{crash.qualname} {fate}"):
            await processes.run(crash)
        assert await processes.run(call("give", outcome="nothing")) == Completed()


@on_each_loop
async def test_a_crash_is_noticed_though_a_fork_keeps_the_socket_open(started: Path) -> None:
    async with slots() as processes:
        run = asyncio.create_task(processes.run(call("die_with_an_heir", started=str(started))))
        heir = await pid_from(started)
        try:
            with pytest.raises(ProcessCrashed, match="exit code 5"):
                await run
        finally:
            os.kill(heir, signal.SIGKILL)


@on_each_loop
async def test_only_the_job_that_crashes_is_lost(tmp_path: Path, started: Path) -> None:
    go = fifo(tmp_path / "go")
    async with slots(2) as processes:
        bystander = asyncio.create_task(processes.run(call("wait_for", started=str(started), go=str(go))))
        await pid_from(started)
        for _ in range(3):
            with pytest.raises(ProcessCrashed):
                await processes.run(call("segfault"))
        with go.open("r+b", buffering=0) as pipe:
            pipe.write(b"go\n")
            assert result(await bystander) == "go\n"


@on_each_loop
async def test_an_idle_process_that_died_costs_no_job_anything() -> None:
    async with slots() as processes:
        pid = result(await processes.run(call("describe")))["pid"]
        with watched(pid) as process:
            os.kill(pid, signal.SIGKILL)
            # The loop does not run until the process has ended, so it cannot have heard of it.
            assert ends(process)
        assert result(await processes.run(call("describe")))["pid"] != pid


@on_each_loop
async def test_a_timeout_kills_the_process(tmp_path: Path) -> None:
    async with slots() as processes:
        pid = result(await processes.run(call("describe")))["pid"]
        with pytest.raises(TaskTimeout, match=r"process_tasks.hold_the_gil ran longer than its timeout of 0.2 s"):
            await processes.run(call("hold_the_gil", started=str(tmp_path / "started")), timeout=0.2)
        assert not exists(pid)
        assert await processes.run(call("give", outcome="nothing"), timeout=LONG) == Completed()


@on_each_loop
async def test_a_cancellation_kills_the_process(started: Path) -> None:
    async with slots() as processes:
        run = asyncio.create_task(processes.run(call("spin", started=str(started)), timeout=LONG))
        pid = await pid_from(started)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        assert not exists(pid)
        assert await processes.run(call("give", outcome="nothing")) == Completed()


@on_each_loop
async def test_a_cancellation_kills_the_programs_that_the_task_started(started: Path) -> None:
    async with slots() as processes:
        run = asyncio.create_task(processes.run(call("run_a_program", started=str(started))))
        with watched(await pid_from(started)) as program:
            run.cancel()
            await asyncio.wait({run})
            assert await asyncio.to_thread(ends, program)


@on_each_loop
async def test_a_call_cancelled_at_any_moment_of_its_start_leaves_nothing() -> None:
    async with slots() as processes:
        await processes.warm()
    before = open_fds()
    async with slots() as processes:
        for steps in range(20):
            run = asyncio.create_task(processes.run(call("leave", code=0)))
            for _ in range(steps):
                await asyncio.sleep(0)
            run.cancel()
            with pytest.raises(asyncio.CancelledError):
                await run
            assert not processes._children
        assert await processes.run(call("give", outcome="nothing")) == Completed()
    assert open_fds() == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@on_each_loop
async def test_the_worker_alone_decides_when_a_process_ends(number: signal.Signals) -> None:
    async with slots() as processes:
        assert result(await processes.run(call("signal_itself", number=int(number)))) == "still here"


@pytest.mark.parametrize(
    ("module", "qualname", "text"),
    [
        ("no_such_module", "task", "No module named 'no_such_module'"),
        (process_tasks.__name__, "no_such_task", "has no attribute 'no_such_task'"),
        (process_tasks.__name__, "not_a_task", "has no attribute 'run_in_child'"),
        ("broken_on_import", "task", "ZeroDivisionError"),
        ("exits_on_import", "task", "SystemExit: 4"),
    ],
)
@on_each_loop
async def test_a_task_that_cannot_be_imported_is_a_mistake_not_a_crash(
    module: str, qualname: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_on_import.py").write_text("1 / 0")
    (tmp_path / "exits_on_import.py").write_text("raise SystemExit(4)")
    monkeypatch.syspath_prepend(tmp_path)
    async with slots() as processes:
        with pytest.raises(ConfigurationError, match=text):
            await processes.run(Call(module, qualname, {}, "{}"))


@on_each_loop
async def test_a_process_that_cannot_start_blames_no_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os; os._exit(9)")
    monkeypatch.syspath_prepend(tmp_path)
    async with slots() as processes:
        with pytest.raises(ConfigurationError, match="ended with exit code 9"):
            await processes.run(call("describe"))


@on_each_loop
async def test_close_ends_running_and_waiting_calls_and_every_process(tmp_path: Path) -> None:
    processes = ProcessSlots(2)
    paths = [fifo(tmp_path / str(number)) for number in range(2)]
    running = [asyncio.create_task(processes.run(call("spin", started=str(path)))) for path in paths]
    pids = await asyncio.gather(*map(pid_from, paths))
    waiting = [asyncio.create_task(processes.run(call("describe"))) for _ in range(3)]
    await asyncio.gather(processes.close(), processes.close())
    assert not any(map(exists, pids))
    ended = await asyncio.gather(*running, *waiting, processes.run(call("describe")), return_exceptions=True)
    assert [type(each) for each in ended] == [asyncio.CancelledError] * 6
    assert asyncio.all_tasks() == {asyncio.current_task()}


@on_each_loop
async def test_close_while_a_process_starts_leaves_nothing() -> None:
    for steps in range(6):
        processes = ProcessSlots(1)
        run = asyncio.create_task(processes.run(call("describe")))
        for _ in range(steps):
            await asyncio.sleep(0)
        await processes.close()
        assert not processes._children
        with pytest.raises(asyncio.CancelledError):
            await run


@on_each_loop
async def test_fifty_crashes_leak_no_descriptor_no_process_and_no_task() -> None:
    async with slots(2) as processes:
        await processes.run(call("describe"))
    before = open_fds()
    async with slots(2) as processes:
        crashes = [call("leave", code=1), call("signal_itself", number=int(signal.SIGKILL))] * 25
        died = await asyncio.gather(*map(processes.run, crashes), return_exceptions=True)
        assert [type(each) for each in died] == [ProcessCrashed] * 50
        assert not processes._children
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert open_fds() == before
    assert not zombies()


def zombies() -> list[int]:
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [int(pid) for pid in children if " Z " in Path(f"/proc/{pid}/stat").read_text()]


WORKER = """
    import asyncio, sys
    from pgqueue.worker.call import Call
    from pgqueue.worker.processes import ProcessSlots

    async def main():
        await ProcessSlots(1).run(Call(sys.argv[1], sys.argv[2], {}, sys.argv[3]))

    asyncio.run(main())
"""


@pytest.mark.parametrize("task", ["spin", "hold_the_gil"], ids=["lifeline alone", "inside a C call"])
def test_a_process_dies_with_a_worker_that_was_killed(task: str, started: Path) -> None:
    worker = subprocess.Popen(
        [
            sys.executable,
            "-c",
            textwrap.dedent(WORKER),
            process_tasks.__name__,
            task,
            json.dumps({"started": str(started)}),
        ],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    with worker, watched(asyncio.run(asyncio.wait_for(pid_from(started), 60))) as process:
        worker.kill()
        assert ends(process)


SCRIPT = """
    import asyncio
    from pathlib import Path
    from pgqueue.outcome import Completed
    from pgqueue.worker.call import Call
    from pgqueue.worker.processes import ProcessSlots

    class Task:
        def run_in_child(self, context, args, journal, open_effects):
            print("in", __name__)
            return Completed(args)

    class tasks:
        nested = Task()

    async def main():
        slots = ProcessSlots(1)
        for _ in range(2):
            print((await slots.run(Call("__main__", "tasks.nested", {}, "[]"))).result, flush=True)
        await slots.close()

    if __name__ == "__main__":
        asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("command", "name"), [(["script.py"], "__pgqueue_main__"), (["-m", "script"], "script")], ids=["script", "module"]
)
def test_a_task_of_the_script_itself_runs_without_running_the_script(
    command: list[str], name: str, tmp_path: Path
) -> None:
    (tmp_path / "script.py").write_text(textwrap.dedent(SCRIPT))
    environ = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, *command], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == f"in {name}\n[]\n" * 2
    assert done.stderr == ""


def test_slots_without_room_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="not 0"):
        ProcessSlots(0)
    with pytest.raises(ConfigurationError, match="max_calls=0"):
        ProcessSlots(1, max_calls=0)
