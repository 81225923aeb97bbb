"""A queue, deleted: its jobs in every state, its settings, limits and breaker, and what was counted for them."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from pgqueue.breaker import Of
from pgqueue.errors import QueueBusy
from pgqueue.queries import breakers, limits
from pgqueue.queries.purging import TABLES, WAITING, Purging, Steps, alone, purge
from pgqueue.queries.statement import Operation, Statement, inline, texts

AT_ONCE = 5_000


@dataclass(frozen=True, slots=True)
class Obliterated:
    """What was deleted, by state. `schedules` still enqueue into the queue, and make it anew."""

    waiting: int
    running: int
    ended: int
    failed: int
    schedules: tuple[str, ...] = ()

    @property
    def jobs(self) -> int:
        """All of them."""
        return self.waiting + self.running + self.ended + self.failed


def obliterate(schema: str, queue: str, *, force: bool) -> Generator[Operation[Any], Any, Obliterated]:
    """Steps, each short. Raises QueueBusy while jobs run, unless `force`.

    The queue is paused until all is gone, so that nothing begins meanwhile. What is enqueued from now on has higher ids,
    and stays.
    """
    if not force:
        yield from _refuse_running(schema, queue)
    was_paused = yield alone(_is_paused(schema, queue))
    yield _pause(schema, queue, True)
    if not force:
        # A claim that was under way did not see the pause.
        try:
            yield from _refuse_running(schema, queue)
        except QueueBusy:
            if not was_paused:
                yield _pause(schema, queue, False)
            raise
    up_to = yield alone(_last_id(schema))
    running = 0
    if force:
        running = yield from purge(schema, Purging("jobs", ("running",), queue, up_to=up_to))
    waiting = yield from purge(schema, Purging("jobs", WAITING, queue, up_to=up_to))
    if force:
        # What was being claimed, or given back, when it was looked for.
        running += yield from purge(schema, Purging("jobs", (*WAITING, "running"), queue, up_to=up_to))
    else:
        yield from _refuse_running(schema, queue, began=True)
    ended = yield from purge(schema, Purging("completed_jobs", TABLES["completed_jobs"][0], queue, up_to=up_to))
    failed = yield from purge(schema, Purging("failed_jobs", ("failed",), queue, up_to=up_to))
    yield from _until_none(_keys(schema, queue))
    yield from _until_none(_gates(schema, queue))
    schedules = yield alone(_schedules(schema, queue))
    yield _settings(schema, queue)
    return Obliterated(waiting, running, ended, failed, tuple(schedules))


def _refuse_running(schema: str, queue: str, *, began: bool = False) -> Steps:
    count = yield alone(running(schema, queue))
    if count:
        jobs = f"{count:,} job{' of it runs' if count == 1 else 's of it run'}"
        why = ", claimed just before it was paused, which it still is" if began else ""
        raise QueueBusy(
            f"queue {queue} is not obliterated: {jobs}{why}. Pause it and wait until they have ended, or say force: "
            "then they are deleted too, and what they come to is not written"
        )


def running(schema: str, queue: str) -> Statement[int]:
    """How many jobs of it run."""
    return Statement(
        inline(
            "select count(*) from {schema}.claims c join {schema}.jobs j on j.id = any (c.job_ids) and j.claim_id = c.id "
            "where c.queue = %(queue)s",
            schema,
        ),
        {"queue": queue},
        lambda row: row[0],
    )


def _is_paused(schema: str, queue: str) -> Statement[bool]:
    return Statement(
        inline("select exists (select from {schema}.queues where name = %(queue)s and paused)", schema),
        {"queue": queue},
        lambda row: row[0],
    )


def _pause(schema: str, queue: str, paused: bool) -> Operation[None]:
    yield limits.set_paused(schema, paused, queue=queue)


def _last_id(schema: str) -> Statement[int]:
    return Statement(inline("select last_value from {schema}.jobs_id_seq", schema), {}, lambda row: row[0])


def _until_none(step: Any) -> Steps:
    while (yield step()) == AT_ONCE:
        pass


def _keys(schema: str, queue: str) -> Any:
    """Keys that were used for a time or for good."""

    def step() -> Operation[int]:
        rows = yield Statement(
            inline(
                "delete from {schema}.used_keys where (key, queue) in (select key, queue from {schema}.used_keys "
                "where queue = %(queue)s limit %(count)s for update skip locked) returning 1",
                schema,
            ),
            {"queue": queue, "count": AT_ONCE},
        )
        return len(rows)

    return step


def _gates(schema: str, queue: str) -> Any:
    """Those of its limits and serial keys, but where a job that came since is parked."""

    def step() -> Operation[int]:
        rows = yield Statement(
            inline(
                "select name from {schema}.gates g where of = %(queue)s and scope in ('queue', 'serial') "
                "and not exists (select from {schema}.jobs where waits_for = g.name) "
                "order by name limit %(count)s for update",
                schema,
            ),
            {"queue": queue, "count": AT_ONCE},
        )
        # Looked at again, now that nobody can park there.
        [(gone,)] = yield Statement(
            inline(
                "with gone as (delete from {schema}.gates g where name = any (%(names)s::text[]) "
                "and not exists (select from {schema}.jobs where waits_for = g.name) returning name), "
                "freed as (delete from {schema}.freed_places where gate = any (array(select name from gone))) "
                "select count(*)::int from gone",
                schema,
            ),
            {"names": texts(name for (name,) in rows)},
        )
        return int(gone)

    return step


def _schedules(schema: str, queue: str) -> Statement[list[str]]:
    return Statement(
        inline(
            "select coalesce(array_agg(s.name order by s.name), '{{}}') from {schema}.schedules s "
            "left join {schema}.tasks t on t.name = s.task "
            "where s.enabled and coalesce(s.queue, t.queue, 'default') = %(queue)s",
            schema,
        ),
        {"queue": queue},
        lambda row: row[0],
    )


def _settings(schema: str, queue: str) -> Operation[None]:
    """Its limits, its breaker, its marks; last its row, which has it paused."""
    yield breakers.remove(schema, Of("queue", queue))
    for what in ("limits where scope = 'queue' and name", "lanes where queue", "queues where name"):
        yield Statement(inline(f"delete from {{schema}}.{what} = %(queue)s returning 1", schema), {"queue": queue})
    yield limits.set_paused(schema, False, queue=queue)
    yield Statement("select pg_notify(%(channel)s, 'limits')", {"channel": schema})
