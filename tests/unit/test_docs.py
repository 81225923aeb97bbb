"""The table of features names tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from pgqueue import PgQueue
from pgqueue.metrics import DatabaseMetrics, Metrics

ROOT = Path(__file__).parents[2]
ROWS = [line for line in (ROOT / "docs/features.md").read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
NAMED = re.compile(r"(tests/[\w/]+\.py)?(?:::(\w+))?")


def named(cell: str) -> list[tuple[str, str]]:
    """File and function of every test in a cell; a function alone is of the file before."""
    found, file = [], ""
    for path, function in NAMED.findall(cell):
        if path or function:
            file = path or file
            found.append((file, function))
    return found


def functions(file: Path) -> set[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize("row", [row for row in ROWS if "shown by" not in row], ids=lambda row: row[2:60].strip())
def test_every_feature_is_shown_by_a_test_or_said_to_be_missing(row: str) -> None:
    _, _, shown, _ = row.split("|", 3)
    tests = named(shown)
    assert tests or "**missing**" in shown
    for file, function in tests:
        assert (ROOT / file).is_file(), f"there is no {file}"
        assert not function or function in functions(ROOT / file), f"{file} has no {function}"


METRIC = re.compile(r"^\| `(\w+)` \| (\w+) \| ([\w, ]*?) ?\|", re.MULTILINE)


def test_the_metrics_of_the_docs_are_those_that_there_are() -> None:
    app = PgQueue("postgresql:///x")
    families = [*Metrics(app, CollectorRegistry()).describe(), *DatabaseMetrics(app).describe()]
    # Not described: it is a counter of its own.
    there = {"pgqueue_jobs_enqueued_total": ("counter", "queue, task")}
    for family in families:
        suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
        kind = "gauge" if family.type == "info" else family.type
        there[family.name + suffix] = kind, ", ".join(getattr(family, "_labelnames"))  # noqa: B009
    there["pgqueue_build_info"] = "gauge", "version, python"
    text = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")
    assert {name: (kind, labels) for name, kind, labels in METRIC.findall(text)} == there
