"""Schedules: when each fires, and what becomes of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from starlette.responses import Response

from pgqueue.english import in_words
from pgqueue.errors import ArgumentError, ConfigurationError, PgQueueError
from pgqueue.names import data_name
from pgqueue.policy import CatchUp, Overlap, Policy
from pgqueue.queries import overview, scheduling
from pgqueue.queries.scheduling import ScheduleRow
from pgqueue.queries.statement import Operation
from pgqueue.schedules import Schedule, job_of, policy_of, rule_given, rule_of, upcoming
from pgqueue.web.fields import json_object, optional, whole
from pgqueue.web.routing import action, page
from pgqueue.web.visit import NotFound, Visit
from pgqueue.wording import duration_of, moment_of

NEXT = 5
FIELDS = (
    "name",
    "task",
    "cron",
    "every",
    "tz",
    "arguments",
    "queue",
    "catch_up",
    "overlap",
    "grace",
    "jitter",
    "start",
    "end",
    "max_runs",
)


async def show(visit: Visit) -> Response:
    rows = await visit.fetch(scheduling.list_schedules(visit.schema))
    return visit.render("schedules.html", rows=rows, in_words=in_words, state=state_of)


async def one(visit: Visit) -> Response:
    row = await _row(visit)
    times, bad = await _times(visit, row)
    zone = zone_of(row)
    return visit.render(
        "schedule.html",
        row=row,
        in_words=in_words,
        state=state_of(row),
        times=[(time.astimezone(zone), time) for time in times],
        bad=bad,
    )


async def run(visit: Visit) -> Response:
    row = await _row(visit)
    [now] = await visit.fetch(scheduling.now(visit.schema))
    made = job_of(row, now)
    told: dict[str, int | None] = {}
    async with visit.acting("run_schedule", row.name, told) as conn:
        [job] = await visit.app.inserter.ainsert([made], conn)
        told["job"] = job.id
    return visit.back(f"Job {job.id} is enqueued; the schedule's own times stay.", visit.url("job", id=job.id))


async def pause(visit: Visit) -> Response:
    row = await _row(visit)
    await visit.perform("pause_schedule", row.name, scheduling.set_enabled(visit.schema, row.name, False))
    return visit.back(f"Schedule {row.name} is paused.", visit.url("schedule", name=row.name))


async def resume(visit: Visit) -> Response:
    row = await _row(visit)
    following = await visit.perform("resume_schedule", row.name, _resuming(visit.schema, row))
    text = f"Schedule {row.name} goes on" + (
        f": it fires next at {following:%Y-%m-%d %H:%M:%S} UTC." if following else "."
    )
    return visit.back(text, visit.url("schedule", name=row.name))


async def ask_remove(visit: Visit) -> Response:
    row = await _row(visit)
    back = " The code declares it: it comes back when a scheduler starts." if row.source == "code" else ""
    return visit.render(
        "confirm.html",
        title=f"Remove schedule {row.name}",
        text=f"It fires no more; the jobs that it has enqueued stay.{back}",
        button="Remove",
        to=visit.url("remove_schedule", name=row.name),
        back=visit.url("schedule", name=row.name),
        fields={},
    )


async def remove(visit: Visit) -> Response:
    row = await _row(visit)
    await visit.perform("remove_schedule", row.name, scheduling.remove(visit.schema, row.name))
    return visit.back(f"Schedule {row.name} is removed.", visit.url("schedules"))


async def form(visit: Visit) -> Response:
    """An empty form, or that of a schedule to change. Arguments that are secrets, or hold some, are not shown."""
    given = dict.fromkeys(FIELDS, "") | {"tz": "UTC", "catch_up": "latest", "overlap": "allow"}
    hidden: list[str] = []
    if (name := visit.query("name")) is not None:
        row = await _named(visit, name)
        hidden = _hidden(visit, row)
        given |= _written(row, {name: value for name, value in row.args.items() if name not in hidden})
    return _form(visit, given, hidden=hidden, keeps=True, changes=name)


async def save(visit: Visit) -> Response:
    """Look at what was written, or keep it."""
    given = {name: visit.field(name) or "" for name in FIELDS}
    keeps = visit.field("keeps") is not None
    rows = await visit.fetch(scheduling.list_schedules(visit.schema, given["name"])) if keeps else []
    kept = {name: row.args[name] for row in rows for name in _hidden(visit, row)}
    changes = visit.field("changes")
    found: dict[str, Any] = {"hidden": sorted(kept), "keeps": keeps, "changes": changes}
    try:
        schedule = _schedule(visit, kept)
        others = await visit.fetch(scheduling.list_schedules(visit.schema, schedule.name))
        if schedule.name != changes and any(other.source == "live" for other in others):
            raise ArgumentError(
                f"there is a schedule {schedule.name} already: change it on its page, or choose another name"
            )
        [now] = await visit.fetch(scheduling.now(visit.schema))
        row = schedule.row(now)
        if visit.field("look") is not None:
            zone = zone_of(row)
            times = [(time.astimezone(zone), time) for time in islice(upcoming(row, now), NEXT)]
            return _form(visit, given, words=in_words(row), times=times, **found)
        declaring = visit.app.schedules.declaring([schedule])
        said = {name: text for name, text in given.items() if text and name != "arguments"}
        # Their values may be secrets.
        said |= {"argument names": ", ".join(sorted(row.args))} if row.args else {}
        await visit.perform("upsert_schedule", schedule.name, declaring, **said)
    except PgQueueError as error:
        return _form(visit, given, wrong=str(error), status=400, **found)
    known = row.task in visit.app.tasks or await visit.fetch(overview.tasks(visit.schema, row.task))
    unknown = "" if known else f" No worker has task {row.task} yet: its jobs wait until one has."
    return visit.back(f"Schedule {schedule.name}: {in_words(row)}.{unknown}", visit.url("schedule", name=schedule.name))


def _form(visit: Visit, given: dict[str, str], *, status: int = 200, **found: Any) -> Response:
    values = {"wrong": None, "words": None, "times": [], "hidden": [], "keeps": True, "changes": None, **found}
    choices = {"catch_up": get_args(CatchUp), "overlap": get_args(Overlap)}
    return visit.render("schedule_form.html", status=status, given=given, choices=choices, **values)


def _schedule(visit: Visit, kept: Mapping[str, Any]) -> Schedule:
    """What the form says, with the arguments that it does not show. Raises ArgumentError, ConfigurationError."""
    name = data_name("schedule", visit.required("name"))
    cron, every = visit.field("cron"), optional(visit, "every", duration_of)
    if (cron is None) is (every is None):
        raise ConfigurationError("give a pattern or an interval, one of the two")
    tz = visit.field("tz") or "UTC"
    rule = rule_given(cron, tz, name) if cron is not None else rule_given(timedelta(seconds=every or 0), "UTC", name)
    arguments = {**kept, **(optional(visit, "arguments", json_object) or {})}
    queue = visit.field("queue")
    job = visit.app.new_job(visit.required("task"), arguments, **({} if queue is None else {"queue": queue}))
    policy = Policy(
        visit.field("catch_up") or "latest",  # type: ignore[arg-type]
        optional(visit, "grace", duration_of),  # type: ignore[arg-type]
        visit.field("overlap") or "allow",  # type: ignore[arg-type]
        optional(visit, "jitter", duration_of),  # type: ignore[arg-type]
        optional(visit, "start", moment_of),
        optional(visit, "end", moment_of),
        optional(visit, "max_runs", whole),
    )
    return Schedule(name, rule, job, policy, source="live")


def _written(row: ScheduleRow, args: Mapping[str, Any]) -> dict[str, str]:
    """A schedule as its form has it, with these of its arguments."""
    spans = {"every": row.every, "grace": row.grace, "jitter": row.jitter}
    moments = {"start": row.start, "end": row.end}
    given = {name: f"{span.total_seconds():g}" for name, span in spans.items() if span is not None}
    given |= {name: moment.isoformat() for name, moment in moments.items() if moment is not None}
    given |= {"max_runs": str(row.max_runs)} if row.max_runs is not None else {}
    return {
        **given,
        "name": row.name,
        "task": row.task,
        "cron": row.cron or "",
        "tz": row.tz,
        "arguments": json.dumps(args, indent=2, ensure_ascii=False) if args else "",
        "queue": row.queue or "",
        "catch_up": row.catch_up,
        "overlap": row.overlap,
    }


def _hidden(visit: Visit, row: ScheduleRow) -> list[str]:
    """Names of its arguments that are secrets, or hold some."""
    return sorted(row.args.keys() - visit.dashboard.redaction.shown(row.args).keys())


def _resuming(schema: str, row: ScheduleRow) -> Operation[datetime | None]:
    [now] = yield scheduling.now(schema)
    following = policy_of(row).first(rule_of(row), now)
    yield scheduling.set_enabled(schema, row.name, True, following)
    return following


def state_of(row: ScheduleRow) -> str:
    """In a word: bad, ended, paused, removed or on."""
    if row.error or row.unreadable:
        return "bad"
    if row.ended:
        return "ended"
    if row.enabled:
        return "on"
    return "removed" if row.source == "removed" else "paused"


def zone_of(row: ScheduleRow) -> ZoneInfo:
    try:
        return ZoneInfo(row.tz)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return ZoneInfo("UTC")


async def _times(visit: Visit, row: ScheduleRow) -> tuple[list[datetime], str | None]:
    """Its next times; or why there are none."""
    [now] = await visit.fetch(scheduling.now(visit.schema))
    try:
        return [*islice(upcoming(row, now), NEXT)], None
    except ConfigurationError as error:
        return [], str(error)


async def _row(visit: Visit) -> ScheduleRow:
    return await _named(visit, visit.path("name"))


async def _named(visit: Visit, name: str) -> ScheduleRow:
    rows = await visit.fetch(scheduling.list_schedules(visit.schema, name))
    if not rows:
        raise NotFound(f"There is no schedule {name!r}.")
    return rows[0]


ENDPOINTS = (
    page("/schedules", show, "schedules"),
    page("/schedule-form", form, "schedule_form", "admin"),
    action("/schedule-form", save, "upsert_schedule", "admin"),
    page("/schedules/{name}", one, "schedule"),
    action("/schedules/{name}/run", run, "run_schedule", "operator"),
    action("/schedules/{name}/pause", pause, "pause_schedule", "operator"),
    action("/schedules/{name}/resume", resume, "resume_schedule", "operator"),
    page("/schedules/{name}/remove", ask_remove, "ask_remove_schedule", "admin"),
    action("/schedules/{name}/remove", remove, "remove_schedule", "admin"),
)
