"""Alerts: their state in the fleet, and who is told.

The definition that counts stands in the table, so that all workers of a rolling deployment judge by the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

from pgqueue.alert import Alert, AlertRule, AlertState, Severity, Status, decide
from pgqueue.job import NewJob
from pgqueue.queries.enqueuing import enqueue
from pgqueue.queries.measuring import measure
from pgqueue.queries.statement import Operation, Statement, inline

LOOKS = 5
"""After so many looks that were due an alert is over, and what was pending is forgotten where nobody looked."""
KEEP_RESCUES = "7 days"
UNSEEN = 120.0
RULE = "name, rule::text, severity, runbook, deliver_to, extract(epoch from repeat_after)::float8"


class Fired(NamedTuple):
    """What is to be said of an alert."""

    rule: AlertRule
    status: Status
    message: str
    value: float
    since: datetime


@dataclass(frozen=True, slots=True)
class AlertRow:
    """A row of `alerts`. `state` is unknown while no process that declares it is at work; `since` is of the state."""

    name: str
    rule: str
    severity: Severity
    runbook: str | None
    to: tuple[str, ...]
    state: Literal["ok", "pending", "firing", "unknown"]
    message: str | None
    value: float | None
    since: datetime | None
    delivered_at: datetime | None
    evaluated_at: datetime | None


def declare(schema: str, rules: Iterable[AlertRule]) -> Statement[Any]:
    """Write what the code says; what is firing goes on, and is judged by the new rule."""
    rows = sorted(rules, key=lambda rule: rule.name)
    return Statement(
        inline(
            "insert into {schema}.alerts (name, rule, severity, runbook, deliver_to, repeat_after) "
            "select name, rule::jsonb, severity, runbook, array(select jsonb_array_elements_text(to_::jsonb)), make_interval(secs => again) "
            "from unnest(%(names)s::text[], %(rules)s::text[], %(severities)s::text[], %(runbooks)s::text[], %(to)s::text[], "
            "%(repeats)s::float8[]) r (name, rule, severity, runbook, to_, again) order by name "
            "on conflict (name) do update set rule = excluded.rule, severity = excluded.severity, runbook = excluded.runbook, "
            "deliver_to = excluded.deliver_to, repeat_after = excluded.repeat_after, declared_at = clock_timestamp() returning name",
            schema,
        ),
        {
            "names": [rule.name for rule in rows],
            "rules": [json.dumps(asdict(rule.alert)) for rule in rows],
            "severities": [rule.severity for rule in rows],
            "runbooks": [rule.runbook for rule in rows],
            "to": [json.dumps(rule.to) for rule in rows],
            "repeats": [rule.repeat for rule in rows],
        },
    )


def due(schema: str, names: Sequence[str], interval: float) -> Statement[tuple[str, bool]]:
    """Of these alerts those that nobody has looked at for `interval` seconds; and whether they are in the table."""
    return Statement(
        inline(
            "select n.name, a.name is not null from unnest(%(names)s::text[]) n (name) left join {schema}.alerts a on a.name = n.name "
            "where a.evaluated_at is null or a.evaluated_at <= clock_timestamp() - make_interval(secs => %(interval)s) order by 1",
            schema,
        ),
        {"names": list(names), "interval": interval},
    )


def evaluate(schema: str, name: str, interval: float, fallback_attempts: int) -> Operation[Fired | None]:
    """Measure an alert, unless somebody has since; write what it has come to, and enqueue who is to be told.

    In one transaction, which holds the row: of many evaluators one says it.
    """
    taken = yield Statement(
        inline(
            f"select {RULE}, extract(epoch from holds_since)::float8, extract(epoch from firing_since)::float8, "
            "extract(epoch from delivered_at)::float8, extract(epoch from clear_since)::float8, "
            "extract(epoch from evaluated_at)::float8, extract(epoch from clock_timestamp())::float8 from {schema}.alerts "
            "where name = %(name)s and coalesce(evaluated_at, '-infinity') <= clock_timestamp() - make_interval(secs => %(interval)s) "
            "for update skip locked",
            schema,
        ),
        {"name": name, "interval": interval},
    )
    if not taken:
        return None
    [row] = taken
    rule, before, looked_at, now = _rule(row[:6]), AlertState(*row[6:10]), row[10], row[11]
    if looked_at is not None and before.firing_since is None and now - looked_at > LOOKS * interval > 0:
        # Nobody has looked meanwhile: it may not have been so on end.
        before = AlertState()
    measured = yield from measure(schema, rule.alert)
    after, status = decide(rule, before, measured.value, now, calm=LOOKS * interval)
    message = rule.alert.message(measured.value, measured.detail, above=measured.value > rule.alert.above)
    yield _store(schema, name, after, measured.value, message)
    if status is None:
        return None
    since = after.firing_since if after.firing_since is not None else before.firing_since
    fired = Fired(rule, status, message, measured.value, datetime.fromtimestamp(since or now, UTC))
    yield from enqueue(schema, [_job(to, fired) for to in rule.to], fallback_attempts)
    return fired


def _rule(row: Sequence[Any]) -> AlertRule:
    name, alert, severity, runbook, to, repeat = row
    return AlertRule(name, Alert(**json.loads(alert)), severity, runbook, tuple(to), repeat)


def _job(task: str, fired: Fired) -> NewJob:
    told = {
        "alert": fired.rule.name,
        "status": fired.status,
        "severity": fired.rule.severity,
        "message": fired.message,
        "runbook": fired.rule.runbook,
        "value": fired.value,
        "since": fired.since.isoformat(),
    }
    return NewJob(task, json.dumps(told), headers=json.dumps({"alert": fired.rule.name}))


def _store(schema: str, name: str, state: AlertState, value: float, message: str) -> Statement[Any]:
    return Statement(
        inline(
            "update {schema}.alerts set evaluated_at = clock_timestamp(), value = %(value)s, message = %(message)s, "
            "holds_since = to_timestamp(%(holds)s::float8), firing_since = to_timestamp(%(firing)s::float8), "
            "delivered_at = to_timestamp(%(delivered)s::float8), clear_since = to_timestamp(%(clear)s::float8) where name = %(name)s returning name",
            schema,
        ),
        {
            "name": name,
            "value": value,
            "message": message,
            "holds": state.holds_since,
            "firing": state.firing_since,
            "delivered": state.delivered_at,
            "clear": state.clear_since,
        },
    )


def record_rescues(schema: str, rescued: Iterable[tuple[Any, str, int]]) -> Statement[Any]:
    """How many jobs were taken back: (worker, queue, jobs)."""
    workers, queues, jobs = zip(*rescued, strict=True)
    return Statement(
        inline(
            "insert into {schema}.rescues (worker_id, queue, jobs) "
            "select * from unnest(%(workers)s::uuid[], %(queues)s::text[], %(jobs)s::int[]) returning id",
            schema,
        ),
        {"workers": list(workers), "queues": list(queues), "jobs": list(jobs)},
    )


def forget(schema: str) -> Statement[str]:
    """Delete what nobody has looked at for a day, since no code declares it any more. Rows: names."""
    return Statement(
        inline(
            "delete from {schema}.alerts where greatest(evaluated_at, declared_at) < clock_timestamp() - interval '1 day' returning name",
            schema,
        ),
        {},
        lambda row: row[0],
    )


def forget_rescues(schema: str) -> Statement[Any]:
    """Delete old ones: those that no alert asks for any more."""
    return Statement(
        inline(
            f"delete from {{schema}}.rescues where rescued_at < clock_timestamp() - interval '{KEEP_RESCUES}' returning id",
            schema,
        )
    )


def list_alerts(schema: str) -> Statement[AlertRow]:
    """By name."""
    return Statement(
        inline(
            f"select {RULE}, message, value, case when coalesce(evaluated_at, '-infinity') < clock_timestamp() - "
            f"make_interval(secs => {UNSEEN}) then 'unknown' when firing_since is not null then 'firing' "
            "when holds_since is not null then 'pending' else 'ok' end, coalesce(firing_since, holds_since), delivered_at, evaluated_at "
            "from {schema}.alerts order by name",
            schema,
        ),
        {},
        _alert_row,
    )


def _alert_row(row: tuple[Any, ...]) -> AlertRow:
    rule = _rule(row[:6])
    message, value, state, since, delivered_at, evaluated_at = row[6:]
    return AlertRow(
        rule.name,
        str(rule.alert),
        rule.severity,
        rule.runbook,
        rule.to,
        state,
        message,
        value,
        since,
        delivered_at,
        evaluated_at,
    )
