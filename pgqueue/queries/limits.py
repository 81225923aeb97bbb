"""The limits that there are, as the code declares them and as people change them while everything runs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from pgqueue.errors import ArgumentError
from pgqueue.limit import Limit
from pgqueue.queries.statement import Statement, inline
from pgqueue.template import checked_template

Scope = Literal["queue", "task"]
# Of a gate, as `gate_name` of SQL has it.
VALUE_LENGTH = 500
Templates = Mapping[tuple[str, str], Collection[str]]
"""By scope and name the keys of the limits that there are; an empty one is a limit for all jobs."""


@dataclass(frozen=True, slots=True)
class LimitRow:
    """A limit and what has become of it. `rate` is jobs a second; `values` counts those of its key that were met lately.

    `declared` says whether it comes from code. `running` have a place; `blocked` wait for one, or for their time.
    """

    scope: Scope
    name: str
    key: str | None
    concurrency: int | None
    rate: float | None
    burst: int
    fair: bool
    paused: bool
    declared: bool
    values: int
    running: int
    blocked: int


@dataclass(frozen=True, slots=True)
class HaltedKey:
    """A serial key of which nothing runs, since `job_id` failed: redrive or purge that job, or resume the key.

    `blocked` jobs wait for it.
    """

    queue: str
    serial_key: str
    job_id: int
    task: str
    failed_at: datetime
    error_type: str
    error_message: str
    blocked: int


@dataclass(frozen=True, slots=True)
class PausedKey:
    """What is paused by hand: one `value` of the template `key` of a queue or a task; `key` is None for a serial key.

    `blocked` jobs wait for it.
    """

    scope: Scope
    name: str
    key: str | None
    value: str
    blocked: int


def templates(schema: str) -> Statement[tuple[str, str, str]]:
    """Scope, name and key of every limit."""
    return Statement(inline("select scope, name, key from {schema}.limits", schema))


def by_name(rows: Iterable[tuple[str, str, str]]) -> dict[tuple[str, str], set[str]]:
    found: dict[tuple[str, str], set[str]] = {}
    for scope, name, key in rows:
        found.setdefault((scope, name), set()).add(key)
    return found


def register(schema: str, declared: Mapping[tuple[str, str], Sequence[Limit]]) -> Statement[Any]:
    """Write what the code declares, by scope and name, where it is not what it said last; drop what it no longer says of a task.

    A limit of a queue stays: another app may have declared it.
    """
    limits = [(scope, name, limit) for (scope, name), limits in declared.items() for limit in limits]
    rows = sorted(limits, key=lambda row: (row[0], row[1], row[2].key or ""))
    return Statement(
        inline(
            # What is paused by hand, or a value of it, stays so, whatever a deployment no longer says.
            "with given as (select * from unnest(%(scopes)s::text[], %(names)s::text[], %(keys)s::text[], %(concurrencies)s::int[], "
            "%(rates)s::float8[], %(bursts)s::int[], %(fair)s::boolean[], %(declared)s::text[]) g (scope, name, key, concurrency, rate, burst, fair, declared)), "
            "undeclared as (select l.scope, l.name, l.key, l.paused or exists (select from {schema}.gates t "
            "where t.closed_until = 'infinity' and (t.scope, t.of, t.key) = (l.scope, l.name, l.key)) as closed "
            "from {schema}.limits l where l.scope = 'task' and l.name = any (%(tasks)s::text[]) "
            "and l.declared is not null and not exists (select from given g where (g.scope, g.name, g.key) = (l.scope, l.name, l.key))), "
            "gone as (delete from {schema}.limits l where (l.scope, l.name, l.key) in (select scope, name, key from undeclared where not closed) returning 1), "
            "left_paused as (update {schema}.limits l set rate = null, concurrency = null, fair = false, declared = null "
            "where (l.scope, l.name, l.key) in (select scope, name, key from undeclared where closed) returning 1), "
            "written as (insert into {schema}.limits as l (scope, name, key, concurrency, rate, burst, fair, declared) "
            "select scope, name, key, concurrency, rate, burst, fair, declared from given "
            "on conflict (scope, name, key) do update set concurrency = excluded.concurrency, rate = excluded.rate, burst = excluded.burst, "
            "fair = excluded.fair, declared = excluded.declared, updated_at = clock_timestamp() where l.declared is distinct from excluded.declared returning 1) "
            "select pg_notify(%(channel)s, 'limits') where exists (select from gone) or exists (select from written)",
            schema,
        ),
        {
            "scopes": [scope for scope, _, _ in rows],
            "names": [name for _, name, _ in rows],
            "keys": [limit.key or "" for _, _, limit in rows],
            "concurrencies": [limit.concurrency for _, _, limit in rows],
            "rates": [limit.per_second for _, _, limit in rows],
            "bursts": [limit.burst for _, _, limit in rows],
            "fair": [limit.fair for _, _, limit in rows],
            "declared": [f"{limit.concurrency} {limit.per_second} {limit.burst} {limit.fair}" for _, _, limit in rows],
            "tasks": [name for scope, name in declared if scope == "task"],
            "channel": schema,
        },
    )


def change(schema: str, scope: Scope, name: str, limit: Limit) -> Statement[Any]:
    """Make a limit, or change it; it holds from the next claim on."""
    return Statement(
        inline(
            "select {schema}.set_limit(%(scope)s, %(name)s, concurrency => %(concurrency)s, rate => %(rate)s, "
            "burst => %(burst)s, key => %(key)s, fair => %(fair)s)",
            schema,
        ),
        {
            "scope": scope,
            "name": name,
            "concurrency": limit.concurrency,
            "rate": limit.per_second,
            "burst": limit.burst,
            "key": limit.key or "",
            "fair": limit.fair,
        },
    )


def remove(schema: str, scope: Scope, name: str, key: str) -> Statement[bool]:
    """Whether there was one."""
    return Statement(
        inline("select {schema}.remove_limit(%(scope)s, %(name)s, key => %(key)s)", schema),
        {"scope": scope, "name": name, "key": key},
        lambda row: row[0],
    )


def set_paused(
    schema: str,
    paused: bool,
    *,
    queue: str | None = None,
    task: str | None = None,
    key: str | None = None,
    value: str | None = None,
    serial_key: str | None = None,
) -> Statement[Any]:
    """Pause or resume a queue, a task, one value of a limit's key, or a serial key of a queue.

    One row: None of a pause, of a resume whether anything was paused. Raises ArgumentError for a value that no key has,
    and ConfigurationError for a key that is no template.
    """
    if key is not None:
        checked_template(key, "key")
    for what, given in (("value", value), ("serial_key", serial_key)):
        if given is not None and not 1 <= len(given) <= VALUE_LENGTH:
            raise ArgumentError(
                f"{what}={given[:60]!r} has {len(given):,} characters: use 1 to {VALUE_LENGTH}, as many as a key may have"
            )
    verb = "pause" if paused else "resume"
    return Statement(
        inline(
            f"select {{schema}}.{verb}(queue => %(queue)s, task => %(task)s, key => %(key)s, value => %(value)s, "
            "serial_key => %(serial_key)s)",
            schema,
        ),
        {"queue": queue, "task": task, "key": key, "value": value, "serial_key": serial_key},
        lambda row: row[0],
    )


def list_limits(schema: str) -> Statement[LimitRow]:
    """By scope and name."""
    return Statement(
        inline(
            "select l.scope, l.name, nullif(l.key, ''), l.concurrency, l.rate, l.burst, l.fair, l.paused, l.declared is not null, "
            # What has been let go and not been claimed has its place already; who has ended may still be counted.
            "count(g.name), "
            "coalesce(sum(greatest(g.taken - case when l.concurrency is null and not l.fair then 0 else g.loose end - f.places, 0)), 0)::int, "
            "coalesce(sum(g.waiting + g.loose), 0)::int "
            "from {schema}.limits l left join {schema}.gates g on g.scope = l.scope and g.of = l.name and g.key = l.key "
            "left join lateral (select coalesce(sum(places), 0) as places from {schema}.freed_places where gate = g.name) f on true "
            # Those of circuit breakers are listed with them.
            "where l.key <> 'breaker' "
            "group by l.scope, l.name, l.key order by 1, 2, 3 nulls first",
            schema,
        ),
        {},
        lambda row: LimitRow(*row),
    )


def halted(schema: str) -> Statement[HaltedKey]:
    """Serial keys that failed jobs halt, the longest first."""
    return Statement(
        inline(
            "select f.queue, f.serial_key, f.id, f.task, f.failed_at, f.error_type, f.error_message, coalesce(g.waiting + g.loose, 0) "
            "from {schema}.failed_jobs f left join {schema}.gates g on g.name = f.places[1] "
            "where f.places is not null order by f.failed_at, f.id",
            schema,
        ),
        {},
        lambda row: HaltedKey(*row),
    )


def paused(schema: str) -> Statement[PausedKey]:
    """Values and serial keys that are paused, by what they are of."""
    return Statement(
        inline(
            "select case scope when 'serial' then 'queue' else scope end, of, nullif(key, ''), "
            "right(name, -length(concat(scope, ':', of, ':', case when scope <> 'serial' then key || ':' end))), waiting + loose "
            "from {schema}.gates where closed_until = 'infinity' order by 1, 2, 3 nulls first, 4",
            schema,
        ),
        {},
        lambda row: PausedKey(*row),
    )
