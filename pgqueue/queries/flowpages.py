"""Flows as a page lists them: newest first, and under a filter no further than a bounded look back.

What state a flow is in is known of its jobs alone, and no index has the names of flows or the tasks in them. A filter
reads so many rows in the order of their ids, and the next page goes on from there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from pgqueue.queries.flows import FlowRow
from pgqueue.queries.statement import Operation, Statement, inline

FlowState = Literal["running", "completed", "failed", "cancelled"]
STATES: tuple[FlowState, ...] = get_args(FlowState)
# Of jobs of flows; of flows, where their names are all that is asked for.
LOOK_BACK = 100_000


@dataclass(frozen=True, slots=True)
class FlowFilter:
    """Which flows: every given condition must hold. One with a job of `task`; `before` is an id: pages go down."""

    name: str | None = None
    task: str | None = None
    state: FlowState | None = None
    before: int | None = None

    @property
    def is_narrow(self) -> bool:
        """Whether flows are read that are not shown."""
        return any(one is not None for one in (self.name, self.task, self.state))


@dataclass(frozen=True, slots=True)
class FlowPage:
    """Flows, newest first. `older` is the id before which the next page begins; None at the end.

    `looked_back`: the look back ended before the page was full: there may be more among older flows.
    """

    flows: tuple[FlowRow, ...]
    older: int | None
    looked_back: bool


def browse(schema: str, which: FlowFilter, limit: int) -> Operation[FlowPage]:
    """A page of the flows that match."""
    floor: int | None = None
    if which.is_narrow:
        [floor] = (yield _floor(schema, which)) or [None]
    rows: list[FlowRow] = yield _rows(schema, which, floor, limit + 1)
    if len(rows) > limit:
        return FlowPage(tuple(rows[:limit]), rows[limit - 1].id, False)
    return FlowPage(tuple(rows), floor, floor is not None)


def _floor(schema: str, which: FlowFilter) -> Statement[int]:
    """The id of the last flow that is looked at; no row where that is further than there are flows."""
    params = {"before": which.before, "skipped": LOOK_BACK - 1}
    if which.task is None and which.state is None:
        last = (
            "select id from {schema}.flows where %(before)s::bigint is null or id < %(before)s "
            "order by id desc offset %(skipped)s limit 1"
        )
        return Statement(inline(last, schema), params, lambda row: row[0])
    return Statement(
        inline(
            # The flow at which so many jobs are passed is left for the next page, unless it has all of them.
            "select case when l.flow_id = (select max(flow_id) from {schema}.flow_jobs "
            "where %(before)s::bigint is null or flow_id < %(before)s) then l.flow_id else l.flow_id + 1 end "
            "from (select flow_id from {schema}.flow_jobs where %(before)s::bigint is null or flow_id < %(before)s "
            "order by flow_id desc, job_id desc offset %(skipped)s limit 1) l",
            schema,
        ),
        params,
        lambda row: row[0],
    )


def _rows(schema: str, which: FlowFilter, floor: int | None, limit: int) -> Statement[FlowRow]:
    tests = {
        "name": "name = %(name)s",
        "state": "state = %(state)s",
        "before": "id < %(before)s",
        # Not a join: it would read the jobs of all flows.
        "task": "(select true from {schema}.flow_jobs n where n.flow_id = f.id and n.task = %(task)s limit 1)",
    }
    given = {name: getattr(which, name) for name in tests if getattr(which, name) is not None}
    where = " and ".join(["(%(floor)s::bigint is null or id >= %(floor)s)", *(tests[name] for name in given)])
    return Statement(
        inline(
            "select id, name, created_at, state, jobs, live, completed, failed, cancelled, skipped, ended_at "
            f"from {{schema}}.all_flows f where {where} order by id desc limit %(limit)s",
            schema,
        ),
        {**given, "floor": floor, "limit": limit},
        lambda row: FlowRow(*row),
    )
