"""What runs came to, minute by minute: added by workers, read for charts.

These are figures, not a ledger: what a worker had counted and not yet written when it was killed is lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal

from pgqueue.histogram import BUCKETS, bucket, percentile
from pgqueue.queries.statement import Statement, array, inline, source, text, texts

Lane = tuple[str, str]
"""A queue and a task."""
KEEP_MINUTES = timedelta(days=3)
# What is longer ago is kept by so many seconds, not by the minute: charts of it have no smaller steps.
PACKS = ((timedelta(minutes=70), 120), (timedelta(hours=7), 600), (timedelta(hours=25), 1800))
MINUTE = 60
OUTCOMES = ("completed", "failed", "retried", "snoozed", "cancelled")


class Tally:
    """What has been counted of one task in one queue; `runs` and `waits` are histograms as pgqueue.histogram has them.

    Of many runs that ended together some were timed, and stand for the others.
    """

    __slots__ = ("outcomes", "run_seconds", "runs", "wait_seconds", "waits")

    def __init__(self) -> None:
        self.outcomes = dict.fromkeys(OUTCOMES, 0)
        self.runs = [0] * BUCKETS
        self.waits = [0] * BUCKETS
        self.run_seconds = self.wait_seconds = 0.0

    def time(self, ran: float, waited: float, times: int = 1) -> None:
        """Count runs of so many seconds, and the waits before them."""
        self.runs[bucket(ran)] += times
        self.waits[bucket(waited)] += times
        self.run_seconds += ran * times
        self.wait_seconds += waited * times

    def add(self, other: Tally) -> None:
        """Count what it has counted too."""
        for outcome, count in other.outcomes.items():
            self.outcomes[outcome] += count
        self.runs = [sum(pair) for pair in zip(self.runs, other.runs, strict=True)]
        self.waits = [sum(pair) for pair in zip(self.waits, other.waits, strict=True)]
        self.run_seconds += other.run_seconds
        self.wait_seconds += other.wait_seconds


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Times in seconds that 50, 95 and 99 of a hundred do not exceed; None where there was none.

    Each is between half and twice the exact one. `counts` is how many there were by bucket of the histogram.
    """

    p50: float | None
    p95: float | None
    p99: float | None
    counts: Mapping[int, int] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Throughput:
    """How many runs ended in the `step` seconds from `at` on, by what they came to.

    Of the last step, which still goes on, so many `seconds` have passed.
    """

    at: datetime
    step: int
    seconds: float
    completed: int
    failed: int
    retried: int
    snoozed: int
    cancelled: int


@dataclass(frozen=True, slots=True)
class Latency:
    """How long the runs took that ended in the `step` seconds from `at` on, and how long each had waited before.

    `run` is from the task's first line to its end, `wait` from when the job could run until it ran. The last step still
    goes on.
    """

    at: datetime
    step: int
    run: Percentiles
    wait: Percentiles


@dataclass(frozen=True, slots=True)
class Summary:
    """The figures of a queue or a task, called `name`, over `seconds`; `run` and `wait` as in Latency.

    `failure_rate` is the share of the jobs that failed among those that completed or failed, None where there are none;
    `per_second` is how many jobs a second completed, failed or were cancelled.
    """

    name: str
    seconds: float
    completed: int
    failed: int
    retried: int
    snoozed: int
    cancelled: int
    failure_rate: float | None
    per_second: float
    run: Percentiles
    wait: Percentiles


def add(schema: str, tallies: Mapping[Lane, Tally], ago: float) -> Statement[float]:
    """Add what was counted to the minute that it was `ago` seconds back; returns the seconds until the next minute."""
    rows = sorted(tallies.items())
    counts = {name: array(tally.outcomes[name] for _, tally in rows) for name in OUTCOMES}
    return Statement(
        text("add_minutes", schema, merge=source("merge_minutes")),
        {
            "ago": ago,
            "queues": texts(queue for (queue, _), _ in rows),
            "tasks": texts(task for (_, task), _ in rows),
            **counts,
            "runs": texts(_seen(tally.runs) for _, tally in rows),
            "waits": texts(_seen(tally.waits) for _, tally in rows),
            "run_seconds": array(tally.run_seconds for _, tally in rows),
            "wait_seconds": array(tally.wait_seconds for _, tally in rows),
        },
        lambda row: row[0],
    )


def _seen(counts: Sequence[int]) -> str:
    """The part of a histogram that is not zero, as an array literal whose subscripts are the buckets."""
    found = [number for number, count in enumerate(counts) if count]
    if not found:
        return "{}"
    first, last = found[0], found[-1]
    return f"[{first}:{last}]={array(counts[first : last + 1])}"


def pack_minutes(schema: str, apart: timedelta, step: int, after: datetime | None = None) -> Statement[datetime]:
    """Add the oldest minute after `after` that is longer ago than `apart` to its `step`; returns which, or nothing.

    A step of so many seconds is a row at its first minute, so that what is read over days is a fraction of the rows.
    """
    params = {"apart": apart, "step": step, "after": after}
    return Statement(text("pack_minutes", schema, merge=source("merge_minutes")), params, lambda row: row[0])


def forget_minutes(schema: str, keep: timedelta, count: int) -> Statement[int]:
    """Delete figures that ended longer ago than `keep`, up to so many rows, the oldest first; returns how many."""
    return Statement(
        inline(
            "with gone as (delete from {schema}.task_minutes where (minute, queue, task) in (select minute, queue, task "
            "from {schema}.task_minutes where minute < clock_timestamp() - %(keep)s::interval "
            "order by minute, queue, task limit %(count)s for update skip locked) returning 1) select count(*) from gone",
            schema,
        ),
        # A row is of as much time as its step, from its minute on.
        {"keep": keep + timedelta(seconds=PACKS[-1][1]), "count": count},
        lambda row: row[0],
    )


