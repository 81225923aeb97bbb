"""Health: what is well, what will hurt and what hurts now; and the alerts."""

from __future__ import annotations

from psycopg import errors as pg_errors
from starlette.responses import Response

from pgqueue.client.doctor import refused
from pgqueue.queries import alerting, checkup, pruning
from pgqueue.queries.checkup import Finding
from pgqueue.web.routing import action, page
from pgqueue.web.visit import Visit

ORDER = {"problem": 0, "warning": 1, "ok": 2}


async def show(visit: Visit) -> Response:
    found = await visit.share("checkup", lambda: _look(visit))
    findings = sorted(found, key=lambda finding: ORDER[finding.level])
    alerts = await visit.fetch(alerting.list_alerts(visit.schema))
    return visit.render("health.html", findings=findings, alerts=alerts)


async def mend(visit: Visit) -> Response:
    [(made,)] = await visit.perform("mend", "partitions", pruning.make_partitions(visit.schema))
    text = f"Made {made} partitions of the history." if made else "There was nothing to mend."
    return visit.back(text, visit.url("health"))


async def _look(visit: Visit) -> list[Finding]:
    found: list[Finding] = []
    for check in checkup.CHECKS:
        try:
            found += await visit.run(check(visit.schema))
        except pg_errors.InsufficientPrivilege as error:
            found.append(refused(check, error))
        except pg_errors.QueryCanceled:
            found.append(Finding(check.__name__, "warning", "looking took too long", "Ask `pgqueue doctor`."))
    return found


ENDPOINTS = (page("/health", show, "health"), action("/health/mend", mend, "mend", "admin"))
