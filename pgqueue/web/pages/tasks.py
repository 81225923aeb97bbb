"""Tasks: what workers have registered, and what is enqueued that none of them knows."""

from __future__ import annotations

from starlette.responses import Response

from pgqueue.errors import PgQueueError
from pgqueue.names import data_name
from pgqueue.queries import browsing, failures, limits, overview
from pgqueue.queries.failures import FailureFilter
from pgqueue.queries.inspecting import JobFilter
from pgqueue.web.charts import by_task, charts
from pgqueue.web.fields import json_object, optional, whole
from pgqueue.web.pages.control import control
from pgqueue.web.routing import action, page
from pgqueue.web.visit import NotFound, Visit
from pgqueue.wording import duration_of

NEWEST, GROUPS = 15, 10
FIELDS = ("arguments", "queue", "priority", "delay", "key")


async def show(visit: Visit) -> Response:
    tasks = await visit.fetch(overview.tasks(visit.schema))
    rows = await visit.fetch(limits.list_limits(visit.schema))
    paused = {row.name for row in rows if row.scope == "task" and row.paused and row.key is None}
    return visit.render("tasks.html", tasks=tasks, paused=paused, lately=await by_task(visit))


async def one(visit: Visit) -> Response:
    return await _shown(visit)


async def _shown(visit: Visit, wrong: str | None = None) -> Response:
    """The page of a task; `wrong` is what is wrong with the form to enqueue one, which then has what was written."""
    name = data_name("task", visit.path("name"))
    known = visit.app.tasks.named(name)
    counts = await visit.fetch(overview.tasks(visit.schema, name))
    if not counts and known is None:
        raise NotFound(f"There is no task {name}: no worker has registered it, and no job of it waits.")
    which = JobFilter(task=name)
    newest = await visit.read(("jobs", which), lambda: browsing.browse(visit.schema, which, NEWEST))
    groups = await visit.fetch(failures.failure_groups(visit.schema, FailureFilter(task=name), GROUPS))
    args = dict(await visit.fetch(failures.args_of(visit.schema, [group.newest for group in groups])))
    return visit.render(
        "task.html",
        status=200 if wrong is None else 400,
        # The address of what was sent has no page to ask again.
        **({} if wrong is None else {"layout": "still.html"}),
        wrong=wrong,
        given={field: visit.field(field) or "" for field in FIELDS},
        name=name,
        task=counts[0] if counts else None,
        control=await control(visit, "task", name),
        charts=await charts(visit, task=name),
        newest=newest.jobs,
        groups=groups,
        args=args,
        parameters=[str(one) for one in known.signature.parameters()] if known else None,
    )


async def enqueue(visit: Visit) -> Response:
    name = data_name("task", visit.path("name"))
    try:
        options = {
            "queue": visit.field("queue"),
            "priority": optional(visit, "priority", whole),
            "delay": optional(visit, "delay", duration_of),
            "key": visit.field("key"),
        }
        given = {option: value for option, value in options.items() if value is not None}
        new = visit.app.new_job(name, optional(visit, "arguments", json_object) or {}, **given)
    except PgQueueError as error:
        return await _shown(visit, str(error))
    told: dict[str, int | None] = {}
    async with visit.acting("enqueue", name, told, **given) as conn:
        [job] = await visit.app.inserter.ainsert([new], conn)
        told["job"] = job.id
    text = f"Job {job.id} is enqueued." if job.created else f"Job {job.id} holds the key already: nothing was enqueued."
    return visit.back(text, visit.url("job", id=job.id))


ENDPOINTS = (
    page("/tasks", show, "tasks"),
    page("/tasks/{name}", one, "task"),
    action("/tasks/{name}/enqueue", enqueue, "enqueue_task", "operator"),
)
