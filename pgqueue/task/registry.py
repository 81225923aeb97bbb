"""The tasks of an app, by their names."""

from __future__ import annotations

from typing import Any

from pgqueue.errors import ConfigurationError
from pgqueue.task.task import Task


class Tasks(dict[str, Task[..., Any]]):
    """Tasks by name; `aliases` gives the name of the task that each former name stands for."""

    def __init__(self) -> None:
        super().__init__()
        self.aliases: dict[str, str] = {}

    def add(self, task: Task[..., Any]) -> None:
        """Raises ConfigurationError where one of its names is another's."""
        for name in (task.name, *task.aliases):
            if (other := self.named(name)) is not None:
                whose = "" if name == task.name == other.name else f" ({other.name} and {task.name}, by their aliases)"
                raise ConfigurationError(f"two tasks are named {name}{whose}: give one of them another name")
        self[task.name] = task
        self.aliases.update(dict.fromkeys(task.aliases, task.name))

    def named(self, name: str) -> Task[..., Any] | None:
        """The task with this name or alias."""
        return self.get(self.aliases.get(name, name))

    @property
    def names(self) -> list[str]:
        """All names that jobs of these tasks can have, aliases included."""
        return sorted([*self, *self.aliases])
