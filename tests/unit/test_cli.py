"""The command line without a database: help, what people type, finding the app, exit codes."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from pgqueue import PgQueue
from pgqueue.cli import dev, loading, pgqueue
from pgqueue.cli.config import options
from pgqueue.cli.detail import attempted
from pgqueue.cli.joblog import explained
from pgqueue.cli.naming import full_name
from pgqueue.cli.output import duration, printable, relative, shrink, stamp
from pgqueue.cli.run import declared_timeout
from pgqueue.cli.values import DURATION, MOMENT, PORT, SIZE, parse_arguments
from pgqueue.context import find_job
from pgqueue.errors import ConfigurationError
from pgqueue.events import Event
from pgqueue.outcome import AttemptError, Retry

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
APP = """
import asyncio, time
from pgqueue import PgQueue, current_job

app = PgQueue()

@app.task()
def double(number: int) -> int:
    return number * 2

@app.task(bind=True)
async def greet(ctx, name: str) -> str:
    return f"hello {name}, attempt {ctx.attempt}"

@app.task(transactional=True, bind=True)
def settle(ctx) -> str:
    return "settled"

@app.task(timeout=0.2)
async def stuck() -> None:
    await asyncio.sleep(3600)

@app.task(timeout=0.2, bind=True)
def stuck_in_a_thread(ctx) -> None:
    while not ctx.stopped:
        time.sleep(0.01)

@app.task(timeout=60, bind=True)
def in_time(ctx) -> int:
    return current_job().attempt + ctx.attempt

@app.task()
def broken() -> None:
    raise KeyError("nothing here")
