"""Taking back the jobs of dead workers: their finish, written by another, fenced by the claims that they held."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import NamedTuple
from uuid import UUID

from pgqueue.errors import ProcessCrashed
from pgqueue.outcome import Outcome, decide
from pgqueue.queries import alerting, breakers, claiming, gates, journaling
from pgqueue.queries.finishing import Finished, finish, lock_claimed
from pgqueue.queries.statement import Operation, Statement, text

LOST = "worker {worker} died, or lost its lease, while it had this job{others}: it runs again as the same attempt"
NOBODY = UUID(int=0)
"""Holds what a rescue had to leave of a worker's several jobs: found alone by the next one, they are not to blame."""


class Buried(NamedTuple):
    """A worker that is no more; as text `host:pid (name, start of its id)`."""

    id: UUID
    name: str
    host: str
    pid: int

    def __str__(self) -> str:
        place, short = f"{self.host}:{self.pid}", str(self.id)[:8]
        return f"{place} ({short})" if self.name == place else f"{place} ({self.name}, {short})"


class Orphan(NamedTuple):
    """A job of a dead worker, claimed `held_for` seconds ago; `job_id` is None where the claim has nothing left.

    `worker` is what people call the worker: its id where its row had gone before. `outcome` is what the job came to
    where the crash was blamed on it.
    """

    worker_id: UUID
    fence: int
    queue: str
    job_id: int | None
    task: str
    attempt: int
    max_attempts: int
    crashes: int
    suspicions: int
    held_for: float
    worker: str = ""
    outcome: Outcome | None = None


def bury(schema: str) -> Statement[Buried]:
    return Statement(text("bury", schema), {}, lambda row: Buried(*row))


def orphans(schema: str, buried: Mapping[UUID, Buried] | None = None) -> Statement[Orphan]:
    """`buried` gives the names of workers whose rows have just gone."""
    names = buried or {}
    return Statement(
        text("orphans", schema), {}, lambda row: Orphan._make((*row, str(names.get(row[0], row[0])), None))
    )


def rescue(
    schema: str, delay: Callable[[str, int], float], gathers: Callable[[str], bool] = lambda task: False
) -> Operation[list[Orphan]]:
    """Bury the workers whose lease has ended; give back, retry or dead-letter what those without a row still hold.

    Returns those jobs.

    A worker that died with one job was running that one alone: the crash is blamed on it, and uses the attempt. Among
    several nobody can tell, so each is given back with its attempt; but a job that must not repeat is never run again.
    Runs in one transaction, so that no second pass sees half of a worker's jobs.
    `delay(task, attempt)` is the backoff of a blamed job in seconds. A job of a task that `gathers` may have waited for
    its chunk: it is blamed only when it was a suspect, which does not wait.
    """
    # In the same transaction: who sees that a worker has gone would not know its name.
    buried: list[Buried] = yield bury(schema)
    rows: list[Orphan] = yield orphans(schema, {worker.id: worker for worker in buried})
    held = [row for row in rows if row.job_id is not None]
    # A row that somebody has locked waits for the next pass; it must not stall the others.
    free = set((yield lock_claimed(schema, [Finished(row.job_id or 0, row.fence, row.task, None) for row in held])))
    alone = {
        worker for worker, count in Counter(row.worker_id for row in held).items() if count == 1 and worker != NOBODY
    }
    given_back: list[Orphan] = []
    ended: list[tuple[Finished, str]] = []
    for row in (row for row in held if row.job_id in free):
        had_begun = row.suspicions >= 2 or row.crashes >= 1 or not gathers(row.task)
        if (row.worker_id in alone and had_begun) or row.max_attempts == 1:
            error = ProcessCrashed(f"worker {row.worker} died while it ran this job")
            outcome = decide(
                error,
                attempt=row.attempt,
                max_attempts=row.max_attempts,
                crashes=row.crashes,
                delay=lambda attempt, task=row.task: delay(task, attempt),  # type: ignore[misc]
            )
            # When it began nobody knows but the dead: it was claimed just before.
            crashed = Finished(row.job_id or 0, row.fence, row.task, outcome, row.held_for, limited=True)
            ended.append((crashed, row.queue))
        else:
            given_back.append(row)
    if ended:
        yield from finish(schema, None, (yield from breakers.failed_against(schema, ended)))
    if given_back:
        ids, fences = [row.job_id or 0 for row in given_back], [row.fence for row in given_back]
        places = dict((yield gates.places_of(schema, ids, fences)))
        back = yield claiming.release(schema, ids, fences, suspected=True)
        went = {id_ for (id_,) in back}
        # Else nobody would see that it may have begun before.
        lines = []
        for row in given_back:
            others = "" if row.worker_id in alone else " among others"
            lines.append((row.job_id or 0, row.attempt, LOST.format(worker=row.worker, others=others)))
        yield journaling.note(schema, [line for line in lines if line[0] in went])
        rest = [Finished(row.job_id or 0, row.fence, row.task, None) for row in given_back if row.job_id not in went]
        if rest:
            yield from finish(schema, None, rest)
        yield from gates.free_held(schema, places, ids, {})
    left = {row.fence for row in held if row.job_id not in free and row.worker_id not in alone}
    if left:
        yield claiming.give_claims_to(schema, NOBODY, sorted(left))
    if rows:
        yield claiming.drop_claims(schema, sorted({row.fence for row in rows}))
    rescued = [row for row in held if row.job_id in free]
    if rescued:
        counts = Counter((row.worker_id, row.queue) for row in rescued)
        yield alerting.record_rescues(schema, [(*of, jobs) for of, jobs in counts.items()])
    outcomes = {one.id: one.outcome for one, _ in ended}
    return [row._replace(outcome=outcomes.get(row.job_id or 0)) for row in rescued]
