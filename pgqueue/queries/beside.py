"""What is known of a job beside its row: what holds for it, who ran it, and what of it has committed already."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from pgqueue.queries.reading import Reader
from pgqueue.queries.statement import Operation, Statement, inline

# Effects have no index by job: of those begun while the job was there, so many are looked at.
LOOKED_AT = 10_000
# Longer results are not read for a list.
SHOWN = 2_000
_SHORT = "case when length(result::text) <= %(shown)s then result::text end"
_LONG = "coalesce(length(result::text) > %(shown)s, false)"
_KEPT = "'keep_completed', extract(epoch from {0}.keep_completed), 'keep_completed_count', {0}.keep_completed_count, "
_KEPT += "'keep_failed', extract(epoch from {0}.keep_failed), 'keep_failed_count', {0}.keep_failed_count"


class Beside(NamedTuple):
    """`options` by who says them, the first of whom decides: job, task, queue, app; times in seconds.

    `began_at` and `worker_id` are of the last attempt, None before the first. `crashes` is None of what completed, of
    which neither they nor the job's own options are kept.
    """

    options: Mapping[str, Mapping[str, Any]]
    crashes: int | None
    suspicions: int
    cancel_requested: bool
    began_at: datetime | None
    worker_id: UUID | None

    def option(self, *names: str) -> tuple[str, Mapping[str, Any]] | None:
        """Who says the first of these that is said, and what of them: None where nobody does."""
        for source, said in self.options.items():
            if found := {name: said[name] for name in names if said.get(name) is not None}:
                return source, found
        return None


class Process(NamedTuple):
    """A worker that is registered still."""

    name: str
    host: str
    pid: int


class Done(NamedTuple):
    """A step of a job, or what it has done once under a key. `done_at` is None while an effect's call has not returned.

    `result` is None where nothing was returned, and where `is_long`: it is too long for a list. `problem`: why it could
    not be stored.
    """

    name: str
    attempt: int | None
    done_at: datetime | None
    result: Any
    is_long: bool
    problem: str | None = None


def beside(schema: str, job_id: int) -> Statement[Beside]:
    """One row; none where there is no such job."""
    return Statement(
        inline(
            "select j.options::text, "
            f"jsonb_build_object('timeout', t.timeout, {_KEPT.format('t')})::text, "
            f"jsonb_build_object('timeout', q.timeout, {_KEPT.format('q')})::text, t.app_defaults::text, "
            "j.crashes, j.suspicions, j.cancel_requested, j.began_at, j.worker_id from ("
            "select l.queue, l.task, l.options, l.crashes, l.suspicions, l.cancel_requested, c.claimed_at as began_at, "
            "c.worker_id from {schema}.jobs l left join {schema}.claims c on c.id = l.claim_id where l.id = %(id)s "
            "union all select queue, task, null, null, 0, false, started_at, worker_id from {schema}.completed_jobs "
            "where id = %(id)s "
            "union all select queue, task, options, crashes, 0, false, started_at, worker_id from {schema}.failed_jobs "
            "where id = %(id)s) j left join {schema}.tasks named on named.name = j.task "
            "left join {schema}.tasks t on t.name = coalesce(named.alias_of, j.task) "
            "left join {schema}.queues q on q.name = j.queue limit 1",
            schema,
        ),
        {"id": job_id},
        _beside,
    )


def processes(schema: str, ids: Iterable[UUID]) -> Statement[tuple[UUID, Process]]:
    """Those of these workers that are registered still."""
    return Statement(
        inline("select id, name, host, pid from {schema}.workers where id = any (%(ids)s::uuid[])", schema),
        {"ids": list(ids)},
        lambda row: (row[0], Process(*row[1:])),
    )


def steps(schema: str, job_id: int, limit: int) -> Statement[Done]:
    """Steps that have committed, in their order."""
    return Statement(
        inline(
            f"select name, attempt, done_at, {_SHORT}, {_LONG}, null from {{schema}}.job_steps where job_id = %(id)s "
            "order by done_at, name limit %(limit)s",
            schema,
        ),
        {"id": job_id, "shown": SHOWN, "limit": limit},
        _done,
    )


def effects(
    schema: str, job_id: int, since: datetime | None, until: datetime | None, limit: int
) -> Operation[tuple[list[Done], bool]]:
    """What it has done once, in its order, and whether all were looked at: the newest LOOKED_AT are, of any job."""
    looked = (
        "from {schema}.effects where begun_at between coalesce(%(since)s::timestamptz, '-infinity') "
        "and coalesce(%(until)s::timestamptz, 'infinity') "
    )
    params = {"id": job_id, "since": since, "until": until, "looked": LOOKED_AT, "shown": SHOWN, "limit": limit}
    rows: list[Done] = yield Statement(
        inline(
            f"select key, null::int, done_at, {_SHORT}, {_LONG}, problem from "
            f"(select * {looked} order by begun_at desc limit %(looked)s) e "
            "where job_id = %(id)s order by begun_at, key limit %(limit)s",
            schema,
        ),
        params,
        _done,
    )
    [more] = yield Statement(
        inline(f"select exists (select {looked} order by begun_at desc offset %(looked)s)", schema),
        params,
        lambda row: row[0],
    )
    return rows, not more


def _beside(row: tuple[Any, ...]) -> Beside:
    read = Reader()
    said = {source: read.object(source, row[n]) for n, source in enumerate(("job", "task", "queue", "app"))}
    return Beside(said, *row[4:])


def _done(row: tuple[Any, ...]) -> Done:
    name, attempt, done_at, result, is_long, problem = row
    read = Reader()
    value = read.value("result", result)
    return Done(name, attempt, done_at, value, is_long, problem or (read.unreadable or {}).get("result"))
