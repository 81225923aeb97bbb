"""Limits: seen and changed while everything runs."""

from __future__ import annotations

import builtins
from dataclasses import dataclass
from typing import Any

from pgqueue.client.part import Part
from pgqueue.errors import ArgumentError
from pgqueue.limit import Limit
from pgqueue.names import data_name
from pgqueue.queries import limits
from pgqueue.queries.breakers import KEY
from pgqueue.queries.limits import HaltedKey, LimitRow, PausedKey, Scope
from pgqueue.template import as_text


@dataclass(frozen=True, slots=True)
class Limits(Part):
    """`app.limits`: how many jobs of a queue or a task may run at once, and how often they may begin.

    A change holds on every worker from its next claim on, and until the code declares something else than it did.
    """

    def list(self) -> builtins.list[LimitRow]:
        """By scope (queue, task) and name."""
        return self.database.fetch(limits.list_limits(self.schema))

    def halted(self) -> builtins.list[HaltedKey]:
        """Serial keys of which nothing runs since a job failed (`halt_on_failed`), the longest first.

        for key in app.limits.halted():
            app.failed.redrive([key.job_id])
        """
        return self.database.fetch(limits.halted(self.schema))

    def paused(self) -> builtins.list[PausedKey]:
        """Values of keys, and serial keys, that are paused: each goes on when it is resumed.

        for one in app.limits.paused():
            print(one.scope, one.name, one.key, one.value, one.blocked)
        """
        return self.database.fetch(limits.paused(self.schema))

    def set(self, limit: Limit, *, queue: str | None = None, task: str | None = None) -> None:
        """Make a limit of a queue or a task, or change the one with the same key. Raises ArgumentError.

        app.limits.set(Limit(rate="100/min", key="{customer_id}"), task="shop.tasks.charge")
        """
        given: object = limit
        if not isinstance(given, Limit):
            raise ArgumentError(f"limits.set was given {given!r}: give a Limit, such as Limit(concurrency=2)")
        if limit.fair and task is not None:
            raise ArgumentError(
                f"task {task}: Limit(fair=True) shares the slots of a queue: give queue=… instead of task=…"
            )
        self.database.fetch(limits.change(self.schema, *_of(queue, task), limit))

    def remove(self, *, queue: str | None = None, task: str | None = None, key: str | None = None) -> bool:
        """Lift a limit, and let its jobs go; False where there was none. Code that declares it makes it again when a
        worker starts. Raises ArgumentError.

        app.limits.remove(queue="email")
        """
        if key == KEY:
            raise ArgumentError(
                f"key={key!r} is that of a circuit breaker: use app.breakers.close or app.breakers.remove"
            )
        [removed] = self.database.fetch(limits.remove(self.schema, *_of(queue, task), key or ""))
        return removed

    def pause(
        self,
        *,
        queue: str | None = None,
        task: str | None = None,
        key: str | None = None,
        value: Any = None,
        serial_key: str | None = None,
    ) -> None:
        """Let nothing of a task begin, of one `value` of a key, or of a queue's serial key; what runs goes on.

        Raises ArgumentError. A whole queue is `app.queues[name].pause()`.

            app.limits.pause(task="shop.tasks.charge", key="{customer_id}", value=7)
        """
        self._set_paused(True, queue, task, key, value, serial_key)

    def resume(
        self,
        *,
        queue: str | None = None,
        task: str | None = None,
        key: str | None = None,
        value: Any = None,
        serial_key: str | None = None,
    ) -> bool:
        """Let it go on: as `pause`. A serial key that a failed job halts goes on with the next one.

        False where nothing was paused.
        """
        return bool(self._set_paused(False, queue, task, key, value, serial_key))

    def _set_paused(
        self, paused: bool, queue: str | None, task: str | None, key: str | None, value: Any, serial_key: str | None
    ) -> Any:
        _of(queue, task)
        if (key is None) is not (value is None):
            raise ArgumentError(f"key={key!r}, value={value!r}: give both, the template and the value, or none of them")
        [told] = self.database.fetch(
            limits.set_paused(
                self.schema,
                paused,
                queue=queue,
                task=task,
                key=key,
                value=None if value is None else as_text(value),
                serial_key=serial_key,
            )
        )
        return told


def _of(queue: str | None, task: str | None) -> tuple[Scope, str]:
    if (queue is None) is (task is None):
        raise ArgumentError(f"queue={queue!r}, task={task!r}: give one of the two")
    return ("queue", data_name("queue", queue)) if queue is not None else ("task", data_name("task", str(task)))
