"""Effects: calls under keys, each made once. The first to take a key calls; it is held while its job carries its claim."""

from __future__ import annotations

from datetime import timedelta
from typing import NamedTuple

from pgqueue.queries.statement import Operation, Statement, inline, text


class Holder(NamedTuple):
    """Who calls: a job, and the claim that it runs under."""

    job_id: int
    fence: int


class Begun(NamedTuple):
    """What came of taking a key.

    `verdict`: "yours", "done" (with the `request` and `result`, or the `problem` that kept it from being stored),
    "held" by the call of the job `held_by`, or "stale" where one's own claim is lost.
    """

    verdict: str
    request: str = ""
    result: str | None = None
    problem: str | None = None
    held_by: int | None = None


def begin(schema: str, me: Holder, key: str, request: str) -> Operation[Begun]:
    """Take `key` for a call. Each statement has to see what was committed before it: not for one snapshot."""
    params = {"key": key, "request": request, "job_id": me.job_id, "fence": me.fence}
    while True:
        if (yield Statement(text("begin_effect", schema), params)):
            return Begun("yours")
        [row] = yield Statement(text("look_at_effect", schema), params)
        job_id, fence, was, result, problem, done, held, alive = row
        if not alive:
            return Begun("stale")
        if done:
            return Begun("done", was, result, problem)
        if held and (job_id, fence) != me:
            return Begun("held", held_by=job_id)
        # Of a dead holder, or an earlier call of this run. Without a row somebody has just given it back.
        if job_id is not None:
            old = {"old_job_id": job_id, "old_fence": fence}
            if (yield Statement(text("take_effect_over", schema), {**params, **old})):
                return Begun("yours")


def record(schema: str, me: Holder, key: str, result: str | None, problem: str | None) -> Operation[list[str | None]]:
    """The call has returned. The result as it is stored, in a list; none where another has taken the key over."""
    rows: list[str | None] = yield Statement(
        inline(
            "update {schema}.effects set result = %(result)s::jsonb, problem = %(problem)s, done_at = clock_timestamp() "
            "where key = %(key)s and job_id = %(job_id)s and fence = %(fence)s returning result::text",
            schema,
        ),
        {"key": key, "result": result, "problem": problem, "job_id": me.job_id, "fence": me.fence},
        lambda row: row[0],
    )
    return rows


def give_back(schema: str, me: Holder, key: str) -> Operation[None]:
    """The call has raised: the next may call."""
    yield Statement(
        inline(
            "delete from {schema}.effects where key = %(key)s and job_id = %(job_id)s and fence = %(fence)s and done_at is null",
            schema,
        ),
        {"key": key, "job_id": me.job_id, "fence": me.fence},
    )


def forget_effects(schema: str, keep: timedelta, count: int) -> Statement[int]:
    """Delete effects that began longer ago than `keep`, and are not under way, up to so many; returns how many."""
    return Statement(
        inline(
            "with gone as (delete from {schema}.effects where key in (select e.key from {schema}.effects e "
            "where e.begun_at < clock_timestamp() - %(keep)s::interval and (e.done_at is not null or not exists "
            "(select from {schema}.jobs j where j.id = e.job_id and j.claim_id = e.fence)) "
            "order by e.begun_at limit %(count)s for update of e skip locked) returning 1) select count(*) from gone",
            schema,
        ),
        {"keep": keep, "count": count},
        lambda row: row[0],
    )
