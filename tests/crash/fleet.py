"""Worker processes of the shop, their ledger, and what the database says: for the crash tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import psycopg
from psycopg import sql

T = TypeVar("T")

LONG = os.environ.get("PGQUEUE_CHAOS") == "long"
PATIENCE = 60.0
ROOT = Path(__file__).parents[2]

FINISHES_WAITING = """
    select count(*) from pg_stat_activity
    where datname = current_database() and application_name = 'pgqueue finishes' and wait_event_type = 'Lock'
"""


def eventually(what: Callable[[], T], why: str, within: float = PATIENCE) -> T:
    """The first true value of `what()`; fails after `within` seconds, saying `why`."""
    deadline = time.monotonic() + within
    while not (value := what()):
        assert time.monotonic() < deadline, f"not within {within:g} s: {why}"
        threading.Event().wait(0.02)
    return value


class Entry(NamedTuple):
    """A line of the ledger."""

    what: str
    job_id: int
    attempt: int
    pid: int


@dataclass
class WorkerProcess:
    """One worker process and its log."""

    process: subprocess.Popen[bytes]
    log: Path
    killed: bool = False
    died_at: int | None = None

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.killed = True
        self.process.kill()
        self.process.wait()
        self.died_at = time.monotonic_ns()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def stop(self, within: float = PATIENCE) -> int:
        """SIGTERM, and wait; the exit code."""
        self.signal(signal.SIGTERM)
        return self.process.wait(within)

    def says(self, words: str) -> bool:
        return words in self.log.read_text()


@dataclass
class Fleet:
    """The worker processes of one test, on the database `dsn`."""

    dsn: str
    folder: Path
    workers: list[WorkerProcess] = field(default_factory=list)

    def start(self, *, registered: bool = True, dsn: str | None = None, **options: Any) -> WorkerProcess:
        """A worker; `options` are Worker's own. Waits until it is in the table `workers`, unless told not to."""
        log = self.folder / f"worker-{len(self.workers)}.log"
        environment = os.environ | {"PGQUEUE_DSN": dsn or self.dsn, "SHOP_LEDGER": str(self.folder)}
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.crash.shop", json.dumps({"lease": 2.0} | options)],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
            )
        worker = WorkerProcess(process, log)
        self.workers.append(worker)
        if registered:
            eventually(lambda: self.is_registered(worker) or not worker.alive, f"{log} has no registered worker")
            assert worker.alive, log.read_text()
        return worker

    def end(self) -> None:
        """Kill what is left."""
        for worker in self.workers:
            worker.process.kill()
            worker.process.wait()
            if worker.process.stdin is not None:
                worker.process.stdin.close()

    def is_registered(self, worker: WorkerProcess) -> bool:
        return bool(self.query("select 1 from {schema}.workers where pid = %s", worker.pid))

    def follow_heartbeats(self, worker: WorkerProcess, times: int) -> None:
        """Wait until the lease was renewed so often."""
        beat = "select heartbeat_at from {schema}.workers where pid = %s"
        for _ in range(times):
            last = self.value(beat, worker.pid)
            eventually(lambda last=last: self.value(beat, worker.pid) > last, "no heartbeat")  # type: ignore[misc]

    def query(self, text: str, *params: Any) -> list[tuple[Any, ...]]:
        """Rows, on a connection of its own; `{schema}` is pgqueue's."""
        query = sql.SQL(text).format(schema=sql.Identifier("pgqueue"))
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            cursor = connection.execute(query, params or None)
            return cursor.fetchall() if cursor.description else []

    def value(self, text: str, *params: Any) -> Any:
        [(value,)] = self.query(text, *params)
        return value

    def ledger(self, pid: int | None = None) -> list[Entry]:
        """What the task runs themselves have noted, in no order across processes; or in the process `pid`."""
        entries = []
        for path in sorted(self.folder.glob(f"{pid or '*'}.*.ledger")):
            for line in path.read_text().splitlines():
                what, job_id, attempt, process = line.split()
                entries.append(Entry(what, int(job_id), int(attempt), int(process)))
        return entries

    def noted(self, what: str, job_id: int | None = None, pid: int | None = None) -> list[Entry]:
        return [entry for entry in self.ledger(pid) if entry.what == what and job_id in (None, entry.job_id)]

    def running_in(self, worker: WorkerProcess) -> set[int]:
        """Jobs that have begun in it and not ended there."""
        begun = Counter(entry.job_id for entry in self.noted("begin", pid=worker.pid))
        begun.subtract(entry.job_id for entry in self.noted("end", pid=worker.pid))
        return {job_id for job_id, count in begun.items() if count > 0}

    def open_gate(self, path: Path, worker: WorkerProcess) -> None:
        """Let the `wait_for(path)` of this worker end."""
        Path(f"{path}.{worker.pid}").touch()

    def live(self) -> int:
        """Jobs that have not ended."""
        return int(self.value("select count(*) from {schema}.jobs"))

    def drained(self, within: float = PATIENCE) -> None:
        eventually(lambda: self.live() == 0, "jobs are left", within)

    def ended(self) -> dict[int, str]:
        """State by id of ended jobs. Fails when a job ended twice, or ended and is live too."""
        rows = self.query("select id, state from {schema}.all_jobs")
        counts = Counter(id_ for id_, _ in rows)
        assert not [id_ for id_, count in counts.items() if count > 1], "a job is in two tables, or twice in one"
        return {id_: state for id_, state in rows if state in ("completed", "cancelled", "failed")}

    def assert_at_rest(self, acknowledged: Iterable[int]) -> dict[int, str]:
        """Every acknowledged job, and no other, ended exactly once; nothing of dead workers is left."""
        ended = self.ended()
        assert ended.keys() == set(acknowledged)
        assert self.live() == 0
        eventually(lambda: self.value("select count(*) from {schema}.claims") == 0, "claims are left")
        alive = {worker.pid for worker in self.workers if worker.alive}
        eventually(
            lambda: {pid for (pid,) in self.query("select pid from {schema}.workers")} == alive, "dead workers are left"
        )
        return ended

    def assert_at_rest_soon(self, acknowledged: Iterable[int]) -> dict[int, str]:
        """As `assert_at_rest`, once all have ended."""
        self.drained()
        return self.assert_at_rest(acknowledged)

    def unexplained(self) -> dict[int, list[Entry]]:
        """Jobs that began more than once in workers that nobody killed."""
        killed = {worker.pid for worker in self.workers if worker.killed}
        begun: dict[int, list[Entry]] = {}
        for entry in self.noted("begin"):
            if entry.pid not in killed:
                begun.setdefault(entry.job_id, []).append(entry)
        return {job_id: entries for job_id, entries in begun.items() if len(entries) > 1}
