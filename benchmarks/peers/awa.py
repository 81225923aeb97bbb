from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import awa

from benchmarks.peers.contender import Contender, Payload, Unsupported, main
from benchmarks.peers.ledger import TaskFailed

# awa.queue_stats() takes tens of seconds under an old snapshot, so completions are counted where they are recorded:
# entries, and what completed them, are pruned together.
UNFINISHED = """
select (select count(*) from awa.ready_entries)
    - (select coalesce(sum(completed_count), 0) from awa.receipt_completion_batches)
    - (select count(*) from awa.done_entries)
"""


@dataclass
class Noop:
    id: int
    pad: str = ""


class AwaContender(Contender):
    unfinished = UNFINISHED
    version = version("awa-pg")

    async def set_up(self) -> None:
        client = awa.AsyncClient(self.setting.dsn)
        await client.migrate()
        await client.install_queue_storage()
        await client.close()

    async def open_producer(self) -> None:
        self.client = awa.AsyncClient(self.setting.dsn, max_connections=1)

    async def enqueue(self, payload: Payload) -> None:
        await self.client.insert(Noop(**payload), queue="default")

    async def enqueue_bulk(self, payloads: Sequence[Payload], due: Sequence[float] | None) -> None:
        if due is not None:
            raise Unsupported("its COPY has no time at which a job may run")
        chunk = self.options["chunk"]
        for first in range(0, len(payloads), chunk):
            part = payloads[first : first + chunk]
            await self.client.enqueue_many_copy([Noop(**payload) for payload in part], queue="default")

    async def open_worker(self) -> None:
        self.client = awa.AsyncClient(self.setting.dsn, max_connections=self.options["pool"])
        hit = self.hit

        @self.client.task(Noop, queue="default")
        async def noop(job: Any) -> None:
            try:
                pause = hit(job.args.id)
            except TaskFailed as failure:
                raise awa.TerminalError(str(failure)) from failure
            if pause:
                await asyncio.sleep(pause)

    async def start_worker(self) -> None:
        queue = {
            "name": "default",
            "max_workers": self.options["max_workers"],
            "claim_batch_size": self.options["claim_batch_size"],
        }
        await self.client.start([queue], poll_interval_ms=self.options["poll_interval_ms"])

    async def stop_worker(self) -> None:
        await self.client.shutdown()


if __name__ == "__main__":
    main(AwaContender)