"""


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CliRunner:
    for name in ("PGQUEUE_DSN", "PGQUEUE_APP", "PGQUEUE_SCHEMA", "DATABASE_URL", "PGHOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return CliRunner()


@pytest.fixture
def shop(runner: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package `cli_shop` in the working directory, with an app in `tasks`."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    package = tmp_path / "cli_shop"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "tasks.py").write_text(APP)
    yield "cli_shop.tasks"
    for name in [name for name in sys.modules if name.partition(".")[0] == "cli_shop"]:
        del sys.modules[name]


def test_help_lists_every_command_by_section(runner: CliRunner) -> None:
    result = runner.invoke(pgqueue, ["--help"])
    assert result.exit_code == 0
    for section in ("Run:", "Operate:", "Look:", "Develop:"):
        assert section in result.output
    for name, entry in pgqueue.entries.items():
        assert name in result.output
        assert entry.help in result.output


@pytest.mark.parametrize("name", list(pgqueue.entries))
def test_every_command_has_help(runner: CliRunner, name: str) -> None:
    result = runner.invoke(pgqueue, [name, "--help"])
    assert result.exit_code == 0, result.output


def test_help_loads_neither_driver_nor_tables() -> None:
    code = (
        "import sys; from pgqueue.cli import pgqueue\n"
        "try: pgqueue(['--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('psycopg', 'sqlalchemy', 'alembic', 'rich', 'asyncio') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_public_names_are_imported_when_they_are_asked_for() -> None:
    code = (
        "import pgqueue, sys; assert 'psycopg' not in sys.modules\nfor name in pgqueue.__all__: getattr(pgqueue, name)"
    )
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)


@pytest.mark.parametrize(
    ("text", "port"),
    [("9187", 9187), ("0", 0), ("tcp://10.96.0.12:9187", None)],
    ids=["a number", "any", "Kubernetes names a Service"],
)
def test_ports_are_read(text: str, port: int | None) -> None:
    assert PORT.convert(text, None, None) == port


@pytest.mark.parametrize("text", ["http", "-1", "65536", ""])
def test_what_is_no_port_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="write a number up to 65535"):
        PORT.convert(text, None, None)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30", 30.0), ("1.5", 1.5), ("250ms", 0.25), ("5m", 300.0), ("1h30m", 5400.0), ("2d", 172800.0)],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert DURATION.convert(text, None, None) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "-5", "5x", "m5", "1,5s"])
def test_what_is_no_duration_is_refused_with_the_way_to_write_it(text: str) -> None:
    with pytest.raises(click.BadParameter, match="1h30m"):
        DURATION.convert(text, None, None)


@pytest.mark.parametrize(
    ("text", "size"), [("512M", 512 << 20), ("2g", 2 << 30), ("1048576", 1 << 20), ("1.5KiB", 1536)]
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert SIZE.convert(text, None, None) == size


def test_a_time_without_an_offset_is_refused() -> None:
    assert MOMENT.convert("2026-03-01T13:00+01:00", None, None) == NOW
    with pytest.raises(click.BadParameter, match="offset"):
        MOMENT.convert("2026-03-01T13:00", None, None)


@pytest.mark.parametrize(("typed", "read"), [("12345", "12345"), ('"12345"', "12345"), ('"x', '"x'), ("true", "true")])
def test_text_stays_text_and_loses_only_the_quotes_of_json(typed: str, read: str) -> None:
    assert parse_arguments([f"zip={typed}"], frozenset({"zip"})) == {"zip": read}


def test_arguments_are_json_where_they_are_json_and_text_elsewhere() -> None:
    found = parse_arguments(["to=a@b.c", "n=2", "ids:=[1, 2]", "url=a=b", "nan=NaN", "zip=0123"], frozenset({"zip"}))
    assert found == {"to": "a@b.c", "n": 2, "ids": [1, 2], "url": "a=b", "nan": "NaN", "zip": "0123"}


@pytest.mark.parametrize("pair", ["to", "=x", "n:=two"])
def test_arguments_that_cannot_be_read_are_refused(pair: str) -> None:
    with pytest.raises(click.UsageError):
        parse_arguments([pair])


def test_a_task_is_found_by_the_end_of_its_name_when_only_one_has_it() -> None:
    known = ["shop.tasks.send", "shop.tasks.charge", "blog.tasks.charge"]
    assert full_name("send", known, whose="there is") == "shop.tasks.send"
    with pytest.raises(click.UsageError, match=r"blog\.tasks\.charge, shop"):
        full_name("charge", known, whose="there is")
    with pytest.raises(click.ClickException, match="did you mean `send`") as raised:
        full_name("sned", known, whose="there is")
    assert raised.value.exit_code == 3
    assert full_name("later", known, whose="there is", force=True) == "later"
    with pytest.raises(click.ClickException, match=r"known are t00, .*, t09, and 15 more"):
        full_name("send", [f"t{n:02}" for n in range(25)], whose="there is")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0004, "0.4ms"),
        (0.25, "250ms"),
        (1, "1s"),
        (1.44, "1.4s"),
        (59, "59s"),
        (300, "5m"),
        (4800, "1h20m"),
        (260_000, "3d"),
    ],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_times_are_relative() -> None:
    assert relative(NOW + timedelta(minutes=5), NOW) == "in 5m"
    assert relative(NOW - timedelta(seconds=12), NOW) == "12s ago"


def test_the_time_of_an_attempt_looks_like_every_other_time() -> None:
    at = datetime(2026, 12, 31, 9, tzinfo=UTC)
    assert attempted({"at": at.isoformat()}) == stamp(at)
    assert attempted({"at": "soon"}) == "soon"
    assert attempted({}) == ""


def test_text_of_others_cannot_move_the_cursor() -> None:
    assert printable("a\x1b[2Jb\nc") == "a\N{REPLACEMENT CHARACTER}[2Jb c"


def test_only_columns_that_may_shrink_do() -> None:
    widths = [10, 40, 30]
    shrink(widths, [1, 2], 60)
    assert widths == [10, 25, 25]
    shrink(widths, [1, 2], 5)
    assert widths == [10, 8, 8]


def test_a_retry_is_explained_on_its_line() -> None:
    outcome = Retry(2.0, AttemptError("shop.Declined", "no\nmoney", ""))
    assert explained(Event("retried", 1, "t", "q", 3, 0.1, outcome)) == "attempt 3, again in 2s: Declined: no"


@pytest.mark.parametrize("spec", ["cli_shop.tasks:app", "cli_shop.tasks", None])
def test_the_app_is_found(shop: str, spec: str | None) -> None:
    assert f"{shop}.double" in loading.load(spec).tasks


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("cli_shop.tasks:nope", "did you mean cli_shop.tasks:app"),
        ("cli_shop.nope:app", "there is no module 'cli_shop.nope'"),
        ("cli_shop.tasks:double", "is a Task, not a PgQueue app"),
        ("cli_shop/tasks.py", r"name the module, such as cli_shop\.tasks"),
        ("cli_shop", "no PgQueue app in module cli_shop"),
        ("", "--app '' names no module: write such as shop.tasks"),
        (":app", "--app ':app' names no module"),
    ],
)
def test_an_app_that_is_not_there_is_refused_with_the_fix(shop: str, spec: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        loading.load(spec)


def test_a_module_that_a_folder_above_has_is_looked_for_there(
    shop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path / "cli_shop")
    (tmp_path / "cli_shop" / "cli_shop_inner.py").write_text("import cli_shop.tasks")
    for spec in ("cli_shop.tasks:app", "cli_shop_inner"):
        with pytest.raises(ConfigurationError) as refused:
            loading.load(spec)
        message = str(refused.value)
        assert f"{tmp_path} has cli_shop: start there, or set PYTHONPATH={tmp_path}" in message
        assert f"{tmp_path / 'cli_shop'} is on the path" in message


def test_a_module_that_is_nowhere_is_advised_to_be_started_for(shop: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as refused:
        loading.load("cli_nowhere.tasks:app")
    assert str(refused.value) == (
        f"there is no module 'cli_nowhere': the working directory {tmp_path} is on the path and has no cli_nowhere. "
        "Start from your project's directory, or set PYTHONPATH to it"
    )
    (tmp_path / "cli_shop" / "other.py").write_text("import cli_library")
    with pytest.raises(ConfigurationError, match=r"importing cli_shop\.other failed") as refused:
        loading.load("cli_shop.other")
    assert "PYTHONPATH" not in str(refused.value)
    with pytest.raises(ConfigurationError, match=r"there is no module 'cli_shop\.nope' in the package") as refused:
        loading.load("cli_shop.nope")
    assert str(tmp_path / "cli_shop") in str(refused.value)


def test_two_apps_are_not_guessed_between(shop: str, tmp_path: Path) -> None:
    (tmp_path / "cli_shop" / "jobs.py").write_text(APP)
    with pytest.raises(ConfigurationError, match=r"cli_shop\.jobs:app or cli_shop\.tasks:app"):
        loading.load(None)


def test_an_import_that_fails_shows_the_line_of_the_user(shop: str, tmp_path: Path, runner: CliRunner) -> None:
    (tmp_path / "cli_shop" / "app.py").write_text("import cli_shop\n\n1 / 0\n")
    result = runner.invoke(pgqueue, ["worker", "cli_shop.app"])
    assert result.exit_code == 2
    assert "line 3" in result.stderr
    assert "ZeroDivisionError" in result.stderr
    assert "importlib" not in result.stderr


def test_run_needs_no_database_and_prints_the_result(shop: str, runner: CliRunner) -> None:
    assert runner.invoke(pgqueue, ["run", "double", "number=4"]).stdout == "8\n"
    assert json.loads(runner.invoke(pgqueue, ["run", "greet", "name=5"]).stdout) == "hello 5, attempt 1"


def test_run_leaves_no_job_behind_in_the_process(shop: str, runner: CliRunner) -> None:
    assert runner.invoke(pgqueue, ["run", "greet", "name=5"]).exit_code == 0
    assert find_job() is None


CHUNKS = """
from typing import TypedDict
from pgqueue import ChunkJob, PgQueue

