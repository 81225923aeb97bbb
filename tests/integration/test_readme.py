"""The README's examples run as they stand."""

from __future__ import annotations

import asyncio
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import psycopg
import pytest
from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from pgqueue.cli import pgqueue as root
from pgqueue.config import sqlalchemy_url

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


@pytest.fixture
def shop(dsn: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The namespace of the README's Python blocks, run in order; `shop.models` is what its reader has already."""

    class Base(DeclarativeBase): ...

    class Order(Base):
        __tablename__ = "readme_orders"
        id: Mapped[int] = mapped_column(primary_key=True)
        email: Mapped[str]

    engine: Engine = create_engine(sqlalchemy_url(dsn))
    Base.metadata.create_all(engine)
    models = ModuleType("shop.models")
    models.__dict__.update(Order=Order, engine=engine)
    tasks = ModuleType("shop.tasks")
    for name, module in (("shop", ModuleType("shop")), ("shop.models", models), ("shop.tasks", tasks)):
        monkeypatch.setitem(sys.modules, name, module)
    for number, block in enumerate(blocks("python")):
        exec(compile(block, f"README block {number}", "exec", dont_inherit=True), tasks.__dict__)
    yield tasks.__dict__
    tasks.__dict__["app"].close()
    Base.metadata.drop_all(engine)
    engine.dispose()


def test_the_first_example_has_at_most_fifteen_lines() -> None:
    assert len(blocks("python")[0].strip().splitlines()) <= 15


def test_the_python_examples_run_and_its_own_test_passes(shop: dict[str, Any], dsn: str) -> None:
    app = shop["app"]
    with psycopg.connect(dsn) as conn:
        conn.execute("truncate pgqueue.jobs, pgqueue.completed_jobs")  # Its reader's test begins on a clean database.
    shop["test_an_order_sends_an_email"]()
    assert app.jobs.count(task="shop.tasks.send_email", state="completed") > 0


def test_the_worker_inside_an_app_starts_and_stops(shop: dict[str, Any]) -> None:
    asyncio.run(shop["main"]())
    assert shop["app"].workers.list() == []


def test_the_sql_examples_run(dsn: str) -> None:
    [block] = blocks("sql")
    with psycopg.connect(dsn, autocommit=True) as conn:
        for statement in filter(None, (part.strip() for part in re.sub(r"--.*", "", block).split(";"))):
            assert conn.execute(statement.encode()).description, statement
        for statement in re.findall(r"`(select .*?|grant .*?)`", README.replace("\n", " ")):
            conn.execute(statement.replace(" to app", " to current_user").encode())


@pytest.mark.parametrize("line", re.findall(r"^\$ pgqueue (.*?)(?: +#.*)?$", README, re.MULTILINE))
def test_the_commands_are_ones_that_the_cli_knows(line: str) -> None:
    words = shlex.split(line)
    command: click.Command = root
    context = click.Context(command, info_name="pgqueue")
    while isinstance(command, click.Group) and words:
        found = command.get_command(context, words.pop(0))
        assert found is not None, line
        command = found
    command.make_context("pgqueue", words, parent=context)
