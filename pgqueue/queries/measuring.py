"""The figures of alerts, each read from a few index entries, and no further than the threshold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from pgqueue.alert import Alert, Kind
from pgqueue.queries import fleet
from pgqueue.queries.statement import Operation, Statement, inline

NAMED = 5

# From one queue and task to the next, and in each from the newest on: what failed long ago is not read.
_FAILURES = """
    with recursive pairs (queue, task) as (
        (select queue, task from {schema}.failed_jobs where %(queue)s::text is null or queue = %(queue)s order by queue, task limit 1)
        union all
        select n.queue, n.task from pairs p cross join lateral (
            select f.queue, f.task from {schema}.failed_jobs f
            where (f.queue, f.task) > (p.queue, p.task) and (%(queue)s::text is null or f.queue = %(queue)s)
            order by f.queue, f.task limit 1) n)
    select count(*), null::text[] from (
        select from pairs p cross join lateral (
            select from {schema}.failed_jobs f
            where f.queue = p.queue and f.task = p.task
              and f.failed_at > (select clock_timestamp() - make_interval(secs => %(within)s)) limit %(enough)s) f
        where %(task)s::text is null or p.task = %(task)s limit %(enough)s) f
"""
# The claim index has running jobs too, at most as many as there are slots; what a limit has parked waits for that.
AVAILABLE = """
    select w.run_at from {schema}.lanes_of(%(queue)s) l cross join lateral (
        select run_at from {schema}.jobs j
        where j.queue = %(queue)s and j.priority = l.priority and j.position > l.mark and j.position is not null
          and j.state = 'available' order by j.position limit {enough}) w
    union all
    (select run_at from {schema}.jobs where queue = %(queue)s and position is null and ready is null and waits_for is null
       and run_at <= (select clock_timestamp()) order by run_at limit {enough})
    union all
    (select run_at from {schema}.jobs where queue = %(queue)s and ready is not null and state = 'available'
     order by priority, ready limit {enough})
"""
_OLDEST = (
    "select coalesce(extract(epoch from clock_timestamp() - min(run_at))::float8, 0), null::text[] from ("
    + AVAILABLE.replace("{enough}", "1")
    + ") w where isfinite(run_at)"
)
_DEPTH = (
    "select count(*), null::text[] from (select from ("
    + AVAILABLE.replace("{enough}", "%(enough)s")
    + ") a limit %(enough)s) w"
)
_UNSERVED = (
    """
    with recursive due (queue) as (
        (select queue from {schema}.jobs where %(all)s and position is null and ready is null and waits_for is null
         order by queue limit 1)
        union all
        select n.queue from due d cross join lateral (
            select queue from {schema}.jobs j where j.position is null and j.ready is null and j.waits_for is null and j.queue > d.queue
            order by j.queue limit 1) n),
    unserved as (
        select q.queue from (select unnest(%(names)s::text[]) as queue union select queue from due) q
        where not exists (select from {schema}.workers s where s.expires_at > clock_timestamp() and s.state = 'running'
                          and s.queues ? q.queue)
          and exists (select from ("""
    + AVAILABLE.replace("{enough}", "1").replace("%(queue)s", "q.queue")
    + """) w))
    select count(*), (array_agg(queue order by queue))[:%(named)s] from unserved
"""
)
_RESCUES = """
    select coalesce(sum(jobs), 0), null::text[] from (
        select jobs from {schema}.rescues where rescued_at > (select clock_timestamp() - make_interval(secs => %(within)s))
          and (%(queue)s::text is null or queue = %(queue)s) order by rescued_at desc limit %(enough)s) r
"""
_FIGURES: dict[Kind, str] = {
    "failures": _FAILURES,
    "oldest": _OLDEST,
    "depth": _DEPTH,
    "no_worker": _UNSERVED,
    "rescues": _RESCUES,
}


class Measured(NamedTuple):
    """A figure, and the names that belong to it."""

    value: float
    detail: Sequence[str] = ()


def measure(schema: str, alert: Alert) -> Operation[Measured]:
    """The figure of an alert, counted no further than is needed to know that it is above."""
    given: dict[str, Any] = {"queue": alert.queue, "task": alert.task, "within": alert.within}
    given["enough"] = int(alert.above) + 1
    text = _FIGURES[alert.kind]
    if alert.kind == "no_worker":
        given["all"] = alert.queue is None
        given["names"] = (yield fleet.queue_names(schema)) if alert.queue is None else [alert.queue]
        given["named"] = NAMED
    params = {name: value for name, value in given.items() if f"%({name})s" in text}
    [(value, detail)] = yield Statement(inline(text, schema), params)
    return Measured(float(value), tuple(detail or ()))
