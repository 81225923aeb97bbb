from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from datetime import timedelta
from importlib.metadata import version
from typing import Any

import asyncpg
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver, AsyncpgPoolDriver
from pgqueuer.queries import Queries

from benchmarks.peers.contender import Contender, Payload, main


class PgQueuerContender(Contender):
    unfinished = "select count(*) from pgqueuer"
    version = version("pgqueuer")

    async def set_up(self) -> None:
        connection = await asyncpg.connect(self.setting.dsn)
        await Queries(AsyncpgDriver(connection)).install()
        await connection.close()

    async def open_producer(self) -> None:
        self.queries = Queries(AsyncpgDriver(await asyncpg.connect(self.setting.dsn)))

    async def enqueue(self, payload: Payload) -> None:
        await self.queries.enqueue("noop", json.dumps(payload).encode())

    async def enqueue_bulk(self, payloads: Sequence[Payload], due: Sequence[float] | None) -> None:
        chunk = self.options["chunk"]
        now = time.time()
        for first in range(0, len(payloads), chunk):
            part = payloads[first : first + chunk]
            after = [timedelta(seconds=at - now) for at in due[first : first + chunk]] if due else None
            await self.queries.enqueue(
                ["noop"] * len(part), [json.dumps(payload).encode() for payload in part], [0] * len(part), after
            )

    async def open_worker(self) -> None:
        connections = self.options["pool"]
        pool = await asyncpg.create_pool(self.setting.dsn, min_size=connections, max_size=connections)
        self.queue = PgQueuer(AsyncpgPoolDriver(pool))
        hit = self.hit

        @self.queue.entrypoint("noop")
        async def noop(job: Any) -> None:
            if pause := hit(json.loads(job.payload)["id"]):
                await asyncio.sleep(pause)

    async def start_worker(self) -> None:
        self.worker = asyncio.create_task(
            self.queue.run(
                batch_size=self.options["batch_size"],
                dequeue_timeout=timedelta(seconds=30),
                max_concurrent_tasks=self.options["max_concurrent_tasks"],
            )
        )

    async def stop_worker(self) -> None:
        self.queue.shutdown.set()
        await asyncio.wait([self.worker], timeout=3)


if __name__ == "__main__":
    main(PgQueuerContender)
