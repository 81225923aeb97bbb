from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from bullmq import Queue, Worker

from benchmarks.peers.contender import Contender, Payload, main


class BullMQ(Contender):
    unfinished = (
        ("LLEN", "bull:noop:wait"),
        ("LLEN", "bull:noop:active"),
        ("ZCARD", "bull:noop:prioritized"),
        ("ZCARD", "bull:noop:delayed"),
    )
    version = version("bullmq")

    def _queue(self) -> Queue:
        return Queue("noop", {"connection": self.setting.redis, "defaultJobOptions": {"removeOnComplete": True}})

    async def set_up(self) -> None:
        return None

    async def open_producer(self) -> None:
        self.queue = self._queue()

    async def enqueue(self, payload: Payload) -> None:
        await self.queue.add("noop", payload, {})

    async def enqueue_bulk(self, payloads: Sequence[Payload], due: Sequence[float] | None) -> None:
        chunk = self.options["chunk"]
        now = time.time()
        for first in range(0, len(payloads), chunk):
            jobs: list[dict[str, Any]] = []
            for number in range(first, min(first + chunk, len(payloads))):
                options = {} if due is None else {"opts": {"delay": max(0, round((due[number] - now) * 1000))}}
                jobs.append({"name": "noop", "data": payloads[number], **options})
            await self.queue.addBulk(jobs)

    async def open_worker(self) -> None:
        hit = self.hit

        async def process(job: Any, token: str) -> None:
            if pause := hit(job.data["id"]):
                await asyncio.sleep(pause)

        self.worker = Worker(
            "noop",
            process,
            {
                "connection": self.setting.redis,
                "concurrency": self.options["concurrency"],
                "autorun": False,
                "removeOnComplete": {"count": 0},
            },
        )

    async def start_worker(self) -> None:
        self.running = asyncio.create_task(self.worker.run())

    async def stop_worker(self) -> None:
        await self.worker.close(True)


if __name__ == "__main__":
    main(BullMQ)
