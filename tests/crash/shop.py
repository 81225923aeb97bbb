"""The app that the crash tests run: `python -m tests.crash.shop OPTIONS` is one worker process of it.

Every run of a task appends to a ledger of its own process (`SHOP_LEDGER`), which knows nothing of the database.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import logging
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from pgqueue import Alert, Backoff, Breaker, ChunkJob, Context, Event, FailJob, Limit, PgQueue, current_job
from pgqueue.worker import Worker

app = PgQueue(backoff=Backoff.fixed(0.1))
KEYED_AT_ONCE = 40
OPEN_FOR = 1.0
_ledgers: dict[int, int] = {}


def note(what: str, job_id: int, attempt: int) -> None:
    """One line, in one write: what was noted before a SIGKILL stays."""
    pid = os.getpid()
    if pid not in _ledgers:
        path = Path(os.environ["SHOP_LEDGER"]) / f"{pid}.{time.time_ns()}.ledger"
        _ledgers[pid] = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(_ledgers[pid], f"{what} {job_id} {attempt} {pid}\n".encode())


@app.task(bind=True, queue="orders")
async def order(ctx: Context, seconds: float = 0.0) -> int:
    note("begin", ctx.job_id, ctx.attempt)
    await asyncio.sleep(seconds)
    note("end", ctx.job_id, ctx.attempt)
    return os.getpid()


@app.task(bind=True, queue="orders")
async def wait_for(ctx: Context, path: str) -> int:
    """Runs until the file `path.PID` is there: the test opens one worker's gate, and not the other's."""
    note("begin", ctx.job_id, ctx.attempt)
    while not is_there(f"{path}.{os.getpid()}"):  # noqa: ASYNC110 - it is made by another process
        await asyncio.sleep(0.005)
    note("end", ctx.job_id, ctx.attempt)
    return os.getpid()


@app.task(queue="orders")
async def told(job_id: int, **rest: Any) -> None:
    note("told", job_id, 0)


@app.task(queue="alerts")
async def page(**told: Any) -> None:
    note("paged", current_job().job_id, current_job().attempt)


@app.task(bind=True, queue="orders", max_attempts=1, on_failed=told)
async def only_once(ctx: Context, gate: str = "", seconds: float = 0.0) -> None:
    """Must not run twice; every third fails by itself."""
    note("begin", ctx.job_id, ctx.attempt)
    while gate and not is_there(gate):  # noqa: ASYNC110 - it is made by another process
        await asyncio.sleep(0.005)
    await asyncio.sleep(seconds)
    note("end", ctx.job_id, ctx.attempt)
    if ctx.job_id % 3 == 0:
        raise ValueError("every third fails")


@app.task(bind=True, queue="orders")
async def kill_own_worker(ctx: Context, others: int) -> None:
    """Waits until this worker runs so many others, the first times: so that they die with it."""
    note("begin", ctx.job_id, ctx.attempt)
    while others_running(ctx.job_id) < others and not is_there(os.environ["SHOP_LEDGER"], "alone"):  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(bind=True, queue="orders", run_in="process")
def crash_own_process(ctx: Context) -> None:
    note("begin", ctx.job_id, ctx.attempt)
    ctypes.string_at(0)


@app.task(bind=True, queue="orders")
async def block_the_loop(ctx: Context, gate: str) -> int:
    """Blocks the first worker that runs it until the file is there; in others it ends at once."""
    note("begin", ctx.job_id, ctx.attempt)
    if is_first():
        while not is_there(gate):
            time.sleep(0.005)  # noqa: ASYNC251 - what it is for
    note("end", ctx.job_id, ctx.attempt)
    return os.getpid()


@app.task(bind=True, queue="orders", transactional=True)
async def charge_async(ctx: Context, seconds: float) -> None:
    note("begin", ctx.job_id, ctx.attempt)
    await ctx.connection.execute("insert into charges (job_id) values (%s)", [ctx.job_id])
    await asyncio.sleep(seconds)
    note("end", ctx.job_id, ctx.attempt)


@app.task(bind=True, queue="orders", transactional=True)
def charge(ctx: Context, seconds: float) -> None:
    note("begin", ctx.job_id, ctx.attempt)
    ctx.connection.execute("insert into charges (job_id) values (%s)", [ctx.job_id])
    time.sleep(seconds)
    note("end", ctx.job_id, ctx.attempt)


@app.task(bind=True, queue="orders", transactional=True)
def export(ctx: Context, chain: str, part: int, parts: int) -> None:
    """One part of a chain, which enqueues the next."""
    note("begin", ctx.job_id, ctx.attempt)
    ctx.connection.execute("insert into parts (chain, part) values (%s, %s)", [chain, part])
    if part < parts:
        export.using(ctx.connection).enqueue(chain, part + 1, parts)
    time.sleep(0.02)


def wait_here(ctx: Context, gate: str) -> None:
    """Until the file is there: not in a step, so that the steps before have committed."""
    note("waits", ctx.job_id, ctx.attempt)
    while not is_there(gate):
        time.sleep(0.005)


def stepping(ctx: Context, gate: str) -> None:
    for name in ("first", "second"):
        ctx.step(name, note, name, ctx.job_id, ctx.attempt)
    wait_here(ctx, gate)
    ctx.step("third", note, "third", ctx.job_id, ctx.attempt)


@app.task(bind=True, queue="orders")
def step_in_a_thread(ctx: Context, gate: str) -> None:
    stepping(ctx, gate)


@app.task(bind=True, queue="orders", run_in="process")
def step_in_a_process(ctx: Context, gate: str) -> None:
    stepping(ctx, gate)


@app.task(bind=True, queue="orders")
async def step_in_a_coroutine(ctx: Context, gate: str) -> None:
    async def anote(what: str) -> None:
        note(what, ctx.job_id, ctx.attempt)

    await ctx.astep("first", anote, "first")
    await ctx.astep("second", anote, "second")
    await asyncio.to_thread(wait_here, ctx, gate)
    await ctx.astep("third", anote, "third")


@app.task(bind=True, queue="orders")
def charge_once(ctx: Context, key: str, gate: str) -> None:
    """A call that the first worker never ends."""

    def call() -> int:
        note("calls", ctx.job_id, ctx.attempt)
        while not is_there(gate):
            time.sleep(0.005)
        return os.getpid()

    note("asks", ctx.job_id, ctx.attempt)
    ctx.once(key, call)


@app.task(bind=True, queue="orders")
def steps_and_charges(ctx: Context, seconds: float) -> None:
    """Three steps, one of them a write that commits with its step."""

    def charge(conn: Any) -> None:
        conn.execute("insert into charges (job_id) values (%s)", [ctx.job_id])

    note("begin", ctx.job_id, ctx.attempt)
    ctx.step("wait", time.sleep, seconds)
    with psycopg.connect(os.environ["PGQUEUE_DSN"]) as conn:
        ctx.using(conn).step("charge", charge, conn)
    ctx.step("wait again", time.sleep, seconds)
    note("end", ctx.job_id, ctx.attempt)


def mark(what: str, limit: str, n: int) -> None:
    """One line for the overlap ledger, with the time that all processes of a host share."""
    path = Path(os.environ["SHOP_LEDGER"]) / f"{os.getpid()}.overlap"
    with path.open("a") as ledger:
        ledger.write(f"{time.monotonic_ns()} {what} {limit} {n}\n")


@app.task(queue="limited", limit=[Limit(concurrency=3, key="{key}"), Limit(concurrency=KEYED_AT_ONCE)])
async def keyed(key: str, n: int, seconds: float) -> None:
    mark("begin", key, n)
    await asyncio.sleep(seconds)
    mark("end", key, n)


@app.task(queue="limited", serial_key="{key}")
async def ordered(key: str, n: int, seconds: float) -> None:
    mark("begin", key, n)
    await asyncio.sleep(seconds)
    mark("end", key, n)


@app.task(bind=True, queue="orders", keep_completed=0)
async def node(ctx: Context, fails: bool, seconds: float) -> int:
    """A job of a flow, which may fail for good until the file `fixed` is there."""
    mark("begin", str(ctx.job_id), ctx.attempt)
    await asyncio.sleep(seconds)
    mark("end", str(ctx.job_id), ctx.attempt)
    if fails and not is_there(os.environ["SHOP_LEDGER"], "fixed"):
        raise FailJob("not fixed")
    return ctx.job_id


@app.task(
    bind=True,
    queue="fragile",
    max_attempts=1000,
    breaker=Breaker(failures=20, within=600, open_for=OPEN_FOR, cap=OPEN_FOR),
)
async def fragile(ctx: Context) -> None:
    """Calls what is down while the file `down` is there, and does not answer while `hangs` is."""
    mark("begin", str(ctx.job_id), ctx.attempt)
    while is_there(os.environ["SHOP_LEDGER"], "hangs"):  # noqa: ASYNC110 - the test's process takes it away
        await asyncio.sleep(0.005)
    if is_there(os.environ["SHOP_LEDGER"], "down"):
        raise ConnectionError
    mark("end", str(ctx.job_id), ctx.attempt)


@dataclass
class Piece:
    """A job of a chunk; one that `kills` takes its worker with it."""

    seconds: float = 0.0
    kills: bool = False


@app.task(queue="orders", chunk=20, wait=0.3)
async def bulk(jobs: list[ChunkJob[Piece]]) -> None:
    for job in jobs:
        note("begin", job.id, job.attempt)
    if any(job.args.kills for job in jobs):
        os.kill(os.getpid(), signal.SIGKILL)
    await asyncio.sleep(max(job.args.seconds for job in jobs))
    for job in jobs:
        note("end", job.id, job.attempt)


@app.task(queue="orders", chunk=20, wait=0.3, transactional=True)
def charge_many(jobs: list[ChunkJob[Piece]]) -> None:
    for job in jobs:
        note("begin", job.id, job.attempt)
        job.connection.execute("insert into charges (job_id) values (%s)", [job.id])
    time.sleep(max(job.args.seconds for job in jobs))
    for job in jobs:
        note("end", job.id, job.attempt)


@app.task(queue="nothing")
async def nothing() -> None:
    """Gives a worker that only rescues a queue to serve."""


def is_there(*path: str) -> bool:
    return Path(*path).exists()


def is_first() -> bool:
    """Whether no process has asked before."""
    try:
        Path(os.environ["SHOP_LEDGER"], "blocked").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def others_running(job_id: int) -> int:
    state: dict[str, int] = {}
    for path in Path(os.environ["SHOP_LEDGER"]).glob(f"{os.getpid()}.*.ledger"):
        for line in path.read_text().splitlines():
            what, id_, *_ = line.split()
            state[id_] = state.get(id_, 0) + (1 if what == "begin" else -1 if what == "end" else 0)
    return sum(count for id_, count in state.items() if id_ != str(job_id))


def rescued(event: Event) -> None:
    note("rescued", event.job_id, event.attempt)


async def serve(options: dict[str, Any]) -> None:
    app.on("rescued", rescued)
    if options.pop("alerts", False):
        app.alert("deaths", Alert.rescues(0, within=3600), to=page)
    worker = Worker(app, options.pop("queues", ["orders:20"]), **options)
    signals = 0

    def stop() -> None:
        nonlocal signals
        signals += 1
        if signals == 1:
            worker.stop()
        else:
            worker.give_back()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop)
    await worker.run()


def end_with_the_test() -> None:
    """The test holds the other end of stdin."""
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    threading.Thread(target=end_with_the_test, daemon=True).start()
    asyncio.run(serve(json.loads(sys.argv[1])))
