"""What the guides tell to type is there: commands, SQL, files, headings."""

from __future__ import annotations

import re
from pathlib import Path

import psycopg
import pytest
import yaml

from tests.deploy.commands import check

DOCS = Path(__file__).parents[2] / "docs"
GUIDES = {
    name: (DOCS / f"{name}.md").read_text(encoding="utf-8")
    for name in ("deploying", "tuning", "autoscaling", "runbooks")
}
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def blocks(language: str) -> list[str]:
    return [
        block
        for guide in GUIDES.values()
        for block in re.findall(rf"^```{language}\n(.*?)^```$", guide, re.MULTILINE | re.DOTALL)
    ]


FENCED = {line.removeprefix("$ ") for block in blocks("console") for line in block.splitlines()}
# Some name a command alone, or leave out what is to be filled in.
INLINE = {
    span
    for guide in GUIDES.values()
    for span in re.findall(r"`(pgqueue [^`]*)`", guide.replace("\n", " "))
    if "…" not in span
}


@pytest.mark.parametrize("line", sorted(line for line in FENCED | INLINE if line.startswith("pgqueue ")))
def test_commands_are_ones_that_the_cli_knows(line: str) -> None:
    check(line.removeprefix("pgqueue ").partition(" >")[0])


@pytest.mark.parametrize("line", sorted(FENCED))
def test_files_in_commands_are_there(line: str) -> None:
    for path in re.findall(r"(?<!/)\bdeploy/[\w./*@-]+", line):
        assert list(DOCS.parent.glob(path)), path


def test_the_sql_runs(dsn: str) -> None:
    found = blocks("sql")
    assert len(found) > 3
    with psycopg.connect(dsn, autocommit=True) as conn:
        for block in found:
            for statement in filter(None, (part.strip() for part in block.split(";"))):
                conn.execute(statement.encode())


def test_the_yaml_can_be_read() -> None:
    for block in blocks("yaml"):
        assert yaml.safe_load(block)


@pytest.mark.parametrize("name", GUIDES)
def test_links_lead_somewhere(name: str) -> None:
    for target in LINK.findall(GUIDES[name]):
        path, _, anchor = target.partition("#")
        file = (DOCS / path).resolve() if path else DOCS / f"{name}.md"
        assert file.exists(), target
        if anchor:
            headings = HEADING.findall(file.read_text(encoding="utf-8"))
            assert anchor in {re.sub(r"[^\w -]", "", text).lower().replace(" ", "-") for text in headings}, target
