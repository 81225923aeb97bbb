"""A monthly report for each tenant, on the first of the month at nine in the morning where the tenant is.

    pgqueue dev examples.tenant_reports:app                          # PostgreSQL, tables, a worker and a scheduler
    python -m examples.tenant_reports acme Europe/Paris              # a tenant signs up
    pgqueue schedules list; pgqueue schedules show monthly-acme; pgqueue schedules run monthly-acme

A schedule is a row: added, changed and removed while everything runs, it fires without a deployment. The report is
for the month before its nominal time, not before the moment at which it happens to run: after a weekend without a
scheduler it is still last month's.
"""

from __future__ import annotations

import sys
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from pgqueue import Context, PgQueue

NINE_ON_THE_FIRST = "0 9 1 * *"

app = PgQueue()


@app.task(queue="reports", bind=True, serial_key="{tenant}")
def monthly_report(ctx: Context, tenant: str, tz: str) -> str:
    """The report of the month before, as `2026-11`. Run by hand, it is that of the month before now."""
    due = ctx.scheduled_for or datetime.now(ZoneInfo(tz))
    month = due.astimezone(ZoneInfo(tz)).replace(day=1) - timedelta(days=1)
    ctx.log(f"report of {tenant} for {month:%Y-%m}")
    return f"{month:%Y-%m}"


def sign_up(tenant: str, tz: str) -> datetime | None:
    """Schedule the tenant's reports, or move them to another zone; returns when the next one is."""
    schedule = app.schedules.upsert(
        f"monthly-{tenant}",
        NINE_ON_THE_FIRST,
        monthly_report.job(tenant, tz),
        tz=tz,
        catch_up="all",  # every month's report, also after a long stop …
        grace=timedelta(days=60),  # … but none that is two months late
    )
    return schedule.next_run_at


def leave(tenant: str) -> None:
    app.schedules.remove(f"monthly-{tenant}")


if __name__ == "__main__":
    print(f"the next report is at {sign_up(*sys.argv[1:3])}")
