"""The worker processes, and what they run."""

from __future__ import annotations

from collections import defaultdict
from uuid import UUID

from starlette.responses import Response

from pgqueue.queries import fleet, running
from pgqueue.queries.fleet import WorkerInfo
from pgqueue.queries.running import RunningJob
from pgqueue.web.routing import action, page
from pgqueue.web.visit import NotFound, Visit
from pgqueue.wording import counted

VERBS = {
    "drain": "stops when they have ended, however long that takes.",
    "stop": "stops: what still runs after its shutdown timeout is given back, without using an attempt.",
}
# Of each worker, and in all.
SHOWN, READ = 5, 2_000


async def show(visit: Visit) -> Response:
    workers = await visit.fetch(fleet.list_workers(visit.schema))
    jobs: defaultdict[UUID | None, list[RunningJob]] = defaultdict(list)
    for job in await visit.fetch(running.running(visit.schema, READ)):
        jobs[job.worker].append(job)
    return visit.render("workers.html", workers=workers, jobs=jobs, shown=SHOWN)


async def one(visit: Visit) -> Response:
    worker = await _worker(visit)
    jobs = await visit.fetch(running.running(visit.schema, READ, worker.id))
    return visit.render("worker.html", worker=worker, jobs=jobs)


async def ask(visit: Visit) -> Response:
    """Say what it means, before a worker is asked to drain or to stop: nothing takes that back."""
    worker = await _worker(visit)
    verb = visit.query("verb", tuple(VERBS)) or "drain"
    running = counted(worker.running, "job")
    return visit.render(
        "confirm.html",
        title=f"{verb.capitalize()} {worker.name}",
        text=f"It runs {running} now, claims no more, and {VERBS[verb]} What keeps it alive, such as systemd or "
        "Kubernetes, starts another; its own supervisor (--processes) does not.",
        button=f"{verb.capitalize()} it",
        to=visit.url(f"{verb}_worker", id=worker.id),
        back=visit.url("worker", id=worker.id),
        fields={},
    )


async def drain(visit: Visit) -> Response:
    worker = await _worker(visit)
    async with visit.acting("drain_worker", worker.name, id=str(worker.id)) as conn:
        asked = await visit.app.workers.adrain(worker.id, using=conn)
    text = "drains: it stops when what runs has ended." if asked else "drains or stops already."
    return visit.back(f"{worker.name} {text}", visit.url("workers"))


async def stop(visit: Visit) -> Response:
    worker = await _worker(visit)
    async with visit.acting("stop_worker", worker.name, id=str(worker.id)) as conn:
        asked = await visit.app.workers.astop(worker.id, using=conn)
    return visit.back(f"{worker.name} stops{'' if asked else ' already'}.", visit.url("workers"))


async def _worker(visit: Visit) -> WorkerInfo:
    try:
        id_ = UUID(visit.path("id"))
    except ValueError:
        raise NotFound("There is no such worker.") from None
    worker = next((row for row in await visit.fetch(fleet.list_workers(visit.schema)) if row.id == id_), None)
    if worker is None:
        raise NotFound("This worker is not registered any more: it has stopped, or was lost and its jobs were rescued.")
    return worker


ENDPOINTS = (
    page("/workers", show, "workers"),
    page("/workers/{id}", one, "worker"),
    page("/workers/{id}/ask", ask, "ask_worker", "operator"),
    action("/workers/{id}/drain", drain, "drain_worker", "operator"),
    action("/workers/{id}/stop", stop, "stop_worker", "operator"),
)
