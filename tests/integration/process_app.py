"""Tasks that run in processes: a child imports this module, so they cannot be local to a test."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgqueue import (
    ArgumentError,
    Backoff,
    CancelJob,
    ChunkJob,
    Context,
    FailJob,
    PgQueue,
    RetryJob,
    SnoozeJob,
    current_job,
)

app = PgQueue(backoff=Backoff.fixed(0))


@dataclass
class Photo:
    id: int
    taken_at: datetime


@app.task(run_in="process", name="process_pid")
def process_pid() -> int:
    return os.getpid()


@app.task(run_in="process", name="process_typed")
def process_typed(photo: Photo) -> list[Any]:
    return [type(photo).__name__, type(photo.taken_at).__name__, photo.id]


@app.task(run_in="process", name="process_context", bind=True)
def process_context(ctx: Context) -> dict[str, Any]:
    assert current_job() is ctx
    return {"id": ctx.job_id, "queue": ctx.queue, "attempt": ctx.attempt, "headers": dict(ctx.headers)}


@app.task(run_in="process", name="process_gives_up", give_up_on=LookupError)
def process_gives_up() -> None:
    raise KeyError("no such order")


def tell(ctx: Context, times: int) -> None:
    for n in range(1, times + 1):
        ctx.progress(100 * n / times, f"{n} of {times}")
        ctx.log(f"step {n}")


@app.task(run_in="process", name="process_tells", bind=True)
def process_tells(ctx: Context, times: int) -> None:
    tell(ctx, times)


def append(path: str, what: str) -> tuple[str, int]:
    """An effect outside of the database, and how many there are then."""
    with open(path, "a") as ledger:
        ledger.write(f"{what}\n")
    return what, len(Path(path).read_text().splitlines())


def ship(ctx: Context, path: str) -> list[Any]:
    """Two steps, then the first attempt fails."""
    done = [ctx.step(name, append, path, name) for name in ("reserve", "charge")]
    if ctx.attempt == 1:
        raise ConnectionError("the bank is closed")
    return [*done, ctx.step("send", append, path, "send")]


def charge_once(ctx: Context, path: str, key: str, amount: int) -> Any:
    return ctx.once(key, append, path, f"charge {amount}")


def twice(ctx: Context) -> None:
    ctx.step("a", int)
    with pytest.raises(ArgumentError, match=r"step 'a' of job .* was called twice in one run"):
        ctx.step("a", int)


@app.task(run_in="process", name="ship", bind=True, max_attempts=2)
def process_ships(ctx: Context, path: str) -> list[Any]:
    return ship(ctx, path)


@app.task(run_in="process", name="charge", bind=True, max_attempts=1)
def process_charges(ctx: Context, path: str, key: str, amount: int) -> Any:
    return charge_once(ctx, path, key, amount)


def when_locked(path: str) -> str:
    """Returns when the test has locked what was stored."""
    while not Path(f"{path}.locked").exists():
        time.sleep(0.001)
    return "charged"


def charge_and_wait(path: str) -> str:
    append(path, "charged")
    return when_locked(path)


@app.task(run_in="process", name="process_charges_slowly", bind=True)
def process_charges_slowly(ctx: Context, path: str) -> None:
    ctx.once("k", partial(charge_and_wait, path))


@app.task(run_in="process", name="twice", bind=True, max_attempts=1)
def process_twice(ctx: Context) -> None:
    twice(ctx)


@app.task(run_in="process", name="together", bind=True)
def process_steps_together(ctx: Context, path: str, count: int) -> list[Any]:
    """Threads of one task, and its progress, beside each other."""

    def one(n: int) -> Any:
        ctx.progress(100 * n / count)
        return ctx.step(f"step {n}", append, path, str(n))[0]

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(one, range(count)))


@app.task(run_in="process", name="with_connection", bind=True)
def process_uses_a_connection(ctx: Context, dsn: str, path: str) -> Any:
    with psycopg.connect(dsn) as conn:
        return ctx.using(conn).step("reserve", append, path, "reserve")


@app.task(run_in="process", name="process_waits", max_attempts=1)
def process_waits() -> None:
    signal.pause()


@app.task(run_in="process", name="process_crashes", max_attempts=2)
def process_crashes() -> None:
    ctypes.string_at(0)


@app.task(run_in="process", name="process_signals", bind=True, max_attempts=2)
def process_signals(ctx: Context, signal: str) -> int:
    if ctx.attempt == 1 and signal == "retry":
        raise RetryJob(delay=0)
    if signal == "snooze" and not ctx.headers.get("snoozed"):
        raise SnoozeJob(3600)
    if signal == "fail":
        raise FailJob("no use")
    if signal == "cancel":
        raise CancelJob("not needed")
    if signal == "exit":
        raise SystemExit(3)
    return ctx.attempt


def nothing() -> None: ...


def wrapped(ctx: Context, then: str) -> Any:
    if then == "raise":
        raise ZeroDivisionError
    return dict(ctx.headers)


@app.task(run_in="process", name="process_wrapped", bind=True, max_attempts=2)
def process_wrapped(ctx: Context, then: str = "return") -> Any:
    return wrapped(ctx, then)


@dataclass
class Item:
    """The argument of a job of a chunk: what its task is to do with it."""

    n: int
    do: str = "nothing"

    def __post_init__(self) -> None:
        if self.n < 0:
            raise ValueError("n is negative")


def act(jobs: list[ChunkJob[Item]]) -> None:
    """Do with each job what its argument says, one after the other; the last may end the call."""
    for job in jobs:
        match job.args.do:
            case "complete":
                job.complete([job.args.n, len(jobs), job.attempt])
            case "retry":
                if job.attempt == 1:
                    job.retry(0, "once more")
                else:
                    job.complete("at last")
            case "snooze":
                job.snooze(3600)
            case "cancel":
                job.cancel("not needed")
            case "fail":
                job.fail("no use")
            case "error":
                job.raised(KeyError(job.args.n))
            case "raise":
                raise OSError(f"at job {job.args.n}")
            case "tell":
                job.progress(job.args.n, f"item {job.args.n}")
                job.log(f"attempt {job.attempt} of {job.args.n}")
            case "crash":
                ctypes.string_at(0)
            case "no current job":
                try:
                    current_job()
                except LookupError:
                    job.complete("none")
            case "hang":
                threading.Event().wait()
            case "until stopped":
                while not job.stopped:
                    time.sleep(0.001)
                job.complete("too late")


@app.task(run_in="process", name="process_chunk", chunk=10, wait=3600, max_attempts=3)
def process_chunk(jobs: list[ChunkJob[Item]]) -> None:
    act(jobs)


@app.task(run_in="process", name="process_returns", chunk=10, wait=3600, max_attempts=1)
def process_returns(jobs: list[ChunkJob[Item]]) -> list[Any]:
    return [ValueError(job.args.n) if job.args.n % 2 else job.args.n for job in jobs]
