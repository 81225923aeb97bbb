"""No queue at all: a NOTIFY in a commit of its own, and a process that listens. What a pickup is held against."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import psycopg

from benchmarks.peers.contender import Contender, Payload, Unsupported, main


class BareNotify(Contender):
    unfinished = "select 0"
    version = psycopg.__version__

    async def set_up(self) -> None:
        return None

    async def open_producer(self) -> None:
        self.connection = psycopg.connect(self.setting.dsn, autocommit=True, prepare_threshold=0)

    async def enqueue(self, payload: Payload) -> None:
        self.connection.execute("select pg_notify('benchmark', %s)", [str(payload["id"])])

    async def enqueue_bulk(self, payloads: Sequence[Payload], due: Sequence[float] | None) -> None:
        raise Unsupported("NOTIFY keeps no jobs")

    async def open_worker(self) -> None:
        self.listening = await psycopg.AsyncConnection.connect(self.setting.dsn, autocommit=True)
        await self.listening.execute("listen benchmark")

    async def start_worker(self) -> None:
        self.worker = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        async for notification in self.listening.notifies():
            self.hit(int(notification.payload))

    async def stop_worker(self) -> None:
        self.worker.cancel()


if __name__ == "__main__":
    main(BareNotify)
