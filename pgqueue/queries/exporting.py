"""Jobs of every state in the order of their ids, in pages that each look at a bounded number of rows.

Each page is read by itself, so that an export of hours pins no snapshot. A job keeps its id when it ends: it is seen
once, as it was when its page was read.
"""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import sql

from pgqueue.job import Job
from pgqueue.queries.browsing import TABLES
from pgqueue.queries.inspecting import COLUMNS, JobFilter, as_job
from pgqueue.queries.statement import Operation, Statement

LOOK_AT = 1_000
# Of arguments, headers, errors and results, as they are stored.
MOST_BYTES = 2**20
SIZES = {
    "jobs": ("args", "headers", "errors"),
    "completed_jobs": ("args", "headers", "errors", "result"),
    "failed_jobs": ("args", "headers", "errors"),
}


def page(schema: str, which: JobFilter, after: int) -> Operation[tuple[list[Job], int | None]]:
    """Those that match among the next above the id `after`, and the last id looked at; None at the end.

    It looks at LOOK_AT, or fewer where they are large: a page is to fit into memory, also beside others.
    """
    [last] = yield _last(schema, which, after)
    if last is None:
        return [], None
    where, params = which.conditions()
    query = sql.SQL(
        "select {columns} from {table} where id > %(after)s and id <= %(last)s and {where} order by id"
    ).format(columns=sql.SQL(COLUMNS), table=sql.Identifier(schema, "all_jobs"), where=where)
    jobs: list[Job] = yield Statement(query.as_string(), {**params, "after": after, "last": last}, as_job)
    return jobs, last


def _last(schema: str, which: JobFilter, after: int) -> Statement[int | None]:
    tables = [table for table, states in TABLES.items() if which.state is None or which.state in states]
    # Each by its index: of the view, the planner may read the whole.
    part = sql.SQL("(select id, {size} as size from {table} where id > %(after)s order by id limit %(look_at)s)")
    parts = sql.SQL(" union all ").join(
        part.format(table=sql.Identifier(schema, table), size=_size(SIZES[table])) for table in tables
    )
    query = sql.SQL(
        "select max(id) from (select id, sum(size) over (order by id) - size as before from ({parts}) p "
        "order by id limit %(look_at)s) w where before < %(bytes)s"
    ).format(parts=parts)
    params = {"after": after, "look_at": LOOK_AT, "bytes": MOST_BYTES}
    return Statement(query.as_string(), params, lambda row: row[0])


def _size(columns: Sequence[str]) -> sql.Composed:
    each = sql.SQL("coalesce(pg_column_size({column}), 0)")
    return sql.SQL(" + ").join(each.format(column=sql.Identifier(column)) for column in columns)
