"""Jobs in every state, filtered; and what is done with several at once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator, Sequence
from dataclasses import fields, replace
from datetime import datetime
from typing import Any, NamedTuple, get_args

from anyio import to_thread
from starlette.responses import Response, StreamingResponse

from pgqueue.client.jobs import purging_of
from pgqueue.errors import ArgumentError
from pgqueue.job import Job, JobState
from pgqueue.queries import browsing, deleting, exporting, inspecting, purging
from pgqueue.queries.inspecting import JobFilter
from pgqueue.queries.statement import Operation, Statement
from pgqueue.web.access import Role
from pgqueue.web.routing import action, page
from pgqueue.web.visit import Visit
from pgqueue.wording import counted

ROWS = 50
BATCH = 500
PART = 100
STATES: tuple[JobState, ...] = get_args(JobState)
FILTERS = ("state", "queue", "task", "key", "tag")


class Verb(NamedTuple):
    """What can be done with all that match: for which states, by whom, and what it means."""

    states: tuple[JobState, ...]
    role: Role
    meaning: str


VERBS = {
    "cancel": Verb(
        browsing.LIVE, "operator", "A waiting job ends at once; a running one is asked to stop, and is not retried."
    ),
    "promote": Verb(("scheduled",), "operator", "They run as soon as there are slots, retries included."),
    "purge": Verb(
        purging.PURGED, "admin", "They are deleted for good, with what they have told: no history of them is left."
    ),
}


async def show(visit: Visit) -> Response:
    which = _filter(visit)
    found = await visit.read(("jobs", which), lambda: browsing.browse(visit.schema, which, ROWS))
    unpaged = replace(which, state=None, before=None, ids=None)
    counts = await visit.read(("states", unpaged), lambda: browsing.states(visit.schema, unpaged))
    return visit.render(
        "jobs.html",
        found=found,
        older=visit.here(before=found.older) if found.older is not None else None,
        first=visit.here(before=None) if which.before is not None else None,
        which=which,
        counts=counts,
        states=STATES,
        verbs=[verb for verb, one in VERBS.items() if _fits(verb, which) and visit.visitor.may(one.role)],
        given={name: visit.query(name) for name in FILTERS},
        is_filtered=any(visit.query(name) for name in (*FILTERS, "id")),
    )


async def ticked(visit: Visit) -> Response:
    """Do something with the jobs that were ticked."""
    ids, verb = visit.ids(), visit.required("verb")
    to = _back(visit)
    match verb:
        case "cancel":
            done = await visit.perform_on_jobs("cancel_jobs", listed(ids), _cancelling(visit, ids))
            text = f"Cancelled {counted(len(done), 'job')}{_rest(ids, done, 'had ended')}."
        case "promote":
            done = await visit.perform_on_jobs("promote_jobs", listed(ids), inspecting.promote(visit.schema, ids))
            text = f"Promoted {counted(len(done), 'job')}{_rest(ids, done, 'were not waiting for their time')}."
        case "redrive":
            async with visit.acting("redrive_jobs", listed(ids)) as conn:
                done = await visit.app.failed.aredrive(ids, using=conn)
            text = f"Redrove {counted(len(done), 'job')}{_rest(ids, done, 'have not failed, or their key is held')}."
        case "delete":
            return visit.render(
                "confirm.html",
                title=f"Delete {counted(len(ids), 'job')}",
                text=f"Jobs {listed(ids)} are deleted for good, with what they have told: no history of them is left. "
                "Those that run stay. In flows they count as cancelled to those that wait for them.",
                button=f"Delete {counted(len(ids), 'job')}",
                to=visit.url("delete_ticked"),
                back=to,
                fields={"id": [str(id_) for id_ in ids], "back": visit.field("back")},
            )
        case _:
            raise ArgumentError(f"nothing is called {verb!r}: choose cancel, promote, redrive or delete")
    return visit.back(text, to)


async def delete_ticked(visit: Visit) -> Response:
    ids = visit.ids()
    done = await visit.perform_on_jobs("delete_jobs", listed(ids), deleting.delete(visit.schema, ids))
    return visit.back(
        f"Deleted {counted(len(done), 'job')}{_rest(ids, done, 'run, are being redriven, or are gone')}.", _back(visit)
    )


async def export(visit: Visit) -> Response:
    """All that match, as JSON lines, without their secrets; read page by page while they are sent."""
    queue, task, state, key, tag = [visit.field(name) for name in ("queue", "task", "state", "key", "tag")]
    which = JobFilter(queue, task, state, key, tag)
    async with visit.acting("export_jobs", "jobs", **_said(which)):
        pass
    headers = {"Content-Disposition": 'attachment; filename="jobs.jsonl"'}
    return StreamingResponse(_lines(visit, which), media_type="application/jsonl", headers=headers)


async def _lines(visit: Visit, which: JobFilter) -> AsyncIterator[str]:
    after: int | None = 0
    while after is not None:
        jobs, after = await visit.run(exporting.page(visit.schema, which, after))
        for start in range(0, len(jobs), PART):
            # Looking for secrets takes its time: others are answered meanwhile.
            yield await to_thread.run_sync(_part, visit, jobs[start : start + PART])


def _part(visit: Visit, jobs: Sequence[Job]) -> str:
    return "".join(f"{_line(visit, job)}\n" for job in jobs)


def _line(visit: Visit, job: Job) -> str:
    given = {one.name: getattr(job, one.name) for one in fields(job) if one.name not in ("operations", "created")}
    record = {name: value.isoformat() if isinstance(value, datetime) else value for name, value in given.items()}
    return visit.dashboard.redaction.knowing(job.args, job.headers).json(record)


async def ask_all(visit: Visit) -> Response:
    """Say how many match, before something is done with all of them."""
    verb = visit.query("verb", tuple(VERBS)) or "cancel"
    which = _filter(visit)
    if not _fits(verb, which):
        raise ArgumentError(_unfit(verb))
    number = await visit.run(_counting(visit.schema, verb, which))
    shown = f"{number - 1:,}+ jobs" if number == browsing.COUNTED else counted(number, "job")
    given = {name: visit.query(name) for name in FILTERS if visit.query(name)}
    said = ", ".join(f"{name} {value}" for name, value in given.items())
    return visit.render(
        "confirm.html",
        title=f"{verb.capitalize()} {shown}",
        text=f"{shown} match: {said}. {VERBS[verb].meaning}",
        button=f"{verb.capitalize()} {shown}",
        to=visit.url(f"{verb}_all"),
        back=visit.url("jobs", query=given),
        fields=given,
    )


async def cancel_all(visit: Visit) -> Response:
    which = _given(visit, "cancel")
    why = f"cancelled by {visit.visitor.name}"
    steps = _through(visit, which, browsing.LIVE, lambda ids: inspecting.cancel(visit.schema, ids, why))
    done = await visit.perform_each("cancel_all", "jobs", steps, **_said(which))
    return visit.back(f"Cancelled {counted(done, 'job')}.", visit.url("jobs", query=_said(which)))


async def promote_all(visit: Visit) -> Response:
    which = _given(visit, "promote")
    steps = _through(visit, which, ("scheduled",), lambda ids: inspecting.promote(visit.schema, ids))
    done = await visit.perform_each("promote_all", "jobs", steps, **_said(which))
    return visit.back(f"Promoted {counted(done, 'job')}.", visit.url("jobs", query=_said(which)))


async def purge_all(visit: Visit) -> Response:
    which = _given(visit, "purge")
    done = await visit.perform_each("purge_all", "jobs", _purging(visit.schema, which), **_said(which))
    return visit.back(f"Purged {counted(done, 'job')}.", visit.url("jobs", query=_said(which)))


def _back(visit: Visit) -> str:
    back = visit.field("back") or ""
    return visit.url("jobs") + (f"?{back}" if back.isascii() and back.isprintable() else "")


def listed(ids: Sequence[int]) -> str:
    """`1, 2, 3 and 47 more`, for the audit log."""
    return ", ".join(map(str, ids[:20])) + (f" and {len(ids) - 20} more" if len(ids) > 20 else "")


def _filter(visit: Visit) -> JobFilter:
    ids = None if visit.query("id") is None else (visit.query_id("id") or 0,)
    state = visit.query("state", STATES)
    return JobFilter(
        visit.query("queue"),
        visit.query("task"),
        state,
        visit.query("key"),
        visit.query("tag"),
        ids,
        visit.query_id("before"),
    )


def _given(visit: Visit, verb: str) -> JobFilter:
    """The filter that was asked about. Raises ArgumentError."""
    state = visit.field("state")
    which = JobFilter(visit.field("queue"), visit.field("task"), state, visit.field("key"), visit.field("tag"))
    if not _fits(verb, which):
        raise ArgumentError(_unfit(verb))
    return which


def _unfit(verb: str) -> str:
    return f"{verb} needs a filter, and a state that it is for: {', '.join(VERBS[verb].states)}"


def _fits(verb: str, which: JobFilter) -> bool:
    """Whether a filter says which jobs a verb is for."""
    if which.ids is not None or (which.state is not None and which.state not in VERBS[verb].states):
        return False
    narrow = any(one is not None for one in (which.queue, which.task, which.key, which.tag))
    if verb == "purge":
        # By queue, task and state: what is purged is read once, and by nothing else.
        return which.state is not None and which.key is None and which.tag is None
    return narrow or which.state is not None


def _said(which: JobFilter) -> dict[str, Any]:
    return {name: getattr(which, name) for name in FILTERS if getattr(which, name) is not None}


def _cancelling(visit: Visit, ids: Sequence[int]) -> Statement[Any]:
    return inspecting.cancel(visit.schema, ids, f"cancelled by {visit.visitor.name}")


def _counting(schema: str, verb: str, which: JobFilter) -> Operation[int]:
    if verb == "purge":
        number = 0
        for part in _parts(which):
            [found] = yield purging.count(schema, part)
            number += found
        return number
    total = 0
    for state in [which.state] if which.state else VERBS[verb].states:
        total += yield from browsing.count(schema, replace(which, state=state))
    return min(total, browsing.COUNTED)


def _through(
    visit: Visit, which: JobFilter, states: Sequence[JobState], act: Callable[[list[int]], Statement[Any]]
) -> Generator[Operation[Any], Any, int]:
    """All that match, in batches, each in a transaction of its own; how many were acted on."""
    done = 0
    for state in [which.state] if which.state else states:
        after = 0
        while ids := (yield _rows(browsing.next_ids(visit.schema, replace(which, state=state), after, BATCH))):
            done += len((yield _rows(act(ids))))
            after = ids[-1]
    return done


def _rows(statement: Statement[Any]) -> Operation[list[Any]]:
    rows: list[Any] = yield statement
    return rows


def _purging(schema: str, which: JobFilter) -> Generator[Operation[Any], Any, int]:
    done = 0
    for part in _parts(which):
        done += yield from purging.purge(schema, part)
    return done


def _parts(which: JobFilter) -> list[purging.Purging]:
    task = which.task if isinstance(which.task, str) else None
    return purging_of(which.state or (), which.queue, task, None)  # type: ignore[arg-type]


def _rest(ids: Sequence[int], done: Sequence[Any], why: str) -> str:
    return f" of {len(ids)}: the rest {why}" if len(done) < len(ids) else ""


ENDPOINTS = (
    page("/jobs", show, "jobs"),
    action("/jobs/ticked", ticked, "ticked_jobs", "operator"),
    action("/jobs/delete-ticked", delete_ticked, "delete_ticked", "admin"),
    action("/jobs/export", export, "export_jobs", "operator"),
    page("/jobs/all", ask_all, "ask_all", "operator"),
    action("/jobs/cancel-all", cancel_all, "cancel_all", "operator"),
    action("/jobs/promote-all", promote_all, "promote_all", "operator"),
    action("/jobs/purge-all", purge_all, "purge_all", "admin"),
)
