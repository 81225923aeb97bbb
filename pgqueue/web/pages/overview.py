"""The first page: what needs somebody, and how all of it goes."""

from __future__ import annotations

from starlette.responses import Response

from pgqueue.queries import alerting, checkup, failures, fleet, overview, running
from pgqueue.queries.failures import FailureFilter
from pgqueue.web.charts import charts
from pgqueue.web.routing import page
from pgqueue.web.visit import Visit

RUNNING, GROUPS, BUSIEST = 8, 6, 12


async def show(visit: Visit) -> Response:
    queues = await visit.read("queues", lambda: overview.queues(visit.schema))
    workers = [row for row in await visit.fetch(fleet.list_workers(visit.schema)) if row.alive]
    alerts = [
        row for row in await visit.fetch(alerting.list_alerts(visit.schema)) if row.state in ("firing", "pending")
    ]
    groups = await visit.fetch(failures.failure_groups(visit.schema, FailureFilter(), GROUPS))
    args = dict(await visit.fetch(failures.args_of(visit.schema, [group.newest for group in groups])))
    waits = [queue.oldest_waiting for queue in queues if queue.oldest_waiting is not None]
    return visit.render(
        "overview.html",
        queues=sorted(queues, key=lambda queue: (queue.available + queue.running, queue.failed), reverse=True)[
            :BUSIEST
        ],
        known=len(queues),
        totals={
            name: sum(getattr(queue, name) for queue in queues)
            for name in ("available", "running", "scheduled", "blocked", "failed")
        },
        oldest=max(waits, default=None),
        unserved=[queue for queue in queues if queue.unserved],
        paused=[queue for queue in queues if queue.stopped == "paused"],
        held=[one for one in await visit.read("held", lambda: checkup.held(visit.schema)) if one.level != "ok"],
        capped=frozenset().union(*(queue.capped for queue in queues)),
        workers=workers,
        slots=sum(sum(worker.queues.values()) for worker in workers),
        alerts=alerts,
        groups=groups,
        args=args,
        jobs=await visit.fetch(running.running(visit.schema, RUNNING)),
        charts=await charts(visit, runs=False),
    )


ENDPOINTS = (page("/", show, "overview"),)
