from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

import procrastinate

from benchmarks.peers.contender import Contender, Payload, main


class Procrastinate(Contender):
    unfinished = "select count(*) from procrastinate_jobs where status in ('todo', 'doing')"
    version = procrastinate.__version__

    def _app(self, connections: int) -> procrastinate.App:
        connector = procrastinate.PsycopgConnector(
            conninfo=self.setting.dsn, min_size=connections, max_size=connections
        )
        app = procrastinate.App(connector=connector)
        hit = self.hit

        @app.task(name="noop", queue="default")
        async def noop(id: int, pad: str = "") -> None:
            if pause := hit(id):
                await asyncio.sleep(pause)

        self.task = noop
        return app

    async def set_up(self) -> None:
        async with self._app(1).open_async() as app:
            await app.schema_manager.apply_schema_async()

    async def open_producer(self) -> None:
        await self._app(1).open_async()

    async def enqueue(self, payload: Payload) -> None:
        await self.task.defer_async(**payload)

    async def enqueue_bulk(self, payloads: Sequence[Payload], due: Sequence[float] | None) -> None:
        if due is not None:
            for payload, at in zip(payloads, due, strict=True):
                await self.task.configure(schedule_at=datetime.fromtimestamp(at, UTC)).defer_async(**payload)
            return
        chunk = self.options["chunk"]
        for first in range(0, len(payloads), chunk):
            await self.task.batch_defer_async(*payloads[first : first + chunk])

    async def open_worker(self) -> None:
        self.app = self._app(self.options["pool"] + 2)
        await self.app.open_async()

    async def start_worker(self) -> None:
        self.worker = asyncio.create_task(
            self.app.run_worker_async(
                concurrency=self.options["concurrency"],
                install_signal_handlers=False,
                delete_jobs=self.options["delete_jobs"],
            )
        )

    async def stop_worker(self) -> None:
        self.worker.cancel()
        await asyncio.wait([self.worker])


if __name__ == "__main__":
    main(Procrastinate)
