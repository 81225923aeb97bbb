"""The units are valid, closed, and start what the CLI knows."""

from __future__ import annotations

import configparser
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from pgqueue.cli import pgqueue
from pgqueue.cli.values import DURATION
from tests.deploy.commands import check, is_known

FOLDER = Path(__file__).parents[2] / "deploy/systemd"
UNITS = sorted(FOLDER.glob("*.service"))
PROGRAM = "/opt/pgqueue/venv/bin/pgqueue"
analyze = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")


class Unit(configparser.RawConfigParser):
    """Of a key that stands several times the last one counts; those of environments are asked for by `lines`."""

    def __init__(self, file: Path) -> None:
        super().__init__(strict=False, interpolation=None)
        self.optionxform = str  # type: ignore[assignment, method-assign]
        self._text = file.read_text(encoding="utf-8")
        self.read_string(self._text)

    def lines(self, key: str) -> list[str]:
        return [line.partition("=")[2] for line in self._text.splitlines() if line.startswith(f"{key}=")]


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units, with a program that this machine has."""
    shutil.copytree(FOLDER, tmp_path / "units")
    for file in (tmp_path / "units").glob("*.service"):
        program = str(Path(sys.executable).with_name("pgqueue"))
        file.write_text(file.read_text(encoding="utf-8").replace(PROGRAM, program), encoding="utf-8")
    return tmp_path / "units"


@analyze
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_systemd_can_read_the_units(unit: Path, installed: Path) -> None:
    name = unit.name.replace("@.", "@mail.")
    if name != unit.name:
        shutil.copy(installed / unit.name, installed / name)
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", installed / name],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (verified.returncode, verified.stderr) == (0, "")


@analyze
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_the_units_are_closed(unit: Path, installed: Path) -> None:
    """As `systemd-analyze security` rates them, from 0 to 100; most services of a distribution are above 90."""
    name = unit.name.replace("@.", "@mail.")
    if name != unit.name:
        shutil.copy(installed / unit.name, installed / name)
    rated = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--threshold=25", "--no-pager", installed / name],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{installed}:"},
    )
    assert rated.returncode == 0, rated.stdout + rated.stderr


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_units_start_what_the_cli_knows(unit: Path) -> None:
    read = Unit(unit)
    program, _, command = read["Service"]["ExecStart"].partition(" ")
    assert program == PROGRAM
    check(command.replace("%l-%i", "host-mail"))
    for line in read.lines("Environment"):
        for assignment in shlex.split(line):
            assert is_known(assignment.partition("=")[0])


def test_a_worker_is_killed_later_than_it_needs() -> None:
    worker = Unit(FOLDER / "pgqueue-worker@.service")
    [assignment] = worker.lines("Environment")
    timeout = DURATION.convert(assignment.partition("=")[2], None, None)
    assert int(worker["Service"]["TimeoutStopSec"]) >= timeout + 10
    assert worker["Service"]["KillMode"] == "mixed"


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_what_is_said_of_one_worker_beats_what_is_said_of_all(unit: Path) -> None:
    own = ["-/etc/pgqueue/worker-%i.env"] if "@" in unit.name else []
    assert Unit(unit).lines("EnvironmentFile") == ["/etc/pgqueue/pgqueue.env", *own]


@pytest.mark.parametrize("file", sorted(FOLDER.glob("etc/*.env")), ids=lambda file: file.name)
def test_the_files_of_variables_name_settings_and_options(file: Path) -> None:
    for line in file.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.partition("=")
            assert is_known(name)
            assert shlex.split(value)


def test_several_queues_come_from_one_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    [line] = [line for line in (FOLDER / "etc/worker-mail.env").read_text().splitlines() if "_QUEUE=" in line]
    monkeypatch.setenv("PGQUEUE_WORKER_QUEUE", *shlex.split(line.partition("=")[2]))
    parent = click.Context(pgqueue, info_name="pgqueue", auto_envvar_prefix="PGQUEUE")
    command = pgqueue.get_command(parent, "worker")
    assert command is not None
    assert command.make_context("worker", [], parent=parent).params["queue"] == ("email:20", "newsletter:5")
