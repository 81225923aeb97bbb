"""`pgqueue schedules`: added, imported, shown, run."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import psycopg

from pgqueue import PgQueue
from tests.integration.test_cli import Invoke, app, invoke, records

__all__ = ["app", "invoke"]

CRONTAB = """
CRON_TZ=Europe/Paris
0 2 * * *  shop.export
0 9 * * *  shop.export kind=small
@hourly    shop.tidy
"""


def test_a_schedule_is_added_shown_changed_and_run(invoke: Invoke, app: PgQueue) -> None:
    cron = ("--cron", "0 9 1 * *", "--tz", "Europe/Paris")
    policy = ("--catch-up", "all", "--grace", "2d", "--jitter", "5m", "--max-runs", 12, "--end", "2099-12-31T00:00Z")
    added = invoke("schedules", "add", "acme", "shop.report", "tenant=acme", *cron, *policy, "-q", "reports", "--force")
    assert added.stderr.endswith("acme: At 09:00, on day 1 of the month (Europe/Paris).\n")
    row = app.schedules.get("acme")
    assert (row.task, row.queue, row.args, row.source) == ("shop.report", "reports", {"tenant": "acme"}, "live")
    assert (row.catch_up, row.grace, row.max_runs) == ("all", timedelta(days=2), 12)
    shown = invoke("schedules", "show", "acme").stdout
    for part in ("At 09:00, on day 1 of the month (Europe/Paris)", "0 of 12", "all, no later than 2d", "added live"):
        assert part in shown
    [record] = records(invoke("schedules", "show", "acme", "--json"))
    assert record["description"] == "At 09:00, on day 1 of the month (Europe/Paris)"
    invoke("schedules", "add", "acme", "shop.report", "--every", "90m", "--force")
    assert (app.schedules.get("acme").cron, app.schedules.get("acme").every) == (None, timedelta(minutes=90))
    invoke("schedules", "run", "acme")
    [job] = app.jobs.list()
    assert (job.task, job.headers["schedule"]) == ("shop.report", "acme")


def test_what_cannot_be_added_says_why_and_nothing_is_written(invoke: Invoke, app: PgQueue) -> None:
    assert "give --cron or --every" in invoke("schedules", "add", "a", "shop.report", "--force", exit_code=2).stderr
    bad = invoke("schedules", "add", "a", "shop.report", "--cron", "0 0 30 2 *", "--force", exit_code=2)
    assert "for the last day of a month write L" in bad.stderr
    unknown = invoke("schedules", "add", "a", "shop.report", "--every", "5m", exit_code=3)
    assert "--force to enqueue it anyway" in unknown.stderr
    assert app.schedules.list() == []


def test_the_next_times_of_every_schedule_are_shown(invoke: Invoke, app: PgQueue) -> None:
    invoke("schedules", "add", "often", "shop.report", "--every", "1m", "--force")
    invoke("schedules", "add", "yearly", "shop.report", "--cron", "@yearly", "--force")
    assert [row["schedule"] for row in records(invoke("schedules", "next", "--json"))] == ["often", "yearly"]
    each = [row["schedule"] for row in records(invoke("schedules", "next", "-n", 3, "--json"))]
    assert each == ["often"] * 3 + ["yearly"] * 3
    assert len(records(invoke("schedules", "next", "often", "--json"))) == 5


def test_times_of_a_pattern_are_shown_in_its_own_zone_too(invoke: Invoke, app: PgQueue) -> None:
    daily = ("--cron", "0 9 * * *", "--tz", "Asia/Kathmandu", "--end", "2099-12-31T00:00Z")
    invoke("schedules", "add", "daily", "shop.report", *daily, "--force")
    invoke("schedules", "add", "often", "shop.report", "--every", "1m", "--force")
    facts = dict(re.findall(r"(?m)^(\w+) {2,}(.*)$", invoke("schedules", "show", "daily").stdout))
    assert re.match(r"\S+ 09:00:00 \+0545 = \S+ \S+ \S+  \(in ", facts["next"])
    assert facts["end"].startswith("2099-12-31 05:45:00 +0545 = ")
    listed = invoke("schedules", "next").stdout
    assert re.search(r"daily .* 09:00:00 \+0545 ", listed)
    assert "=" not in dict(re.findall(r"(?m)^(\w+) {2,}(.*)$", invoke("schedules", "show", "often").stdout))["next"]
    assert {row["schedule"]: row["tz"] for row in records(invoke("schedules", "next", "--json"))} == {
        "daily": "Asia/Kathmandu",
        "often": None,
    }


def test_a_pattern_that_sql_wrote_and_cannot_be_used_says_why(invoke: Invoke, app: PgQueue, dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute("select pgqueue.add_schedule('acme', 'shop.report', cron => '0 25 * * *')")
    shown = invoke("schedules", "show", "acme").stdout
    assert "Never: the cron pattern '0 25 * * *' cannot be used: `25` is no hour" in shown
    assert "At 25:00" not in shown


def test_a_crontab_is_imported_whole_or_not_at_all(invoke: Invoke, app: PgQueue, tmp_path: Path) -> None:
    path = tmp_path / "crontab"
    path.write_text(
        "CRON_TZ=Europe/Paris\n0 2 * * * shop.export\n0 9 * * * shop.export kind=small\n@hourly shop.tidy\n"
    )
    looked = invoke("schedules", "import", path, "--dry-run", "--force")
    assert "Would add shop.export-2: At 09:00 (Europe/Paris)." in looked.stderr
    assert app.schedules.list() == []
    invoke("schedules", "import", path, "--force")
    invoke("schedules", "import", path, "--force")
    rows = app.schedules.list()
    assert [(row.name, row.cron, row.tz) for row in rows] == [
        ("shop.export", "0 2 * * *", "Europe/Paris"),
        ("shop.export-2", "0 9 * * *", "Europe/Paris"),
        ("shop.tidy", "@hourly", "Europe/Paris"),
    ]
    assert rows[1].args == {"kind": "small"}
    path.write_text("0 3 * * * shop.new\n99 * * * * shop.bad\n")
    assert "line 2" in invoke("schedules", "import", path, "--force", exit_code=2).stderr
    assert len(app.schedules.list()) == 3
