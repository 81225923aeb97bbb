"""Deleting jobs for good, waiting and ended ones, by state and age: in turns that each look at a bounded number of rows."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, NamedTuple

from pgqueue.job import JobState
from pgqueue.queries.statement import Operation, Statement, inline

LOOK_AT = 10_000
WAITING: tuple[JobState, ...] = ("scheduled", "available", "blocked")
PURGED: tuple[JobState, ...] = (*WAITING, "completed", "cancelled", "failed")
# Of each table: the states that its jobs have, and the column that says since when.
TABLES: dict[str, tuple[tuple[JobState, ...], str]] = {
    "jobs": ((*WAITING, "running"), "created_at"),
    "completed_jobs": (("completed", "cancelled"), "finished_at"),
    "failed_jobs": (("failed",), "failed_at"),
}

Steps = Generator[Operation[Any], Any, Any]
"""Operations in turn, each in a transaction of its own: it yields each and is sent its result."""


@dataclass(frozen=True, slots=True)
class Purging:
    """Which jobs of one table: of these states, that have waited, or ended, for `older_than`. `up_to`: an id, the last."""

    table: str
    states: tuple[JobState, ...]
    queue: str | None = None
    task: str | None = None
    older_than: timedelta | None = None
    up_to: int | None = None


class Purged(NamedTuple):
    """One turn: rows looked at, the last one's id, those that were meant, and those that are gone."""

    seen: int
    last: int
    meant: int
    gone: int


def plan(which: Purging) -> list[Purging]:
    """The same for each table that holds some of the states."""
    each = [(table, tuple(one for one in which.states if one in states)) for table, (states, _) in TABLES.items()]
    return [replace(which, table=table, states=states) for table, states in each if states]


def purge_turn(schema: str, which: Purging, after: int, *, wait: bool = False) -> Statement[Purged]:
    """Delete those among the next LOOK_AT rows with an id above `after`, and what they have told.

    Those that somebody has locked stay; with `wait` it deletes the next one alone, when it can: who waits for a row holds
    no other.
    """
    meant = (
        f"select id from seen where state = any (%(states)s) and {_MATCHES} "
        "and (%(before)s::interval is null or since < clock_timestamp() - %(before)s::interval)"
    )
    return Statement(
        inline(
            f"with seen as materialized (select id, queue, task, {_state(which.table)} as state, {TABLES[which.table][1]} as since "
            f"from {{schema}}.{which.table} where id > %(after)s and (%(up_to)s::bigint is null or id <= %(up_to)s) "
            f"order by id limit %(look_at)s), meant as materialized ({meant}{' order by id limit 1' if wait else ''}), "
            f"{_GONE[which.table].format(lock='for update' if wait else 'for update skip locked')}, "
            "progress as (delete from {schema}.job_progress where job_id = any (array(select id from gone))), "
            "logs as (delete from {schema}.job_logs where job_id = any (array(select id from gone))) "
            f"select (select count(*) from seen), coalesce({'(select id from meant), ' if wait else ''}(select max(id) from seen), 0), "
            "(select count(*) from meant), (select count(*) from gone)"
            f"{', (select count(*) from told)' if 'told as' in _GONE[which.table] else ''}",
            schema,
        ),
        {
            "states": list(which.states),
            "queue": which.queue,
            "task": which.task,
            "before": which.older_than,
            "after": after,
            "up_to": which.up_to,
            "look_at": LOOK_AT,
            "channel": schema,
        },
        lambda row: Purged(*row[:4]),
    )


_MATCHES = "(%(queue)s::text is null or queue = %(queue)s) and (%(task)s::text is null or task = %(task)s)"
_GONE = {
    "jobs": (
        "held as (select id from {{schema}}.jobs where id = any (array(select id from meant)) and state = any (%(states)s) "
        "order by id {lock}), "
        "gone as (delete from {{schema}}.jobs where id = any (array(select id from held)) and state = any (%(states)s) "
        "returning id, places, waits_for, ready), "
        # As a cancel does: whoever next holds the gates takes the places.
        "freed as (insert into {{schema}}.freed_places (gate, loose) "
        "select place, place is not distinct from waits_for and ready is not null from gone, unnest(places) place returning 1), "
        "told as (select pg_notify(%(channel)s, 'limits') from freed limit 1)"
    ),
    "completed_jobs": (
        "gone as (delete from {{schema}}.completed_jobs where id = any (array(select id from meant)) returning id)"
    ),
    "failed_jobs": (
        "held as (select id from {{schema}}.failed_jobs where id = any (array(select id from meant)) order by id {lock}), "
        "gone as (delete from {{schema}}.failed_jobs where id = any (array(select id from held)) returning id, places), "
        "freed as (insert into {{schema}}.freed_places (gate, loose) select place, false from gone, unnest(places) place returning 1), "
        "told as (select pg_notify(%(channel)s, 'limits') from freed limit 1)"
    ),
}


def _state(table: str) -> str:
    return "'failed'" if table == "failed_jobs" else "state"


def count(schema: str, which: Purging) -> Statement[int]:
    """How many there are."""
    return Statement(
        inline(
            f"select count(*) from {{schema}}.{which.table} where {_state(which.table)} = any (%(states)s) and {_MATCHES} "
            f"and (%(before)s::interval is null or {TABLES[which.table][1]} < clock_timestamp() - %(before)s::interval)",
            schema,
        ),
        {"states": list(which.states), "queue": which.queue, "task": which.task, "before": which.older_than},
        lambda row: row[0],
    )


def purge(schema: str, which: Purging) -> Generator[Operation[Any], Any, int]:
    """Delete them; returns how many. Steps, each short: what was deleted stays so if it is interrupted."""
    deleted = after = 0
    left = False
    while True:
        turn: Purged = yield alone(purge_turn(schema, which, after))
        deleted += turn.gone
        left = left or turn.gone < turn.meant
        if turn.seen < LOOK_AT:
            break
        after = turn.last
    after = 0
    while left:
        turn = yield alone(purge_turn(schema, which, after, wait=True))
        deleted += turn.gone
        after = turn.last
        left = turn.meant > 0 or turn.seen == LOOK_AT
    return deleted


def alone(statement: Statement[Any]) -> Operation[Any]:
    """The one row of a statement."""
    [row] = yield statement
    return row
