from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from oban import Oban, worker
from oban.schema import install

from benchmarks.peers.contender import Contender, Payload, main
from benchmarks.peers.setting import Setting


class ObanContender(Contender):
    unfinished = "select count(*) from oban_jobs where state in ('available', 'executing', 'scheduled', 'retryable')"
    version = version("oban")

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        hit = self.hit

        @worker(queue="default", max_attempts=1 if setting.failing else 3)
        class Noop:
            async def process(self, job: Any) -> None:
                if pause := hit(job.args["id"]):
                    await asyncio.sleep(pause)

        self.task: Any = Noop

    async def set_up(self) -> None:
        pool = await Oban.create_pool(self.setting.dsn)
        await install(pool)
        await pool.close()

    async def open_producer(self) -> None:
        self.oban = Oban(pool=await Oban.create_pool(self.setting.dsn, min_size=1, max_size=1))

    async def enqueue(self, payload: Payload) -> None:
        await self.oban.enqueue(self.task.new(payload))

    async def enqueue_bulk(self, payloads: Sequence[Payload], due: Sequence[float] | None) -> None:
        chunk = self.options["chunk"]
        times = None if due is None else [datetime.fromtimestamp(at, UTC) for at in due]
        for first in range(0, len(payloads), chunk):
            part = range(first, min(first + chunk, len(payloads)))
            if times is None:
                jobs = [self.task.new(payloads[n]) for n in part]
            else:
                jobs = [self.task.new(payloads[n], scheduled_at=times[n]) for n in part]
            await self.oban.enqueue_many(jobs)

    async def open_worker(self) -> None:
        connections = self.options["pool"]
        pool = await Oban.create_pool(self.setting.dsn, min_size=connections, max_size=connections)
        queue = {"limit": self.options["limit"], "debounce_interval": self.options["debounce"]}
        self.oban = Oban(pool=pool, queues={"default": queue})

    async def start_worker(self) -> None:
        await self.oban.start()

    async def stop_worker(self) -> None:
        await self.oban.stop()


if __name__ == "__main__":
    main(ObanContender)
