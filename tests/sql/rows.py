"""Jobs, claims and workers in a real database, made by the statements that the product runs."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, TypeVar
from uuid import UUID, uuid4

import psycopg
from psycopg.rows import dict_row

from pgqueue.database import Database, afetch, arun, fetch, run
from pgqueue.job import ClaimedJob, Job, NewJob
from pgqueue.outcome import AttemptError, Completed, Failed, Outcome, Retry, Snooze
from pgqueue.queries import claiming, enqueuing, finishing, fleet, rescuing
from pgqueue.queries.claiming import Scan
from pgqueue.queries.finishing import Finished
from pgqueue.queries.rescuing import Orphan
from pgqueue.queries.statement import Statement
from pgqueue.services.service import Runner
from pgqueue.worker.lanes import Lane

Connection = psycopg.Connection[Any]
Row = TypeVar("Row")

SCHEMA = "pgqueue"
ATTEMPTS = 25
DEADLINE = 30.0
TRANSACTIONS = 75
TRICKY = 'tab\t newline\n back\\slash \\N "quoted" {a,b} NULL %s %(x)s ä 😀'
ERROR = AttemptError("KeyError", "'x'", 'File "shop.py", line 3, in send')
OUTCOMES: dict[str, Outcome | None] = {
    "complete": Completed('{"sent": true}'),
    "retry": Retry(60.0, ERROR),
    "snooze": Snooze(60.0),
    "fail": Failed("fail_job", ERROR),
    "release": None,
}
_fences = itertools.count(2**62)


def connect(dsn: str, **settings: str) -> Connection:
    """A connection in autocommit, with the settings of a worker's own."""
    # A test that waits for itself fails instead of hanging.
    options = Database(dsn).session_options("test", **{"statement_timeout": "30s", **settings})
    return psycopg.Connection.connect(dsn, autocommit=True, **options)


@contextmanager
def open_transaction(dsn: str) -> Iterator[Connection]:
    """A second session, in a transaction that is rolled back unless the test commits it."""
    with psycopg.connect(dsn) as conn:
        yield conn
        conn.rollback()


def rows(conn: Connection, query: str, **params: Any) -> list[dict[str, Any]]:
    return conn.cursor(row_factory=dict_row).execute(query, params).fetchall()


def value(conn: Connection, query: str, **params: Any) -> Any:
    [[found]] = conn.execute(query, params).fetchall()
    return found


def job_row(conn: Connection, job_id: int) -> dict[str, Any]:
    [row] = rows(conn, "select * from pgqueue.jobs where id = %(id)s", id=job_id)
    return row


def state_of(conn: Connection, job_id: int) -> str:
    """In whichever table the job is, and in only one."""
    [row] = rows(conn, "select state from pgqueue.all_jobs where id = %(id)s", id=job_id)
    return str(row["state"])


def states(conn: Connection) -> dict[str, int]:
    """How many jobs are in each state, over all tables."""
    return {
        row["state"]: row["jobs"]
        for row in rows(conn, "select state, count(*)::int as jobs from pgqueue.all_jobs group by state")
    }


def job(task: str = "send", queue: str | None = "mail", args: str = "{}", **options: Any) -> NewJob:
    return NewJob(task, args, queue, **options)


def enqueue(conn: Connection, *jobs: NewJob) -> list[Job]:
    with conn.transaction() if conn.autocommit and len(jobs) > 1 else nullcontext():
        return run(conn, enqueuing.enqueue(SCHEMA, jobs or [job()], ATTEMPTS))


def add(conn: Connection, count: int = 1, **options: Any) -> list[int]:
    """Enqueue `count` jobs that are alike; their ids."""
    return [made.id for made in enqueue(conn, *[job(**options)] * count)]


def worker(conn: Connection, *, lease: float = 3600.0, idle: Sequence[str] = (), name: str = "w") -> UUID:
    """A registered worker; with a lease below zero it is dead."""
    id_ = uuid4()
    registration = fleet.register_worker(
        SCHEMA, worker=id_, name=name, host="h", pid=1, version="0", queues={"mail": 10}, tasks=["send"], lease=lease
    )
    fetch(conn, registration)
    for queue in idle:
        fetch(conn, fleet.mark_idle(SCHEMA, id_, queue))
    return id_


def claim(
    conn: Connection,
    by: UUID | None = None,
    *,
    queue: str = "mail",
    priority: int = 0,
    mark: int = 0,
    known: int = 0,
    tasks: Sequence[str] = ("send",),
    count: int = 100,
    slots: int = 100,
    lifo: bool = False,
    fence: int | None = None,
) -> Scan:
    """One claim, under a fence of its own."""
    operation = claiming.claim(
        SCHEMA,
        queue=queue,
        priority=priority,
        mark=mark,
        known=known,
        tasks=list(tasks),
        count=count,
        slots=slots,
        fence=next(_fences) if fence is None else fence,
        worker=by or worker(conn),
        lifo=lifo,
    )
    return run(conn, operation)


