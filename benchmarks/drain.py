"""One drain, by a worker or by the bare loop."""

from __future__ import annotations

from pgqueue.bench import bare
from pgqueue.bench.ledger import balance
from pgqueue.bench.making import own_schema
from pgqueue.bench.part import Part
from pgqueue.bench.place import Place
from pgqueue.bench.produce import fill
from pgqueue.bench.work import SLOTS, Noop, Worked, claim_and_finish, drain
from pgqueue.worker import loop

SCHEMA = "pgqueue_benchmark"
MODES = ("history", "no_history")


def measure(what: str, dsn: str, jobs: int, mode: str) -> float:
    """Jobs a second of a worker, or of the bare loop. Raises Unbalanced when one was lost or ran twice."""
    found = run(what, dsn, jobs, mode)
    return jobs * 1e9 / (found["ended"] - found["began"])


def run(what: str, dsn: str, jobs: int, mode: str) -> Worked:
    """As `measure`, with the time at which each job began."""
    place = Place(dsn, SCHEMA)
    with own_schema(place):
        kept = mode == "history"
        if what == "worker":
            part = Part(place, drain, jobs=jobs, kept=kept)
        else:
            part = Part(place, claim_and_finish, jobs=jobs, kept=kept)
        with part:
            fill(place, jobs)
            with place.connect() as conn:
                conn.execute("checkpoint")
            part.begin()
            found = part.result()
        balance("drain", jobs, found["wrong"], left=place.count("jobs"))
    return found


def worker_process(dsn: str) -> None:
    """A worker of the schema until it is terminated."""
    worker = Noop(Place(dsn, SCHEMA), kept=False).app.worker(queues={bare.QUEUE: SLOTS})
    loop.run(worker.run())
