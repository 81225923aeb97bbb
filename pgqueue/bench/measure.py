"""The measurements: pgqueue and its bare loop in turn, round by round."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from pgqueue.bench import GROUPS, SCHEMA, sides
from pgqueue.bench.figures import Latencies, Rates, Spread
from pgqueue.bench.making import own_schema
from pgqueue.bench.place import Place
from pgqueue.bench.server import Facts, has_pooler, look
from pgqueue.bench.sides import Sizes

T = TypeVar("T")

BEFORE, AFTER, NOTIFY = "from before the call", "from its end", "bare NOTIFY"


@dataclass(frozen=True, slots=True)
class Step:
    """What is measured now: the `number`th step of `of`."""

    what: str
    round: int
    number: int
    of: int


Progress = Callable[[Step], None]


@dataclass(slots=True)
class Report:
    """What was found. Latencies are those of a job's pickup and, where notifications pass, of a bare NOTIFY."""

    facts: Facts
    sizes: Sizes
    rates: list[Rates] = field(default_factory=list)
    pickup: list[Latencies] = field(default_factory=list)


def run(
    dsn: str,
    *,
    schema: str = SCHEMA,
    pooler: bool = False,
    sizes: Sizes | None = None,
    only: Sequence[str] = GROUPS,
    progress: Progress = lambda step: None,
) -> Report:
    """Measure on the server of `dsn`, in a schema that is made for this and dropped. A pooler is found by itself.

    Raises Unbalanced when a job was lost or ran twice, ConnectionFailed, ConfigurationError when the schema exists.

        run("postgresql:///shop", sizes=Sizes(jobs=1000, rounds=1), only=["drain"]).rates
    """
    sizes = sizes or Sizes()
    place = Place(dsn, schema, pooler or has_pooler(dsn))
    with own_schema(place):
        report = Report(look(place), sizes)
        chosen = [measurement for measurement in MEASUREMENTS if measurement.group in only]
        steps = _counted(progress, 2 * sizes.rounds * len(chosen))
        for measurement in chosen:
            measurement.measure(place, report, steps)
    return report


def _counted(progress: Progress, of: int) -> Callable[[str, int], None]:
    numbers = iter(range(1, of + 1))
    return lambda what, number: progress(Step(what, number, next(numbers), of))


@dataclass(frozen=True, slots=True)
class Throughput:
    """Jobs a second, of pgqueue and of a bare loop."""

    group: str
    name: str
    against: str
    pgqueue: Callable[[Place, Sizes], float]
    bare: Callable[[Place, Sizes], float]

    def measure(self, place: Place, report: Report, step: Callable[[str, int], None]) -> None:
        own: list[float] = []
        bare: list[float] = []
        both = (self.name, self.pgqueue, own), (f"{self.name}, bare loop", self.bare, bare)
        for number in range(1, report.sizes.rounds + 1):
            for what, side, found in _in_turn(number, both):
                step(what, number)
                found.append(side(place, report.sizes))
        report.rates.append(Rates(self.name, self.against, Spread(tuple(own)), Spread(tuple(bare))))


@dataclass(frozen=True, slots=True)
class Pickup:
    """Latencies, of pgqueue and of a bare NOTIFY, which no pooler lets through."""

    group: str = "pickup"

    def measure(self, place: Place, report: Report, step: Callable[[str, int], None]) -> None:
        before, after, bare = [], [], []
        for number in range(1, report.sizes.rounds + 1):
            for side in _in_turn(number, ("pickup", NOTIFY)):
                step(side, number)
                if side == "pickup":
                    from_before, from_after = sides.pick_up(place, report.sizes)
                    before.append(from_before)
                    after.append(from_after)
                elif not place.pooler:
                    bare.append(sides.notify(place, report.sizes))
        report.pickup = [Latencies.of(BEFORE, before), Latencies.of(AFTER, after)]
        if bare:
            report.pickup.append(Latencies.of(NOTIFY, bare))


def _in_turn(number: int, both: Sequence[T]) -> Sequence[T]:
    """Whoever was first in the last round is last in this one."""
    return both if number % 2 else both[::-1]


MEASUREMENTS: tuple[Throughput | Pickup, ...] = (
    Throughput("enqueue", "enqueue one", "INSERT, COMMIT", sides.enqueue_one, sides.insert_one),
    Throughput("enqueue", "enqueue many", "COPY", sides.enqueue_many, sides.copy_many),
    Throughput(
        "drain",
        "drain",
        "claim, finish",
        partial(sides.drain, kept=True),
        partial(sides.claim_and_finish, kept=True),
    ),
    Throughput(
        "drain",
        "drain, no history",
        "claim, finish",
        partial(sides.drain, kept=False),
        partial(sides.claim_and_finish, kept=False),
    ),
    Throughput("mixed", "enqueue and run", "INSERT, claim, finish", sides.enqueue_and_run, sides.insert_and_finish),
    Pickup(),
)
