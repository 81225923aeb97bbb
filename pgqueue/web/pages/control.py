"""What holds the jobs of a queue or a task back: their limits and their circuit breaker, and changing them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from starlette.responses import Response

from pgqueue.breaker import Of
from pgqueue.errors import ArgumentError
from pgqueue.limit import Limit
from pgqueue.names import data_name
from pgqueue.queries import breakers, limits
from pgqueue.queries.breakers import Known
from pgqueue.queries.limits import LimitRow
from pgqueue.queries.statement import Statement
from pgqueue.task.declaring import check_key
from pgqueue.web.fields import optional, whole
from pgqueue.web.routing import action
from pgqueue.web.visit import NotFound, Visit
from pgqueue.wording import duration_of

Scope = Literal["queue", "task"]
SCOPES: tuple[Scope, ...] = ("queue", "task")


@dataclass(frozen=True, slots=True)
class Control:
    """The limits and the breaker of a queue or a task."""

    scope: Scope
    name: str
    limits: tuple[LimitRow, ...]
    breaker: Known | None

    @property
    def is_paused(self) -> bool:
        """Whether somebody has paused all of it."""
        return any(row.paused and row.key is None for row in self.limits)


async def control(visit: Visit, scope: Scope, name: str) -> Control:
    rows = await visit.fetch(limits.list_limits(visit.schema))
    known = await visit.fetch(breakers.read(visit.schema, [Of(scope, name)]))
    own = tuple(row for row in rows if (row.scope, row.name) == (scope, name))
    return Control(scope, name, own, known[0] if known else None)


async def set_limit(visit: Visit) -> Response:
    scope, name = _of(visit)
    key, burst = visit.field("key"), optional(visit, "burst", whole)
    limit = Limit(
        optional(visit, "concurrency", whole),
        visit.field("rate"),
        1 if burst is None else burst,
        key=key,
        fair=visit.field("fair") is not None,
    )
    if limit.fair and scope == "task":
        raise ArgumentError("fair shares the slots of a queue: set it there")
    if limit.key is not None and scope == "task" and (code := visit.app.tasks.named(name)) is not None:
        check_key(name, limit.key, code.signature.names)
    said = {"concurrency": limit.concurrency, "rate": visit.field("rate"), "burst": limit.burst, "key": key}
    await visit.perform("set_limit", f"{scope} {name}", limits.change(visit.schema, scope, name, limit), **said)
    return _back(visit, f"The limit of {scope} {name} is set: it holds from the next claim on.")


async def remove_limit(visit: Visit) -> Response:
    scope, name = _of(visit)
    key = visit.field("key") or ""
    removing = limits.remove(visit.schema, scope, name, key)
    [removed] = await visit.perform("remove_limit", f"{scope} {name}", removing, key=key or None)
    return _back(visit, f"The limit of {scope} {name} is lifted." if removed else "There was no such limit.")


async def pause(visit: Visit) -> Response:
    return await _pausing(visit, True)


async def resume(visit: Visit) -> Response:
    return await _pausing(visit, False)


async def open_breaker(visit: Visit) -> Response:
    seconds = optional(visit, "duration", duration_of)
    if seconds == 0:
        raise ArgumentError("duration: give more than 0 seconds, or nothing: until it is closed")
    of, why = Of(*_of(visit)), f"by {visit.visitor.name}"
    verb = breakers.open_(visit.schema, of, seconds, why=why)
    return await _breaking(visit, "open_breaker", verb, "is open: nothing of it begins", seconds=seconds)


async def close_breaker(visit: Visit) -> Response:
    verb = breakers.close(visit.schema, Of(*_of(visit)))
    return await _breaking(visit, "close_breaker", verb, "is closed: its jobs go on")


async def reset_breaker(visit: Visit) -> Response:
    verb = breakers.reset(visit.schema, Of(*_of(visit)))
    return await _breaking(visit, "reset_breaker", verb, "has forgotten its failures")


async def _breaking(visit: Visit, what: str, verb: Statement[bool], text: str, **said: Any) -> Response:
    scope, name = _of(visit)
    if await visit.perform(what, f"{scope} {name}", verb, **said) != [True]:
        raise ArgumentError(f"there is no circuit breaker of {scope} {name}")
    return _back(visit, f"The breaker of {scope} {name} {text}.")


async def _pausing(visit: Visit, paused: bool) -> Response:
    """A task, a value of a limit's key, or a serial key of a queue."""
    scope, name = _of(visit)
    key, value, serial_key = visit.field("key"), visit.field("value"), visit.field("serial_key")
    if (key is None) is not (value is None):
        raise ArgumentError("give the key and the value, both or none")
    pausing = limits.set_paused(
        visit.schema,
        paused,
        key=key,
        value=value,
        serial_key=serial_key,
        **{scope: name},
    )
    verb = "pause" if paused else "resume"
    [told] = await visit.perform(f"{verb}_{scope}", name, pausing, key=key, value=value, serial_key=serial_key)
    what = f"{scope} {name}" if value is None and serial_key is None else f"{value or serial_key} of {scope} {name}"
    if paused:
        return _back(visit, f"Paused {what}: running jobs go on.")
    return _back(visit, f"Resumed {what}." if told else f"Nothing of {what} was paused.")


def _of(visit: Visit) -> tuple[Scope, str]:
    given = visit.path("scope")
    for scope in SCOPES:
        if scope == given:
            return scope, data_name(scope, visit.path("name"))
    raise NotFound(f"There is no {given}: limits are of a queue or a task.")


def _back(visit: Visit, text: str) -> Response:
    scope, name = _of(visit)
    return visit.back(text, visit.url(scope, name=name))


ENDPOINTS = (
    action("/limits/{scope}/{name}/set", set_limit, "set_limit", "admin"),
    action("/limits/{scope}/{name}/remove", remove_limit, "remove_limit", "admin"),
    action("/limits/{scope}/{name}/pause", pause, "pause_limit", "operator"),
    action("/limits/{scope}/{name}/resume", resume, "resume_limit", "operator"),
    action("/breakers/{scope}/{name}/open", open_breaker, "open_breaker", "operator"),
    action("/breakers/{scope}/{name}/close", close_breaker, "close_breaker", "operator"),
    action("/breakers/{scope}/{name}/reset", reset_breaker, "reset_breaker", "operator"),
)
