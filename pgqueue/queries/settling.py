"""What becomes of those that wait in flows as others end: counted, let go, failed, revived; and flows that are over."""

from __future__ import annotations

from typing import Any, NamedTuple

from psycopg.errors import LockNotAvailable

from pgqueue.queries.statement import Operation, Statement, array, inline, text

SETTLE = 2_000


class Settled(NamedTuple):
    """How much there was to tell; and whether something else than to be let go is to become of some that wait."""

    told: int
    due: bool


def settle(schema: str, count: int = SETTLE) -> Statement[Settled]:
    """Have those that wait count members that have ended, or live again, and let them go. One row."""
    return Statement(text("settle_flows", schema), {"count": count}, Settled._make)


def release(schema: str, count: int = SETTLE) -> Statement[int]:
    """Jobs that wait for nobody any more, and that somebody held, go to their queues."""
    return _turn("release_waits", schema, count)


def fail(schema: str, count: int = SETTLE) -> Statement[int]:
    """Jobs that are to fail for a child go to `failed_jobs`."""
    return _turn("fail_waits", schema, count)


def cancel_siblings(schema: str, count: int = SETTLE) -> Statement[int]:
    """What else runs for a parent that has failed so is cancelled."""
    return _turn("cancel_siblings", schema, count)


def revive(schema: str, count: int = SETTLE) -> Statement[int]:
    """Jobs that failed for a child which was redriven wait again."""
    return _turn("revive_waits", schema, count)


def drop_callbacks(schema: str, count: int = SETTLE) -> Statement[int]:
    """Callbacks of batches that are not to run end as cancelled."""
    return _turn("drop_callbacks", schema, count)


def turn(schema: str, count: int = SETTLE) -> Operation[int]:
    """One look at all flows; returns how much there was to do. Each statement commits by itself: the next goes on from it."""
    [(done, due)] = yield settle(schema, count)
    if not due:
        return int(done)
    # Before anything fails: what is revived fails nobody any more.
    while revived := (yield from _unless_held(revive(schema, count))):
        [settled] = yield settle(schema, count)
        done += revived + settled.told
    for step in (release, fail, cancel_siblings, drop_callbacks):
        done += yield from _unless_held(step(schema, count))
    return int(done)


def _unless_held(step: Statement[int]) -> Operation[int]:
    """What somebody holds waits for a later look, and nothing else for it."""
    try:
        [done] = yield step
    except LockNotAvailable:
        return 0
    return int(done)


def _turn(name: str, schema: str, count: int) -> Statement[int]:
    return Statement(text(name, schema), {"count": count, "channel": schema}, lambda row: row[0])


def sweep(schema: str, after: int, count: int) -> Statement[Any]:
    """(last job id, how many are gone) of the next `count` members: jobs that were deleted tell nobody that they ended."""
    return Statement(text("sweep_flows", schema), {"after": after, "count": count})


def prune(schema: str, after: int, count: int, age: Any) -> Operation[tuple[int | None, int]]:
    """(last flow looked at, how many were deleted) of the next `count`: those whose jobs have all ended longer ago.

    A flow with a job in `failed_jobs` stays, since that may be redriven. In a transaction of its own: who joins one holds
    it, and what joined one before is seen by the statement that follows.
    """
    seen: list[int] = yield Statement(
        inline("select id from {schema}.flows where id > %(after)s order by id limit %(count)s", schema),
        {"after": after, "count": count},
        lambda row: row[0],
    )
    free = yield Statement(
        inline(
            "select id from {schema}.flows where id = any (%(ids)s::bigint[]) order by id for update skip locked",
            schema,
        ),
        {"ids": array(seen)},
        lambda row: row[0],
    )
    [gone] = yield Statement(text("prune_flows", schema), {"ids": array(free), "age": age}, lambda row: row[0])
    return (seen[-1] if seen else None), gone
