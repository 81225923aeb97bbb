"""Follows the shop while it runs: through the views of `pgqueue`, and what its website says."""

from __future__ import annotations

import json
import threading
from typing import Any
from uuid import UUID

import psycopg

from pgqueue.demo.children import Child
from pgqueue.demo.reading import Held, Told, held_by
from pgqueue.demo.show import TaskCounts

COUNTS = """
    select task, count(*) filter (where state = 'completed'), count(*) filter (where state = 'running'),
           count(*) filter (where state in ('available', 'blocked') or state = 'scheduled' and attempt = 0),
           count(*) filter (where state = 'scheduled' and attempt > 0), count(*) filter (where state = 'failed')
    from pgqueue.all_jobs group by task
"""
HOLDING = "select worker, count(*) from pgqueue.running_jobs where worker is not null group by 1"
WORKER = "select id from pgqueue.workers where name = %s"
LAST_REPORT = """
    select (result ->> 'orders')::int, (result ->> 'cents')::bigint from pgqueue.completed_jobs
    where task like '%.report_sales' and result is not null order by finished_at desc limit 1
"""


class Watch:
    """A connection that looks on."""

    def __init__(self, dsn: str) -> None:
        self._connection = psycopg.connect(dsn, autocommit=True)

    def close(self) -> None:
        self._connection.close()

    def counts(self) -> dict[str, TaskCounts]:
        return {task.rpartition(".")[2]: TaskCounts(*counts) for task, *counts in self._connection.execute(COUNTS)}

    def holding(self) -> dict[str, int]:
        """How many jobs each worker holds, by its name."""
        return dict(self._connection.execute(HOLDING).fetchall())

    def worker(self, name: str) -> UUID | None:
        """The id of a worker; None before it has registered and after its lease."""
        found = self._connection.execute(WORKER, [name]).fetchone()
        return None if found is None else found[0]

    def held_by(self, worker: UUID) -> Held:
        return held_by(self._connection, worker)

    def last_report(self) -> tuple[int, int] | None:
        """Orders and cents of the newest report."""
        return self._connection.execute(LAST_REPORT).fetchone()


class Website:
    """What the process of the customers says, read as it comes."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self.told = Told(stock={}, placed=set(), declined=set())
        self._reader = threading.Thread(target=self._read, daemon=True)

    def open(self) -> None:
        """Wait until the shop is open, then go on reading."""
        line: dict[str, Any] = json.loads(self._child.output.readline() or '{"stock": {}}')
        self.told.stock.update({int(product): stock for product, stock in line["stock"].items()})
        self._reader.start()

    @property
    def closed(self) -> bool:
        """Whether the last order was placed."""
        return not self._reader.is_alive()

    def _read(self) -> None:
        for line in map(json.loads, self._child.output):
            (self.told.placed if line["placed"] else self.told.declined).add(line["order"])
