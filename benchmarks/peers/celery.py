from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from celery import Celery

from benchmarks.peers.contender import Contender, Payload, main
from benchmarks.peers.ledger import Ledger
from benchmarks.peers.setting import Setting

setting = Setting.read()
hit = Ledger(setting).hit
app = Celery("benchmarks.peers.celery", broker=f"{setting.redis}/0")
app.conf.update(
    task_ignore_result=True,
    worker_prefetch_multiplier=setting.options.get("prefetch", 4),
    worker_send_task_events=False,
    broker_connection_retry_on_startup=True,
)


@app.task(name="noop")
def noop(payload: dict[str, Any]) -> None:
    if pause := hit(payload["id"]):
        time.sleep(pause)


class CeleryContender(Contender):
    uvloop = False  # Its own processes are no asyncio programs.
    unfinished = (("LLEN", "celery"), ("HLEN", "unacked"))
    version = version("celery")

    async def set_up(self) -> None:
        return None

    async def open_producer(self) -> None:
        app.connection_for_write().ensure_connection()

    async def enqueue(self, payload: Payload) -> None:
        noop.delay(payload)

    async def enqueue_bulk(self, payloads: Sequence[Payload], due: Sequence[float] | None) -> None:
        # It has no call for many jobs: one producer is shared.
        with app.producer_or_acquire() as producer:
            for number, payload in enumerate(payloads):
                wait = {} if due is None else {"countdown": due[number] - time.time()}
                noop.apply_async((payload,), producer=producer, **wait)

    async def open_worker(self) -> None:
        pool = ["-P", self.options["pool"], "-c", str(self.options["concurrency"])]
        quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "WARNING"]
        # Not by the script: its first line names the place where it was installed.
        os.execv(
            sys.executable, [sys.executable, "-m", "celery", "-A", "benchmarks.peers.celery", "worker", *pool, *quiet]
        )

    async def start_worker(self) -> None:
        return None

    async def stop_worker(self) -> None:
        return None


if __name__ == "__main__":
    main(CeleryContender)
