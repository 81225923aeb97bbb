"""The rules for Prometheus are valid, ask for what is exported, and fire and clear when they should."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.metrics import exported, recorded, used

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy/prometheus"
RUNBOOKS = (ROOT / "docs/runbooks.md").read_text(encoding="utf-8")

RULES: list[dict[str, Any]] = [
    rule
    for file in sorted(FOLDER.glob("rules/*.yml"))
    for group in yaml.safe_load(file.read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]
ALERTS = [rule for rule in RULES if "alert" in rule]
WANTED = {
    "OldestJobTooOld",
    "QueueBackedUp",
    "FailureRateHigh",
    "FailedJobsGrowing",
    "NoWorkers",
    "QueuePausedTooLong",
    "ScheduleMissed",
    "RescuesSpiking",
    "BloatHigh",
    "MetricsMissing",
}
promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed: Debian's prometheus")


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@promtool
def test_the_configuration_and_its_rules_are_valid() -> None:
    assert (checked := run("promtool", "check", "config", FOLDER / "prometheus.yml")).returncode == 0, checked.stderr
    files = sorted(FOLDER.glob("rules/*.yml"))
    checked = run("promtool", "check", "rules", "--lint=all", "--lint-fatal", *files)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@promtool
def test_each_alert_fires_and_clears() -> None:
    tested = run("promtool", "test", "rules", *sorted(FOLDER.glob("tests/*.yml")))
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_every_alert_has_a_test_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    cases = [
        case
        for file in FOLDER.glob("tests/*.yml")
        for test in yaml.safe_load(file.read_text(encoding="utf-8"))["tests"]
        for case in test.get("alert_rule_test", [])
    ]
    assert {alert["alert"] for alert in ALERTS} == WANTED
    assert {case["alertname"] for case in cases if case.get("exp_alerts")} == WANTED
    assert {case["alertname"] for case in cases if not case.get("exp_alerts")} == WANTED


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("alert") or rule["record"])
def test_rules_ask_for_metrics_that_are_exported_or_recorded(rule: dict[str, Any]) -> None:
    assert used(rule["expr"]) <= exported()
    assert recorded(rule["expr"]) <= {rule["record"] for rule in RULES if "record" in rule}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_says_how_bad_it_is_and_leads_to_its_runbook(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in ("info", "warning", "critical")
    assert {"summary", "description"} <= set(alert["annotations"])
    assert alert["annotations"]["runbook_url"] == f"docs/runbooks.md#{alert['alert'].lower()}"
    assert f"\n## {alert['alert']}\n" in RUNBOOKS
