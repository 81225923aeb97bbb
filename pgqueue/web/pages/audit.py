"""The audit log: who did what here."""

from __future__ import annotations

from starlette.responses import Response

from pgqueue.queries import auditing
from pgqueue.web.routing import page
from pgqueue.web.visit import Visit

ROWS = 100


async def show(visit: Visit) -> Response:
    which = {name: visit.query(name) for name in ("actor", "action", "target")}
    before = visit.query_id("before")
    rows = await visit.fetch(auditing.entries(visit.schema, ROWS + 1, before=before, **which))
    older = visit.here(before=rows[ROWS - 1].id) if len(rows) > ROWS else None
    first = visit.here(before=None) if before is not None else None
    filtered = any(which.values()) or before is not None
    return visit.render("audit.html", rows=rows[:ROWS], older=older, first=first, which=which, filtered=filtered)


ENDPOINTS = (page("/audit", show, "audit"),)
