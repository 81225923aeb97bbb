"""Entering with a name and a password, and leaving."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from pgqueue.web.guard import is_same_origin
from pgqueue.web.guesses import AGAIN, TooMany
from pgqueue.web.session import Session

if TYPE_CHECKING:
    from pgqueue.web.dashboard import Dashboard

logger = logging.getLogger("pgqueue.web")


def routes(dashboard: Dashboard) -> list[Route]:
    async def look(request: Request) -> Response:
        return _form(dashboard, request, request.query_params.get("next", ""))

    async def enter(request: Request) -> Response:
        return await _enter(dashboard, request)

    async def leave(request: Request) -> Response:
        return await _leave(dashboard, request)

    return [
        Route("/login", look, methods=["GET"], name="login"),
        Route("/login", enter, methods=["POST"], name="enter"),
        Route("/logout", leave, methods=["POST"], name="leave"),
    ]


def _form(dashboard: Dashboard, request: Request, asked: str, wrong: str | None = None, status: int = 403) -> Response:
    session = dashboard.sessions.read(request) or Session()
    values = {"next": asked, "wrong": wrong, "token": dashboard.sessions.token(session)}
    response = HTMLResponse(dashboard.render_outside("login.html", request, values), 200 if wrong is None else status)
    dashboard.sessions.write(response, request, session)
    return response


async def _enter(dashboard: Dashboard, request: Request) -> Response:
    if not is_same_origin(request):
        return PlainTextResponse("The request does not come from a page of the dashboard.\n", 403)
    try:
        form = await request.form(max_files=0, max_fields=10)
    except HTTPException as error:
        return PlainTextResponse(f"The form cannot be read: {error.detail}\n", 403)
    name, password, token, asked = (_text(form.get(one)) for one in ("name", "password", "token", "next"))
    if not dashboard.sessions.knows(request, token):
        return _form(dashboard, request, asked, "The form was too old: try once more.")
    try:
        user = await dashboard.entering(request, name, password)
    except TooMany:
        response = _form(dashboard, request, asked, "Too many wrong passwords: try again in a few seconds.", 429)
        response.headers.update(AGAIN)
        return response
    if user is None:
        logger.warning("%s was refused as user %.100r", request.client.host if request.client else "somebody", name)
        return _form(dashboard, request, asked, "No user has this name and password.")
    home = RedirectResponse(dashboard.own_address(request, asked), 303)
    dashboard.sessions.write(home, request, dashboard.sessions.entered(user))
    dashboard.sessions.remember(home, request, user)
    return home


async def _leave(dashboard: Dashboard, request: Request) -> Response:
    try:
        token = _text((await request.form(max_files=0, max_fields=10)).get("token"))
    except HTTPException:
        token = ""
    if not is_same_origin(request) or not dashboard.sessions.knows(request, token):
        return PlainTextResponse("The form is too old: load its page again.\n", 403)
    response = RedirectResponse(dashboard.url(request, "login"), 303)
    dashboard.sessions.leave(response, request)
    return response


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
