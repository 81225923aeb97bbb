"""Pages and actions: what each needs, and what becomes of an error in one."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psycopg
from psycopg import errors as pg_errors
from psycopg_pool import PoolTimeout
from starlette.datastructures import FormData
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from pgqueue.errors import ConnectionFailed, JobNotFound, PgQueueError, SchemaOutOfDate, WorkerNotFound
from pgqueue.web.access import Role, Visitor
from pgqueue.web.guard import is_same_origin
from pgqueue.web.reading import READ_SECONDS
from pgqueue.web.session import Session
from pgqueue.web.visit import NotFound, Visit

if TYPE_CHECKING:
    from pgqueue.web.dashboard import Dashboard

logger = logging.getLogger("pgqueue.web")

Handler = Callable[[Visit], Awaitable[Response]]
FIELDS = 10_000
BAD_FORM = 400
# psycopg counts timeouts and locks as OperationalError too: those stand before.
UNREACHABLE = (ConnectionFailed, PoolTimeout, psycopg.OperationalError)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A path, what answers it, and who may ask. An action is a POST that a form of the dashboard sends."""

    path: str
    handler: Handler
    name: str
    role: Role
    is_action: bool


def page(path: str, handler: Handler, name: str, role: Role = "viewer") -> Endpoint:
    """What somebody looks at."""
    return Endpoint(path, handler, name, role, False)


def action(path: str, handler: Handler, name: str, role: Role) -> Endpoint:
    """What changes something."""
    return Endpoint(path, handler, name, role, True)


def route(dashboard: Dashboard, endpoint: Endpoint) -> Route:
    async def answer(request: Request) -> Response:
        return await _answer(dashboard, endpoint, request)

    methods = ["POST"] if endpoint.is_action else ["GET"]
    return Route(endpoint.path, answer, methods=methods, name=endpoint.name)


async def _answer(dashboard: Dashboard, endpoint: Endpoint, request: Request) -> Response:
    session = dashboard.sessions.read(request)
    visitor = await dashboard.visitor(request, session)
    if visitor is None:
        return _outside(dashboard, endpoint, request)
    form = FormData()
    if endpoint.is_action:
        form, refusal = await _form(dashboard, request)
        if refusal is not None:
            logger.warning("%s (%s) was refused %s: %s", visitor.name, visitor.role, request.url.path, refusal)
            return PlainTextResponse(f"{refusal}\n", 403)
    visit = Visit(request, dashboard, session or Session(), visitor, form)
    if not visitor.may(endpoint.role):
        logger.warning("%s (%s) was refused %s", visitor.name, visitor.role, request.url.path)
        return visit.render("error.html", status=403, title="Not allowed", text=_too_low(visitor, endpoint.role))
    try:
        return await endpoint.handler(visit)
    except (NotFound, JobNotFound, WorkerNotFound) as error:
        # An open page says that what it showed is gone; for its browser that is no error.
        return _said(visit, endpoint, 200 if visit.is_live else 404, "Not found", str(error))
    except SchemaOutOfDate as error:
        return visit.render("error.html", status=503, title="The tables are of another version", text=str(error))
    except pg_errors.QueryCanceled:
        return visit.render("error.html", status=503, title="Too slow", text=_slow(endpoint))
    except (pg_errors.LockNotAvailable, pg_errors.SerializationFailure, pg_errors.DeadlockDetected) as error:
        return _said(visit, endpoint, 409, "In use", f"{_first_line(error)}: nothing was changed; try again")
    except pg_errors.InsufficientPrivilege as error:
        return _said(visit, endpoint, 403, "Not granted", f"The database refuses it: {_first_line(error)}")
    except pg_errors.DataError as error:
        # What only SQL has looked at: its functions say what they take in the hint.
        hint = f" {error.diag.message_hint}" if error.diag.message_hint else ""
        return _said(visit, endpoint, 400, "Not possible", f"{_first_line(error)}.{hint}")
    except UNREACHABLE as error:
        logger.warning("PostgreSQL did not answer: %s", error)
        return visit.render("error.html", status=503, title="No database", text=_first_line(error))
    except PgQueueError as error:
        return _said(visit, endpoint, 400, "Not possible", str(error))


def _outside(dashboard: Dashboard, endpoint: Endpoint, request: Request) -> Response:
    if not dashboard.passwords and dashboard.is_closed:
        return PlainTextResponse("The dashboard is not open to you: whoever runs it says who may enter.\n", 403)
    if not dashboard.passwords:
        return PlainTextResponse(
            "The dashboard is closed to you. Without a password it is open to who asks from the machine that it runs "
            "on, by the name localhost; for others give it users, a proxy's header or authenticate=.\n",
            403,
        )
    if endpoint.is_action or request.headers.get("hx-request"):
        return PlainTextResponse("Log in first.\n", 401)
    asked = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return RedirectResponse(dashboard.login_url(request, asked), 303)


async def _form(dashboard: Dashboard, request: Request) -> tuple[FormData, str | None]:
    """The form, and why it is refused."""
    if not is_same_origin(request):
        return FormData(), "The request does not come from a page of the dashboard."
    try:
        form = await request.form(max_files=0, max_fields=FIELDS)
    except HTTPException as error:
        if error.status_code != BAD_FORM:
            raise
        return FormData(), f"The form cannot be read: {error.detail}"
    token = form.get("token")
    if not isinstance(token, str) or not dashboard.sessions.knows(request, token):
        return form, "The form is too old: load its page again."
    if any("\0" in value for value in form.values() if isinstance(value, str)):
        return form, "The form has a NUL character."
    return form, None


def _said(visit: Visit, endpoint: Endpoint, status: int, title: str, text: str) -> Response:
    """An action's error is shown on the page that it was asked on."""
    if endpoint.is_action and (came_from := _page_before(visit)):
        return visit.back(text, came_from, kind="error")
    return visit.render("error.html", status=status, title=title, text=text)


def _page_before(visit: Visit) -> str | None:
    parts = urlsplit(visit.request.headers.get("referer", ""))
    if parts.netloc != visit.request.headers.get("host") or not parts.path.startswith("/"):
        return None
    return parts.path + (f"?{parts.query}" if parts.query else "")


def _too_low(visitor: Visitor, role: Role) -> str:
    return f"{visitor.name} has the role {visitor.role}; this needs {role}."


def _slow(endpoint: Endpoint) -> str:
    if endpoint.is_action:
        return "PostgreSQL took too long, and nothing was changed: somebody may hold a lock. Try again."
    return f"PostgreSQL took longer than {READ_SECONDS} seconds: narrow the filter, or look at the page Health."


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
