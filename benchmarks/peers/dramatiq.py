from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from benchmarks.peers.contender import Contender, Payload, main
from benchmarks.peers.ledger import Ledger
from benchmarks.peers.setting import Setting

setting = Setting.read()
hit = Ledger(setting).hit
dramatiq.set_broker(RedisBroker(url=f"{setting.redis}/0"))


@dramatiq.actor(max_retries=0)
def noop(payload: dict[str, Any]) -> None:
    if pause := hit(payload["id"]):
        time.sleep(pause)


class DramatiqContender(Contender):
    uvloop = False  # Its own processes are no asyncio programs.
    unfinished = (("HLEN", "dramatiq:default.msgs"),)
    version = version("dramatiq")

    async def set_up(self) -> None:
        return None

    async def open_producer(self) -> None:
        return None

    async def enqueue(self, payload: Payload) -> None:
        noop.send(payload)

    async def enqueue_bulk(self, payloads: Sequence[Payload], due: Sequence[float] | None) -> None:
        # It has no call for many jobs.
        for number, payload in enumerate(payloads):
            if due is None:
                noop.send(payload)
            else:
                noop.send_with_options(args=(payload,), delay=max(0, round((due[number] - time.time()) * 1000)))

    async def open_worker(self) -> None:
        size = ["-p", str(self.options["processes"]), "-t", str(self.options["threads"])]
        # Not by the script: its first line names the place where it was installed.
        os.execv(sys.executable, [sys.executable, "-m", "dramatiq", *size, "benchmarks.peers.dramatiq"])

    async def start_worker(self) -> None:
        return None

    async def stop_worker(self) -> None:
        return None


if __name__ == "__main__":
    main(DramatiqContender)
