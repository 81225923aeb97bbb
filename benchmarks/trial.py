"""One contender with an empty database, and the processes that enqueue and work for it."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import psycopg

from benchmarks.contenders import Contender
from benchmarks.environments import Missing, variables
from benchmarks.peers.setting import VARIABLE, Setting
from benchmarks.postgres import Counters, Postgres
from benchmarks.redis import Redis
from benchmarks.workers import ContenderFailed, Workers

DATABASE = "benchmark"
COMMAND_LIMIT = 900.0
SHARED_MEMORY = Path("/dev/shm")


class Servers:
    """What all contenders share, for the whole of a run. `redis` is None where no redis-server is installed."""

    def __init__(self) -> None:
        self._undo = ExitStack()
        self.redis: Redis | None = None

    def __enter__(self) -> Self:
        self.postgres = self._undo.enter_context(Postgres())
        if Redis.installed():
            self.redis = self._undo.enter_context(Redis())
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()


class Trial:
    """Made anew for every run. Raises Missing when the contender cannot run here, ContenderFailed when it breaks.

    with Trial(servers, contender) as trial:
        trial.bulk(20_000)
    """

    def __init__(self, servers: Servers, contender: Contender) -> None:
        self.contender = contender
        self.servers = servers
        self.server: Postgres | Redis = servers.postgres
        if contender.redis:
            if servers.redis is None:
                raise Missing("needs redis-server on the PATH")
            self.server = servers.redis
        self.about: dict[str, Any] = {}
        self.sleep = 0.0
        self.failing = 0
        self._undo = ExitStack()

    def __enter__(self) -> Self:
        try:
            # Memory that no disk backs: the ledger is to cost the contender as little as can be.
            place = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
            self._folder = Path(tempfile.mkdtemp(prefix="pgqueue-benchmark-", dir=place))
            self._undo.callback(shutil.rmtree, self._folder, ignore_errors=True)
            self.dsn = self.servers.postgres.create(DATABASE)
            self._undo.callback(self.servers.postgres.drop, DATABASE)
            self.connection = self._undo.enter_context(psycopg.connect(self.dsn, autocommit=True))
            if self.servers.redis is not None:
                self.servers.redis.empty()
            if self.contender.module:
                self.command = self.contender.environment.command(self.contender.module)
                self.about = self._ask("set_up")
        except BaseException:
            self._undo.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def one(self, jobs: int, start: int = 0) -> dict[str, Any]:
        """Enqueue one by one, a commit each: seconds, and CPU seconds of the producer."""
        return self._ask("one", jobs=jobs, start=start)

    def bulk(self, jobs: int, start: int = 0, **given: Any) -> float:
        """Enqueue all at once, as the contender does it best; returns seconds."""
        return float(self._ask("bulk", jobs=jobs, start=start, **given)["seconds"])

    def paced(self, jobs: int, interval: float, start: int = 0) -> dict[str, Any]:
        """Enqueue one every `interval` seconds: when each call began and ended, in nanoseconds."""
        return self._ask("paced", jobs=jobs, interval=interval, start=start)

    @contextmanager
    def workers(self, size: int, *, processes: int = 1, timed: bool = False, **options: Any) -> Iterator[Workers]:
        """Connected worker processes with an empty ledger for jobs up to `size`; `options` beside the contender's."""
        ledger = Path(tempfile.mkdtemp(dir=self._folder))
        setting = self._setting(ledger=str(ledger), size=size, timed=timed)
        setting.options.update(options)
        with Workers(self.command, setting, processes=processes, boots=self.contender.boots) as workers:
            yield workers
        shutil.rmtree(ledger)

    def settle(self) -> None:
        """What autovacuum would have come to do: statistics, dead rows, and a checkpoint that does not hit the run."""
        if not self.contender.redis:
            self.connection.execute("vacuum analyze")
            self.servers.postgres.checkpoint()

    def analyze(self) -> None:
        if not self.contender.redis:
            self.connection.execute("analyze")
            self.servers.postgres.checkpoint()

    def unfinished(self) -> int:
        """Jobs that have not ended, as the contender's own storage has it."""
        how = self.about["unfinished"]
        if isinstance(how, str):
            return int(self.connection.execute(how.encode()).fetchall()[0][0])
        assert isinstance(self.server, Redis)
        return sum(int(self.server.command(*words)) for words in how)

    def counters(self) -> Counters | None:
        return None if self.contender.redis else self.servers.postgres.counters(self.connection)

    def _setting(self, **given: Any) -> Setting:
        redis = self.servers.redis
        common = {"ledger": str(self._folder), "size": 1, "timed": False, **given}
        return Setting(
            dsn=self.dsn,
            redis="" if redis is None else redis.url,
            sleep=self.sleep,
            failing=self.failing,
            options={**self.contender.options, **(self.contender.hundred if self.sleep else {})},
            **common,
        )

    def _ask(self, role: str, **given: Any) -> dict[str, Any]:
        environment = {**variables(), VARIABLE: json.dumps(asdict(self._setting()))}
        command = [*self.command, role, json.dumps(given)]
        try:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=COMMAND_LIMIT)
        except subprocess.TimeoutExpired as late:
            raise ContenderFailed(f"{role} took longer than {COMMAND_LIMIT:.0f} s") from late
        answers = [line for line in done.stdout.splitlines() if line.startswith("{")]
        if done.returncode or not answers:
            said = (done.stderr or done.stdout).strip()[-1500:]
            raise ContenderFailed(f"{role} ended with {done.returncode}: {said}")
        answer: dict[str, Any] = json.loads(answers[-1])
        return answer
