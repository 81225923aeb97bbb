"""What Prometheus scrapes: the metrics of the database, behind the same door."""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from pgqueue.web.guesses import AGAIN, TooMany

if TYPE_CHECKING:
    from pgqueue.web.dashboard import Dashboard


def scraping(dashboard: Dashboard) -> Callable[[Request], Awaitable[Response]]:
    """Answers a scrape of who has entered, or sends a name and a password (HTTP Basic), as Prometheus does."""
    if find_spec("prometheus_client") is None:
        return _missing
    from pgqueue.metrics import DatabaseMetrics

    metrics = DatabaseMetrics(dashboard.app)

    async def scrape(request: Request) -> Response:
        entered = await dashboard.visitor(request, dashboard.sessions.read(request))
        try:
            let = entered is not None or await _sends_password(dashboard, request)
        except TooMany:
            return PlainTextResponse("Too many wrong passwords: try again in a few seconds.\n", 429, AGAIN)
        if not let:
            refused = {"WWW-Authenticate": 'Basic realm="pgqueue", charset="UTF-8"'} if dashboard.passwords else None
            return PlainTextResponse("Send the name and the password of a user.\n", 401, refused)
        body, content_type = await to_thread.run_sync(metrics.exposition)
        return Response(body, media_type=content_type)

    return scrape


async def _missing(request: Request) -> Response:
    return PlainTextResponse("Metrics need prometheus-client: install pgqueue[metrics].\n", 404)


async def _sends_password(dashboard: Dashboard, request: Request) -> bool:
    kind, _, given = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "basic":
        return False
    try:
        name, _, password = b64decode(given, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return False
    return await dashboard.entering(request, name, password) is not None
