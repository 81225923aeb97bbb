"""Deleting jobs by id for good, waiting and ended ones, so that flows hear of it. Running ones stay."""

from __future__ import annotations

from collections.abc import Sequence

from pgqueue.queries.inspecting import cancel
from pgqueue.queries.statement import Operation, Statement, array, inline


def delete(schema: str, ids: Sequence[int]) -> Operation[list[int]]:
    """The ids of those that are gone. In one transaction.

    Waiting ones are cancelled first, so that all goes on that has to do with them: places, those who wait for a result,
    parents in flows.
    """
    waiting: list[int] = yield _waiting(schema, ids)
    if waiting:
        yield cancel(schema, waiting, "deleted")
    gone = {*waiting, *(yield _completed(schema, ids)), *(yield _failed(schema, ids))}
    yield _told(schema, gone)
    return sorted(gone)


def _waiting(schema: str, ids: Sequence[int]) -> Statement[int]:
    # Locked, so that none of them is claimed meanwhile.
    return Statement(
        inline(
            "select id from {schema}.jobs where id = any (%(ids)s::bigint[]) and state <> 'running' order by id for update",
            schema,
        ),
        {"ids": array(ids)},
        lambda row: row[0],
    )


def _completed(schema: str, ids: Sequence[int]) -> Statement[int]:
    return Statement(
        inline("delete from {schema}.completed_jobs where id = any (%(ids)s::bigint[]) returning id", schema),
        {"ids": array(ids)},
        lambda row: row[0],
    )


def _failed(schema: str, ids: Sequence[int]) -> Statement[int]:
    """Who waits for one until it is redriven hears that it is gone. One that somebody redrives just now stays.

    Whoever redrives holds it, and may wait for the key of a waiting job that is deleted here.
    """
    return Statement(
        inline(
            "with held as materialized (select id from {schema}.failed_jobs where id = any (%(ids)s::bigint[]) order by id for update skip locked), "
            "dead as (delete from {schema}.failed_jobs where id = any (array(select id from held)) returning id, places), "
            "freed as (insert into {schema}.freed_places (gate, loose) select place, false from dead, unnest(places) place returning 1), "
            "noted as (update {schema}.flow_jobs set state = 'gone' where job_id = any (array(select id from dead)) "
            "and state = 'failed' returning job_id), "
            "news as (insert into {schema}.flow_news (job_id, was, state) select job_id, 'failed', 'gone' from noted returning 1), "
            "told as (select pg_notify(%(channel)s, 'limits') from (select from freed limit 1) f "
            "union all select pg_notify(%(channel)s, 'flows') from (select from news limit 1) n) "
            "select dead.id from dead cross join (select count(*) from told) t",
            schema,
        ),
        {"ids": array(ids), "channel": schema},
        lambda row: row[0],
    )


def _told(schema: str, ids: set[int]) -> Statement[int]:
    """What they have told."""
    return Statement(
        inline(
            "with progress as (delete from {schema}.job_progress where job_id = any (%(ids)s::bigint[])) "
            "delete from {schema}.job_logs where job_id = any (%(ids)s::bigint[]) returning 1",
            schema,
        ),
        {"ids": array(ids)},
    )
