"""The tasks that are named elsewhere in the code, looked at before a worker begins."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pgqueue.alert import TOLD
from pgqueue.task import FAILED_JOB, check_called, hook_name

if TYPE_CHECKING:
    from pgqueue.app import PgQueue

logger = logging.getLogger("pgqueue.worker")


def check_hooks(app: PgQueue) -> None:
    """Raises ConfigurationError for an `on_failed`, or the `to` of an alert, by name whose task cannot be called so.

    A name that the app does not have may be another's, or mistyped: that is a warning.
    """
    for what, name, arguments in _named(app):
        known: Any = app.tasks.named(name)
        if known is not None:
            check_called(known, what, arguments)
        else:
            logger.warning("%s is %s, which is no task of this app: its jobs wait for a worker that has it", what, name)


def _named(app: PgQueue) -> Iterator[tuple[str, str, Sequence[str]]]:
    hooks = [("on_failed of the app", app.on_failed)]
    hooks += [(f"on_failed of queue {row.name}", row.on_failed) for row in app.declared_queues.values()]
    for task in app.tasks.values():
        what = f"on_failed of task {task.name}"
        hooks.append((what, hook_name(task.options.on_failed, what)))
    yield from ((what, name, FAILED_JOB) for what, name in hooks if name)
    for rule in app.declared_alerts.values():
        yield from ((f"to of alert {rule.name}", name, TOLD) for name in rule.to)
