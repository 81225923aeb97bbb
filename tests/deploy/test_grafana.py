"""The dashboards are provisioned, ask for what is there, and every SQL panel runs with the rights of its role."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from psycopg import errors, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgqueue import PgQueue
from pgqueue.testing import drain
from tests.deploy.metrics import exported, recorded, used
from tests.deploy.test_prometheus import RULES

FOLDER = Path(__file__).parents[2] / "deploy/grafana"
BOARDS: dict[str, dict[str, Any]] = {
    file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted(FOLDER.glob("dashboards/*.json"))
}
ROLE = (FOLDER / "role.sql").read_text(encoding="utf-8")
PANELS = [(name, panel) for name, board in BOARDS.items() for panel in board["panels"] if panel["type"] != "row"]
EXPRESSIONS = [
    pytest.param(target["expr"], id=f"{panel['title']} {target['refId']}")
    for _, panel in PANELS
    for target in panel["targets"]
    if "expr" in target
]
QUERIES = [
    pytest.param(target["rawSql"], id=panel["title"])
    for _, panel in PANELS
    for target in panel["targets"]
    if "rawSql" in target
]
# What Grafana makes of its macros.
MACROS = (
    (r"\$__timeGroupAlias\((\w+), \$__interval\)", r'floor(extract(epoch from \1) / 60) * 60 as "time"'),
    (r"\$__timeFilter\((\w+)\)", r"\1 between clock_timestamp() - interval '6 hours' and clock_timestamp()"),
    (r"\$queue", "'default','mail'"),
)


def filled(query: str) -> str:
    for macro, text in MACROS:
        query = re.sub(macro, text, query)
    assert "$" not in query
    return query


@pytest.fixture
def viewer(fresh_dsn: str) -> Iterator[str]:
    """A database in which jobs have run, failed and wait, as the role of the dashboards sees it."""
    app = PgQueue(fresh_dsn)

    @app.task(name="works")
    def works() -> None: ...

    @app.task(name="breaks", max_attempts=1, queue="mail")
    def breaks() -> None:
        raise ValueError("broken")

    app.enqueue_many([works.job(), works.job(), breaks.job()])
    drain(app)
    works.enqueue()
    breaks.using(delay=3600).enqueue()
    app.schedules.upsert("hourly", "0 * * * *", works.job())
    app.close()
    # Roles are of the whole server.
    role = f"viewer_{conninfo_to_dict(fresh_dsn)['dbname']}"
    with psycopg.connect(fresh_dsn, autocommit=True) as conn:
        for _ in range(2):
            conn.execute(ROLE.replace("pgqueue_viewer", role).encode())
        conn.execute(sql.SQL("alter role {} password 'secret'").format(sql.Identifier(role)))
        yield make_conninfo(fresh_dsn, user=role, password="secret")
        conn.execute(sql.SQL("drop owned by {0}; drop role {0}").format(sql.Identifier(role)))


@pytest.mark.parametrize("query", QUERIES)
def test_every_panel_of_sql_runs_with_the_rights_of_its_role(query: str, viewer: str) -> None:
    with psycopg.connect(viewer) as conn:
        cursor = conn.execute(filled(query).encode())
        assert cursor.description is not None
        names = [column.name for column in cursor.description]
        if "$__timeGroupAlias" in query:
            assert names[0] == "time"
        cursor.fetchall()


def test_the_panels_of_sql_show_what_has_happened(viewer: str) -> None:
    panels = {panel["title"]: panel["targets"][0].get("rawSql", "") for _, panel in PANELS}
    with psycopg.connect(viewer) as conn:

        def shown(title: str) -> list[Any]:
            return conn.execute(filled(panels[title]).encode()).fetchall()

        assert sum(row[2] for row in shown("Ended jobs")) == 3
        assert shown("Groups of failed jobs")[0][3:6] == ("ValueError", "attempts_used", 1)
        assert shown("Jobs")[0][:4] == (1, 0, 0, 1)


def test_the_role_of_the_dashboards_sees_no_arguments_and_writes_nothing(viewer: str) -> None:
    with psycopg.connect(viewer, autocommit=True) as conn:
        for hidden in ("args from pgqueue.all_jobs", "errors from pgqueue.failed_jobs", "args from pgqueue.jobs"):
            with pytest.raises(errors.InsufficientPrivilege):
                conn.execute(f"select {hidden}".encode())
        with pytest.raises((errors.ReadOnlySqlTransaction, errors.InsufficientPrivilege)):
            conn.execute("delete from pgqueue.workers")


def test_the_variable_of_queues_names_them(viewer: str) -> None:
    [query] = [one["query"] for one in BOARDS["pgqueue-postgresql"]["templating"]["list"] if one["type"] == "query"]
    with psycopg.connect(viewer) as conn:
        assert {"default", "mail"} <= {name for (name,) in conn.execute(query.encode())}


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_panels_ask_for_metrics_that_are_exported_or_recorded(expression: str) -> None:
    assert used(expression) <= exported()
    assert recorded(expression) <= {rule["record"] for rule in RULES if "record" in rule}
    assert used(expression) or recorded(expression) or "ALERTS" in expression


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed: Debian's prometheus")
def test_prometheus_can_read_every_expression(tmp_path: Path) -> None:
    written = []
    for number, parameter in enumerate(EXPRESSIONS):
        [expression] = parameter.values
        text = str(expression).replace("$__rate_interval", "1m").replace("$database", ".*").replace("$queue", ".*")
        assert "$" not in text
        written.append({"record": f"panel:{number}", "expr": text})
    rules = tmp_path / "rules.yml"
    rules.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": written}]}), encoding="utf-8")
    checked = subprocess.run(["promtool", "check", "rules", rules], capture_output=True, text=True, timeout=60)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("name", BOARDS)
def test_a_dashboard_is_whole(name: str) -> None:
    board = BOARDS[name]
    assert board["uid"] == name
    panels = board["panels"]
    assert [panel["title"] for panel in panels if panel["type"] == "row"] == [
        "Overview",
        "Queues",
        "Latency",
        "Failures",
        "Workers",
        "Database",
    ]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [(panel["title"], panel["gridPos"]) for panel in panels]
    for (one, a), (other, b) in combinations(places, 2):
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        above = a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        assert beside or above, f"{one} lies over {other}"
        assert a["x"] + a["w"] <= 24
    for panel in panels:
        if panel["type"] != "row":
            assert panel["description"].endswith(".")
            assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}


def test_the_data_sources_and_the_folder_of_dashboards_are_provisioned() -> None:
    provisioning = FOLDER / "provisioning"
    [sources] = [yaml.safe_load(file.read_text()) for file in provisioning.glob("datasources/*.yml")]
    [boards] = [yaml.safe_load(file.read_text()) for file in provisioning.glob("dashboards/*.yml")]
    wanted = {v["query"] for board in BOARDS.values() for v in board["templating"]["list"] if v["type"] == "datasource"}
    assert {source["type"] for source in sources["datasources"]} == wanted
    assert [provider["options"]["path"] for provider in boards["providers"]] == ["/etc/grafana/dashboards"]
