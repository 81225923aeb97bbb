"""All queues: how much waits in each, and who serves it."""

from __future__ import annotations

from starlette.responses import Response

from pgqueue.names import data_name
from pgqueue.queries import limits, overview
from pgqueue.web.charts import by_queue
from pgqueue.web.routing import action, page
from pgqueue.web.visit import Visit


async def show(visit: Visit) -> Response:
    queues = await visit.read("queues", lambda: overview.queues(visit.schema))
    return visit.render("queues.html", queues=queues, lately=await by_queue(visit))


async def pause(visit: Visit) -> Response:
    name = data_name("queue", visit.path("name"))
    await visit.perform("pause_queue", name, limits.set_paused(visit.schema, True, queue=name))
    return visit.back(f"Queue {name} is paused: running jobs go on.", visit.url("queue", name=name))


async def resume(visit: Visit) -> Response:
    name = data_name("queue", visit.path("name"))
    [resumed] = await visit.perform("resume_queue", name, limits.set_paused(visit.schema, False, queue=name))
    text = f"Queue {name} goes on." if resumed else f"Queue {name} was not paused."
    return visit.back(text, visit.url("queue", name=name))


ENDPOINTS = (
    page("/queues", show, "queues"),
    action("/queues/{name}/pause", pause, "pause_queue", "operator"),
    action("/queues/{name}/resume", resume, "resume_queue", "operator"),
)
