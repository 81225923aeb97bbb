"""Why a job is where it is, and what can be done about it: read from the tables, at the time of asking."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from typing import NamedTuple

from pgqueue.breaker import Of
from pgqueue.errors import JobNotFound
from pgqueue.job import Job
from pgqueue.queries import breakers, fleet, flows, inspecting
from pgqueue.queries.breakers import Known
from pgqueue.queries.fleet import WorkerInfo
from pgqueue.queries.flows import FlowJob
from pgqueue.queries.reading import moment
from pgqueue.queries.statement import Operation, Statement, inline
from pgqueue.wording import agreeing, counted, listed, span

COUNTED = 10_000
COUNTED_BLOCKED = 100_000
NAMED = 5


@dataclass(frozen=True, slots=True)
class Reason:
    """`code` is for programs, `text` for people; `fix` is what can be done about it, None where nothing need be."""

    code: str
    text: str
    fix: str | None = None


@dataclass(frozen=True, slots=True)
class Why:
    """A job, and why it is as it is: the reason that decides first, then what would hold it after that."""

    job: Job
    reasons: tuple[Reason, ...]


class Blocked(NamedTuple):
    """So many jobs wait for the same; `reason` is that of one of them."""

    jobs: int
    job_id: int
    reason: Reason


class Live(NamedTuple):
    """What the table of live jobs knows beyond a Job. Times in seconds from now."""

    position: int | None
    ready: int | None
    waits_for: str | None
    cancel_requested: bool
    suspicions: int
    runs_in: float
    worker: str | None
    worker_expires_in: float | None
    claimed_ago: float | None


class RowHolder(NamedTuple):
    """A transaction that holds the row of a job: its server process, what it does, and for how many seconds."""

    pid: int
    state: str | None
    lasts: float | None
    application: str | None


class GateState(NamedTuple):
    """A gate and the limit behind it. `closes_for` and `next_in` in seconds from now."""

    name: str
    scope: str
    of: str
    key: str
    taken: int
    waiting: int
    closes_for: float | None
    next_in: float | None
    concurrency: int | None
    rate: float | None
    paused: bool
    fair: bool


def why(schema: str, job_id: int) -> Operation[Why]:
    """Raises JobNotFound."""
    jobs: list[Job] = yield inspecting.job(schema, job_id)
    if not jobs:
        raise JobNotFound(
            f"there is no job {job_id}: it never was, its transaction has not committed yet, or its history has been pruned"
        )
    job = jobs[-1]
    if job.state in ("completed", "cancelled", "failed"):
        row = (yield flows.flow_of_job(schema, job_id)) if job.reason == "child_failed" else ()
        return Why(job, tuple(_ended(job, row[0].id if row else None)))
    rows: list[Live] = yield _live(schema, job_id)
    if not rows:
        # It ended since.
        return (yield from why(schema, job_id))
    live = rows[0]
    workers: list[WorkerInfo] = [one for one in (yield fleet.list_workers(schema)) if one.alive]
    if job.state == "running":
        return Why(job, tuple(_running(job, live)))
    if live.waits_for == "children":
        return Why(job, tuple(_children(job, (yield flows.waited_for(schema, job_id, COUNTED)))))
    if live.waits_for is not None and live.ready is None:
        at_gate: list[Reason] = yield from _parked(schema, job, live.waits_for)
        return Why(job, (*at_gate, *_unserved(job, workers)))
    if job.state == "scheduled" and live.runs_in > 0:
        return Why(job, (_later(job, live), *_unserved(job, workers)))
    found = [*_unserved(job, workers)]
    found += yield from _stopped(schema, job)
    found += [_locked(one) for one in (yield _holder_of_row(schema, job_id))]
    found += yield from _crowded(schema, job, live, workers)
    return Why(job, tuple(found) or (_soon(job, live),))


def _ended(job: Job, flow: int | None) -> Iterator[Reason]:
    last = job.errors[-1] if job.errors else {}
    error = ": ".join(filter(None, (str(last.get("type") or ""), str(last.get("message") or ""))))
    if job.state == "completed":
        lost = "" if job.reason is None else f"; its result is not stored: {job.reason}"
        yield Reason("completed", f"it completed at {_at(job.ended_at)}, in attempt {job.attempt}{lost}")
    elif job.state == "cancelled":
        yield Reason("cancelled", f"it was cancelled at {_at(job.ended_at)}: {job.reason}")
    elif job.reason == "child_failed":
        mend = "" if flow is None else f"Mend the cause, then: pgqueue flows retry {flow}"
        yield Reason("child_failed", f"it failed for a job that it waited for: {last.get('message')}", mend or None)
    else:
        told = (
            f"it failed for good at {_at(job.ended_at)} ({job.reason}) after {counted(job.attempt, 'attempt')}: {error}"
        )
        yield Reason("failed", told, f"Mend the cause, then: pgqueue failed redrive {job.id}")


def _running(job: Job, live: Live) -> Iterator[Reason]:
    since = "" if live.claimed_ago is None else f", which claimed it {span(live.claimed_ago)} ago"
    if live.worker is None:
        yield Reason("worker_gone", "the worker that ran it is gone: another takes the job back within a lease")
    elif live.worker_expires_in is not None and live.worker_expires_in <= 0:
        yield Reason(
            "worker_dead",
            f"worker {live.worker}{since}, has not been heard of since its lease ended {span(-live.worker_expires_in)} ago: "
            "another takes the job back",
            "Where no other worker runs, start one.",
        )
    else:
        yield Reason("running", f"attempt {job.attempt} of {job.max_attempts} runs in worker {live.worker}{since}")
    if live.cancel_requested:
        yield Reason("cancelling", "its cancel was asked for: the task has not stopped yet, and will not be retried")


def blocked(schema: str, queue: str) -> Operation[list[Blocked]]:
    """What most of the blocked jobs of a queue wait for; looked at are COUNTED_BLOCKED blocked jobs of all queues."""
    rows = yield Statement(
        inline(
            "select waits_for, count(*), min(id) from (select queue, waits_for, id from {schema}.jobs "
            "where waits_for is not null and ready is null limit %(counted)s) p "
            "where queue = %(queue)s group by waits_for order by 2 desc, 3 limit %(named)s",
            schema,
        ),
        {"queue": queue, "counted": COUNTED_BLOCKED, "named": NAMED},
    )
    found = []
    for _, jobs, first in rows:
        try:
            one = yield from why(schema, first)
        except JobNotFound:
            continue
        found.append(Blocked(jobs, first, one.reasons[0]))
    return found


def _later(job: Job, live: Live) -> Reason:
    when = f"in {span(live.runs_in)}"
    if job.attempt and job.errors:
        last = job.errors[-1]
        return Reason(
            "retrying",
            f"attempt {job.attempt} of {job.max_attempts} failed ({last.get('type')}: {last.get('message')}): it is tried again {when}",
            f"Sooner: pgqueue jobs promote {job.id}",
        )
    if job.attempt:
        return Reason(
            "snoozed", f"it has run and asked to run again later: {when}", f"Sooner: pgqueue jobs promote {job.id}"
        )
    return Reason("scheduled", f"it is to run {when}", f"Sooner: pgqueue jobs promote {job.id}")


def _unserved(job: Job, workers: Sequence[WorkerInfo]) -> Iterator[Reason]:
    """What no worker does."""
    serving = [one for one in workers if job.queue in one.queues]
    if not workers:
        yield Reason("no_worker", "no worker is alive", f"Start one: pgqueue worker -q {job.queue}")
    elif not serving:
        queues = sorted({queue for one in workers for queue in one.queues})
        close = get_close_matches(job.queue, queues, 1)
        meant = f" (did the enqueue mean {close[0]}?)" if close else ""
        yield Reason(
            "queue_unserved",
            f"no live worker serves queue {job.queue}{meant}: they serve {listed(queues)}",
            f"Start one: pgqueue worker -q {job.queue}",
        )
        if not any(job.task in one.tasks for one in workers):
            yield _unknown(job, "no live worker", workers)
    elif not any(job.task in one.tasks for one in serving):
        yield _unknown(job, f"no live worker of queue {job.queue}", serving)
    elif not any(one.state == "running" for one in serving):
        text = f"every worker of queue {job.queue} is draining or stopping"
        yield Reason("workers_stopping", text, "Start one that goes on.")


def _unknown(job: Job, who: str, workers: Sequence[WorkerInfo]) -> Reason:
    close = get_close_matches(job.task, sorted({task for one in workers for task in one.tasks}), 1)
    meant = f" (is it {close[0]} now?)" if close else ""
    fix = "Deploy the code that has it, or give the renamed task its former name as an alias."
    return Reason("task_unknown", f"{who} knows task {job.task}{meant}", fix)


def _stopped(schema: str, job: Job) -> Operation[list[Reason]]:
    """What lets nothing of its queue or task begin."""
    found: list[Reason] = []
    if (yield _is_paused(schema, job.queue)) == [True]:
        found.append(Reason("queue_paused", f"queue {job.queue} is paused", f"pgqueue queues resume {job.queue}"))
    found += yield from _open_breakers(schema, job)
    names = (f"queue:{job.queue}", f"task:{job.task}")
    for gate in (yield _gates(schema, names)):
        found += _closed(gate)
        if gate.scope == "queue":
            found += _full(gate)
    return found


def _open_breakers(schema: str, job: Job) -> Operation[list[Reason]]:
    of = [Of("queue", job.queue), Of("task", job.task)]
    open_ones: list[Known] = [known for known in (yield breakers.read(schema, of)) if known.state != "closed"]
    return [
        Reason(
            "breaker_open",
            f"the circuit breaker of {known.of} is {known.state.replace('_', ' ')}: {known.reason}",
            f"Mend the cause, or: pgqueue breakers close --{known.of.scope} {known.of.name}",
        )
        for known in open_ones
    ]


def _parked(schema: str, job: Job, waits_for: str) -> Operation[list[Reason]]:
    """It waits at a gate: a limit, a serial key."""
    found = yield from _open_breakers(schema, job)
    for gate in (yield _gates(schema, (waits_for,))):
        if gate.scope == "serial":
            found += yield from _behind(schema, job, gate)
        else:
            found += [*_closed(gate), *_full(gate)]
    return found or [Reason("let_go", "what it waited for has let it go, or does so within a second")]


def _behind(schema: str, job: Job, gate: GateState) -> Operation[list[Reason]]:
    holders = yield _holders(schema, gate.name)
    for job_id, state in holders:
        if state == "failed":
            return [
                Reason(
                    "serial_halted",
                    f"job {job_id} of its serial key {job.serial_key} failed for good, and the key is halted until that is settled",
                    f"pgqueue failed redrive {job_id}, or pgqueue failed purge {job_id}",
                )
            ]
        ran = "waits for its retry" if state == "scheduled" else f"is {state}"
        told = f"job {job_id} of its serial key {job.serial_key} {ran}: one of a key runs at a time, in order"
        return [Reason("serial_key", told, f"To look at that one: pgqueue why {job_id}")]
    return _closed(gate)


def _closed(gate: GateState) -> list[Reason]:
    what = f"{gate.scope} {gate.of}" + (f" for {_value(gate)}" if gate.key else "")
    if gate.paused or (gate.closes_for is not None and gate.closes_for > COUNTED * 86_400):
        which = f"--{gate.scope} {gate.of}" + (f" --key '{gate.key}' --value '{_value(gate)}'" if gate.key else "")
        if gate.scope == "serial":
            serial_key = gate.name.removeprefix(f"serial:{gate.of}:")
            what, which = (
                f"serial key {serial_key} of queue {gate.of}",
                f"--queue {gate.of} --serial-key '{serial_key}'",
            )
        return [Reason("paused", f"{what} is paused", f"pgqueue limits resume {which}")]
    if gate.closes_for is not None and gate.closes_for > 0:
        told = f"nothing of {what} begins for {span(gate.closes_for)}, since somebody was told to come later"
        return [Reason("closed", told)]
    return []


def _full(gate: GateState) -> list[Reason]:
    what = f"{gate.scope} {gate.of}" + (f" for {_value(gate)}" if gate.key else "")
    found = []
    if gate.concurrency is not None and gate.taken >= gate.concurrency:
        share = "its share of the slots" if gate.fair else "as many as its limit allows"
        run, wait = agreeing(gate.taken, "runs", "run"), agreeing(gate.waiting, "waits", "wait")
        told = f"{counted(gate.taken, 'job')} of {what} {run}, {share}, and {gate.waiting:,} {wait}"
        found.append(Reason("concurrency", told))
    if gate.rate is not None and gate.next_in is not None and gate.next_in > 0:
        found.append(Reason("rate", f"the rate of {what} is used up: the next begins within {span(gate.next_in)}"))
    return found


def _value(gate: GateState) -> str:
    # scope:of:key:value, where the key may hold colons.
    return gate.name.removeprefix(f"{gate.scope}:{gate.of}:{gate.key}:")


def _children(job: Job, found: Sequence[FlowJob]) -> Iterator[Reason]:
    live = [one for one in found if one.state not in ("completed", "cancelled", "skipped", "gone", "failed")]
    failed = [one for one in found if one.state == "failed"]
    if failed and not live:
        shown = ", ".join(f"{one.job_id} ({one.task})" for one in failed[:NAMED])
        yield Reason(
            "child_failed",
            f"it waits until {counted(len(failed), 'job')} in failed_jobs, which it depends on, "
            f"{agreeing(len(failed), 'has', 'have')} completed: {shown}",
            f"Mend the cause, then: pgqueue failed redrive {' '.join(str(one.job_id) for one in failed[:NAMED])}",
        )
    elif live:
        shown = ", ".join(f"{one.job_id} ({one.task}, {one.state})" for one in live[:NAMED])
        more = f" and {len(live) - NAMED:,} more" if len(live) > NAMED else ""
        yield Reason(
            "children",
            f"it waits for {counted(len(live), 'job')}: {shown}{more}",
            f"To look at the first: pgqueue why {live[0].job_id}",
        )
    else:
        yield Reason("settling", "all that it waited for has ended: it goes on, or ends, within a second")


def _locked(holder: RowHolder) -> Reason:
    who = f" ({holder.application})" if holder.application else ""
    lasts = "" if holder.lasts is None else f", open for {span(holder.lasts)}"
    return Reason(
        "locked",
        f"another transaction holds its row: server process {holder.pid}{who}, {holder.state or 'unknown'}{lasts}",
        f"Where nobody needs it: select pg_terminate_backend({holder.pid})",
    )


def _crowded(schema: str, job: Job, live: Live, workers: Sequence[WorkerInfo]) -> Operation[list[Reason]]:
    """Who comes first, and whether anybody has a slot."""
    serving = [one for one in workers if job.queue in one.queues and job.task in one.tasks]
    if not serving or job.state != "available":
        return []
    found = []
    [(ahead, running)] = yield _before(schema, job, live)
    slots = sum(one.queues[job.queue] for one in serving)
    if running >= slots:
        found.append(
            Reason(
                "busy",
                f"{counted(running, 'job')} of queue {job.queue} {agreeing(running, 'runs', 'run')} in "
                f"{counted(slots, 'slot')} of {counted(len(serving), 'worker')}",
                "Give the workers more slots, or start another.",
            )
        )
    if ahead:
        many = f"{COUNTED:,} jobs or more" if ahead >= COUNTED else counted(ahead, "job")
        come = agreeing(ahead, "comes", "come")
        told = f"{many} of the queue {come} before it, by priority {job.priority} and by order"
        found.append(Reason("line", told))
    if live.suspicions > 1:
        told = f"{live.suspicions} workers died while it ran: it runs alone next, when no other job of its worker does"
        found.append(Reason("suspect", told))
    return found


def _soon(job: Job, live: Live) -> Reason:
    if job.state == "scheduled":
        return Reason("due", f"its time came {span(-live.runs_in)} ago: a worker takes it up within a second")
    return Reason("soon", "nothing holds it: a worker takes it within a second. Ask again")


def _live(schema: str, job_id: int) -> Statement[Live]:
    return Statement(
        inline(
            "select j.position, j.ready, j.waits_for, j.cancel_requested, j.suspicions, "
            f"extract(epoch from {moment('j.run_at')} - clock_timestamp())::float8, "
            "case when w.id is not null then format('%%s on %%s (pid %%s)', w.name, w.host, w.pid) end, "
            "extract(epoch from w.expires_at - clock_timestamp())::float8, "
            "extract(epoch from clock_timestamp() - c.claimed_at)::float8 "
            "from {schema}.jobs j left join {schema}.claims c on c.id = j.claim_id "
            "left join {schema}.workers w on w.id = c.worker_id where j.id = %(id)s",
            schema,
        ),
        {"id": job_id},
        Live._make,
    )


def _holder_of_row(schema: str, job_id: int) -> Statement[RowHolder]:
    return Statement(
        inline(
            "select l.pid, a.state, extract(epoch from clock_timestamp() - a.xact_start)::float8, a.application_name "
            "from {schema}.jobs j join pg_locks l on l.locktype = 'transactionid' and l.granted and l.transactionid = j.xmax "
            "left join pg_stat_activity a on a.pid = l.pid where j.id = %(id)s",
            schema,
        ),
        {"id": job_id},
        RowHolder._make,
    )


def _is_paused(schema: str, queue: str) -> Statement[bool]:
    return Statement(
        inline("select paused from {schema}.queues where name = %(queue)s", schema),
        {"queue": queue},
        lambda row: row[0],
    )


def _gates(schema: str, names: Sequence[str]) -> Statement[GateState]:
    return Statement(
        inline(
            "select g.name, g.scope, g.of, g.key, g.taken, g.waiting, "
            "case when g.closed_until = 'infinity' then 'infinity'::float8 "
            "else extract(epoch from g.closed_until - clock_timestamp())::float8 end, "
            "extract(epoch from g.next_at - clock_timestamp())::float8 - (coalesce(l.burst, 1) - 1) / l.rate, "
            "case when g.scope = 'serial' then 1 else l.concurrency end, l.rate, coalesce(l.paused, false), coalesce(l.fair, false) "
            "from {schema}.gates g left join {schema}.limits l on l.scope = g.scope and l.name = g.of and l.key = g.key "
            "where g.name = any (%(names)s::text[]) order by g.name",
            schema,
        ),
        {"names": list(names)},
        GateState._make,
    )


def _holders(schema: str, gate: str) -> Statement[tuple[int, str]]:
    """Who has the place: one that runs, waits for its retry, or failed and halts the key."""
    return Statement(
        inline(
            "select id, state from {schema}.jobs where places is not null and places @> array[%(gate)s::text] "
            "union all select id, 'failed' from {schema}.failed_jobs where places is not null and places @> array[%(gate)s::text] limit 1",
            schema,
        ),
        {"gate": gate},
        lambda row: (row[0], row[1]),
    )


def _before(schema: str, job: Job, live: Live) -> Statement[tuple[int, int]]:
    """(jobs that come before it, jobs of the queue that run), each counted no further than `COUNTED`."""
    return Statement(
        inline(
            "select (select count(*) from (select from {schema}.jobs where queue = %(queue)s and position is not null "
            "and (priority, position) < (%(priority)s, %(position)s) and state = 'available' limit %(counted)s) a), "
            "(select count(*) from {schema}.jobs j where id = any (array(select unnest(c.job_ids) from {schema}.claims c "
            "where c.queue = %(queue)s)) and state = 'running')",
            schema,
        ),
        {"queue": job.queue, "priority": job.priority, "position": live.position, "counted": COUNTED},
        lambda row: (row[0], row[1]),
    )


def _at(moment_: datetime | None) -> str:
    return "an unknown time" if moment_ is None else f"{moment_:%Y-%m-%d %H:%M:%S %Z}"
