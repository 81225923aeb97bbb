"""Who waits for the end of which jobs: recorded for the statements that end them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from pgqueue.queries.statement import Statement, array, inline, text


def wait(schema: str, ids: Iterable[int], channel: str, expires: timedelta) -> Statement[Any]:
    """From now on, and for so long, the end of these jobs sends their ids to `channel`. Those that have ended are left out."""
    return Statement(text("wait", schema), {"ids": array(ids), "channel": channel, "expires": expires})


def forget_waiters(schema: str, count: int) -> Statement[int]:
    """Delete those whose time is over, up to so many; returns how many."""
    return Statement(
        inline(
            "with gone as (delete from {schema}.waiters where (job_id, channel, expires_at) in "
            "(select job_id, channel, expires_at from {schema}.waiters where expires_at <= clock_timestamp() limit %(count)s "
            "for update skip locked) returning 1) select count(*) from gone",
            schema,
        ),
        {"count": count},
        lambda row: row[0],
    )