app = PgQueue()

class Parcel(TypedDict):
    zip: str
    grams: int

@app.task(chunk=100)
def weigh(jobs: list[ChunkJob[Parcel]]) -> list[str]:
    return [f"{job.args['zip']}: {job.args['grams']}" for job in jobs]

@app.task(chunk=100)
async def refuse(jobs: list[ChunkJob[Parcel]]) -> None:
    jobs[0].fail("too heavy")
"""


def test_run_gives_a_chunk_task_one_job(shop: str, runner: CliRunner, tmp_path: Path) -> None:
    (tmp_path / "cli_shop" / "tasks.py").write_text(CHUNKS)
    assert runner.invoke(pgqueue, ["run", "weigh", "zip=01234", "grams=7"]).stdout == '"01234: 7"\n'
    wrong = runner.invoke(pgqueue, ["run", "weigh", "zip=01234", "grams=heavy"])
    assert wrong.exit_code == 2
    assert "'grams'" in wrong.stderr
    failed = runner.invoke(pgqueue, ["run", "refuse", "zip=1", "grams=9"])
    assert failed.exit_code == 1
    assert "refuse ended with FailJob: too heavy" in failed.stderr


def test_run_says_what_is_wrong_with_the_call_or_the_task(shop: str, runner: CliRunner) -> None:
    wrong = runner.invoke(pgqueue, ["run", "double", "number=x"])
    assert wrong.exit_code == 2
    assert "'number'" in wrong.stderr
    assert "Traceback" not in wrong.stderr
    missing = runner.invoke(pgqueue, ["run", "dobule"])
    assert missing.exit_code == 3
    assert "did you mean `double`" in missing.stderr
    broken = runner.invoke(pgqueue, ["run", "broken"])
    assert broken.exit_code == 1
    assert "nothing here" in broken.stderr


@pytest.mark.parametrize("task", ["stuck", "stuck_in_a_thread"])
def test_run_stops_at_the_timeout_of_the_task(shop: str, runner: CliRunner, task: str) -> None:
    result = runner.invoke(pgqueue, ["run", task])
    assert result.exit_code == 1
    assert f"task {shop}.{task} ran longer than its timeout of 0.2 s" in result.stderr
    assert f"Error: {shop}.{task} raised TaskTimeout" in result.stderr


def test_run_leaves_a_task_with_a_timeout_its_context(shop: str, runner: CliRunner) -> None:
    assert runner.invoke(pgqueue, ["run", "in_time"]).stdout == "2\n"


@pytest.mark.parametrize(
    ("own", "of_queue", "of_app", "counts"),
    [(1, 2, 3, 1), (None, 2, 3, 2), (None, None, 3, 3), (None, None, None, None)],
)
def test_run_takes_the_timeout_of_the_task_else_of_its_queue_else_of_the_app(
    own: float | None, of_queue: float | None, of_app: float | None, counts: float | None
) -> None:
    app = PgQueue(timeout=of_app)
    app.queue("mail", timeout=of_queue)
    task = app.task(name="send", queue="mail", timeout=own)(nothing)
    assert declared_timeout(app, task) == counts


def test_run_reads_a_json_string_as_its_text(shop: str, runner: CliRunner) -> None:
    assert json.loads(runner.invoke(pgqueue, ["run", "greet", 'name="5"']).stdout) == "hello 5, attempt 1"


def test_a_transactional_task_without_a_database_is_refused_in_one_line(shop: str, runner: CliRunner) -> None:
    result = runner.invoke(pgqueue, ["run", "settle"])
    assert result.exit_code == 2
    assert "no database is set" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_database_of_a_dev_that_runs_here_is_named_when_none_is_set(
    runner: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "pgqueue dev" not in runner.invoke(pgqueue, ["ping"]).stderr
    cluster = tmp_path / ".pgqueue" / "cluster"
    cluster.mkdir(parents=True)
    monkeypatch.chdir(cluster.parent)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(".s.PGSQL.5432")
    lines = ["1", str(cluster), "0", "5432", str(cluster.parent), "", "0 0", "ready"]
    (cluster / "postmaster.pid").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    assert dev.running_here() is not None
    result = runner.invoke(pgqueue, ["ping"])
    assert result.exit_code == 2
    assert "export PGQUEUE_DSN=" in result.stderr
    assert runner.invoke(pgqueue, ["ping", "--dsn", "garbage"]).stderr.count("pgqueue dev") == 0


def test_without_any_setting_the_message_tells_how_to_set_one(runner: CliRunner) -> None:
    result = runner.invoke(pgqueue, ["jobs", "list"])
    assert result.exit_code == 2
    assert "no database is set: give --dsn, or set PGQUEUE_DSN" in result.stderr
    assert "PGQUEUE_APP" in result.stderr


def test_an_unreachable_database_is_exit_code_4(runner: CliRunner, tmp_path: Path) -> None:
    result = runner.invoke(pgqueue, ["--dsn", f"host={tmp_path} user=u password=secret", "jobs", "list"])
    assert result.exit_code == 4
    assert "cannot connect" in result.stderr
    assert "secret" not in result.output


def test_config_tells_where_each_value_comes_from(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGQUEUE_DSN", "postgresql://u:secret@h/shop")
    monkeypatch.setenv("PGQUEUE_WORKER_CONCURRENCY", "7")
    monkeypatch.setenv("PGQUEUE_WORKER_CONCURENCY", "7")
    result = runner.invoke(pgqueue, ["config", "--json", "--schema", "jobs"])
    rows = {row["name"]: row for row in map(json.loads, result.stdout.splitlines())}
    assert (rows["dsn"]["value"], rows["dsn"]["source"]) == ("postgresql://u:***@h/shop", "PGQUEUE_DSN")
    assert (rows["schema"]["value"], rows["schema"]["source"]) == ("jobs", "--schema")
    assert rows["worker --concurrency"]["value"] == "7"
    assert rows["worker --lease"]["source"] == "default"
    assert "PGQUEUE_WORKER_CONCURENCY" in result.stderr


def test_a_variable_is_named_after_its_option(runner: CliRunner) -> None:
    for command, option, variable in options(click.Context(pgqueue)):
        longest = max(option.opts, key=len).lstrip("-")
        assert variable == f"PGQUEUE_{command} {longest}".upper().replace(" ", "_").replace("-", "_")


@pytest.mark.parametrize(
    ("typed", "meant"), [(["jbos", "list"], "jobs"), (["jobs", "lst"], "list"), (["flow"], "flows")]
)
def test_a_mistyped_command_is_asked_about(runner: CliRunner, typed: list[str], meant: str) -> None:
    result = runner.invoke(pgqueue, typed)
    assert result.exit_code == 2
    assert re.search(rf"No such command '.*'\. Did you mean '{meant}'\?", result.stderr)


def test_a_worker_for_a_queue_without_a_name_is_refused(shop: str, runner: CliRunner) -> None:
    for queue in ("", "email,,", " "):
        result = runner.invoke(pgqueue, ["worker", "-q", queue])
        assert result.exit_code == 2
        assert "-q has an empty name" in result.stderr


def test_migrate_prints_the_sql_without_a_database(runner: CliRunner) -> None:
    result = runner.invoke(pgqueue, ["migrate", "--sql", "--schema", "elsewhere"])
    assert result.exit_code == 0
    assert "elsewhere" in result.stdout


def nothing() -> None: ...
