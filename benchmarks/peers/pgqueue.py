from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from datetime import UTC, datetime
from typing import Any

from benchmarks.peers.contender import Contender, Payload, main
from benchmarks.peers.ledger import TaskFailed
from benchmarks.peers.setting import Setting
from pgqueue import FailJob, PgQueue, migrate
from pgqueue.version import VERSION
from pgqueue.worker import loop


class PgQueueContender(Contender):
    unfinished = "select count(*) from pgqueue.jobs"
    version = VERSION

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        hit = self.hit
        self.app = PgQueue(setting.dsn)
        if "queues" in self.options:
            from benchmarks.peers import images

            self.app = images.app

        @self.app.task(name="noop", keep_completed=None if self.options["history"] else 0)
        async def noop(id: int, pad: str = "") -> None:
            try:
                pause = hit(id)
            except TaskFailed as failure:
                raise FailJob(str(failure)) from failure
            if pause:
                await asyncio.sleep(pause)

        self.task = noop

    def run_worker(self, main: Coroutine[Any, Any, None]) -> None:
        loop.run(main)

    async def set_up(self) -> None:
        await asyncio.to_thread(migrate.upgrade, self.setting.dsn)

    async def open_producer(self) -> None:
        self.app.jobs.count()

    async def enqueue(self, payload: Payload) -> None:
        self.task.enqueue(**payload)

    async def enqueue_bulk(self, payloads: Sequence[Payload], due: Sequence[float] | None) -> None:
        chunk = self.options["chunk"]
        for first in range(0, len(payloads), chunk):
            part = range(first, min(first + chunk, len(payloads)))
            if due is None:
                jobs = [self.task.job(**payloads[n]) for n in part]
            else:
                jobs = [self.task.using(run_at=datetime.fromtimestamp(due[n], UTC)).job(**payloads[n]) for n in part]
            self.app.enqueue_many(jobs)

    async def open_worker(self) -> None:
        self.worker = self.app.worker(queues=self.options.get("queues") or {"default": self.options["slots"]})

    async def start_worker(self) -> None:
        await self.worker.start()

    async def stop_worker(self) -> None:
        self.worker.stop()
        await self.worker.wait()


if __name__ == "__main__":
    main(PgQueueContender)
