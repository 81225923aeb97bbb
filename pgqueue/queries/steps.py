"""Steps of a job: what has committed is skipped by the attempts to come."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from pgqueue.queries.effects import Holder
from pgqueue.queries.statement import Operation, Statement, array, inline


class Stored(NamedTuple):
    """What came of storing a step.

    `verdict`: "stored" with the `result` as it is read back; "locked" while somebody has the job's row locked; "stale"
    where the claim is lost.
    """

    verdict: str
    result: str | None = None


def committed(schema: str, me: Holder) -> Operation[dict[str, str | None] | None]:
    """Results by name of the steps that have committed; None where the claim is lost."""
    rows = yield Statement(
        inline(
            "select s.name, s.result::text from {schema}.jobs j left join {schema}.job_steps s on s.job_id = j.id "
            "where j.id = %(job_id)s and j.claim_id = %(fence)s",
            schema,
        ),
        {"job_id": me.job_id, "fence": me.fence},
    )
    return {name: result for name, result in rows if name is not None} if rows else None


def store(schema: str, me: Holder, name: str, result: str | None, *, completing: bool = False) -> Operation[Stored]:
    """A step has committed, of a job that still carries its claim, and must not lose it before this commits.

    `completing`: in the transaction in which the job completes, which finds out by itself, and may last.
    """
    lock = "" if completing else "for share skip locked"
    params = {"job_id": me.job_id, "fence": me.fence, "name": name, "result": result}
    rows = yield Statement(
        inline(
            f"with held as (select id, attempt from {{schema}}.jobs where id = %(job_id)s and claim_id = %(fence)s {lock}) "
            "insert into {schema}.job_steps as s (job_id, name, attempt, result) "
            "select id, %(name)s, attempt, %(result)s::jsonb from held "
            # Written again where the answer of the first time was lost.
            "on conflict (job_id, name) do update set result = excluded.result, done_at = excluded.done_at "
            "returning s.result::text",
            schema,
        ),
        params,
    )
    if rows:
        return Stored("stored", rows[0][0])
    claim = "select 1 from {schema}.jobs where id = %(job_id)s and claim_id = %(fence)s"
    held = yield Statement(inline(claim, schema), {"job_id": me.job_id, "fence": me.fence})
    return Stored("locked" if held else "stale")


def forget_of(schema: str, ids: Iterable[int]) -> Statement[int]:
    """Delete the steps of those of these jobs that have ended and did not fail. Rows: the ids of those that are live."""
    return Statement(
        inline(
            "with gone as (delete from {schema}.job_steps s where s.job_id = any (%(ids)s::bigint[]) "
            "and not exists (select from {schema}.jobs j where j.id = s.job_id) "
            "and not exists (select from {schema}.failed_jobs f where f.id = s.job_id)) "
            "select id from {schema}.jobs where id = any (%(ids)s::bigint[])",
            schema,
        ),
        {"ids": array(ids)},
        lambda row: row[0],
    )


def forget_ended(schema: str, count: int) -> Statement[int]:
    """Delete steps of jobs that have ended and did not fail, up to so many; returns how many."""
    return Statement(
        inline(
            "with gone as (delete from {schema}.job_steps where ctid = any (array(select s.ctid from {schema}.job_steps s "
            "where not exists (select from {schema}.jobs j where j.id = s.job_id) "
            "and not exists (select from {schema}.failed_jobs f where f.id = s.job_id) limit %(count)s)) returning 1) "
            "select count(*) from gone",
            schema,
        ),
        {"count": count},
        lambda row: row[0],
    )
