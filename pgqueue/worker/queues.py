"""Which queues a worker serves, with how many slots: names, globs and exclusions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from pgqueue.errors import ConfigurationError
from pgqueue.names import data_name

MOST_SLOTS = 10_000


@dataclass(frozen=True, slots=True)
class QueueSpec:
    """Slots by name or glob, in the order given, and what is left out."""

    slots: Mapping[str, int]
    excluded: tuple[str, ...] = ()

    @property
    def has_globs(self) -> bool:
        return any("*" in name for name in self.slots)

    def resolve(self, known: Iterable[str]) -> dict[str, int]:
        """Slots by queue; `known` is what globs are matched against. The first spec that matches a queue counts."""
        found = {name: count for name, count in self.slots.items() if "*" not in name and not self._is_excluded(name)}
        for pattern, count in self.slots.items():
            if "*" in pattern:
                for name in sorted(known):
                    if fnmatchcase(name, pattern) and not self._is_excluded(name):
                        found.setdefault(name, count)
        return found

    def _is_excluded(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in self.excluded)


def parse_queues(specs: Mapping[str, int] | Sequence[str] | None, slots: int) -> QueueSpec | None:
    """`["email:10", "default", "-slow", "thumb*:4"]` or `{"email": 10}`; None stays None: every queue of the app.

    `slots` is for queues without a number. Raises ConfigurationError.
    """
    if specs is None:
        return None
    if isinstance(specs, str):
        specs = [specs]
    pairs = [(name, count) for name, count in specs.items()] if isinstance(specs, Mapping) else _split(specs, slots)
    included: dict[str, int] = {}
    excluded: list[str] = []
    for name, count in pairs:
        target = name.removeprefix("-")
        data_name("queue", target.replace("*", "x"))
        if name.startswith("-"):
            excluded.append(target)
        elif type(count) is not int or not 1 <= count <= MOST_SLOTS:
            raise ConfigurationError(
                f"queue {name!r} was given {count!r} slots: use a whole number from 1 to {MOST_SLOTS:,}"
            )
        else:
            included[name] = count
    return QueueSpec(included or {"*": slots}, tuple(excluded))


def _split(specs: Sequence[str], slots: int) -> list[tuple[str, int]]:
    pairs: list[tuple[str, int]] = []
    for spec in (part.strip() for text in specs for part in text.split(",")):
        if not spec:
            continue
        name, colon, number = spec.partition(":")
        if colon and not number.isdecimal():
            raise ConfigurationError(f"queue {spec!r} cannot be read: write it as name, name:slots or -name")
        pairs.append((name, int(number) if colon else slots))
    return pairs