def claim_one(conn: Connection, by: UUID | None = None, **options: Any) -> ClaimedJob:
    [claimed] = claim(conn, by, count=1, **options).jobs
    return claimed


def scan(conn: Connection, lane: Lane, **options: Any) -> Scan:
    """One claim from the mark of `lane`, which learns from it."""
    started_at = lane.mark
    seen = claim(conn, mark=started_at, known=lane.known, **options)
    lane.observe(seen, started_at, lifo=bool(options.get("lifo")))
    return seen


def finished(claimed: ClaimedJob, outcome: Outcome | None, **options: Any) -> Finished:
    return Finished(claimed.id, claimed.fence, claimed.task, outcome, **{"plain": claimed.plain, **options})


def finish(
    conn: Connection, claimed: ClaimedJob | Iterable[ClaimedJob], outcome: Outcome | None, **options: Any
) -> int:
    """Write one outcome for all; how many jobs were not the caller's any more."""
    jobs = [claimed] if isinstance(claimed, ClaimedJob) else claimed
    return run(conn, finishing.finish(SCHEMA, uuid4(), [finished(one, outcome, **options) for one in jobs])).stale


def rescue(conn: Connection, delay: float = 60.0, *, gathers: bool = False) -> list[Orphan]:
    """What a rescuer does in a turn: in one transaction, as it does it."""
    with conn.transaction():
        return run(conn, rescuing.rescue(SCHEMA, lambda task, attempt: delay, lambda task: gathers))


def bury(conn: Connection) -> set[UUID]:
    return {buried.id for buried in fetch(conn, rescuing.bury(SCHEMA))}


def promote(conn: Connection, *, queue: str = "mail", count: int = 500) -> tuple[int, float | None]:
    """How many became available, and the seconds until the next."""
    [found] = fetch(conn, claiming.promote(SCHEMA, queue=queue, count=count))
    return found.promoted, found.due_in


def make_due(conn: Connection, *ids: int) -> None:
    conn.execute(
        "update pgqueue.jobs set run_at = clock_timestamp() - interval '1 s' "
        "where state = 'scheduled' and id = any (%s)",
        [list(ids)],
    )


def until(happened: Callable[[], Row | None], what: str) -> Row:
    """The first truthy answer. Fails after the deadline."""
    ends = time.monotonic() + DEADLINE
    while time.monotonic() < ends:
        if found := happened():
            return found
    raise AssertionError(f"{what} did not happen within {DEADLINE:.0f} s")


def wait_for_lock(conn: Connection, blocked: Connection) -> None:
    """Until the session of `blocked` waits for a lock."""
    query = "select wait_event_type = 'Lock' from pg_stat_activity where pid = %(pid)s"
    until(lambda: value(conn, query, pid=blocked.info.backend_pid), "a wait for a lock")


def last_position(conn: Connection) -> int:
    return int(value(conn, "select last_value from pgqueue.jobs_position"))


def runner_on(conn: psycopg.AsyncConnection[Any]) -> Runner:
    """What a service runs its statements on."""
    return Runner(partial(afetch, conn), lambda operation, atomic: arun(conn, operation))


def produce(conn: psycopg.Connection[tuple[object, ...]], seed: int) -> list[int]:
    """Transactions of random length, one to three jobs each; one in eight rolls back. The ids that were committed."""
    rng = random.Random(seed)
    committed: list[int] = []
    for _ in range(TRANSACTIONS):
        made = [one.id for one in enqueue(conn, *[job()] * rng.randint(1, 3))]
        for _ in range(rng.choice((0, 0, 1, 5, 40))):
            conn.execute("select 1")
        if rng.random() < 0.125:
            conn.rollback()
        else:
            conn.commit()
            committed += made
    return committed


def notifications(conn: Connection) -> list[str]:
    """What a listening connection has been told so far, in order."""
    ending = f"end {uuid4()}"
    conn.execute("select pg_notify(%s, %s)", [SCHEMA, ending])
    told: list[str] = []
    for notification in conn.notifies(timeout=DEADLINE):
        if notification.payload == ending:
            return told
        told.append(notification.payload)
    raise AssertionError("the listener heard nothing")


def explain(conn: Connection, statement: Statement[Any]) -> dict[str, Any]:
    """The plan that this session keeps for the prepared statement. It is run once, and rolled back."""
    import re

    names = list(dict.fromkeys(re.findall(r"%\((\w+)\)s", statement.text)))
    with conn.transaction(force_rollback=True):
        conn.execute(statement.text, statement.params, prepare=True)
        prepared = value(conn, "select name from pg_prepared_statements order by prepare_time desc limit 1")
        literals = ", ".join(psycopg.sql.Literal(statement.params[name]).as_string(conn) for name in names)
        call = f'execute "{prepared}"' + (f"({literals})" if names else "")
        [[plan]] = psycopg.ClientCursor(conn).execute(f"explain (format json) {call}").fetchall()
    return plan[0]["Plan"]  # type: ignore[no-any-return]
