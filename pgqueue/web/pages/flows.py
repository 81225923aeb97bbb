"""Flows: jobs that wait for each other, as a list and as a picture."""

from __future__ import annotations

from starlette.responses import Response

from pgqueue.queries import failures, flowpages, flows
from pgqueue.queries.flowpages import STATES, FlowFilter
from pgqueue.queries.flows import FlowRow
from pgqueue.web.graph import HEIGHT, WIDTH, drawn
from pgqueue.web.routing import action, page
from pgqueue.web.visit import NotFound, Visit
from pgqueue.wording import counted

ROWS = 50
# Jobs of one flow in the picture, and in the table below it.
DRAWN, LISTED = 2_000, 200
# More boxes than these are a picture of nothing.
BOXES = 400


async def show(visit: Visit) -> Response:
    state = next((one for one in STATES if one == visit.query("state")), None)
    which = FlowFilter(visit.query("name"), visit.query("task"), state, visit.query_id("before"))
    found = await visit.read(("flows", which), lambda: flowpages.browse(visit.schema, which, ROWS))
    return visit.render(
        "flows.html",
        found=found,
        which=which,
        states=STATES,
        older=visit.here(before=found.older) if found.older is not None else None,
        first=visit.here(before=None) if which.before is not None else None,
        look_back=flowpages.LOOK_BACK,
        looks_at="flows" if which.task is None and which.state is None else "jobs of flows",
    )


async def one(visit: Visit) -> Response:
    row = await _row(visit)
    jobs = await visit.fetch(flows.jobs_of(visit.schema, row.id, DRAWN))
    edges = await visit.fetch(flows.edges_of(visit.schema, row.id, DRAWN))
    failed = [job.job_id for job in jobs[:LISTED] if job.state == "failed"]
    args = dict(await visit.fetch(failures.args_of(visit.schema, failed)))
    picture = drawn(jobs, edges)
    return visit.render(
        "flow.html",
        row=row,
        jobs=jobs[:LISTED],
        args=args,
        drawn=len(jobs),
        picture=picture if len(picture.boxes) <= BOXES else None,
        size=(WIDTH, HEIGHT),
        on_failure={(edge.parent, edge.child): edge.on_failure for edge in edges},
    )


async def ask_cancel(visit: Visit) -> Response:
    row = await _row(visit)
    return visit.render(
        "confirm.html",
        title=f"Cancel flow {row.id}",
        text=f"It has {counted(row.live, 'live job')}: those that run stop where they can, and none is retried. "
        "Jobs that were there before the flow are left alone.",
        button=f"Cancel {counted(row.live, 'job')}",
        to=visit.url("cancel_flow", id=row.id),
        back=visit.url("flow", id=row.id),
        fields={},
    )


async def cancel(visit: Visit) -> Response:
    row = await _row(visit)
    async with visit.acting("cancel_flow", str(row.id)) as conn:
        ids = await visit.app.flows.acancel(row.id, f"cancelled by {visit.visitor.name}", conn)
    return visit.back(f"Cancelled {counted(len(ids), 'job')} of flow {row.id}.", visit.url("flow", id=row.id))


async def retry(visit: Visit) -> Response:
    row = await _row(visit)
    ids = await visit.perform("retry_flow", str(row.id), visit.app.flows.retrying(row.id))
    text = f"Redriven {counted(len(ids), 'job')} of flow {row.id}." if ids else f"No job of flow {row.id} has failed."
    return visit.back(text, visit.url("flow", id=row.id))


async def _row(visit: Visit) -> FlowRow:
    id_ = visit.path_id()
    rows = await visit.fetch(flows.flow_row(visit.schema, id_))
    if not rows:
        raise NotFound(f"There is no flow {id_}: it never was, or has ended and its history was pruned.")
    return rows[0]


ENDPOINTS = (
    page("/flows", show, "flows"),
    page("/flows/{id}", one, "flow"),
    page("/flows/{id}/cancel", ask_cancel, "ask_cancel_flow", "operator"),
    action("/flows/{id}/cancel", cancel, "cancel_flow", "operator"),
    action("/flows/{id}/retry", retry, "retry_flow", "operator"),
)
