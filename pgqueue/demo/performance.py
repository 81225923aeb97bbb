"""One run of the shop: its processes, the kill half way, and how it came to its end."""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, closing
from importlib.resources import as_file, files
from pathlib import Path
from typing import Self

from pgqueue.demo.children import Child
from pgqueue.demo.outside import LOOPBACK, Outside
from pgqueue.demo.reading import Held
from pgqueue.demo.show import TITLES, ProcessState, Scene
from pgqueue.demo.watching import Watch, Website

SHOP = "pgqueue.demo.shop:app"
QUEUES = "email:4,previews:2,webhooks:8,stock:2,reports:1"
LEASE = 5
ORDERS_A_SECOND = 16
PHOTO = "photograph.jpg"
WORTH_KILLING = 3
"""Jobs that a worker should hold when it is killed, one of them an e-mail."""
KILL_WITHIN = 3.0
"""Seconds after which it is killed whatever it holds."""
PATIENCE = 30.0
"""Seconds without the end of any job after which the run is over."""
FRAME = 0.1


class Broken(Exception):
    """A process of the demo ended by itself."""


class Performance:
    """Starts the shop, kills a worker, sees the rest through. `scene` is what there is to see, `held` what was hit.

    with Performance(scene, dsn, outside, folder) as performance:
        performance.open()
        performance.play()
    """

    def __init__(self, scene: Scene, dsn: str, outside: Outside, folder: Path) -> None:
        self.scene = scene
        self.held: Held | None = None
        self._folder = folder
        self._environ = environment(dsn, outside, folder)
        self._children: list[Child] = []
        self._rescued = False
        self._kill_by: float | None = None
        self._began = time.monotonic()
        self._undo = ExitStack()
        self._watch = self._undo.enter_context(closing(Watch(dsn)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def open(self) -> None:
        """Start the website and, when the shop has its tables, two workers and the scheduler. Raises Broken."""
        (self._folder / "previews").mkdir()
        with as_file(files("textual_image") / "gracehopper.jpg") as photograph:
            shutil.copyfile(photograph, self._folder / PHOTO)
        orders, seed = str(self.scene.orders), str(self.scene.seed)
        customers = ["pgqueue.demo.customers", orders, seed, str(ORDERS_A_SECOND), PHOTO]
        self.website = Website(self._start("website", customers, read_output=True))
        self.website.open()
        worker = ["pgqueue", "worker", SHOP, "-q", QUEUES, "--lease", str(LEASE), "--name"]
        self._survivor, self._victim = (self._start(name, [*worker, name]) for name in ("worker-1", "worker-2"))
        self._scheduler = self._start("scheduler", ["pgqueue", "scheduler", SHOP])

    def play(self) -> None:
        """Watch until every job has ended, or none ends any more. Raises Broken."""
        self._follow(lambda: self.website.closed and self._victim.killed and not self._left(with_reports=False))
        self._scheduler.stop()
        self._follow(lambda: not self._left(with_reports=True))
        self._survivor.stop()
        self._look()

    def _start(self, name: str, command: list[str], *, read_output: bool = False) -> Child:
        child = self._undo.enter_context(Child(name, command, self._environ, self._folder, read_output=read_output))
        self._children.append(child)
        return child

    def _follow(self, over: Callable[[], bool]) -> None:
        ended, moved = 0, time.monotonic()
        self._look()
        while not over():
            self._refuse_broken()
            self._kill_half_way()
            self._note_rescue()
            now = sum(counts.done + counts.failed for counts in self.scene.tasks.values())
            if now != ended:
                ended, moved = now, time.monotonic()
            elif time.monotonic() - moved > PATIENCE:
                self._say(f"[red]no job has ended for {PATIENCE:.0f} s: giving up[/]")
                return
            time.sleep(FRAME)
            self._look()

    def _look(self) -> None:
        scene, told, holding = self.scene, self.website.told, self._watch.holding()
        scene.seconds = time.monotonic() - self._began
        scene.placed, scene.declined = len(told.placed), len(told.declined)
        scene.tasks = self._watch.counts()
        scene.report = self._watch.last_report()
        workers = (self._survivor, self._victim)
        scene.processes = [
            ProcessState(child.name, child.pid, child.state, holding.get(child.name, 0) if child in workers else None)
            for child in self._children
        ]

    def _left(self, *, with_reports: bool) -> int:
        return sum(
            counts.running + counts.waiting + counts.retrying
            for task, counts in self.scene.tasks.items()
            if with_reports or task != "report_sales"
        )

    def _kill_half_way(self) -> None:
        worker = self._watch.worker(self._victim.name)
        if self._victim.killed or worker is None or 2 * (self.scene.placed + self.scene.declined) < self.scene.orders:
            return
        self._kill_by = self._kill_by or time.monotonic() + KILL_WITHIN
        tasks = [task for task, _ in self._watch.held_by(worker).jobs.values()]
        if time.monotonic() < self._kill_by and not ("send_confirmation" in tasks and len(tasks) >= WORTH_KILLING):
            return
        self._victim.kill()
        self.held = self._watch.held_by(worker)
        held = Counter(TITLES[task] for task, _ in self.held.jobs.values())
        what = ", ".join(f"{title} {count}" for title, count in held.items()) or "nothing"
        self._say(f"[bold red]kill -9[/] of {self._victim.name}; it held {what}")

    def _note_rescue(self) -> None:
        if self.held is None or self._rescued or self._watch.held_by(self.held.worker).jobs:
            return
        self._rescued = True
        self._say(f"{self._victim.name}'s lease has ended: {self._survivor.name} has rescued its jobs")

    def _refuse_broken(self) -> None:
        for child in self._children:
            if child.broken:
                raise Broken(f"{child.name} ended by itself with exit code {child.exit_code}:\n{child.last_words()}")

    def _say(self, what: str) -> None:
        self.scene.events.append((time.monotonic() - self._began, what))


def environment(dsn: str, outside: Outside, folder: Path) -> dict[str, str]:
    """What the shop is told; not the user's own settings of pgqueue and PostgreSQL, nor of a proxy."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG") and name != "DATABASE_URL"}
    local = dict.fromkeys(("NO_PROXY", "no_proxy"), LOOPBACK)
    shop = {"SHOP_MEDIA": str(folder), "SHOP_SMTP": outside.smtp, "SHOP_PRINTER": outside.http}
    return {**kept, **local, **shop, "DATABASE_URL": dsn}
