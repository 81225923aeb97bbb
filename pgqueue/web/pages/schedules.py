"""Not made yet."""

from __future__ import annotations

from starlette.responses import Response

from pgqueue.web.routing import page
from pgqueue.web.visit import Visit


async def show(visit: Visit) -> Response:
    return visit.render("error.html", title="schedules", text="Not made yet.")


ENDPOINTS = (page("/schedules", show, "schedules"),)
