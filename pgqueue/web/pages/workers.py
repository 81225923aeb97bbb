"""The worker processes, and what they run."""

from __future__ import annotations

from collections import defaultdict
from uuid import UUID

from starlette.responses import Response

from pgqueue.queries import fleet, running
from pgqueue.queries.running import RunningJob
from pgqueue.web.routing import page
from pgqueue.web.visit import NotFound, Visit

# Of each worker, and in all.
SHOWN, READ = 5, 2_000


async def show(visit: Visit) -> Response:
    workers = await visit.fetch(fleet.list_workers(visit.schema))
    jobs: defaultdict[UUID | None, list[RunningJob]] = defaultdict(list)
    for job in await visit.fetch(running.running(visit.schema, READ)):
        jobs[job.worker].append(job)
    return visit.render("workers.html", workers=workers, jobs=jobs, shown=SHOWN)


async def one(visit: Visit) -> Response:
    try:
        id_ = UUID(visit.path("id"))
    except ValueError:
        raise NotFound("There is no such worker.") from None
    worker = next((row for row in await visit.fetch(fleet.list_workers(visit.schema)) if row.id == id_), None)
    if worker is None:
        raise NotFound("This worker is not registered any more: it has stopped, or was lost and its jobs were rescued.")
    jobs = await visit.fetch(running.running(visit.schema, READ, id_))
    return visit.render("worker.html", worker=worker, jobs=jobs)


ENDPOINTS = (page("/workers", show, "workers"), page("/workers/{id}", one, "worker"))
