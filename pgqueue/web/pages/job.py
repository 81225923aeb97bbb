"""One job, whole: what it is, what became of it, and why it does not run."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from starlette.responses import Response

from pgqueue.errors import ArgumentError
from pgqueue.job import ENDED, Job
from pgqueue.journal import LINES as KEPT
from pgqueue.queries import beside, deleting, explaining, flows, inspecting, journaling
from pgqueue.queries.beside import Process
from pgqueue.web.fields import json_object, optional, whole
from pgqueue.web.options import said
from pgqueue.web.redaction import MASK
from pgqueue.web.rendering import duration
from pgqueue.web.routing import action, page
from pgqueue.web.traces import trace_of
from pgqueue.web.visit import Visit
from pgqueue.wording import duration_of, moment_of

LINES = 200
# Parents, children, steps and effects.
LISTED = 50
# Of a changed argument in the audit log; and how one that is not there is written.
VALUE = 200
LEFT_OUT = "nothing"
EDITED = ("arguments", "unset", "queue", "priority", "max_attempts", "when")


@dataclass(frozen=True, slots=True)
class Step:
    """Something that happened to a job, or will. `kind` is the state that it then had; `worker` ran the attempt."""

    at: datetime | None
    kind: str
    text: str
    error: Mapping[str, Any] | None = None
    worker: UUID | None = None


async def show(visit: Visit) -> Response:
    id_ = visit.path_id()
    why = await visit.run(explaining.why(visit.schema, id_))
    job = why.job
    progress = await visit.fetch(journaling.progress(visit.schema, id_))
    lines = await visit.fetch(journaling.logs(visit.schema, id_, LINES))
    flow = await visit.fetch(flows.flow_of_job(visit.schema, id_))
    children = await visit.fetch(flows.waited_for(visit.schema, id_, LISTED + 1)) if flow else []
    parents = await visit.fetch(flows.waiting_for(visit.schema, id_, LISTED + 1)) if flow else []
    rows = await visit.fetch(beside.beside(visit.schema, id_))
    done = await visit.fetch(beside.steps(visit.schema, id_, LISTED))
    effects = await visit.run(beside.effects(visit.schema, id_, job.created_at, job.ended_at, LISTED))
    happened = list(timeline(job))
    workers = {step.worker for step in happened} | {row.worker_id for row in rows}
    known = visit.app.tasks.named(job.task)
    backoff = known.options.backoff if known else None
    trace = trace_of(job.headers)
    return visit.render(
        "job.html",
        job=job,
        reasons=why.reasons,
        progress=progress[0] if progress else None,
        kept=KEPT,
        lines=lines,
        flow=flow[0] if flow else None,
        family=[one for one in (("child", "It waits for", children), ("parent", "It runs before", parents)) if one[2]],
        listed=LISTED,
        beside=rows[0] if rows else None,
        options=list(said(rows[0], backoff.describe() if backoff else None)) if rows else [],
        done=done,
        effects=effects,
        looked_at=beside.LOOKED_AT,
        processes=await _processes(visit, workers),
        steps=happened,
        copies=copies(visit, job),
        # Found once for all texts of the page.
        secrets=(visit.dashboard.redaction.knowing(job.args, job.headers),),
        trace=trace,
        trace_url=visit.dashboard.trace_url(trace) if trace else None,
    )


async def _processes(visit: Visit, workers: Iterable[UUID | None]) -> dict[UUID, Process]:
    ids = sorted(worker for worker in workers if worker is not None)
    return dict(await visit.fetch(beside.processes(visit.schema, ids))) if ids else {}


async def cancel(visit: Visit) -> Response:
    id_ = visit.path_id()
    cancelling = inspecting.cancel(visit.schema, [id_], f"cancelled by {visit.visitor.name}")
    rows = await visit.perform_on_jobs("cancel_jobs", str(id_), cancelling)
    if not rows:
        return visit.back(f"Job {id_} had ended: nothing was done.", visit.url("job", id=id_), kind="error")
    asked = rows[0][1] == "running"
    text = f"Job {id_} is asked to stop, and is not retried." if asked else f"Job {id_} is cancelled."
    return visit.back(text, visit.url("job", id=id_))


async def ask_edit(visit: Visit) -> Response:
    """What is to change. Arguments that are secrets, or hold some, are not shown, and stay."""
    job = inspecting.found(await _rows(visit), f"with id {visit.path_id()}")
    shown = visit.dashboard.redaction.shown(job.args)
    given = {"arguments": json.dumps(shown, indent=2, ensure_ascii=False), "queue": job.queue, "unset": "", "when": ""}
    given |= {"priority": str(job.priority), "max_attempts": str(job.max_attempts)}
    return await _form(visit, given)


async def edit(visit: Visit) -> Response:
    try:
        return await _edited(visit)
    except ArgumentError as error:
        given = {name: visit.field(name) or "" for name in EDITED}
        return await _form(visit, given, wrong=str(error), status=400)


async def _form(visit: Visit, given: dict[str, str], *, wrong: str | None = None, status: int = 200) -> Response:
    job = inspecting.found(await _rows(visit), f"with id {visit.path_id()}")
    hidden = sorted(job.args.keys() - visit.dashboard.redaction.shown(job.args).keys())
    return visit.render("job_form.html", status=status, job=job, given=given, hidden=hidden, wrong=wrong)


async def _edited(visit: Visit) -> Response:
    id_ = visit.path_id()
    when = optional(visit, "when", _moment_or_duration)
    before = inspecting.found(await _rows(visit), f"with id {id_}")
    told: dict[str, str] = {}
    async with visit.acting("edit_job", str(id_), told) as conn:
        job = await visit.app.jobs.aedit(
            id_,
            optional(visit, "arguments", json_object),
            unset=(visit.field("unset") or "").split(),
            queue=visit.field("queue"),
            priority=optional(visit, "priority", whole),
            max_attempts=optional(visit, "max_attempts", whole),
            run_at=when if isinstance(when, datetime) else None,
            delay=when if isinstance(when, float) else None,
            using=conn,
        )
        told.update(_changes(visit, before, job))
    unchecked = (
        "" if visit.app.tasks.named(job.task) else " The code of its task is not here: arguments were not checked."
    )
    return visit.back(f"Job {id_} is changed.{unchecked}", visit.url("job", id=id_))


async def ask_delete(visit: Visit) -> Response:
    job = inspecting.found(await _rows(visit), f"with id {visit.path_id()}")
    return visit.render(
        "confirm.html",
        title=f"Delete job {job.id}",
        text=f"Job {job.id} ({job.task}, {job.state}) is deleted for good, with what it has told: no history of it is "
        "left. In a flow it counts as cancelled to those that wait for it.",
        button=f"Delete job {job.id}",
        to=visit.url("delete_job", id=job.id),
        back=visit.url("job", id=job.id),
        fields={},
    )


async def delete(visit: Visit) -> Response:
    id_ = visit.path_id()
    if not await visit.perform_on_jobs("delete_jobs", str(id_), deleting.delete(visit.schema, [id_])):
        return visit.back(f"Job {id_} runs, or is gone: nothing was done.", visit.url("jobs"), kind="error")
    return visit.back(f"Job {id_} is deleted.", visit.url("jobs"))


async def promote(visit: Visit) -> Response:
    id_ = visit.path_id()
    rows = await visit.perform_on_jobs("promote_jobs", str(id_), inspecting.promote(visit.schema, [id_]))
    if not rows:
        text = f"Job {id_} does not wait for its time: nothing was done."
        return visit.back(text, visit.url("job", id=id_), kind="error")
    return visit.back(f"Job {id_} runs as soon as there is a slot.", visit.url("job", id=id_))


async def redrive(visit: Visit) -> Response:
    id_ = visit.path_id()
    queue = visit.field("to_queue")
    async with visit.acting("redrive_jobs", str(id_), to_queue=queue) as conn:
        done = await visit.app.failed.aredrive([id_], to_queue=queue, using=conn)
    if not done:
        text = f"Job {id_} stays where it is: it has not failed, or a live job holds its key."
        return visit.back(text, visit.url("job", id=id_), kind="error")
    return visit.back(f"Job {id_} is back in its queue; its attempts start anew.", visit.url("job", id=id_))


async def repeat(visit: Visit) -> Response:
    """Enqueue a job like it: the same task, arguments, queue and priority, without its key."""
    job = inspecting.found(await _rows(visit), f"with id {visit.path_id()}")
    if job.unreadable and "args" in job.unreadable:
        raise ArgumentError(f"the arguments of job {job.id} cannot be read: {job.unreadable['args']}")
    new = visit.app.new_job(job.task, dict(job.args), queue=job.queue, priority=job.priority)
    told: dict[str, int] = {}
    async with visit.acting("repeat_job", str(job.id), told) as conn:
        [made] = await visit.app.inserter.ainsert([new], conn)
        told["job"] = made.id
    return visit.back(f"Job {made.id} is enqueued like job {job.id}.", visit.url("job", id=made.id))


async def _rows(visit: Visit) -> list[Job]:
    return await visit.fetch(inspecting.job(visit.schema, visit.path_id()))


def _changes(visit: Visit, before: Job, after: Job) -> dict[str, str]:
    """What an edit has changed, from what to what; of secrets only that they were."""
    found = {}
    for name in ("queue", "priority", "max_attempts", "run_at"):
        old, new = getattr(before, name), getattr(after, name)
        if old != new:
            found[name] = f"{old} → {new}"
    redaction = visit.dashboard.redaction
    shown = redaction.shown(before.args), redaction.shown(after.args)
    for name in sorted(before.args.keys() | after.args.keys()):
        old, new = before.args.get(name, LEFT_OUT), after.args.get(name, LEFT_OUT)
        if old != new:
            texts = [
                LEFT_OUT if value is LEFT_OUT else json.dumps(value, default=str)[:VALUE] if name in safe else MASK
                for value, safe in zip((old, new), shown, strict=True)
            ]
            found[f"argument {name}"] = " → ".join(texts)
    return found


def timeline(job: Job) -> list[Step]:
    """What happened to it, oldest first."""
    steps = [Step(job.created_at, "scheduled" if job.state == "scheduled" else "available", "Enqueued")]
    for error in job.errors:
        text = f"Attempt {error.get('attempt', '?')} failed"
        steps.append(Step(_moment(error.get("at")), "failed", text, error, _uuid(error.get("worker"))))
    if job.started_at is not None and job.state in ("completed", "cancelled"):
        steps.append(Step(job.started_at, "running", f"Attempt {job.attempt} began"))
    if job.state in ENDED:
        took = f" after {duration(job.ended_at - job.started_at)}" if job.ended_at and job.started_at else ""
        last = {"completed": f"Completed{took}", "cancelled": f"Cancelled: {job.reason}", "failed": "Given up"}
        steps.append(Step(job.ended_at, job.state, last[job.state]))
    elif job.state == "running":
        steps.append(Step(None, "running", f"Attempt {job.attempt} runs"))
    elif job.state == "scheduled":
        steps.append(Step(job.run_at, "scheduled", "To be retried" if job.attempt else "To run"))
    return steps


def copies(visit: Visit, job: Job) -> list[tuple[str, str]]:
    """How to enqueue another like it; secrets are left out of these too."""
    text = visit.dashboard.redaction.knowing(job.args).json(job.args)
    args = json.loads(text)
    written = {name: json.dumps(value, ensure_ascii=False, default=str) for name, value in args.items()}
    pairs = "".join(f" {shlex.quote(f'{name}:={value}')}" for name, value in written.items())
    quoted = text.replace("'", "''")
    return [
        ("Command line", f"pgqueue enqueue {job.task}{pairs} --queue {job.queue}"),
        ("Python", f"app.enqueue({job.task!r}, {args!r}, queue={job.queue!r})"),
        ("SQL", f"select {visit.schema}.enqueue('{job.task}', '{quoted}', queue => '{job.queue}')"),
    ]


def _moment_or_duration(text: str) -> datetime | float:
    """A time, or how long from now. Raises ArgumentError."""
    try:
        return duration_of(text)
    except ArgumentError:
        return moment_of(text)


def _moment(text: Any) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return found if found.tzinfo else None


def _uuid(text: Any) -> UUID | None:
    try:
        return UUID(text) if isinstance(text, str) else None
    except ValueError:
        return None


ENDPOINTS = (
    page("/jobs/{id}", show, "job"),
    action("/jobs/{id}/cancel", cancel, "cancel_job", "operator"),
    page("/jobs/{id}/edit", ask_edit, "ask_edit", "admin"),
    action("/jobs/{id}/edit", edit, "edit_job", "admin"),
    page("/jobs/{id}/delete", ask_delete, "ask_delete", "admin"),
    action("/jobs/{id}/delete", delete, "delete_job", "admin"),
    action("/jobs/{id}/promote", promote, "promote_job", "operator"),
    action("/jobs/{id}/redrive", redrive, "redrive_job", "operator"),
    action("/jobs/{id}/repeat", repeat, "repeat_job", "operator"),
)
