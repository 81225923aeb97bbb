"""Tasks that grow, for processes of their own too."""

from __future__ import annotations

from typing import Any

from pgqueue import Context, PgQueue, Task, WaitForChildren

app = PgQueue("dbname=replaced")


@app.task(name="part")
def part(n: int) -> int:
    return n * 10


@app.task(name="grow", bind=True, run_in="process", max_attempts=1)
def grow_in_process(ctx: Context, count: int) -> list[int]:
    return grown(ctx, count)


def grown(ctx: Context, count: int) -> list[int]:
    if not ctx.children():
        raise WaitForChildren([part.job(n) for n in range(count)])
    return [child.result for child in ctx.children()]


def declare(other: PgQueue, kind: str) -> Task[..., Any]:
    """The task that grows on another app, in this form."""
    other.task(name="part")(part.function)
    if kind == "process":
        function: Any = grow_in_process.function
        return other.task(name="grow", bind=True, run_in="process", max_attempts=1)(function)
    if kind == "coroutine":

        async def grow(ctx: Context, count: int) -> list[int]:
            return grown(ctx, count)

        return other.task(name="grow", bind=True, max_attempts=1)(grow)

    def grow_in_thread(ctx: Context, count: int) -> list[int]:
        return grown(ctx, count)

    return other.task(name="grow", bind=True, max_attempts=1, transactional=kind == "transactional")(grow_in_thread)
