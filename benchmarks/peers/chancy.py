from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version

from chancy import Chancy, Job, Queue, Worker

from benchmarks.peers.contender import Contender, Payload, main
from benchmarks.peers.setting import Setting

# Its own logger prints a line a job.
QUIET = logging.getLogger("quiet")
QUIET.setLevel(logging.WARNING)

task: Callable[[int], Awaitable[None]]


async def noop(id: int, pad: str = "") -> None:
    """Chancy finds a task by its module and name, so it cannot be a closure."""
    await task(id)


class ChancyContender(Contender):
    unfinished = "select count(*) from chancy_jobs where state in ('pending', 'running', 'retrying')"
    version = version("chancy")

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        hit = self.hit
        self.job = Job(func=f"{__name__}.noop", queue="default", max_attempts=1)

        async def run(id: int) -> None:
            if pause := hit(id):
                await asyncio.sleep(pause)

        global task
        task = run

    def _client(self, connections: int) -> Chancy:
        return Chancy(
            self.setting.dsn, log=QUIET, min_connection_pool_size=connections, max_connection_pool_size=connections
        )

    async def set_up(self) -> None:
        async with self._client(2) as client:
            await client.migrate()
            await client.declare(
                Queue(
                    "default",
                    concurrency=self.options["concurrency"],
                    executor=Chancy.Executor.Async,
                    polling_interval=1,
                    eager_polling=True,
                )
            )

    async def open_producer(self) -> None:
        self.client = self._client(1)
        await self.client.__aenter__()

    async def enqueue(self, payload: Payload) -> None:
        await self.client.push(self.job.with_kwargs(**payload))

    async def enqueue_bulk(self, payloads: Sequence[Payload], due: Sequence[float] | None) -> None:
        jobs = [self.job.with_kwargs(**payload) for payload in payloads]
        if due is not None:
            jobs = [job.with_scheduled_at(datetime.fromtimestamp(at, UTC)) for job, at in zip(jobs, due, strict=True)]
        async for _ in self.client.push_many(jobs, batch_size=self.options["chunk"]):
            pass

    async def open_worker(self) -> None:
        self.client = self._client(self.options["pool"])
        await self.client.__aenter__()
        self.worker = Worker(self.client, register_signal_handlers=False)

    async def start_worker(self) -> None:
        await self.worker.start()

    async def stop_worker(self) -> None:
        await self.worker.stop()


if __name__ == "__main__":
    main(ChancyContender)
