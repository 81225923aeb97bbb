"""The README's examples run as they stand."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
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
from pgqueue.testing import drain

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
        conn.execute("truncate pgqueue.jobs, pgqueue.completed_jobs")  # As the reader's conftest does.
    shop["test_an_order_sends_an_email"]()
    assert app.jobs.count(task="shop.tasks.send_email", state="completed") > 0


def test_what_is_not_done_twice_is_done_once(shop: dict[str, Any]) -> None:
    calls: list[Any] = []

    def noting(name: str, value: Any = None) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            calls.append((name, *(one for one in given if isinstance(one, int | str))))
            if name == "print_label" and calls.count(calls[-1]) == 1:
                raise OSError("no paper")
            return value

        return call

    shop["reserve"] = noting("reserve", {"parcels": ["a", "b"]})
    shop["print_label"], shop["book"] = noting("print_label"), noting("book")
    shop["bank_charge"] = noting("bank_charge", "receipt")
    job = shop["ship_order"].enqueue(7)
    drain(shop["app"], with_scheduled=True)
    assert job.refresh().value == "receipt"
    labels = [("print_label", "a"), ("print_label", "a"), ("print_label", "b"), ("print_label", "b")]
    assert calls == [("reserve", 7), *labels, ("bank_charge", 7, 10), ("book", 7, "receipt")]


def test_the_parts_of_an_export_follow_each_other(shop: dict[str, Any]) -> None:
    written: list[int] = []

    def write_page(connection: Any, page: int) -> bool:
        assert connection is not None
        written.append(page)
        return page < 3

    shop["write_page"] = write_page
    shop["export_page"].enqueue()
    drain(shop["app"])
    assert written == [1, 2, 3]


MODELS = """
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

class Base(DeclarativeBase): ...

class Order(Base):
    __tablename__ = "readme_own_orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str]

engine = create_engine({url!r})
Base.metadata.create_all(engine)
"""


def test_the_tests_of_a_reader_pass_as_often_as_they_run(fresh_dsn: str, tmp_path: Path) -> None:
    tasks, *_, conftest, own_test = blocks("python")
    url = sqlalchemy_url(fresh_dsn).render_as_string(hide_password=False)
    files = {"shop/__init__": "", "shop/models": MODELS.format(url=url), "shop/tasks": tasks}
    (tmp_path / "shop").mkdir()
    for name, text in {**files, "conftest": conftest, "test_shop": own_test}.items():
        (tmp_path / f"{name}.py").write_text(text)
    assert "fixture" in conftest
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])
    for _ in range(2):
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), "."]
        ran = subprocess.run(
            command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_worker_inside_an_app_starts_and_stops(shop: dict[str, Any]) -> None:
    asyncio.run(shop["main"]())
    assert shop["app"].workers.list() == []


def test_the_sql_examples_run(dsn: str) -> None:
    block, *_ = blocks("sql")
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