# One place says which rows: those of the steps, or minutes, from the one on in which `since` seconds ago lay.
_CHOSEN = """
    with span as materialized (
        select date_bin(make_interval(secs => %(step)s), clock_timestamp() - make_interval(secs => %(since)s), '2000-01-01 00:00Z') as first,
               clock_timestamp() as last),
    chosen as materialized (
        select {key} as key, m.* from span, {schema}.task_minutes m
        where m.minute >= span.first and (%(queue)s::text is null or m.queue = %(queue)s) and (%(task)s::text is null or m.task = %(task)s))
"""
_AT = "date_bin(make_interval(secs => %(step)s), m.minute, '2000-01-01 00:00Z')"
_STEPS = "(select generate_series(first, last, make_interval(secs => %(step)s)) from span) s (key)"
_COUNTED = ", counted as (select key, " + ", ".join(f"sum({name})::bigint as {name}" for name in OUTCOMES)
_COUNTED += " from chosen group by key)"


def _timed(name: Literal["runs", "waits"]) -> str:
    return (
        f", {name} as (select key, array_agg(n order by n) as buckets, array_agg(times order by n) as times from ("
        f"select c.key, n, sum(c.{name}[n])::bigint as times from chosen c cross join lateral generate_subscripts(c.{name}, 1) n "
        f"group by c.key, n having sum(c.{name}[n]) > 0) t group by key)"
    )


_TIMED = _timed("runs") + _timed("waits")
_NO_RUNS = ", runs as (select null::timestamptz as key, null::int[] as buckets, null::bigint[] as times where false)"
_TIMES = "r.buckets, r.times, w.buckets, w.times"
_COUNTS = ", ".join(f"coalesce(c.{name}, 0)" for name in OUTCOMES)


def throughput(
    schema: str, since: float, queue: str | None = None, task: str | None = None, *, step: int = MINUTE
) -> Statement[Throughput]:
    """All steps of the last `since` seconds, the oldest first; `step` is in seconds, whole minutes.

    It is made whole steps of those that are kept where `since` goes back to them.
    """
    step = _wide(since, step)
    query = (
        _CHOSEN
        + _COUNTED
        + f" select s.key, least(%(step)s, date_part('epoch', (select last from span) - s.key)), {_COUNTS} "
        + f"from {_STEPS} left join counted c using (key) order by s.key"
    )
    return Statement(
        inline(query, schema, key=_AT),
        _params(since, queue, task, step),
        lambda row: Throughput(row[0], step, *row[1:]),
    )


def latency(
    schema: str,
    since: float,
    queue: str | None = None,
    task: str | None = None,
    *,
    step: int = MINUTE,
    runs: bool = True,
) -> Statement[Latency]:
    """As `throughput`; without `runs` only the waits are read, which takes half of the time."""
    step = _wide(since, step)
    query = (
        _CHOSEN
        + (_TIMED if runs else _NO_RUNS + _timed("waits"))
        + (
            f" select s.key, {_TIMES} from {_STEPS} left join runs r using (key) left join waits w using (key) order by s.key"
        )
    )
    return Statement(
        inline(query, schema, key=_AT),
        _params(since, queue, task, step),
        lambda row: Latency(row[0], step, _percentiles(*row[1:3]), _percentiles(*row[3:5])),
    )


def by_task(schema: str, since: float, queue: str | None = None) -> Statement[Summary]:
    """A row a task, by name, of those of which a run ended in the last `since` seconds, in all queues or in one."""
    return _summaries(schema, "m.task", since, queue)


def by_queue(schema: str, since: float) -> Statement[Summary]:
    """As `by_task`, a row a queue."""
    return _summaries(schema, "m.queue", since, None)


def _summaries(schema: str, key: str, since: float, queue: str | None) -> Statement[Summary]:
    query = (
        _CHOSEN
        + _COUNTED
        + _TIMED
        + (
            f" select c.key, date_part('epoch', span.last - span.first), {_COUNTS}, {_TIMES} "
            "from span, counted c left join runs r using (key) left join waits w using (key) order by c.key"
        )
    )
    return Statement(inline(query, schema, key=key), _params(since, queue, None, _wide(since, MINUTE)), _summary)


def _wide(since: float, step: int) -> int:
    for apart, packed in PACKS:
        if since + step > apart.total_seconds():
            step = -(-step // packed) * packed
    return step


def _params(since: float, queue: str | None, task: str | None, step: int) -> dict[str, Any]:
    return {"since": since, "queue": queue, "task": task, "step": step}


def _summary(row: tuple[Any, ...]) -> Summary:
    name, seconds, completed, failed, retried, snoozed, cancelled, *times = row
    ended = completed + failed
    return Summary(
        name,
        seconds,
        completed,
        failed,
        retried,
        snoozed,
        cancelled,
        failed / ended if ended else None,
        (ended + cancelled) / seconds,
        _percentiles(*times[:2]),
        _percentiles(*times[2:]),
    )


def _percentiles(buckets: Sequence[int] | None, times: Sequence[int] | None) -> Percentiles:
    counts = dict(zip(buckets or (), times or (), strict=True))
    return _of_counts(counts)


def together(parts: Iterable[Percentiles]) -> Percentiles:
    """The percentiles of all times that several were made of."""
    counts: Counter[int] = Counter()
    for part in parts:
        counts.update(part.counts)
    return _of_counts(counts)


def _of_counts(counts: Mapping[int, int]) -> Percentiles:
    return Percentiles(percentile(counts, 50), percentile(counts, 95), percentile(counts, 99), counts)
