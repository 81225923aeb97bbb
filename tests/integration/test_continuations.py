"""Continuations: a part of a long piece of work enqueues the next in the transaction of its own completion."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from pgqueue import Backoff, Context, PgQueue, Task
from pgqueue.testing import adrain

PARTS = 4
kinds = pytest.mark.parametrize("kind", ["coroutine", "thread"])


@pytest.fixture
def attempts() -> Counter[int]:
    """How often each part was run."""
    return Counter()


def declare(app: PgQueue, kind: str, attempts: Counter[int], fails: int = 0) -> Task[[int], Any]:
    """An export in parts; the first attempt of part `fails` raises once it has enqueued the next."""

    def begin(ctx: Context, part: int) -> None:
        attempts[part] += 1
        if part == fails and ctx.attempt == 1:
            raise ConnectionError(f"part {part}")

    async def in_a_coroutine(ctx: Context, part: int) -> None:
        if part < PARTS:
            await export.using(ctx.connection).aenqueue(part + 1)
        begin(ctx, part)

    def in_a_thread(ctx: Context, part: int) -> None:
        if part < PARTS:
            export.using(ctx.connection).enqueue(part + 1)
        begin(ctx, part)

    body: Any = in_a_coroutine if kind == "coroutine" else in_a_thread
    declared: Any = app.task
    export: Task[[int], Any] = declared(name="export", bind=True, transactional=True, backoff=Backoff.fixed(0))(body)
    return export


@kinds
async def test_each_part_enqueues_the_next_one(app: PgQueue, kind: str, attempts: Counter[int]) -> None:
    await declare(app, kind, attempts).aenqueue(1)
    report = await adrain(app)
    assert report.completed == PARTS
    assert attempts == Counter(range(1, PARTS + 1))


@kinds
async def test_a_part_that_fails_has_enqueued_nothing_and_goes_on_once(
    app: PgQueue, kind: str, attempts: Counter[int]
) -> None:
    await declare(app, kind, attempts, fails=2).aenqueue(1)
    report = await adrain(app, with_scheduled=True)
    assert (report.completed, report.retried) == (PARTS, 1)
    assert attempts == {1: 1, 2: 2, 3: 1, 4: 1}


async def test_nobody_sees_the_next_part_before_this_one_has_completed(app: PgQueue) -> None:
    seen: list[tuple[int, int]] = []

    @app.task(name="export", bind=True, transactional=True)
    def export(ctx: Context, part: int) -> None:
        if part < PARTS:
            export.using(ctx.connection).enqueue(part + 1)
        seen.append((app.jobs.count(state="running"), app.jobs.count(state="available")))

    await export.aenqueue(1)
    await adrain(app, slots=PARTS)
    assert seen == [(1, 0)] * PARTS
