"""What open pages of the dashboard cost: `python -m benchmarks.tabs DSN [JOBS] [SECONDS]`.

One worker drains JOBS (6,000,000) no-op jobs beside a dashboard in another process. For SECONDS (20) five pages are
opened on it, each of which holds its stream and asks for what is new at each tick, as htmx does; then they are closed
for as long, and so on until nothing is left. Each time with pages is held against the mean of the times before and
after it, so that what drifts in a run counts for neither. Prints a line for each, and at the end the mean of the ratios
with its standard error, and the share of the machine's processors that the dashboard and its connections took while
pages were open; what is promised is a rate of 0.98. Whoever reads the pages here does so on the same processors, unlike
a browser.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import socket
import sys
import threading
import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

import httpx
import psutil
import psycopg

from benchmarks.drain import SCHEMA, run
from pgqueue import PgQueue
from pgqueue.web import Dashboard

PAGES = ("/", "/queues", "/jobs", "/failed", "/workers")


@dataclass(frozen=True, slots=True)
class Window:
    """A time in which pages were open, or not, in nanoseconds of the monotonic clock; what was used and drawn in it."""

    opened: bool
    began: int
    ended: int
    processor_seconds: float
    drawn: int


def serve(dsn: str, listener: socket.socket) -> None:
    import uvicorn

    app = PgQueue(dsn, schema=SCHEMA)
    config = uvicorn.Config(Dashboard(app), log_config=None, lifespan="off", timeout_graceful_shutdown=1)
    asyncio.run(uvicorn.Server(config).serve([listener]))


class Tabs:
    """Five pages that are open and closed in turns, until `stop` is called; `windows` says when."""

    def __init__(self, dsn: str, address: str, dashboard: int, seconds: float) -> None:
        self.windows: list[Window] = []
        self._dsn, self._address, self._dashboard, self._seconds = dsn, address, dashboard, seconds
        self._drawn = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._turns()))

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    async def _turns(self) -> None:
        opened = False
        async with httpx.AsyncClient(base_url=self._address, timeout=60) as client:
            while not self._stopped.is_set():
                began, used, drawn = time.monotonic_ns(), self._used(), self._drawn
                await self._look(client, PAGES if opened else ())
                used = self._used() - used
                self.windows.append(Window(opened, began, time.monotonic_ns(), used, self._drawn - drawn))
                opened = not opened

    async def _look(self, client: httpx.AsyncClient, paths: Sequence[str]) -> None:
        pages = [asyncio.create_task(self._follow(client, path)) for path in paths]
        await asyncio.sleep(self._seconds)
        for page in pages:
            page.cancel()
        await asyncio.gather(*pages, return_exceptions=True)

    async def _follow(self, client: httpx.AsyncClient, path: str) -> None:
        # As a browser opens it: whole.
        answer = await client.get(path)
        self._drawn += answer.status_code == 200
        async with client.stream("GET", "/live") as stream:
            async for line in stream.aiter_lines():
                if line == "event: tick":
                    answer = await client.get(path, headers={"HX-Request": "true"})
                    self._drawn += answer.status_code == 200

    def _used(self) -> float:
        """Processor seconds of the dashboard and its connections, where PostgreSQL runs on this machine."""
        with psycopg.connect(self._dsn) as conn:
            backends = conn.execute(
                "select pid from pg_stat_activity where application_name = 'pgqueue' and datname = current_database()"
            ).fetchall()
        used = 0.0
        for pid in (self._dashboard, *(pid for (pid,) in backends)):
            try:
                times = psutil.Process(pid).cpu_times()
            except psutil.NoSuchProcess:
                continue
            used += times.user + times.system
        return used


@contextmanager
def tabs(dsn: str, seconds: float) -> Iterator[Tabs]:
    context = multiprocessing.get_context("fork")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"http://localhost:{listener.getsockname()[1]}"
        dashboard: Any = context.Process(target=serve, args=(dsn, listener), daemon=True)
        dashboard.start()
        found = Tabs(dsn, address, dashboard.pid, seconds)
        found.start()
        try:
            yield found
        finally:
            found.stop()
            dashboard.kill()
            dashboard.join()


def main(dsn: str, jobs: str = "6000000", seconds: str = "20") -> None:
    with tabs(dsn, float(seconds)) as shown:
        found = run("worker", dsn, int(jobs), "history")
    began = sorted(found["started"])

    def rate(window: Window) -> float:
        jobs = bisect_left(began, window.ended) - bisect_left(began, window.began)
        return jobs * 1e9 / (window.ended - window.began)

    whole = [each for each in shown.windows if found["began"] <= each.began and each.ended <= began[-1]]
    ratios, used, there = [], 0.0, 0.0
    for before, window, after in zip(whole, whole[1:], whole[2:], strict=False):
        if not window.opened:
            continue
        closed = mean([rate(before), rate(after)])
        ratios.append(rate(window) / closed)
        used += window.processor_seconds
        there += (window.ended - window.began) / 1e9 * len(psutil.Process().cpu_affinity())
        said = {"closed": round(closed), "open": round(rate(window)), "drawn": window.drawn}
        print(json.dumps({**said, "ratio": round(ratios[-1], 3)}), flush=True)
    if len(ratios) < 2:
        raise SystemExit(f"{jobs} jobs are gone after {len(whole)} times of {seconds} s: give it more jobs")
    summary = {"mean_ratio": mean(ratios), "error": stdev(ratios) / len(ratios) ** 0.5, "processors": used / there}
    print(json.dumps({name: round(value, 4) for name, value in summary.items()} | {"bound": 0.98}))


if __name__ == "__main__":
    main(*sys.argv[1:])
