"""How a process is: what it says of itself, and what several say together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Health:
    """Reasons, as sentences without an end; none where all is well.

    `hung`: why it should be started anew. `starting`: what it still waits for. `unready`: why it does no work now.
    """

    hung: tuple[str, ...] = ()
    starting: tuple[str, ...] = ()
    unready: tuple[str, ...] = ()


def together(processes: Mapping[int, Health]) -> Health:
    """Of several processes: as well as the one that is worst."""
    return Health(
        tuple(_numbered((n, one.hung) for n, one in processes.items())),
        tuple(_numbered((n, one.starting) for n, one in processes.items())),
        tuple(_numbered((n, one.unready) for n, one in processes.items())),
    )


def _numbered(reasons: Iterable[tuple[int, tuple[str, ...]]]) -> Iterable[str]:
    for number, of_one in reasons:
        for reason in of_one:
            yield f"process {number}: {reason}"
