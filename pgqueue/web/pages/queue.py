"""One queue: what waits and runs in it, what holds it back, and its end."""

from __future__ import annotations

from dataclasses import replace

from starlette.responses import Response

from pgqueue.names import data_name
from pgqueue.queries import browsing, explaining, failures, fleet, limits, obliterating, overview, running
from pgqueue.queries.inspecting import JobFilter
from pgqueue.web.charts import charts
from pgqueue.web.pages.control import control
from pgqueue.web.routing import action, page
from pgqueue.web.visit import NotFound, Visit
from pgqueue.wording import counted

RUNNING, READ, NEXT = 20, 2_000, 10


async def show(visit: Visit) -> Response:
    name = data_name("queue", visit.path("name"))
    counts = await visit.read(("queue", name), lambda: overview.queues(visit.schema, name))
    if not counts:
        raise NotFound(f"There is no queue {name}: no job, no worker and no setting has this name.")
    workers = [row for row in await visit.fetch(fleet.list_workers(visit.schema)) if name in row.queues and row.alive]
    jobs = [job for job in await visit.fetch(running.running(visit.schema, READ)) if job.queue == name]
    waiting = JobFilter(queue=name, state="available")
    newest = await visit.read(("next", waiting), lambda: browsing.browse(visit.schema, waiting, NEXT))
    halted = [key for key in await visit.fetch(limits.halted(visit.schema)) if key.queue == name]
    args = dict(await visit.fetch(failures.args_of(visit.schema, [key.job_id for key in halted])))
    return visit.render(
        "queue.html",
        queue=counts[0],
        blocked=await visit.read(("blocked", name), lambda: explaining.blocked(visit.schema, name))
        if counts[0].blocked
        else [],
        control=await control(visit, "queue", name),
        charts=await charts(visit, queue=name),
        workers=workers,
        jobs=jobs[:RUNNING],
        newest=newest.jobs,
        halted=halted,
        args=args,
    )


async def ask_obliterate(visit: Visit) -> Response:
    name = data_name("queue", visit.path("name"))
    which = JobFilter(queue=name)
    waiting = sum([await visit.run(browsing.count(visit.schema, replace(which, state=one))) for one in browsing.LIVE])
    failed = await visit.run(browsing.count(visit.schema, replace(which, state="failed")))
    return visit.render(
        "confirm.html",
        title=f"Obliterate queue {name}",
        text=f"{counted(waiting, 'live job')} and {counted(failed, 'failed job')} of it are deleted for good, with its "
        "history, keys, settings, limits and breaker. It is refused while jobs of it run. It is paused meanwhile; what "
        "is enqueued meanwhile stays.",
        button=f"Obliterate {name}",
        to=visit.url("obliterate_queue", name=name),
        back=visit.url("queue", name=name),
        fields={},
    )


async def obliterate(visit: Visit) -> Response:
    name = data_name("queue", visit.path("name"))
    gone = await visit.perform_each("obliterate_queue", name, obliterating.obliterate(visit.schema, name, force=False))
    again = f" Schedules that enqueue into it again: {', '.join(gone.schedules)}." if gone.schedules else ""
    return visit.back(f"Obliterated {name}: {counted(gone.jobs, 'job')}.{again}", visit.url("queues"))


ENDPOINTS = (
    page("/queues/{name}", show, "queue"),
    page("/queues/{name}/obliterate", ask_obliterate, "ask_obliterate_queue", "admin"),
    action("/queues/{name}/obliterate", obliterate, "obliterate_queue", "admin"),
)
